//! Settings of a plan that override a checkpoint's own description. Applied by [`super::Blueprint::read`].

use std::path::PathBuf;

use super::config::FrameFit;
use super::{Unused, VlmConfig};
use crate::connector::ConnectorKind;
use crate::language::RopeScaling;

/// Overrides of a checkpoint's description; the default changes nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    /// Vision tower in place of the checkpoint's own: a directory or a hub id.
    pub vision_tower: Option<String>,
    /// GGUF file of a language model, in place of the checkpoint's own.
    pub llm: Option<PathBuf>,
    /// Connector in place of the checkpoint's own.
    pub connector: Option<ConnectorKind>,
    /// Frames over which the connector's lower groups are averaged; 0 and 1 average over the frame alone.
    pub connector_window: usize,
    /// Fit of frames to the tower's square, in place of the checkpoint's own.
    pub frame_fit: Option<FrameFit>,
    /// Scaling of rotary positions.
    pub rope: Option<RopeOverride>,
    /// Handling of a checkpoint with unused tensors or unknown configuration keys.
    pub unused: Unused,
}

/// Scaling of rotary positions that a plan sets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeOverride {
    /// Scaling of the frequencies.
    pub scaling: RopeScaling,
    /// Factor by which the context grows.
    pub factor: f64,
}

impl Overrides {
    /// Overrides the tower, if one is named, and nothing else.
    pub fn tower(vision_tower: Option<&str>) -> Self {
        Self { vision_tower: vision_tower.map(str::to_owned), ..Self::default() }
    }

    /// Sets the handling of unused tensors and configuration keys.
    #[must_use]
    pub fn with_unused(self, unused: Unused) -> Self {
        Self { unused, ..self }
    }

    /// Applies the overrides to a description. Returns the reason why the scaling of positions does not go with the
    /// checkpoint, if it does not.
    pub(super) fn apply(&self, config: &mut VlmConfig) -> Option<String> {
        if let Some(connector) = self.connector {
            config.connector = connector;
        }
        if let Some(frame_fit) = self.frame_fit {
            config.frame_fit = frame_fit;
        }
        let RopeOverride { scaling, factor } = self.rope?;
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
