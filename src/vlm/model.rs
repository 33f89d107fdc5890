//! Vision-language model in memory: frames to visual tokens, and a prompt's ids and visual tokens to embeddings. The
//! engine ([`crate::engine`]) makes the answer's tokens of them.

use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::blueprint::frame_tokens;
use super::config::{GenerationDefaults, Spelling};
use super::families::Family;
use super::frames::FrameTables;
use super::placement::VisionPlacement;
use super::prompt_ids::{FrameRows, MediumRows, PromptIds, VisualPlaceholders, media_of};
use super::{FeatureSelection, SingleImageRule, VideoPath};
use crate::connector::{ChannelWindow, Connector};
use crate::device::move_between;
use crate::error::Error;
use crate::image::Preprocessor;
use crate::language::{Decoding, Llama, PromptHistory, SamplingConfig};
use crate::projector::Projector;
use crate::temporal::FrameTokens;
use crate::text::{FrameMarks, Passage, Template, Tokenizer};
use crate::vision::Tower;

/// Vision-language model.
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
    pub(super) frame_tables: FrameTables,
    pub(super) tokenizer: Tokenizer,
    pub(super) template: Template,
    pub(super) context: usize,
    pub(super) marks: FrameMarks,
    pub(super) single_image: SingleImageRule,
    pub(super) spelling: Spelling,
    /// Id of the placeholder of a visual token in Hugging Face's prompts.
    pub(super) image_token: Option<u32>,
    /// Id of the placeholder in their prompts about a single image.
    pub(super) single_image_token: Option<u32>,
    pub(super) generation: GenerationDefaults,
    /// Selection of the connector's tokens from a hidden state.
    pub(super) selection: FeatureSelection,
    /// `image_newline`, the row that ends rows or frames of visual tokens, `(H)`.
    pub(super) newline: Option<Tensor>,
    pub(super) warnings: Vec<String>,
}

impl Vlm {
    /// Returns the name by which the user asked for the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the family of the checkpoint.
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// Returns the family's own processing of videos.
    pub fn video_path(&self) -> VideoPath {
        self.video_path
    }

    /// Returns the preparation of frames.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// Returns the vision tower.
    pub fn tower(&self) -> &Tower {
        &self.tower
    }

    /// Begins the sliding window over the connector's tokens of one video's frames.
    pub(crate) fn begin_window(&self) -> ChannelWindow {
        ChannelWindow::new(self.window, self.selection.width(self.tower.config()))
    }

    /// Returns the language model.
    pub fn language(&self) -> &Llama {
        &self.language
    }

    /// Returns the tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Returns the default conversation template.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// Returns the marks around visual tokens.
    pub fn marks(&self) -> &FrameMarks {
        &self.marks
    }

    /// Returns the processing of a single image.
    pub fn single_image(&self) -> &SingleImageRule {
        &self.single_image
    }

    /// Returns the tokens of a frame after the connector.
    pub fn frame_tokens(&self) -> FrameTokens {
        let frame = frame_tokens(self.tower.config(), self.connector.as_ref(), self.selection);
        FrameTokens { has_newline: self.newline.is_some(), ..frame }
    }

    /// Returns the row that ends rows or frames of visual tokens (`image_newline`), `(H)`, if the checkpoint has it.
    pub fn newline(&self) -> Option<&Tensor> {
        self.newline.as_ref()
    }

    /// Returns the number of positions that prompt and answer may fill.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Returns the device of the language model.
    pub fn device(&self) -> &Device {
        self.language.device()
    }

    /// Returns the device of the vision encoder: tower, connector and projector.
    pub fn vision_device(&self) -> &Device {
        &self.vision.device
    }

    /// Returns the precision of the vision encoder's activations.
    pub fn vision_dtype(&self) -> DType {
        self.vision.dtype
    }

    /// Returns warnings about the checkpoint.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns the ids that end an answer: the checkpoint's, and in LLaVA's spelling the template's stop string where
    /// it is one token. Transformers uses the ids only.
    pub(crate) fn stop_tokens(&self, template: &Template) -> Vec<u32> {
        let mut stop = self.generation.rules.ends.clone();
        stop.extend(self.stop_strings(template).iter().filter_map(|text| self.tokenizer.token_id(text)));
        stop.sort_unstable();
        stop.dedup();
        stop
    }

