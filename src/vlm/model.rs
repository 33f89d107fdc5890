//! The model in memory: frames to visual tokens, and a spliced prompt to logits.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::blueprint::frame_tokens;
use super::config::{GenerationDefaults, Spelling};
use super::families::Family;
use super::frames::FrameTables;
use super::load::VisionPlacement;
use super::{FeatureSelection, ModelError, SingleImageRule, VideoPath};
use crate::connector::{ChannelWindow, Connector};
use crate::device::move_between;
use crate::image::Preprocessor;
use crate::language::{Decoding, Llama, PromptHistory, SamplingConfig};
use crate::projector::Projector;
use crate::temporal::FrameTokens;
use crate::text::{FrameMarks, Passage, Prompt, Template, Tokenizer};
use crate::vision::Tower;

/// A vision-language model.
pub struct Vlm {
    pub(super) name: String,
    pub(super) family: &'static Family,
    pub(super) video_path: VideoPath,
    pub(super) preprocessor: Preprocessor,
    pub(super) tower: Tower,
    pub(super) connector: Arc<dyn Connector>,
    /// Frames over which the connector's lower groups are averaged.
    pub(super) window: usize,
    pub(super) projector: Projector,
    pub(super) language: Llama,
    pub(super) vision: VisionPlacement,
    pub(super) frames: FrameTables,
    pub(super) tokenizer: Tokenizer,
    pub(super) template: Template,
    pub(super) context: usize,
    pub(super) marks: FrameMarks,
    pub(super) single_image: SingleImageRule,
    pub(super) spelling: Spelling,
    /// The id that stands for a visual token in Hugging Face's prompts.
    pub(super) image_token: Option<u32>,
    /// The same in their prompts about a single image.
    pub(super) single_image_token: Option<u32>,
    pub(super) generation: GenerationDefaults,
    /// Selection of the connector's tokens from a hidden state.
    pub(super) selection: FeatureSelection,
    /// The row that ends rows or frames of visual tokens, `(H)`.
    pub(super) newline: Option<Tensor>,
    pub(super) warnings: Vec<String>,
}

/// The ids of a prompt, part after part: the first and the last are words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptIds {
    /// Words from the prompt's beginning, BOS included, and visual tokens in turn.
    pub parts: Vec<Passage<Vec<u32>>>,
}

impl PromptIds {
    /// Encodes a prompt as the code of its checkpoint's family does: see [`Tokenizer::encode_prompt`].
    ///
    /// # Errors
    /// When the tokenizer refuses.
    pub fn encode(prompt: &Prompt, tokenizer: &Tokenizer) -> Result<Self, ModelError> {
        Ok(Self { parts: tokenizer.encode_prompt(prompt)? })
    }

    /// Tokens of the text.
    pub fn n_text(&self) -> usize {
        self.parts.iter().filter_map(Passage::words).map(Vec::len).sum()
    }

    /// The ids before the first visual token.
    pub fn before_visual(&self) -> &[u32] {
        self.parts.first().and_then(Passage::words).map_or(&[], Vec::as_slice)
    }

    /// The ids after the last visual token.
    pub fn after_visual(&self) -> &[u32] {
        self.parts.last().and_then(Passage::words).map_or(&[], Vec::as_slice)
    }
}

/// Rows of a video's visual tokens that are of some of its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRows {
    /// `V`.
    pub n_visual: usize,
    /// Frames of the video.
    pub n_frames: usize,
    /// Rows of each frame, where frames stand apart.
    pub each: Option<usize>,
}

impl FrameRows {
    /// The rows of a video whose frames stand together.
    pub fn together(n_visual: usize) -> Self {
        Self { n_visual, n_frames: 0, each: None }
    }

    /// The rows of a part of a prompt; none of words. Rows behind those of all frames belong to the last.
    ///
    /// # Errors
    /// In words, for single frames that have no rows of their own.
    pub fn of<W>(&self, part: &Passage<W>) -> Result<Option<Range<usize>>, String> {
        let Passage::Frames(frames) = part else {
            return Ok(part.words().is_none().then_some(0..self.n_visual));
        };
        let each = self.each.ok_or("the prompt has words between frames that a temporal strategy mixes")?;
        let end = if frames.end == self.n_frames { self.n_visual } else { frames.end * each };
        if frames.start * each > end || end > self.n_visual {
            return Err(format!("the prompt shows frames {frames:?} of {}", self.n_frames));
        }
        Ok(Some(frames.start * each..end))
    }
}

