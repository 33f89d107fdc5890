//! The model in memory: frames to visual tokens, and a spliced prompt to logits.

use std::ops::ControlFlow;

use candle_core::{DType, Device, Tensor};

use super::ModelError;
use super::blueprint::frame_tokens;
use super::config::{GenerationDefaults, Spelling};
use super::frames::FrameTables;
use super::load::VisionPlacement;
use crate::connector::{ChannelWindow, Connector};
use crate::device::move_between;
use crate::image::Preprocessor;
use crate::language::{Decoding, Llama, PromptHistory, SamplingConfig};
use crate::projector::Projector;
use crate::temporal::FrameTokens;
use crate::text::{Prompt, Template, Tokenizer};
use crate::vision::Tower;

/// A vision-language model.
pub struct Vlm {
    pub(super) name: String,
    pub(super) preprocessor: Preprocessor,
    pub(super) tower: Tower,
    pub(super) connector: Connector,
    /// Frames over which the connector's lower groups are averaged.
    pub(super) window: usize,
    pub(super) projector: Projector,
    pub(super) language: Llama,
    pub(super) vision: VisionPlacement,
    pub(super) frames: FrameTables,
    pub(super) tokenizer: Tokenizer,
    pub(super) template: Template,
    pub(super) context: usize,
    pub(super) image_marks: bool,
    pub(super) spelling: Spelling,
    /// The id that stands for a visual token in Hugging Face's prompts.
    pub(super) image_token: Option<u32>,
    pub(super) generation: GenerationDefaults,
    /// Tokens at the beginning of each state that are left out.
    pub(super) n_dropped_tokens: usize,
    pub(super) warnings: Vec<String>,
}

/// The ids of a prompt on both sides of its visual tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptIds {
    /// From the prompt's beginning, BOS included.
    pub before_visual: Vec<u32>,
    /// To the prompt's end.
    pub after_visual: Vec<u32>,
}

impl PromptIds {
    /// Encodes a prompt as the code of its checkpoint's family does: see [`Tokenizer::encode_prompt`].
    ///
    /// # Errors
    /// When the tokenizer refuses.
    pub fn encode(prompt: &Prompt, tokenizer: &Tokenizer) -> Result<Self, ModelError> {
        let (before_visual, after_visual) = tokenizer.encode_prompt(prompt)?;
        Ok(Self { before_visual, after_visual })
    }

    /// Tokens of the text.
    pub fn n_text(&self) -> usize {
        self.before_visual.len() + self.after_visual.len()
    }
}

impl Vlm {
    /// As it was named.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How frames are prepared.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// The vision tower.
    pub fn tower(&self) -> &Tower {
        &self.tower
    }

    /// The connector.
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Begins the window over the connector's tokens of one video's frames.
    pub fn begin_window(&self) -> ChannelWindow {
        ChannelWindow::new(self.window, self.tower.config().d_hidden)
    }

