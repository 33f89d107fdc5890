//! Tests of the loss of packed conversations and of the gradients of every part.

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
        let tower =
            Tower::load(&config, 2, &parameters.part(Part::VisionTower), Purpose::Training).expect("it is laid out");
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
