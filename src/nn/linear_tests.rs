//! Tests of linear layers.

use super::*;
use candle_core::Device;

#[test]
fn leading_dimensions_are_preserved() {
    // W = [[1, 2]], b = 10: (3, 4) gives 3 + 8 + 10 = 21.
    let weight = Tensor::new(&[[1f32, 2.0]], &Device::Cpu).expect("small");
    let bias = Some(Tensor::new(&[10f32], &Device::Cpu).expect("small"));
    let mut layer = Linear::new(weight, bias);
    let x = Tensor::new(&[[[3f32, 4.0], [0.0, 0.0]]], &Device::Cpu).expect("small");
    for _ in 0..2 {
        let y = layer.forward(&x).expect("the widths match");
        assert_eq!(y.to_vec3::<f32>().expect("rank 3"), [[[21.0], [10.0]]]);
        layer.pack().expect("f32 on the CPU");
    }
    let tracked = candle_core::Var::from_tensor(&x).expect("small");
    assert!(layer.forward(&tracked).expect_err("no gradient").to_string().contains("have no gradient"));
    assert!(layer.forward(&x.narrow(2, 0, 1).expect("two wide")).is_err());
}

#[test]
fn gathered_rows_of_packed_and_unpacked_weights_are_equal() {
    let elements: Vec<f32> = (0..37 * 19).map(|i| (i as f32).sin()).collect();
    let weight = Tensor::from_vec(elements, (37, 19), &Device::Cpu).expect("small");
    let mut layer = Linear::from_weight(weight.clone());
    let ids = Tensor::new(&[36u32, 0, 17, 17], &Device::Cpu).expect("small");
    let expected = weight.index_select(&ids, 0).and_then(|rows| rows.to_vec2::<f32>()).expect("in range");
    for _ in 0..2 {
        let rows = layer.weight_rows(&ids).expect("in range").expect("not quantized");
        assert_eq!(rows.to_vec2::<f32>().expect("rank 2"), expected);
        assert!(layer.weight_rows(&Tensor::new(&[37u32], &Device::Cpu).expect("small")).is_err());
        layer.pack().expect("f32 on the CPU");
    }
    let mut layer = Linear::from_weight(Tensor::ones((4, 32), candle_core::DType::F32, &Device::Cpu).expect("small"));
    layer.quantize(QuantFormat::Q8_0).expect("rows of 32 fit");
    assert!(layer.weight_rows(&Tensor::new(&[0u32], &Device::Cpu).expect("small")).expect("no error").is_none());
}

#[test]
fn placeholders_of_missing_weights_are_not_packed() {
    let zero = Tensor::zeros((), candle_core::DType::F32, &Device::Cpu).expect("small");
    // Packed, the weight would take 64 TiB.
    let mut layer = Linear::from_weight(zero.broadcast_as((1 << 22, 1 << 22)).expect("a view"));
    layer.pack().and_then(|()| layer.quantize(QuantFormat::Q8_0)).expect("nothing to do");
    assert!(layer.packed().is_none());
    assert!(Linear::join(&[&layer, &layer]).expect("nothing to do").is_none());
}

#[test]
fn layers_over_one_input_are_joined() {
    let layer = |rows: &[[f32; 2]], bias: Option<&[f32]>| {
        let weight = Tensor::from_slice(rows.as_flattened(), (rows.len(), 2), &Device::Cpu).expect("small");
        Linear::new(weight, bias.map(|bias| Tensor::new(bias, &Device::Cpu).expect("small")))
    };
    let (a, b) = (layer(&[[1.0, 0.0]], Some(&[5.0])), layer(&[[0.0, 1.0], [2.0, 0.0]], Some(&[0.0, 1.0])));
    let joined = Linear::join(&[&a, &b]).expect("the widths match").expect("both have a bias");
    let x = Tensor::new(&[[3f32, 4.0]], &Device::Cpu).expect("small");
    let y = joined.forward(&x).and_then(|y| y.to_vec2::<f32>()).expect("the widths match");
    assert_eq!(y, [[8.0, 4.0, 7.0]]);
    assert!(Linear::join(&[&a, &layer(&[[1.0, 1.0]], None)]).expect("no product is made").is_none());
}

