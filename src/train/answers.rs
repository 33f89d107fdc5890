//! Stages `connector` and `instruct`: the loss on the answers' tokens, from cached features of the frozen tower.

use candle_core::{Device, Result, Tensor};

use super::data::Dataset;
use super::features::Features;
use super::loss::{correct, cross_entropy};
use super::objective::{Objective, StepLoss};
use super::pack::{Geometry, Packed, Packer, TrainSegment};
use super::parameters::{Parameters, Part};
use super::recipe::Stretch;
use crate::error::Error;
use crate::language::Llama;
use crate::nn::Purpose;
use crate::projector::Projector;
use crate::vlm::Design;
use crate::world::Draw;

/// The objective of both stages; which parts are trained is the parameters' matter.
pub(crate) struct AnswerObjective<'m> {
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

/// Parts of the objective.
pub(crate) struct AnswerParts<'m> {
    /// The model's description.
    pub design: &'m Design,
    /// Factor of the features.
    pub feature_scale: f64,
    /// Images with conversations.
    pub data: Box<dyn Dataset>,
    /// The features of its images.
    pub features: Features,
    /// Stretching of images.
    pub stretch: Stretch,
    /// Seed of wordings and stretches.
    pub seed: u64,
}

/// Number of tokens per image in a step, and distance of the questions from them.
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
    pub(crate) fn new(parts: AnswerParts<'m>, parameters: &Parameters) -> std::result::Result<Self, Error> {
        let AnswerParts { design, feature_scale, data, features, stretch, seed } = parts;
        let llama = &design.config.llama;
        let width = design.connector_width();
        let failed = Error::compute("laying out the model");
        let projector = parameters.part(Part::Projector);
        let projector = Projector::load(design.config.projector, width, llama.d_hidden, &projector).map_err(&failed)?;
        let language = Llama::load(llama, &parameters.part(Part::LanguageModel), Purpose::Training).map_err(&failed)?;
        let packer = Packer::new(design);
        let before_visual = packer.before_visual()?;
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

    /// Returns the visual tokens of some images, as `stretched` says.
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

    fn segments(&self, step: usize, index: usize) -> std::result::Result<Vec<TrainSegment>, Error> {
        let packer = Packer::new(self.design);
        let mut draw = Draw::new(self.seed.wrapping_add(step as u64), index as u64);
        let mut segments = Vec::new();
        for dialogue in self.data.dialogues(index, &mut draw) {
            segments.extend(packer.segments(&dialogue)?);
        }
        Ok(segments)
    }
}

/// Images with their conversations, packed.
pub(crate) struct AnswerBatch {
    features: Tensor,
    stretched: Stretched,
    packed: Packed,
}

impl Objective for AnswerObjective<'_> {
    type Batch = AnswerBatch;

    fn prepare(&self, step: usize, indices: &[usize]) -> std::result::Result<AnswerBatch, Error> {
        let stretched = self.stretched(step);
        let segments: Vec<_> =
            indices.iter().map(|&index| self.segments(step, index)).collect::<std::result::Result<_, _>>()?;
        let n_tokens = self.features.n_tokens();
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
        packed_loss(&self.language, &self.before_visual, &visual, &batch.packed)
    }
}

/// Returns the loss of packed conversations behind their images.
///
/// # Shapes
/// `visual (B, V, H)` to a scalar.
fn packed_loss(language: &Llama, before_visual: &[u32], visual: &Tensor, packed: &Packed) -> Result<StepLoss> {
    let (b, n_visual, h) = visual.dims3()?;
    let s = before_visual.len() + n_visual + packed.n_after;
    let before = language.embed(before_visual)?.unsqueeze(0)?.expand((b, before_visual.len(), h))?;
    let after = language.embed(&packed.ids)?.reshape((b, packed.n_after, h))?;
    let embeds = Tensor::cat(&[&before, visual, &after], 1)?; // (B, S, H)
    let positions = Tensor::from_slice(&packed.positions, (b, s), language.device())?;
    let hidden = language.forward_packed(&embeds, &positions, &packed.visible)?; // (B, S, H)
    let rows = Tensor::from_slice(&packed.rows, packed.rows.len(), language.device())?;
    let predicting = hidden.reshape((b * s, h))?.index_select(&rows, 0)?; // (R, H)
    let logits = language.logits(&predicting)?; // (R, vocabulary)
    let (right, counted) = correct(&logits, &packed.targets)?;
    Ok(StepLoss { sum: cross_entropy(&logits, &packed.targets)?, right, counted, n_tokens: b * s })
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
