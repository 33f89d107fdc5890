//! Tests of the agreement of all implementations of [`Kernels`] that run on the CPU, and of the selection by [`of`].

use candle_core::Var;

use super::candle::CandleKernels;
use super::cpu::Cpu;
use super::finite_difference::{assert_gradients, random};
use super::*;

/// Returns the implementations in f32 on the CPU: this crate's, its portable variant, candle's.
fn cpu_implementations() -> [&'static dyn Kernels; 3] {
    [of(&Device::Cpu, DType::F32), Cpu::portable(), CandleKernels::of(&Device::Cpu, DType::F32)]
}

/// Returns all implementations in f32 that run on the CPU, with the GPU's kernels where they can be emulated.
pub(super) fn implementations() -> Vec<&'static dyn Kernels> {
    let emulated = cuda::CudaKernels::emulated(DType::F32).map(|kernels| kernels as &dyn Kernels);
    cpu_implementations().into_iter().chain(emulated).collect()
}

thread_local! {
    static OVERRIDE: std::cell::Cell<Option<&'static dyn Kernels>> = const { std::cell::Cell::new(None) };
}

/// Returns the kernels that [`with_kernels`] set for this thread.
pub(super) fn kernels_override() -> Option<&'static dyn Kernels> {
    OVERRIDE.get()
}

/// Loads modules on given kernels in place of those of their device and precision.
pub(crate) fn with_kernels<T: Send>(kernels: &'static dyn Kernels, load: impl FnOnce() -> T + Send) -> T {
    // Layers may be loaded in parallel: a pool of one thread keeps them on the thread of the override.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    pool.install(|| {
        OVERRIDE.set(Some(kernels));
        let loaded = load();
        OVERRIDE.set(None);
        loaded
    })
}

fn elements(x: &Tensor) -> Vec<f32> {
    x.flatten_all().and_then(|x| x.to_dtype(DType::F32)?.to_vec1()).expect("numeric")
}

/// Asserts that all implementations agree within rounding, for untracked and for tracked inputs.
fn assert_agree(inputs: &[Tensor], run: impl Fn(&dyn Kernels, &[Tensor]) -> Result<Tensor>) {
    let tracked: Vec<Tensor> = inputs.iter().map(|x| Var::from_tensor(x).expect("small").as_tensor().clone()).collect();
    let [_, _, candle] = cpu_implementations();
    let expected = elements(&run(candle, inputs).expect("the shapes fit"));
    for (kernels, inputs) in implementations().into_iter().flat_map(|k| [(k, inputs), (k, &tracked)]) {
        let found = elements(&run(kernels, inputs).expect("the shapes fit"));
        let is_close = |(a, b): (&f32, &f32)| (a - b).abs() <= 2e-5 * b.abs().max(1.0);
        assert!(found.len() == expected.len() && found.iter().zip(&expected).all(is_close), "{kernels:?}");
    }
}

/// Asserts that all implementations agree and have the gradient.
fn assert_agree_with_gradients(inputs: &[Tensor], run: impl Fn(&dyn Kernels, &[Tensor]) -> Result<Tensor>) {
    assert_agree(inputs, &run);
    for kernels in implementations() {
        assert_gradients(inputs, |inputs| run(kernels, inputs));
    }
}

#[test]
fn products_and_biases_agree_and_have_gradients() {
    assert_agree_with_gradients(&[random((2, 3, 4), 1), random((2, 4, 5), 2)], |k, t| k.matmul(&t[0], &t[1]));
    assert_agree_with_gradients(&[random((3, 4), 1), random(4, 2)], |k, t| k.add_bias(&t[0], &t[1]));
}

#[test]
fn linear_layers_with_epilogues_agree_and_have_gradients() {
    let inputs = [random((3, 4), 1), random((5, 4), 2), random(5, 3), random((3, 5), 4)];
    for activation in [None, Some(Activation::QuickGelu), Some(Activation::GeluTanh), Some(Activation::Gelu)] {
        assert_agree_with_gradients(&inputs, |k, t| {
            let epilogue = LinearEpilogue { bias: Some(&t[2]), activation, residual: Some(&t[3]) };
            k.linear(&t[0], &t[1], &epilogue)
        });
    }
    // Only a bias or only a residual is tracked.
    for (bias, residual) in [(true, false), (false, true)] {
        assert_agree_with_gradients(&[random(5, 3), random((3, 5), 4)][usize::from(residual)..][..1], |k, t| {
            let epilogue =
                LinearEpilogue { bias: bias.then_some(&t[0]), activation: None, residual: residual.then_some(&t[0]) };
            k.linear(&inputs[0], &inputs[1], &epilogue)
        });
    }
}

#[test]
fn rows_and_pools_agree_and_have_gradients() {
    let ids = Tensor::new(&[2u32, 0, 2], &Device::Cpu).expect("small");
    assert_agree_with_gradients(&[random((3, 4), 1)], |k, t| k.gather(&t[0], &ids));
    assert_agree_with_gradients(&[random((3, 4), 1), random((3, 4), 2)], |k, t| k.row_cosines(&t[0], &t[1]));
    assert_agree_with_gradients(&[random((2, 4), 1), random((2, 4), 2)], |k, t| {
        let first = k.accumulate(None, &t[0])?;
        k.accumulate(Some(first), &t[1])
    });
    let pool = |mode| GridPool { from: [3, 4], to: [2, 2], mode };
    for mode in [PoolMode::Average, PoolMode::Bilinear] {
        assert_agree_with_gradients(&[random((2, 12, 3), 1)], |k, t| k.pool_grid(&t[0], &pool(mode)));
    }
    // Elements differ by less than a step of finite differences, so the gradient is not compared.
    assert_agree(&[random((2, 12, 3), 1)], |k, t| k.pool_grid(&t[0], &pool(PoolMode::Max)));
}