impl Vlm {
    /// As it was named.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The family that it belongs to.
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// The road of its own processor with a video.
    pub fn video_path(&self) -> VideoPath {
        self.video_path
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
    pub fn connector(&self) -> &dyn Connector {
        self.connector.as_ref()
    }

    /// Begins the window over the connector's tokens of one video's frames.
    pub fn begin_window(&self) -> ChannelWindow {
        ChannelWindow::new(self.window, self.selection.width(self.tower.config()))
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

    /// The marks around its visual tokens.
    pub fn marks(&self) -> &FrameMarks {
        &self.marks
    }

    /// How it takes a single image.
    pub fn single_image(&self) -> &SingleImageRule {
        &self.single_image
    }

    /// Tokens of a frame after the connector.
    pub fn frame_tokens(&self) -> FrameTokens {
        let frame = frame_tokens(self.tower.config(), self.connector.as_ref(), self.selection);
        FrameTokens { has_newline: self.newline.is_some(), ..frame }
    }

    /// The row that ends rows or frames of visual tokens (`image_newline`), `(H)`, where the checkpoint has one.
    pub fn newline(&self) -> Option<&Tensor> {
        self.newline.as_ref()
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
    ///
    /// # Errors
    /// When the prompt shows frames that have no tokens of their own.
    pub fn prompt_history(&self, ids: &PromptIds, rows: FrameRows) -> Result<PromptHistory, ModelError> {
        history(self.image_token, ids, rows)
    }

    /// As [`Self::prompt_history`], of a prompt about a single image, which may have another placeholder than a video.
    ///
    /// # Errors
    /// As [`Self::prompt_history`].
    pub fn single_image_history(&self, ids: &PromptIds, rows: FrameRows) -> Result<PromptHistory, ModelError> {
        history(self.single_image_token, ids, rows)
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
            fuse(&self.tower, self.connector.as_ref(), self.selection, &pixels)
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

    /// The embeddings of a spliced prompt: words and visual tokens in turn.
    ///
    /// # Shapes
    /// `visual (V, H)` to `(words + V, H)`.
    ///
    /// # Errors
    /// When an id is beyond the vocabulary, or the prompt shows frames that have no tokens of their own.
    pub fn splice(&self, ids: &PromptIds, visual: &Tensor, rows: FrameRows) -> Result<Tensor, ModelError> {
        let run = || {
            let visual = move_between(visual, self.device())?.to_dtype(self.language.dtype())?;
            let mut parts = Vec::with_capacity(ids.parts.len());
            for part in &ids.parts {
                match (part, rows.of(part).map_err(candle_core::Error::msg)?) {
                    (_, Some(rows)) => parts.push(visual.narrow(0, rows.start, rows.len())?),
                    (Passage::Words(ids), None) if !ids.is_empty() => parts.push(self.language.embed(ids)?),
                    (_, None) => {}
                }
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

/// The ids of a prompt with `placeholder` for each visual token; none without a placeholder.
fn history(placeholder: Option<u32>, ids: &PromptIds, rows: FrameRows) -> Result<PromptHistory, ModelError> {
    let n_tokens = ids.n_text() + rows.n_visual;
    let Some(image) = placeholder else { return Ok(PromptHistory { ids: Vec::new(), n_tokens }) };
    let mut history = Vec::with_capacity(n_tokens);
    for part in &ids.parts {
        history.extend(part.words().into_iter().flatten());
        let rows = rows.of(part).map_err(|rule| ModelError::Strategy { rule })?;
        history.extend(std::iter::repeat_n(image, rows.map_or(0, |rows| rows.len())));
    }
    Ok(PromptHistory { ids: history, n_tokens })
}

/// Runs a tower as far as a connector needs it, and fuses the tokens that `selection` takes of its states.
///
/// # Shapes
/// `pixels (T, 3, side, side)` to `(T, N', k D)`, with the selection's `N` and `D`.
///
/// # Errors
/// When the shapes do not fit.
pub fn fuse(
    tower: &Tower,
    connector: &dyn Connector,
    selection: FeatureSelection,
    pixels: &Tensor,
) -> candle_core::Result<Tensor> {
    let (layers, last) = (connector.layers(), connector.last_layer());
    let mut fold = connector.begin();
    tower.hidden_states(pixels, &mut |layer, state| {
        if layers.contains(&layer) {
            fold.visit(layer, &selection.apply(&tower.output(state)?)?)?; // (T, N, D)
        }
        Ok(if layer >= last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    fold.finish()
}
