//! Tests of fused linear layers.

use std::collections::HashMap;

use candle_core::{DType, Device};

use super::*;
use crate::kernels::QuantFormat;
use crate::kernels::finite_difference::{assert_gradients, random};
use crate::nn::{FullPrecisionLoader, Purpose, QuantizingLoader, RmsNorm};

/// Returns the configuration of a query of `n` heads, and of a key and a value of one head: heads of width `d`.
fn config(d_in: usize, n: usize, d: usize) -> FusedConfig<'static, 3> {
    FusedConfig { d_in, outputs: [("q_proj", n * d), ("k_proj", d), ("v_proj", d)], bias: Bias::With }
}

fn weights(config: &FusedConfig<'_, 3>, dtype: DType) -> VarBuilder<'static> {
    let mut tensors = HashMap::new();
    for (seed, (name, d_out)) in (1..).zip(config.outputs) {
        tensors.insert(format!("{name}.weight"), random((d_out, config.d_in), seed));
        tensors.insert(format!("{name}.bias"), random(d_out, seed + 10));
    }
    VarBuilder::from_tensors(tensors, dtype, &Device::Cpu)
}

fn elements(x: &Tensor) -> Vec<f32> {
    x.flatten_all().and_then(|x| x.to_dtype(DType::F32)?.to_vec1()).expect("numeric")
}

/// Computes the outputs of the same layers, each loaded and packed separately.
fn separate_outputs(
    config: &FusedConfig<'_, 3>,
    vb: &VarBuilder,
    loader: &dyn LinearLoader,
    x: &Tensor,
) -> [Tensor; 3] {
    config.outputs.map(|(name, d_out)| {
        let mut layer = loader.linear(config.d_in, d_out, config.bias, &vb.pp(name)).expect("in the map");
        layer.pack().and_then(|()| layer.forward(x)).expect("the widths match")
    })
}

#[test]
fn joined_layers_give_the_outputs_of_separate_ones() {
    // Heads that fill the panels of a kernel, and heads that do not.
    for (d_in, d) in [(256, 32), (64, 5)] {
        let config = config(d_in, 2, d);
        let x = random((2, 3, d_in), 7);
        for loader in [
            &FullPrecisionLoader(Purpose::Training) as &dyn LinearLoader,
            &QuantizingLoader(QuantFormat::Q4K),
            &QuantizingLoader(QuantFormat::Q8_0),
        ] {
            let vb = weights(&config, DType::F32);
            let mut fused = Fused::load(&config, &vb, loader).expect("in the map");
            fused.pack().expect("f32 on the CPU");
            let found = fused.forward(&x).expect("the widths match");
            for (found, expected) in found.iter().zip(separate_outputs(&config, &vb, loader, &x)) {
                assert_eq!(found.dims(), expected.dims());
                assert_eq!(elements(found), elements(&expected));
            }
            assert_eq!(fused.widths, [2 * d, d, d]);
        }
    }
}

#[test]
fn compatible_layers_are_joined_in_every_precision() {
    let layers = |fused: &Fused<3>| fused.layers().len();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let config = config(64, 2, 5);
        let vb = weights(&config, dtype);
        let mut fused = Fused::load(&config, &vb, &FullPrecisionLoader(Purpose::Training)).expect("in the map");
        let x = random((3, 64), 7).to_dtype(dtype).expect("numeric");
        let separate = fused.forward(&x).expect("the widths match").map(|y| elements(&y));
        assert_eq!(layers(&fused), 3);
        fused.pack().expect("on the CPU");
        assert_eq!(layers(&fused), 1, "{dtype:?}");
        for (joined, separate) in fused.forward(&x).expect("the widths match").iter().zip(separate) {
            assert!(elements(joined).iter().zip(&separate).all(|(a, b)| (a - b).abs() <= 1e-2 * b.abs().max(1.0)));
        }
    }
    // Keys of 5 columns do not fill a panel of quantized weights.
    let config = config(64, 2, 5);
    let mut fused =
        Fused::load(&config, &weights(&config, DType::F32), &QuantizingLoader(QuantFormat::Q8_0)).expect("read");
    fused.pack().expect("f32 on the CPU");
    assert_eq!(layers(&fused), 3);
}

#[test]
fn layers_of_several_formats_stay_separate() {
    struct UnquantizedValue;
    impl LinearLoader for UnquantizedValue {
        fn linear(&self, d_in: usize, d_out: usize, bias: Bias, vb: &VarBuilder) -> Result<Linear> {
            let mut layer = Linear::load(d_in, d_out, bias, vb)?;
            if !vb.prefix().ends_with("v_proj") {
                layer.quantize(QuantFormat::Q8_0)?;
            }
            Ok(layer)
        }

        fn convert(&self, _: &mut Linear) -> Result<()> {
            Ok(())
        }

        fn reads_in_parallel(&self) -> bool {
            true
        }

        fn purpose(&self) -> Purpose {
            Purpose::Inference
        }
    }
    let config = config(64, 2, 32);
    let (vb, x) = (weights(&config, DType::F32), random((1, 2, 64), 7));
    let mut fused = Fused::load(&config, &vb, &UnquantizedValue).expect("in the map");
    fused.pack().expect("f32 on the CPU");
    assert_eq!(
        fused.layers().iter().map(Linear::format).collect::<Vec<_>>(),
        [Some(QuantFormat::Q8_0), Some(QuantFormat::Q8_0), None]
    );
    let found = fused.forward(&x).expect("the widths match");
    for (found, expected) in found.iter().zip(separate_outputs(&config, &vb, &UnquantizedValue, &x)) {
        assert_eq!(elements(found), elements(&expected));
    }
}

#[test]
fn outputs_of_a_normalised_input_are_concatenated() {
    let config = config(64, 2, 32);
    let (vb, x) = (weights(&config, DType::F32), random((2, 3, 64), 7));
    let norm = RmsNorm::new(random(64, 8), 1e-5).expect("f32");
    let mut fused = Fused::load(&config, &vb, &FullPrecisionLoader(Purpose::Training)).expect("in the map");
    let run = |fused: &Fused<3>| {
        let all = fused.forward_normalised(&x, &norm).expect("the widths match");
        let parts = fused.forward_normalised_parts(&x, &norm).expect("the widths match");
        assert_eq!(elements(&all), elements(&Tensor::cat(&parts, 2).expect("rows")));
        assert_eq!(all.dims(), [2, 3, 128]);
        elements(&all)
    };
    let separate = run(&fused);
    fused.pack().expect("f32 on the CPU");
    assert!(run(&fused).iter().zip(&separate).all(|(a, b)| (a - b).abs() < 2e-5 * b.abs().max(1.0)));
    assert!(fused.split(&random((2, 127), 1)).is_err());
}

#[test]
fn tracked_layers_stay_separate_and_have_their_gradients() {
    let run = |t: &[Tensor]| {
        let layers = [Linear::from_weight(t[1].clone()), Linear::from_weight(t[2].clone())];
        let mut fused = Fused { weights: FusedWeights::Separate(layers), widths: [3, 2] };
        fused.pack()?;
        let norm = RmsNorm::new(t[3].clone(), 1e-5)?;
        fused.forward_normalised(&t[0], &norm)
    };
    assert_gradients(&[random((2, 4), 1), random((3, 4), 2), random((2, 4), 3), random(4, 4)], run);
}
