//! Stages `connector` and `instruct`: the loss on the answers' tokens, from cached features of the frozen tower.

use candle_core::{Device, Result, Tensor};

use super::TrainError;
use super::data::Dataset;
use super::features::Features;
use super::loss::{correct, cross_entropy};
use super::objective::{Objective, StepLoss};
use super::pack::{Geometry, Packed, Packer, Segment};
use super::parameters::{Parameters, Part};
use super::recipe::Stretch;
use crate::language::Llama;
use crate::projector::Projector;
use crate::vlm::{Design, ModelError};
use crate::world::Draw;

/// The objective of both stages; which parts are trained is the parameters' matter.
pub struct AnswerObjective<'m> {
    design: &'m Design,
    projector: Projector,
    language: Llama,
    feature_scale: f64,
    data: Box<dyn Dataset>,
    features: Features,
    stretch: Stretch,
    before_visual: Vec<u32>,
    seed: u64,
    device: Device,
}

/// What the objective is made from.
pub struct AnswerParts<'m> {
    /// The model's description.
    pub design: &'m Design,
    /// What the features are multiplied by.
    pub feature_scale: f64,
    /// What is learned from.
    pub data: Box<dyn Dataset>,
    /// The features of its images.
    pub features: Features,
    /// How images are stretched.
    pub stretch: Stretch,
    /// Seed of wordings and stretches.
    pub seed: u64,
}

/// How many tokens stand for the images of a step, and how far from them the questions begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretched {
    pooled: bool,
    repetitions: usize,
    gap: usize,
}

impl<'m> AnswerObjective<'m> {
    /// Builds projector and language model on `parameters`.
    ///
    /// # Errors
    /// When weights do not fit.
    pub fn new(parts: AnswerParts<'m>, parameters: &Parameters) -> std::result::Result<Self, TrainError> {
        let AnswerParts { design, feature_scale, data, features, stretch, seed } = parts;
        let llama = &design.config.llama;
        let width = design.connector.width(design.tower.d_hidden);
        let failed = TrainError::compute("laying out the model");
        let projector = parameters.part(Part::Projector);
        let projector = Projector::load(design.config.projector, width, llama.d_hidden, &projector).map_err(&failed)?;
        let language = Llama::load(llama, &parameters.part(Part::LanguageModel)).map_err(&failed)?;
        let packer = Packer::new(&design.tokenizer, &design.template, design.config.image_marks);
        let before_visual = packer.before_visual().map_err(ModelError::from)?;
        let device = parameters.device().clone();
        Ok(Self { design, projector, language, feature_scale, data, features, stretch, before_visual, seed, device })
    }

    fn stretched(&self, step: usize) -> Stretched {
        const STREAM: u64 = 1 << 50;
        let mut draw = Draw::new(self.seed, STREAM + step as u64);
        let gap = if draw.chance(self.stretch.gap) { draw.index(self.stretch.max_gap + 1) } else { 0 };
        let (kind, few, many) = (draw.unit(), self.stretch.repetitions.0, self.stretch.repetitions.1);
        let repetitions = few + draw.index(many.saturating_sub(few) + 1);
        let pooled = kind < self.stretch.pooled;
        let repeated = kind < self.stretch.pooled + self.stretch.repeated;
        Stretched { pooled, repetitions: if repeated { repetitions.max(1) } else { 1 }, gap }
    }

    /// The visual tokens of some images, as `stretched` says.
    ///
    /// # Shapes
    /// `(B, N', k D)` to `(B, V, H)`.
    fn visual(&self, features: &Tensor, stretched: Stretched) -> Result<Tensor> {
        let features = features.to_device(&self.device)?;
        let tokens = self.projector.forward(&(features * self.feature_scale)?)?; // (B, N', H)
        let (b, n, h) = tokens.dims3()?;
        let tokens =
            if stretched.pooled { tokens.narrow(1, 0, n - n % 2)?.reshape((b, n / 2, 2, h))?.max(2)? } else { tokens };
        Tensor::cat(&vec![tokens; stretched.repetitions], 1)
    }

    fn segments(&self, step: usize, index: usize) -> std::result::Result<Vec<Segment>, TrainError> {
        let packer = Packer::new(&self.design.tokenizer, &self.design.template, self.design.config.image_marks);
        let mut draw = Draw::new(self.seed.wrapping_add(step as u64), index as u64);
        let mut segments = Vec::new();
        for dialogue in self.data.dialogues(index, &mut draw) {
            segments.extend(packer.segments(&dialogue).map_err(ModelError::from)?);
        }
        Ok(segments)
    }
}

/// Images with their conversations, packed.
pub struct AnswerBatch {
    features: Tensor,
    stretched: Stretched,
    packed: Packed,
}

impl Objective for AnswerObjective<'_> {
    type Batch = AnswerBatch;

    fn prepare(&self, step: usize, indices: &[usize]) -> std::result::Result<AnswerBatch, TrainError> {
        let stretched = self.stretched(step);
        let segments: Vec<_> =
            indices.iter().map(|&index| self.segments(step, index)).collect::<std::result::Result<_, _>>()?;
        let n_tokens = self.design.connector.n_tokens(self.design.tower.n_patches());
        let n_visual = if stretched.pooled { n_tokens / 2 } else { n_tokens } * stretched.repetitions;
        let geometry = Geometry {
            n_before: self.before_visual.len(),
            n_visual,
            gap: stretched.gap,
            context: self.design.config.context,
        };
        Ok(AnswerBatch { features: self.features.get(indices)?, stretched, packed: Packed::new(&segments, geometry) })
    }

    fn weight(&self, batch: &AnswerBatch) -> f64 {
        batch.packed.targets.weight()
    }

    fn loss(&self, batch: &AnswerBatch) -> Result<StepLoss> {
        let visual = self.visual(&batch.features, batch.stretched)?; // (B, V, H)
        let (b, n_visual, h) = visual.dims3()?;
        let packed = &batch.packed;
        let s = self.before_visual.len() + n_visual + packed.n_after;
        let before =
            self.language.embed(&self.before_visual)?.unsqueeze(0)?.expand((b, self.before_visual.len(), h))?;
        let after = self.language.embed(&packed.ids)?.reshape((b, packed.n_after, h))?;
        let embeds = Tensor::cat(&[before, visual, after], 1)?; // (B, S, H)
        let positions = Tensor::from_slice(&packed.positions, (b, s), &self.device)?;
        let hidden = self.language.forward_packed(&embeds, &positions, &packed.visible)?; // (B, S, H)
        let rows = Tensor::from_slice(&packed.rows, packed.rows.len(), &self.device)?;
        let predicting = hidden.reshape((b * s, h))?.index_select(&rows, 0)?; // (R, H)
        let logits = self.language.logits(&predicting)?; // (R, vocabulary)
        let (right, counted) = correct(&logits, &packed.targets)?;
        Ok(StepLoss { sum: cross_entropy(&logits, &packed.targets)?, right, counted, n_tokens: b * s })
    }
}