    /// Returns the strings that end an answer: the template's in LLaVA's spelling, none in Hugging Face's.
    pub(crate) fn stop_strings(&self, template: &Template) -> Vec<String> {
        match self.spelling {
            Spelling::Llava => template.stop_strings(),
            Spelling::HuggingFace => Vec::new(),
        }
    }

    /// Returns the decoding settings: those of `asked`, with the checkpoint's for fields that it leaves open.
    pub fn decoding(&self, asked: &SamplingConfig) -> Decoding {
        self.generation.decoding(asked)
    }

    /// Returns the prompt's ids for the logit rules of its answer: all ids of a Hugging Face checkpoint, none of
    /// LLaVA's, whose code passes embeddings to the model. `media` are those of the prompt, by their index.
    ///
    /// # Errors
    /// When the prompt shows frames that have no tokens of their own, or a medium that is not among `media`.
    pub fn prompt_history(&self, ids: &PromptIds, media: &[MediumRows]) -> Result<PromptHistory, Error> {
        VisualPlaceholders { video: self.image_token, image: self.single_image_token }.history(ids, media)
    }

    /// Computes the connector's fused tokens of frames, which may be in host memory.
    ///
    /// # Shapes
    /// `pixels (T, 3, side, side)` to `(T, N', k D)`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn fuse(&self, pixels: &Tensor) -> Result<Tensor, Error> {
        let run = || {
            let pixels = pixels.to_device(&self.vision.device)?.to_dtype(self.vision.dtype)?;
            fuse(&self.tower, self.connector.as_ref(), self.selection, &pixels)
        };
        run().map_err(Error::compute("encoding frames"))
    }

    /// Projects fused tokens to the language model's width.
    ///
    /// # Shapes
    /// `(T, N', k D)` to `(T, N', H)`.
    ///
    /// # Errors
    /// When the width does not fit.
    pub fn project(&self, fused: &Tensor) -> Result<Tensor, Error> {
        self.projector.forward(fused).map_err(Error::compute("projecting frames"))
    }

    /// Moves visual tokens to the language model's device and precision.
    ///
    /// # Errors
    /// When device memory runs out.
    pub(crate) fn to_language(&self, visual: &Tensor) -> Result<Tensor, Error> {
        let moved = move_between(visual, self.device()).and_then(|visual| visual.to_dtype(self.language.dtype()));
        moved.map_err(Error::compute("moving visual tokens to the language model"))
    }

    /// Computes the embeddings of a prompt about one medium, with its visual tokens spliced between the text.
    ///
    /// # Shapes
    /// `visual (V, H)` to `(n_text + V, H)`.
    ///
    /// # Errors
    /// When an id is beyond the vocabulary, or the prompt shows frames that have no tokens of their own, or other
    /// media.
    pub fn splice(&self, ids: &PromptIds, visual: &Tensor, rows: FrameRows) -> Result<Tensor, Error> {
        let run = || {
            let visual = move_between(visual, self.device())?.to_dtype(self.language.dtype())?;
            let mut parts = Vec::with_capacity(ids.parts.len());
            for part in &ids.parts {
                if let Some(medium) = part.medium() {
                    media_of(&[rows], medium).map_err(candle_core::Error::msg)?;
                }
                match (part, rows.of(part).map_err(candle_core::Error::msg)?) {
                    (_, Some(rows)) => parts.push(visual.narrow(0, rows.start, rows.len())?),
                    (Passage::Text(ids), None) if !ids.is_empty() => parts.push(self.language.embed(ids)?),
                    (_, None) => {}
                }
            }
            Tensor::cat(&parts, 0)
        };
        run().map_err(Error::compute("splicing the prompt"))
    }

    /// Returns the precision of the language model's activations.
    pub fn dtype(&self) -> DType {
        self.language.dtype()
    }
}

/// Runs a tower up to the last layer that a connector needs, and fuses the selected tokens of its hidden states.
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
