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

/// Parts of the objective.
pub struct AnswerParts<'m> {
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
    pub fn new(parts: AnswerParts<'m>, parameters: &Parameters) -> std::result::Result<Self, Error> {
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
pub struct AnswerBatch {
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
mod tests {
    use super::*;
    use crate::language::{AttentionBias, LlamaConfig, QueryKeyNorm, RopeScaling};
    use crate::nn::finite_difference::random;
    use crate::projector::{Mlp, ProjectorKind};
    use crate::train::gradients::assert_directional;
    use crate::train::pack::TrainSegment;
    use candle_core::Shape;

    fn config() -> LlamaConfig {
        LlamaConfig {
            vocab_size: 30,
            d_hidden: 8,
            d_intermediate: 12,
            n_layers: 2,
            n_heads: 4,
            n_kv_heads: 2,
            d_head: 4,
            rms_norm_eps: 1e-5,
            rope_theta: 100.0,
            rope_scaling: RopeScaling::None,
            context: 64,
            tied_embeddings: false,
            attention_bias: AttentionBias::All,
            qk_norm: QueryKeyNorm::None,
            mlp_bias: true,
        }
    }

    /// Weights large enough for every path to matter, none of them special.
    fn parameters() -> Parameters {
        let value = |name: &str, shape: &Shape| {
            let seed = name.bytes().fold(7u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
            random(shape.clone(), seed % 1000) * 0.4
        };
        Parameters::new(Box::new(value), &Device::Cpu)
    }

    fn segment(ids: &[u32], n_prompt: usize) -> TrainSegment {
        TrainSegment::new(ids.to_vec(), (0..ids.len()).map(|i| if i < n_prompt { 0.0 } else { 1.0 }).collect())
    }

    const BEFORE: [u32; 2] = [1, 9];

    fn geometry(gap: usize) -> Geometry {
        Geometry { n_before: BEFORE.len(), n_visual: 3, gap, context: 64 }
    }

    #[test]
    fn packed_training_equals_single_turns() {
        let conversations = [segment(&[5, 6, 7, 8], 2), segment(&[4, 3, 2], 1), segment(&[11, 12, 13, 14, 15], 3)];
        let visual = random((1, 3, 8), 4);
        for gap in [0, 7] {
            // One row with all, or one row each: the loss and the gradient of every weight are the same.
            let run = |images: &[Vec<TrainSegment>]| {
                let parameters = parameters();
                let language = Llama::load(&config(), &parameters.part(Part::LanguageModel), Purpose::Training)
                    .expect("it is laid out");
                let packed = Packed::new(images, geometry(gap));
                let visual = visual.broadcast_as((images.len(), 3, 8)).expect("a batch");
                let loss = packed_loss(&language, &BEFORE, &visual, &packed).expect("it runs");
                let grads = loss.sum.backward().expect("it has gradients");
                let grads: Vec<Tensor> = parameters
                    .trainable()
                    .values()
                    .map(|var| grads.get(var).expect("every weight has a gradient").clone())
                    .collect();
                (loss.sum.to_scalar::<f32>().expect("a scalar"), grads)
            };
            let (packed, packed_grads) = run(&[conversations.to_vec()]);
            let (single, single_grads) = run(&conversations.clone().map(|segment| vec![segment]));
            assert!((packed - single).abs() < 1e-4, "{packed} {single}");
            for (a, b) in packed_grads.iter().zip(&single_grads) {
                let difference = (a - b).and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>()).expect("same shape");
                assert!(difference < 1e-4, "{difference}");
            }
        }
    }

    #[test]
    fn language_models_and_projectors_have_their_gradients() {
        let tied = LlamaConfig { tied_embeddings: true, ..config() };
        let qwen3 = LlamaConfig { qk_norm: QueryKeyNorm::PerHead, attention_bias: AttentionBias::None, ..config() };
        for config in [config(), tied, qwen3] {
            let parameters = parameters();
            let language =
                Llama::load(&config, &parameters.part(Part::LanguageModel), Purpose::Training).expect("it is laid out");
            let projector = Projector::load(ProjectorKind::Mlp(Mlp::gelu(2)), 6, 8, &parameters.part(Part::Projector))
                .expect("it is laid out");
            let images = [vec![segment(&[5, 6, 7, 8], 2), segment(&[4, 3, 2], 1)], vec![segment(&[11, 12], 1)]];
            let packed = Packed::new(&images, geometry(2));
            let features = random((2, 3, 6), 8);
            assert_directional(&parameters, || {
                let visual = projector.forward(&features)?;
                Ok(packed_loss(&language, &BEFORE, &visual, &packed)?.sum)
            });
        }
    }

    #[test]
    fn towers_have_their_gradients() {
        use crate::vision::{Activation, Bias, Tower, TowerConfig, TowerFamily, TowerOutput};
        for (family, activation) in
            [(TowerFamily::Clip, Activation::QuickGelu), (TowerFamily::Siglip, Activation::GeluTanh)]
        {
            let config = TowerConfig {
                family,
                d_hidden: 8,
                d_intermediate: 12,
                n_layers: 2,
                n_heads: 2,
                image_size: 4,
                patch_size: 2,
                n_channels: 3,
                activation,
                layer_norm_eps: 1e-5,
                qkv_bias: Bias::With,
                output: TowerOutput::Raw,
            };
            let parameters = parameters();
            let tower = Tower::load(&config, 2, &parameters.part(Part::VisionTower), Purpose::Training)
                .expect("it is laid out");
            let pixels = random((2, 3, 4, 4), 1);
            assert_directional(&parameters, || {
                let mut sum = None;
                tower.hidden_states(&pixels, &mut |layer, state| {
                    if layer.0 == 2 {
                        sum = Some((state * random(state.shape(), 3))?.sum_all()?);
                    }
                    Ok(std::ops::ControlFlow::Continue(()))
                })?;
                sum.ok_or_else(|| candle_core::Error::msg("no last state"))
            });
        }
    }
}
