//! Tests that all implementations of [`Kernels`] which the CPU can run agree; and of the choice between them.

use candle_core::Var;

use super::candle::CandleKernels;
use super::cpu::Cpu;
use super::finite_difference::{assert_gradients, random};
use super::*;

/// The implementations in f32 on the CPU: ours, ours without instructions of a particular processor, candle's.
fn cpu_implementations() -> [&'static dyn Kernels; 3] {
    [of(&Device::Cpu, DType::F32), Cpu::portable(), CandleKernels::of(&Device::Cpu, DType::F32)]
}

/// All implementations that the CPU can run in f32: its own, and those of a GPU where they can be emulated.
pub(super) fn implementations() -> Vec<&'static dyn Kernels> {
    let emulated = cuda::CudaKernels::emulated(DType::F32).map(|kernels| kernels as &dyn Kernels);
    cpu_implementations().into_iter().chain(emulated).collect()
}

thread_local! {
    static CHOSEN: std::cell::Cell<Option<&'static dyn Kernels>> = const { std::cell::Cell::new(None) };
}

/// The kernels that [`with_kernels`] chose for this thread.
pub(super) fn chosen() -> Option<&'static dyn Kernels> {
    CHOSEN.get()
}

/// Loads modules that run on given kernels, whatever their device and precision.
pub(crate) fn with_kernels<T: Send>(kernels: &'static dyn Kernels, load: impl FnOnce() -> T + Send) -> T {
    // Layers may be loaded in parallel: on a pool of one thread, they all are on this one.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    pool.install(|| {
        CHOSEN.set(Some(kernels));
        let loaded = load();
        CHOSEN.set(None);
        loaded
    })
}

fn elements(x: &Tensor) -> Vec<f32> {
    x.flatten_all().and_then(|x| x.to_dtype(DType::F32)?.to_vec1()).expect("numeric")
}

/// Fails unless all implementations give the same for inputs without and with a gradient, within rounding.
fn assert_alike(inputs: &[Tensor], run: impl Fn(&dyn Kernels, &[Tensor]) -> Result<Tensor>) {
    let tracked: Vec<Tensor> = inputs.iter().map(|x| Var::from_tensor(x).expect("small").as_tensor().clone()).collect();
    let [_, _, candle] = cpu_implementations();
    let expected = elements(&run(candle, inputs).expect("the shapes fit"));
    for (kernels, inputs) in implementations().into_iter().flat_map(|k| [(k, inputs), (k, &tracked)]) {
        let found = elements(&run(kernels, inputs).expect("the shapes fit"));
        let is_close = |(a, b): (&f32, &f32)| (a - b).abs() <= 2e-5 * b.abs().max(1.0);
        assert!(found.len() == expected.len() && found.iter().zip(&expected).all(is_close), "{kernels:?}");
    }
}

/// Fails unless all implementations have the gradient and give the same.
fn assert_trainable(inputs: &[Tensor], run: impl Fn(&dyn Kernels, &[Tensor]) -> Result<Tensor>) {
    assert_alike(inputs, &run);
    for kernels in implementations() {
        assert_gradients(inputs, |inputs| run(kernels, inputs));
    }
}

#[test]
fn products_and_biases_are_alike_and_can_be_trained() {
    assert_trainable(&[random((2, 3, 4), 1), random((2, 4, 5), 2)], |k, t| k.matmul(&t[0], &t[1]));
    assert_trainable(&[random((3, 4), 1), random(4, 2)], |k, t| k.add_bias(&t[0], &t[1]));
}

#[test]
fn linear_layers_with_what_follows_are_alike_and_can_be_trained() {
    let inputs = [random((3, 4), 1), random((5, 4), 2), random(5, 3), random((3, 5), 4)];
    for activation in [None, Some(Activation::QuickGelu), Some(Activation::GeluTanh), Some(Activation::Gelu)] {
        assert_trainable(&inputs, |k, t| {
            let epilogue = LinearEpilogue { bias: Some(&t[2]), activation, residual: Some(&t[3]) };
            k.linear(&t[0], &t[1], &epilogue)
        });
    }
    // A bias or a residual alone that is trained.
    for (bias, residual) in [(true, false), (false, true)] {
        assert_trainable(&[random(5, 3), random((3, 5), 4)][usize::from(residual)..][..1], |k, t| {
            let epilogue =
                LinearEpilogue { bias: bias.then_some(&t[0]), activation: None, residual: residual.then_some(&t[0]) };
            k.linear(&inputs[0], &inputs[1], &epilogue)
        });
    }
}

