//! Tests of linear layers with quantized weights, on the CPU and on a GPU where one is present.

use super::*;
use crate::kernels::of;
use candle_core::Var;

/// The devices that there are.
fn devices() -> Vec<Device> {
    let gpu = crate::device::DeviceSpec::Auto.open().ok().filter(|device| !device.is_cpu());
    [Device::Cpu].into_iter().chain(gpu).collect()
}

fn random(shape: (usize, usize), seed: f32) -> Tensor {
    let values = (0..shape.0 * shape.1).map(|i| ((i as f32 + seed) * 0.7391).sin() * ((i % 7) as f32 + 0.5)).collect();
    Tensor::from_vec::<_, f32>(values, shape, &Device::Cpu).expect("small")
}

fn difference(a: &Tensor, b: &Tensor) -> f32 {
    let all = |x: &Tensor| {
        let x = x.to_device(&Device::Cpu).and_then(|x| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>());
        x.expect("small")
    };
    let (a, b) = (all(a), all(b));
    let largest = b.iter().fold(f32::MIN_POSITIVE, |most, b| most.max(b.abs()));
    a.iter().zip(&b).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

#[test]
fn quantized_layers_agree_with_the_cpu_in_every_precision() {
    let (weight, bias, x) = (random((96, 512), 1.0), random((1, 96), 2.0), random((5, 512), 3.0));
    let bias = bias.squeeze(0).expect("one row");
    let cpu = of(&Device::Cpu, DType::F32);
    for format in [QuantFormat::Q8_0, QuantFormat::Q4K] {
        let quantized = cpu.quantize(&weight, Some(&bias), format).expect("it fits").expect("it fits");
        let expected = quantized.forward(&x, None, Some(Activation::Gelu)).expect("the widths fit");
        for device in devices() {
            for (dtype, tolerance) in [(DType::F32, 1e-2), (DType::F16, 2e-2), (DType::BF16, 4e-2)] {
                let on_device = |x: &Tensor| x.to_device(&device)?.to_dtype(dtype);
                let [weight, bias, x] = [&weight, &bias, &x].map(|x| on_device(x).expect("room"));
                let layer = GgmlLinear::quantize(&weight, Some(&bias), format).expect("it fits");
                let y = layer.forward(&x, Some(Activation::Gelu)).expect("the widths fit");
                assert_eq!((y.dims(), y.dtype()), (&[5, 96][..], dtype));
                let found = difference(&y, &expected);
                assert!(found < tolerance, "{format} {dtype:?}: {found}");
            }
        }
    }
}

#[test]
fn products_of_ones_are_correct_on_every_device() {
    for device in devices() {
        assert!(multiplies_ones(&device).expect("it answers"), "{device:?}");
    }
}

#[test]
fn stored_rows_are_permuted_to_the_order_of_the_outputs_and_layers_are_joined() {
    let weight = random((6, 64), 1.0);
    let stored = QTensor::quantize(&weight, QuantFormat::Q8_0.ggml()).expect("it fits");
    for device in devices() {
        let load = |row: &(dyn Fn(usize) -> usize + Sync)| {
            let stored = StoredLinear { weight: &stored, device: &device, format: QuantFormat::Q8_0, row, bias: None };
            of(&device, DType::BF16).load_quantized(&stored).expect("its own format")
        };
        let (plain, reversed) = (load(&|i| i), load(&|i| 5 - i));
        let x = random((2, 64), 4.0).to_device(&device).and_then(|x| x.to_dtype(DType::BF16)).expect("room");
        let y = |layer: &crate::kernels::PackedLinear| {
            let y = layer.forward(&x, None, None).and_then(|y| y.to_dtype(DType::F32)?.to_vec2::<f32>());
            y.expect("the widths fit")
        };
        let (a, b) = (y(&plain), y(&reversed));
        assert!(a.iter().zip(&b).all(|(a, b)| a.iter().eq(b.iter().rev())));
        let joined = crate::kernels::PackedLinear::join(&[&plain, &reversed]).expect("room").expect("they are alike");
        let joined = y(&joined);
        assert!(joined.iter().zip(a.iter().zip(&b)).all(|(row, (a, b))| row[..6] == a[..] && row[6..] == b[..]));
    }
}

#[test]
fn other_widths_formats_and_gradients_are_rejected() {
    let layer = GgmlLinear::quantize(&random((3, 32), 0.0), None, QuantFormat::Q8_0).expect("it fits");
    assert!(layer.forward(&random((2, 31), 0.0), None).is_err());
    let tracked = Var::from_tensor(&random((2, 32), 0.0)).expect("small");
    assert!(layer.forward(&tracked, None).expect_err("no gradient").to_string().contains("no gradient"));
    let recorded = crate::kernels::cuda::recording::record(|| layer.forward(&random((2, 32), 0.0), None).map(drop));
    assert!(recorded.expect_err("candle's product").to_string().contains("cannot be recorded"));
    let stored = QTensor::quantize(&random((3, 32), 0.0), QuantFormat::Q8_0.ggml()).expect("it fits");
    let stored =
        StoredLinear { weight: &stored, device: &Device::Cpu, format: QuantFormat::Q4K, row: &|i| i, bias: None };
    assert!(GgmlLinear::load(&stored).expect_err("another format").to_string().contains("not in q4_k"));
    // Rows of 100 fit no format.
    let kernels = of(&Device::Cpu, DType::F16);
    let weight = random((3, 100), 0.0).to_dtype(DType::F16).expect("small");
    assert!(kernels.quantize(&weight, None, QuantFormat::Q4K).expect("nothing is done").is_none());
}
