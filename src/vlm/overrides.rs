//! What a plan changes of a checkpoint's own description.

use std::path::PathBuf;

use super::config::FrameFit;
use super::{Unused, VlmConfig};
use crate::connector::ConnectorKind;
use crate::language::RopeScaling;

/// Changes; the default changes nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    /// Another tower than the checkpoint's own: a directory or a hub id.
    pub vision_tower: Option<String>,
    /// A language model in a GGUF file, in place of the checkpoint's own.
    pub llm: Option<PathBuf>,
    /// Another connector.
    pub connector: Option<ConnectorKind>,
    /// Frames over which the connector's lower groups are averaged; 0 and 1 are none but the frame itself.
    pub connector_window: usize,
    /// Another way of fitting frames to the tower's square.
    pub frame_fit: Option<FrameFit>,
    /// Another scaling of positions, and the factor that the context grows by.
    pub rope: Option<(RopeScaling, f64)>,
    /// Whether a checkpoint with unused tensors or unknown configuration keys is refused.
    pub unused: Unused,
}

impl Overrides {
    /// Another tower, if one is named, and nothing else.
    pub fn tower(vision_tower: Option<&str>) -> Self {
        Self { vision_tower: vision_tower.map(str::to_owned), ..Self::default() }
    }

    /// The same changes with another rule for unused tensors and configuration keys.
    #[must_use]
    pub fn with_unused(self, unused: Unused) -> Self {
        Self { unused, ..self }
    }

    /// Changes a description. In words, what of it does not go with the checkpoint.
    pub(super) fn apply(&self, config: &mut VlmConfig) -> Option<String> {
        if let Some(connector) = self.connector {
            config.connector = connector;
        }
        if let Some(frame_fit) = self.frame_fit {
            config.frame_fit = frame_fit;
        }
        let (scaling, factor) = self.rope?;
        let own = config.llama.rope_scaling;
        if own != RopeScaling::None {
            return Some(format!("the checkpoint scales its positions itself ({own:?})"));
        }
        config.llama.rope_scaling = match scaling {
            RopeScaling::DynamicNtk { factor, .. } => {
                RopeScaling::DynamicNtk { factor, original_context: config.llama.context as f32 }
            }
            other => other,
        };
        let grown = |context: usize| (context as f64 * factor.max(1.0)) as usize;
        config.context = grown(config.context);
        config.llama.context = grown(config.llama.context);
        None
    }
}