    /// The language model.
    pub fn language(&self) -> &Llama {
        &self.language
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The template that fits it.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// Whether `<im_start>` and `<im_end>` stand around the visual tokens.
    pub fn image_marks(&self) -> bool {
        self.image_marks
    }

    /// Tokens of a frame after the connector.
    pub fn frame_tokens(&self) -> FrameTokens {
        frame_tokens(self.tower.config(), &self.connector, self.n_dropped_tokens)
    }

    /// Positions that prompt and answer may fill.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Device of the language model.
    pub fn device(&self) -> &Device {
        self.language.device()
    }

    /// Device of the vision encoder: tower, connector and projector.
    pub fn vision_device(&self) -> &Device {
        &self.vision.device
    }

    /// Precision of the vision encoder's activations.
    pub fn vision_dtype(&self) -> DType {
        self.vision.dtype
    }

    /// What the user should know of the checkpoint.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The ids that end an answer: the checkpoint's, and the template's stop string where it is one token of a
    /// checkpoint that LLaVA's code runs. Transformers knows the ids alone.
    pub fn stop_tokens(&self, template: &Template) -> Vec<u32> {
        let mut stop = self.generation.rules.ends.clone();
        stop.extend(self.stop_strings(template).iter().filter_map(|text| self.tokenizer.token_id(text)));
        stop.sort_unstable();
        stop.dedup();
        stop
    }

    /// The strings that end an answer: the template's, of a checkpoint that LLaVA's code runs.
    pub fn stop_strings(&self, template: &Template) -> Vec<String> {
        match self.spelling {
            Spelling::Llava => template.stop_strings(),
            Spelling::HuggingFace => Vec::new(),
        }
    }

    /// How the next id is chosen, as `asked` and, where that leaves it open, the checkpoint say.
    pub fn decoding(&self, asked: &SamplingConfig) -> Decoding {
        self.generation.decoding(asked)
    }

    /// A prompt as the rules over its answer see it: of a Hugging Face checkpoint all ids, of LLaVA's none, whose code
    /// gives the model embeddings.
    pub fn prompt_history(&self, ids: &PromptIds, n_visual: usize) -> PromptHistory {
        let n_tokens = ids.n_text() + n_visual;
        let ids = self.image_token.map(|image| {
            let visual = std::iter::repeat_n(image, n_visual);
            ids.before_visual.iter().copied().chain(visual).chain(ids.after_visual.iter().copied()).collect()
        });
        PromptHistory { ids: ids.unwrap_or_default(), n_tokens }
    }

    /// The connector's fused tokens of some frames, which may be in the host's memory.
    ///
    /// # Shapes
    /// `pixels (T, 3, side, side)` to `(T, N', k D)`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn fuse(&self, pixels: &Tensor) -> Result<Tensor, ModelError> {
        let run = || {
            let pixels = pixels.to_device(&self.vision.device)?.to_dtype(self.vision.dtype)?;
            fuse(&self.tower, &self.connector, self.n_dropped_tokens, &pixels)
        };
        run().map_err(ModelError::compute("encoding frames"))
    }

    /// Fused tokens in the language model's width.
    ///
    /// # Shapes
    /// `(T, N', k D)` to `(T, N', H)`.
    ///
    /// # Errors
    /// When the width does not fit.
    pub fn project(&self, fused: &Tensor) -> Result<Tensor, ModelError> {
        self.projector.forward(fused).map_err(ModelError::compute("projecting frames"))
    }

    /// Visual tokens as the language model takes them: on its device, in its precision.
    ///
    /// # Errors
    /// When its device has no room for them.
    pub fn to_language(&self, visual: &Tensor) -> Result<Tensor, ModelError> {
        let moved = move_between(visual, self.device()).and_then(|visual| visual.to_dtype(self.language.dtype()));
        moved.map_err(ModelError::compute("moving visual tokens to the language model"))
    }

    /// The embeddings of a spliced prompt: text, visual tokens, text.
    ///
    /// # Shapes
    /// `visual (V, H)` to `(before + V + after, H)`.
    ///
    /// # Errors
    /// When an id is beyond the vocabulary.
    pub fn splice(&self, ids: &PromptIds, visual: &Tensor) -> Result<Tensor, ModelError> {
        let run = || {
            let visual = move_between(visual, self.device())?.to_dtype(self.language.dtype())?;
            let mut parts = Vec::with_capacity(3);
            if !ids.before_visual.is_empty() {
                parts.push(self.language.embed(&ids.before_visual)?);
            }
            parts.push(visual);
            if !ids.after_visual.is_empty() {
                parts.push(self.language.embed(&ids.after_visual)?);
            }
            Tensor::cat(&parts, 0)
        };
        run().map_err(ModelError::compute("splicing the prompt"))
    }

    /// Precision of the language model's activations.
    pub fn dtype(&self) -> DType {
        self.language.dtype()
    }
}

/// Runs a tower as far as a connector needs it, and fuses its states; the first `n_dropped_tokens` of each are left
/// out.
///
/// # Shapes
/// `pixels (T, 3, side, side)` to `(T, N', k D)`.
///
/// # Errors
/// When the shapes do not fit.
pub fn fuse(
    tower: &Tower,
    connector: &Connector,
    n_dropped_tokens: usize,
    pixels: &Tensor,
) -> candle_core::Result<Tensor> {
    let mut fold = connector.begin();
    tower.hidden_states(pixels, &mut |layer, state| {
        let kept = state.dim(1)? - n_dropped_tokens;
        fold.visit(layer, &state.narrow(1, n_dropped_tokens, kept)?)?; // (T, N, D)
        Ok(if layer >= connector.last_layer() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    fold.finish()
}