#[test]
fn packed_layers_of_one_format_are_joined() {
    let layer = |n: usize, seed: f32| {
        let elements: Vec<f32> = (0..n * 32).map(|i| ((i as f32 + seed) * 0.37).sin()).collect();
        Linear::from_weight(Tensor::from_vec(elements, (n, 32), &Device::Cpu).expect("small"))
    };
    let x = Tensor::randn(0f32, 1.0, (3, 32), &Device::Cpu).expect("small");
    let convert = |format: Option<QuantFormat>, mut layer: Linear| {
        let converted = match format {
            Some(format) => layer.quantize(format),
            None => layer.pack(),
        };
        converted.map(|()| layer).expect("f32 on the CPU")
    };
    let join = |layers: &[&Linear]| Linear::join(layers).expect("on the CPU");
    for format in [None, Some(QuantFormat::Q8_0)] {
        let (a, b) = (convert(format, layer(32, 0.0)), convert(format, layer(64, 5.0)));
        let joined = join(&[&a, &b]).expect("whole panels");
        let apart = Tensor::cat(&[a.forward(&x).expect("fits"), b.forward(&x).expect("fits")], 1).expect("rows");
        let elements = |x: &Tensor| x.to_vec2::<f32>().expect("a matrix");
        assert_eq!(elements(&joined.forward(&x).expect("fits")), elements(&apart));
        assert!(join(&[&a, &convert(format, layer(5, 0.0))]).is_none());
        assert!(join(&[&a, &layer(32, 0.0)]).is_none());
    }
    let other = [convert(None, layer(32, 0.0)), convert(Some(QuantFormat::Q8_0), layer(32, 0.0))];
    assert!(join(&[&other[0], &other[1]]).is_none());
}

#[test]
fn fused_operations_agree_with_separate_ones() {
    use crate::nn::{LayerNorm, RmsNorm};
    let weight = |n: usize, k: usize, seed: f32| {
        let elements = (0..n * k).map(|i| ((i as f32 + seed) * 0.61).sin() * 0.2).collect::<Vec<f32>>();
        Linear::from_weight(Tensor::from_vec(elements, (n, k), &Device::Cpu).expect("small"))
    };
    let elements =
        |shift: f64| Tensor::arange(0f32, 32.0, &Device::Cpu).and_then(|x| x.affine(0.1, shift)).expect("small");
    let norm = LayerNorm::new(elements(1.0), elements(-0.5), 1e-5).expect("f32");
    let rms_norm = RmsNorm::new(elements(1.0), 1e-5).expect("f32");
    let x = Tensor::randn(0.3f32, 2.0, (2, 40, 32), &Device::Cpu).expect("small");
    let residual = Tensor::randn(0f32, 1.0, (2, 40, 64), &Device::Cpu).expect("small");
    let (mut wide, mut back) = (weight(64, 32, 0.0), weight(32, 64, 3.0));
    let run = |wide: &Linear, back: &Linear| {
        let all = [
            wide.forward_normalised(&x, &norm),
            wide.forward_normalised(&x, &rms_norm),
            wide.forward_residual(&x, &residual),
            feed_forward(&x, &norm, &FeedForwardLayers { up: wide, activation: Activation::QuickGelu, down: back }),
        ];
        all.map(|y| y.and_then(|y| y.flatten_all()?.to_vec1::<f32>()).expect("the widths match"))
    };
    let apart = run(&wide, &back);
    wide.pack().and_then(|()| back.pack()).expect("f32 on the CPU");
    for (one, apart) in run(&wide, &back).into_iter().zip(apart) {
        assert!(one.iter().zip(&apart).all(|(a, b)| (a - b).abs() < 2e-5));
    }
    let narrow = RmsNorm::new(elements(1.0).narrow(0, 0, 31).expect("shorter"), 1e-5).expect("f32");
    assert!(wide.forward_normalised(&x, &narrow).is_err());
    let rows = residual.reshape((1, 80, 64)).expect("as many");
    assert!(wide.forward_residual(&x, &rows).is_err());
    let unequal = FeedForwardLayers { up: &wide, activation: Activation::Gelu, down: &wide };
    assert!(wide.forward_residual(&x, &x).is_err() && feed_forward(&x, &norm, &unequal).is_err());
}

#[test]
fn a_linear_layer_has_its_gradients() {
    use crate::kernels::finite_difference::{assert_gradients, random};
    assert_gradients(&[random((2, 3, 4), 1), random((5, 4), 2), random(5, 3)], |t| {
        Linear::new(t[1].clone(), Some(t[2].clone())).forward(&t[0])
    });
}