#[test]
fn rows_and_pools_are_alike_and_can_be_trained() {
    let ids = Tensor::new(&[2u32, 0, 2], &Device::Cpu).expect("small");
    assert_trainable(&[random((3, 4), 1)], |k, t| k.gather(&t[0], &ids));
    assert_trainable(&[random((3, 4), 1), random((3, 4), 2)], |k, t| k.row_cosines(&t[0], &t[1]));
    assert_trainable(&[random((2, 4), 1), random((2, 4), 2)], |k, t| {
        let first = k.accumulate(None, &t[0])?;
        k.accumulate(Some(first), &t[1])
    });
    let pool = |mode| GridPool { from: [3, 4], to: [2, 2], mode };
    for mode in [PoolMode::Average, PoolMode::Bilinear] {
        assert_trainable(&[random((2, 12, 3), 1)], |k, t| k.pool_grid(&t[0], &pool(mode)));
    }
    // Elements that differ by less than a step of finite differences: no gradient to compare with.
    assert_alike(&[random((2, 12, 3), 1)], |k, t| k.pool_grid(&t[0], &pool(PoolMode::Max)));
}

#[test]
fn activations_are_alike_and_can_be_trained() {
    for activation in [Activation::QuickGelu, Activation::GeluTanh, Activation::Gelu] {
        assert_trainable(&[random((2, 7), 1)], |k, t| k.activate(&t[0], activation));
    }
    assert_trainable(&[random((2, 7), 1), random((2, 7), 2)], |k, t| k.swiglu(&t[0], &t[1]));
    assert_trainable(&[random((2, 3, 8), 1)], |k, t| k.swiglu_joined(&t[0]));
    for kernels in implementations() {
        assert!(kernels.swiglu_joined(&random((2, 7), 1)).is_err());
        let both = random((3, 8), 1);
        let (gate, up) = candle::halves(&both).expect("an even width");
        let apart = kernels.swiglu(&gate, &up).expect("equal widths");
        assert_eq!(elements(&kernels.swiglu_joined(&both).expect("an even width")), elements(&apart));
    }
}

#[test]
fn norms_are_alike_and_can_be_trained() {
    let weights =
        |weight: &Tensor, bias: Option<&Tensor>| NormWeights { weight: weight.clone(), bias: bias.cloned(), eps: 1e-5 };
    let (x, weight, bias) = (random((3, 2, 5), 1), random(5, 2), random(5, 3));
    assert_trainable(&[x.clone(), weight.clone()], |k, t| k.norm(&t[0], &weights(&t[1], None)));
    assert_trainable(&[x, weight, bias], |k, t| k.norm(&t[0], &weights(&t[1], Some(&t[2]))));
}

#[test]
fn softmax_is_alike_and_can_be_trained() {
    assert_trainable(&[random((2, 3, 4), 5)], |k, t| k.softmax(&t[0]));
    let spans = vec![[0..1, 0..0], [0..1, 1..2], [0..1, 2..3], [0..2, 2..2], [0..0, 0..3], [1..2, 2..3]];
    let visible = VisibleKeys::new(spans, 3);
    assert_trainable(&[random((2, 2, 3, 3), 5)], |k, t| k.softmax_visible(&t[0], &visible));
    for kernels in implementations() {
        let y = kernels.softmax_visible(&random((2, 2, 3, 3), 5), &visible).expect("it fits");
        assert_eq!(elements(&y)[..3], [1.0, 0.0, 0.0]);
        let error = kernels.softmax_visible(&random((1, 2, 3, 3), 5), &visible).expect_err("two sequences in the mask");
        assert!(
            error.to_string().contains("1 x 3 queries of 3 keys, but the mask is of 6 queries of 3 keys"),
            "{error}"
        );
    }
}

