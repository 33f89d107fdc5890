//! Tests of frames to visual tokens on the kernels for NVIDIA GPUs: emulated in every build, and on a GPU if there is
//! one. Tokens equal those of the CPU to rounding in f32, and within a tolerance in f16 and bf16.

use std::hash::{DefaultHasher, Hash, Hasher};

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use super::{FeatureSelection, fuse};
use crate::connector::ConnectorKind;
use crate::kernels::cuda::tests::tested;
use crate::kernels::finite_difference::random;
use crate::kernels::tests::with_kernels;
use crate::nn::Purpose;
use crate::projector::Projector;
use crate::temporal::{Evs, FrameTokens, Grid, MaxPool, Pool2d, PoolMode, Temporal};
use crate::units::LayerIndex;
use crate::vision::{Activation, Bias, Tower, TowerConfig, TowerFamily, TowerOutput};

/// Random weights of any name and shape; equal names have equal weights.
struct AnyWeights;

impl SimpleBackend for AnyWeights {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let x = random(shape.clone(), hasher.finish() % 1000);
        let x = match shape.dims() {
            [_] if name.ends_with("weight") => ((x.abs()? * 0.5)? + 0.5)?,
            [_] => (x * 0.1)?,
            [_, rest @ ..] => (x / (rest.iter().product::<usize>() as f64).sqrt())?,
            [] => x,
        };
        x.to_dtype(dtype)?.to_device(device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("{name} has no shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

fn config(family: TowerFamily) -> TowerConfig {
    // Heads as in the released towers: 2 of 72, 2 of 64. 4 x 4 patches.
    let (d_head, activation) = match family {
        TowerFamily::Siglip => (72, Activation::GeluTanh),
        TowerFamily::Clip => (64, Activation::QuickGelu),
        TowerFamily::InternVit => (64, Activation::Gelu),
    };
    TowerConfig {
        family,
        d_hidden: 2 * d_head,
        d_intermediate: 100,
        n_layers: 4,
        n_heads: 2,
        image_size: 16,
        patch_size: 4,
        n_channels: 3,
        activation,
        layer_norm_eps: 1e-6,
        qkv_bias: Bias::With,
        output: TowerOutput::Raw,
    }
}

/// Computes the visual tokens of three frames, in batches of two and one.
fn visual(config: &TowerConfig, temporal: Temporal, dtype: DType, device: &Device) -> Result<Tensor> {
    let vb = VarBuilder::from_backend(Box::new(AnyWeights), dtype, device.clone());
    let tower = Tower::load(config, config.n_layers, &vb.pp("tower"), Purpose::Inference)?;
    let connector = ConnectorKind::Dci.over(LayerIndex(3), 4).map_err(candle_core::Error::msg)?;
    let kind = "mlp2x_gelu".parse().map_err(candle_core::Error::msg)?;
    let mut projector = Projector::load(kind, 3 * config.d_hidden, 48, &vb.pp("projector"))?;
    projector.pack()?;
    let mut fold = temporal.begin(FrameTokens::on_grid(Grid { height: 4, width: 4 }));
    for (frames, seed) in [(2, 1), (1, 2)] {
        let pixels = random((frames, 3, 16, 16), seed).to_dtype(dtype)?.to_device(device)?;
        let selection = FeatureSelection { n_leading_dropped: config.n_class_tokens(), patches_per_side: 1 };
        let fused = fuse(&tower, connector.as_ref(), selection, &pixels)?;
        fold.push(&projector.forward(&fused)?)?;
    }
    fold.finish()?.to_dtype(DType::F32)?.to_device(&Device::Cpu)
}

#[test]
fn visual_tokens_are_those_of_the_cpu() {
    let pool = Pool2d { mode: PoolMode::Average, height: 3, width: 2 };
    let temporal = [
        Temporal::MaxPool(MaxPool { stride: 3 }),
        Temporal::Pool2d(pool),
        Temporal::TemporalMean,
        Temporal::Evs(Evs { drop: 0.5 }),
    ];
    for family in [TowerFamily::Siglip, TowerFamily::Clip] {
        let config = config(family);
        for temporal in temporal {
            let expected = visual(&config, temporal, DType::F32, &Device::Cpu).expect("on the CPU");
            let largest = expected.abs().and_then(|x| x.flatten_all()?.max(0)?.to_scalar::<f32>()).expect("f32");
            for tested in tested() {
                // The selection of tokens by similarity cannot be compared across precisions.
                if tested.dtype != DType::F32 && matches!(temporal, Temporal::Evs(_)) {
                    continue;
                }
                let found = with_kernels(tested.kernels, || visual(&config, temporal, tested.dtype, &tested.device));
                let found = found.expect("on the kernels of a GPU");
                assert_eq!(found.dims(), expected.dims());
                let difference =
                    (found - &expected).and_then(|d| d.abs()?.flatten_all()?.to_vec1::<f32>()).expect("f32");
                let tolerance = largest * if tested.dtype == DType::F32 { 1e-4 } else { 5e-2 };
                let worst = difference.iter().fold(0f32, |most, &x| if x > most || x.is_nan() { x } else { most });
                assert!(worst <= tolerance, "{family:?}, {temporal:?}, {:?}: {worst} of {largest}", tested.dtype);
            }
        }
    }
}