#[test]
fn activations_agree_and_have_gradients() {
    for activation in [Activation::QuickGelu, Activation::GeluTanh, Activation::Gelu] {
        assert_agree_with_gradients(&[random((2, 7), 1)], |k, t| k.activate(&t[0], activation));
    }
    assert_agree_with_gradients(&[random((2, 7), 1), random((2, 7), 2)], |k, t| k.swiglu(&t[0], &t[1]));
    assert_agree_with_gradients(&[random((2, 3, 8), 1)], |k, t| k.swiglu_joined(&t[0]));
    for kernels in implementations() {
        assert!(kernels.swiglu_joined(&random((2, 7), 1)).is_err());
        let both = random((3, 8), 1);
        let (gate, up) = candle::halves(&both).expect("an even width");
        let apart = kernels.swiglu(&gate, &up).expect("equal widths");
        assert_eq!(elements(&kernels.swiglu_joined(&both).expect("an even width")), elements(&apart));
    }
}

#[test]
fn norms_agree_and_have_gradients() {
    let weights =
        |weight: &Tensor, bias: Option<&Tensor>| NormWeights { weight: weight.clone(), bias: bias.cloned(), eps: 1e-5 };
    let (x, weight, bias) = (random((3, 2, 5), 1), random(5, 2), random(5, 3));
    assert_agree_with_gradients(&[x.clone(), weight.clone()], |k, t| k.norm(&t[0], &weights(&t[1], None)));
    assert_agree_with_gradients(&[x, weight, bias], |k, t| k.norm(&t[0], &weights(&t[1], Some(&t[2]))));
}

#[test]
fn softmax_agrees_and_has_gradients() {
    assert_agree_with_gradients(&[random((2, 3, 4), 5)], |k, t| k.softmax(&t[0]));
    let spans = vec![[0..1, 0..0], [0..1, 1..2], [0..1, 2..3], [0..2, 2..2], [0..0, 0..3], [1..2, 2..3]];
    let visible = VisibleKeys::new(spans, 3);
    assert_agree_with_gradients(&[random((2, 2, 3, 3), 5)], |k, t| k.softmax_visible(&t[0], &visible));
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
fn attention_agrees() {
    // Two query heads for each key-value head; few and many queries.
    for s in [1, 3, 40] {
        let qkv = [random((1, 4, s, 8), 1), random((1, 2, 50, 8), 2), random((1, 2, 50, 8), 3)];
        assert_agree(&qkv, |k, t| k.attention(&t[0], &t[1], &t[2], Mask::Full));
    }
    let qkv = [random((2, 30, 12), 1), random((2, 30, 12), 2), random((2, 30, 12), 3)];
    assert_agree(&qkv, |k, t| k.full_attention(&[t[0].clone(), t[1].clone(), t[2].clone()], 3));
}

#[test]
fn argmax_agrees() {
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
        // A view with rows that are not contiguous.
        let view = x.narrow(1, 1, 3).expect("narrower");
        assert_eq!(kernels.argmax_rows(&view).expect("a matrix in f32")[..2], [Some(0), Some(1)], "{kernels:?}");
    }
}

#[test]
fn f32_weights_are_packed_only_for_a_vectorized_kernel() {
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
fn tracked_weights_are_not_packed() {
    let weight = Var::from_tensor(&random((64, 64), 1)).expect("small");
    for kernels in implementations() {
        assert!(kernels.pack(&weight, None).expect("nothing is made").is_none());
        assert!(kernels.quantize(&weight, None, QuantFormat::Q8_0).expect("nothing is made").is_none());
    }
}

#[test]
fn every_precision_has_quantized_kernels_and_only_f32_packs_full_precision() {
    for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64] {
        let kernels = of(&Device::Cpu, dtype);
        let weight = random((32, 32), 1).to_dtype(dtype).expect("numeric");
        let layer = kernels.quantize(&weight, None, QuantFormat::Q8_0).expect("whole blocks").expect("whole blocks");
        assert_eq!(layer.format(), Some(QuantFormat::Q8_0));
        assert!(dtype == DType::F32 || kernels.pack(&weight, None).expect("nothing is made").is_none());
    }
}

#[test]
fn bf16_has_a_gemm_on_the_cpu() {
    let x = Tensor::new(&[[1.5f32, -2.0]], &Device::Cpu).and_then(|x| x.to_dtype(DType::BF16)).expect("small");
    let y = of(&Device::Cpu, DType::BF16).matmul(&x, &x.t().expect("a matrix")).expect("the shapes fit");
    // 1.5^2 + 2^2 = 6.25, which bf16 represents exactly.
    assert_eq!((y.dtype(), elements(&y)), (DType::BF16, vec![6.25]));
}

#[test]
fn large_operations_of_the_cpu_are_issued_by_the_pool_and_others_by_the_caller() {
    let on_pool = || rayon::current_thread_index().is_some();
    let large = OpWork { product: 1 << 30, attention: 1 << 30 };
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        assert!(of(&Device::Cpu, dtype).run(large, on_pool));
    }
    let gpu: &dyn Kernels = &CandleKernels::GPU;
    assert!(!gpu.run(large, on_pool));
    let small = OpWork { product: 1000, attention: 1000 };
    assert!(!of(&Device::Cpu, DType::F32).run(small, on_pool), "too little to wake other threads");
}