#[test]
fn attention_is_alike() {
    // Two query heads for each of keys and values, few and many queries.
    for s in [1, 3, 40] {
        let qkv = [random((1, 4, s, 8), 1), random((1, 2, 50, 8), 2), random((1, 2, 50, 8), 3)];
        assert_alike(&qkv, |k, t| k.attention(&t[0], &t[1], &t[2], Mask::Full));
    }
    let qkv = [random((2, 30, 12), 1), random((2, 30, 12), 2), random((2, 30, 12), 3)];
    assert_alike(&qkv, |k, t| k.full_attention(&[t[0].clone(), t[1].clone(), t[2].clone()], 3));
}

#[test]
fn the_largest_element_of_each_row_is_alike() {
    let rows = [
        [1f32, 3.0, 2.0, 3.0],
        [f32::NEG_INFINITY, -2.0, -1.0, -3.0],
        [0.0, f32::NAN, 1.0, 2.0],
        [0.0, f32::INFINITY, 1.0, 2.0],
        [f32::NEG_INFINITY; 4],
    ];
    let x = Tensor::new(&rows, &Device::Cpu).expect("small");
    for kernels in implementations() {
        let found = kernels.argmax_rows(&x).expect("a matrix in f32");
        assert_eq!(found, [Some(1), Some(2), None, None, None], "{kernels:?}");
        // A view whose rows are not next to each other.
        let view = x.narrow(1, 1, 3).expect("narrower");
        assert_eq!(kernels.argmax_rows(&view).expect("a matrix in f32")[..2], [Some(0), Some(1)], "{kernels:?}");
    }
}

#[test]
fn weights_in_f32_are_packed_only_where_a_fast_kernel_reads_them() {
    let weight = random((40, 64), 1);
    let [best, portable, candle] = cpu_implementations();
    let packs = |kernels: &dyn Kernels| kernels.pack(&weight, None).expect("f32 on the CPU").is_some();
    #[cfg(target_arch = "x86_64")]
    let is_fast = std::arch::is_x86_feature_detected!("avx512f")
        || std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    let is_fast = false;
    assert_eq!([packs(best), packs(portable), packs(candle)], [is_fast, false, false]);
}

#[test]
fn weights_that_are_trained_stay_as_they_are() {
    let weight = Var::from_tensor(&random((64, 64), 1)).expect("small");
    for kernels in implementations() {
        assert!(kernels.pack(&weight, None).expect("nothing is made").is_none());
        assert!(kernels.quantize(&weight, None, QuantFormat::Q8_0).expect("nothing is made").is_none());
    }
}

#[test]
fn every_precision_has_kernels_for_quantized_weights_and_f32_alone_packs_full_ones() {
    for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64] {
        let kernels = of(&Device::Cpu, dtype);
        let weight = random((32, 32), 1).to_dtype(dtype).expect("numeric");
        let layer = kernels.quantize(&weight, None, QuantFormat::Q8_0).expect("whole blocks").expect("whole blocks");
        assert_eq!(layer.format(), Some(QuantFormat::Q8_0));
        assert!(dtype == DType::F32 || kernels.pack(&weight, None).expect("nothing is made").is_none());
    }
}

#[test]
fn bf16_multiplies_on_the_cpu_too() {
    let x = Tensor::new(&[[1.5f32, -2.0]], &Device::Cpu).and_then(|x| x.to_dtype(DType::BF16)).expect("small");
    let y = of(&Device::Cpu, DType::BF16).matmul(&x, &x.t().expect("a matrix")).expect("the shapes fit");
    // 1.5^2 + 2^2 = 6.25, which bf16 represents exactly.
    assert_eq!((y.dtype(), elements(&y)), (DType::BF16, vec![6.25]));
}

#[test]
fn operations_run_on_the_pool_of_the_cpu_and_on_the_caller_of_a_device() {
    let on_pool = || rayon::current_thread_index().is_some();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        assert!(of(&Device::Cpu, dtype).run(on_pool));
    }
    let gpu: &dyn Kernels = &CandleKernels::GPU;
    assert!(!gpu.run(on_pool));
}
