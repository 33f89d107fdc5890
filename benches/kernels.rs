//! The kernels of inference on the CPU, one by one: `cargo bench`, or `cargo bench -- linear` for some. Throughput is
//! in floating-point operations a second where a kernel multiplies ("elem/s"), in bytes of weights where it is bound by
//! reading them.

#![allow(clippy::expect_used)]

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use image::RgbImage;
use vidense::device::DTypeSpec;
use vidense::image::{PreprocessConfig, Preprocessor};
use vidense::kernels::kv::{KvConfig, KvGeometry, PageId, StepLayout, StepRows, pages_for};
use vidense::kernels::{self, Activation, FeedForwardLayers, Kernels, QuantFormat, on_workers};
use vidense::nn::LayerNorm;
use vidense::nn::{Linear, feed_forward};

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 0.05, shape, &Device::Cpu).expect("there is memory")
}

/// The kernels that are measured.
fn ours() -> &'static dyn Kernels {
    kernels::of(&Device::Cpu, DType::F32)
}

fn packed(d_in: usize, d_out: usize) -> Linear {
    let mut layer = Linear::from_weight(random(&[d_out, d_in]));
    layer.pack().expect("f32 on the CPU");
    layer
}

fn quantized(d_in: usize, d_out: usize, format: QuantFormat) -> Linear {
    let mut layer = Linear::from_weight(random(&[d_out, d_in]));
    layer.quantize(format).expect("whole blocks");
    layer
}

/// Many rows, as in a tower and in prefill.
fn linear(c: &mut Criterion) {
    let mut group = c.benchmark_group("linear");
    group.sample_size(20);
    for (rows, d_in, d_out) in [(2048, 2048, 2048), (2308, 1024, 4096), (2308, 4096, 1024), (2916, 1152, 4304)] {
        let (layer, x) = (packed(d_in, d_out), random(&[rows, d_in]));
        group.throughput(Throughput::Elements(2 * (rows * d_in * d_out) as u64));
        let name = format!("{rows}x{d_in}x{d_out}");
        group.bench_function(BenchmarkId::new("f32", name), |b| b.iter(|| layer.forward(black_box(&x))));
    }
    // Candle's own product, of weights that are not packed.
    let (layer, x) = (Linear::from_weight(random(&[2048, 2048])), random(&[2048, 2048]));
    group.throughput(Throughput::Elements(2 * 2048 * 2048 * 2048));
    group.bench_function(BenchmarkId::new("candle", "2048x2048x2048"), |b| b.iter(|| layer.forward(black_box(&x))));
    for format in [QuantFormat::Q8_0, QuantFormat::Q4K] {
        let (layer, x) = (quantized(2048, 5632, format), random(&[576, 2048]));
        group.throughput(Throughput::Elements(2 * 576 * 2048 * 5632));
        let id = BenchmarkId::new(format.to_string(), "576x2048x5632");
        group.bench_function(id, |b| b.iter(|| layer.forward(black_box(&x))));
    }
    group.finish();
}

/// One row, as in decoding, over more weights than any cache holds.
fn linear_of_one_row(c: &mut Criterion) {
    const LAYERS: usize = 12;
    let mut group = c.benchmark_group("linear_of_one_row");
    group.sample_size(20);
    let x = random(&[1, 2048]);
    let n_weights = LAYERS * 2048 * 11264;
    for format in [None, Some(QuantFormat::Q8_0), Some(QuantFormat::Q4K)] {
        let layer = || format.map_or_else(|| packed(2048, 11264), |format| quantized(2048, 11264, format));
        let layers: Vec<Linear> = (0..LAYERS).map(|_| layer()).collect();
        group.throughput(Throughput::Bytes(format.map_or(4 * n_weights, |format| format.bytes(n_weights)) as u64));
        let name = format.map_or("f32".to_owned(), |format| format.to_string());
        group.bench_function(name, |b| {
            b.iter(|| on_workers(|| layers.iter().try_for_each(|layer| layer.forward(black_box(&x)).map(drop))));
        });
    }
    group.finish();
}

/// A row of each of several sequences, as when they are decoded together.
fn linear_of_few_rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("linear_of_few_rows");
    group.sample_size(20);
    for format in [QuantFormat::Q8_0, QuantFormat::Q4K] {
        let layer = quantized(4096, 11008, format);
        for rows in [4, 8, 12, 16, 20, 32] {
            let x = random(&[rows, 4096]);
            group.throughput(Throughput::Elements(2 * (rows * 4096 * 11008) as u64));
            group.bench_function(BenchmarkId::new(format.to_string(), rows), |b| {
                b.iter(|| on_workers(|| layer.forward(black_box(&x)).map(drop)));
            });
        }
    }
    group.finish();
}

/// A layer's feed-forward part and attention in CLIP-L/336, four frames together.
fn tower_layer(c: &mut Criterion) {
    let mut group = c.benchmark_group("tower_layer");
    group.sample_size(20);
    let (frames, tokens, d, wide, heads) = (4, 577, 1024, 4096, 16);
    let weights = HashMap::from([("weight".to_owned(), random(&[d])), ("bias".to_owned(), random(&[d]))]);
    let vb = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
    let norm = LayerNorm::load(d, 1e-5, &vb).expect("it is there");
    let (to, back, x) = (packed(d, wide), packed(wide, d), random(&[frames, tokens, d]));
    let layers = FeedForwardLayers { up: &to, activation: Activation::QuickGelu, down: &back };
    group.throughput(Throughput::Elements(4 * (frames * tokens * d * wide) as u64));
    group.bench_function("feed_forward", |b| {
        b.iter(|| feed_forward(black_box(&x), &norm, &layers));
    });
    let side_by_side = random(&[frames, tokens, 3 * d]);
    let qkv = [0, 1, 2].map(|i| side_by_side.narrow(2, i * d, d).expect("three widths"));
    group.throughput(Throughput::Elements(4 * (frames * tokens * tokens * d) as u64));
    group.bench_function("full_attention", |b| b.iter(|| ours().full_attention(black_box(&qkv), heads)));
    group.finish();
}

/// Block table of a sequence, and positions that are stored already.
type Sequence = (Arc<[PageId]>, usize);

/// Attention of a layer in a Llama of 1.1B over pages: a prompt, one token after it, and one token of each of 16
/// sequences, whose prompts are their own or the same.
fn paged_attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("paged_attention");
    group.sample_size(20);
    let config = |dtype| KvConfig {
        geometry: KvGeometry { n_layers: 1, n_heads: 32, n_kv_heads: 4, d_head: 64 },
        precision: DTypeSpec::Fixed(dtype),
        activations: DType::F32,
        quantization: None,
        device: &Device::Cpu,
    };
    let pages = |first: u32, n: usize| (first..first + pages_for(n) as u32).map(PageId).collect::<Arc<[PageId]>>();
    let own: Vec<Sequence> = (0..16).map(|i| (pages(i * 100, 576), 575)).collect();
    let beside = |i: u32| pages(0, 544).iter().copied().chain([PageId(2000 + i)]).collect::<Arc<[PageId]>>();
    let shared = (0..16).map(|i| (beside(i), 575)).collect();
    let cases: [(&str, Vec<Sequence>, usize); 5] = [
        ("prefill_576", vec![(pages(0, 576), 0)], 576),
        ("1_over_576", vec![(pages(0, 576), 575)], 1),
        ("1_over_2304", vec![(pages(0, 2304), 2303)], 1),
        ("16_over_576", own, 1),
        ("16_over_576_shared", shared, 1),
    ];
    for ((name, sequences, n), dtype) in
        cases.iter().flat_map(|case| [DType::F32, DType::F16].map(|dtype| (case, dtype)))
    {
        let (n, config) = (*n, config(dtype));
        let mut store = ours().kv_store(&config).expect("even heads");
        let rows = sequences.len() * n;
        for page in sequences.iter().flat_map(|(pages, _)| pages.iter()) {
            store.allocate(*page).expect("there is memory");
        }
        let sequences =
            sequences.iter().map(|(pages, start)| StepRows { pages: pages.clone(), start: *start, n }).collect();
        store
            .begin(StepLayout { sequences, cos: vec![1.0; rows * 32], sin: vec![0.0; rows * 32] })
            .expect("the layout fits");
        let qkv = random(&[rows, config.geometry.width()]);
        let id = BenchmarkId::new(*name, dtype.as_str());
        group.bench_function(id, |b| b.iter(|| on_workers(|| store.attend(0, black_box(&qkv)))));
    }
    group.finish();
}

/// A frame of 1080p to a tower's pixels.
fn preprocess(c: &mut Criterion) {
    let mut group = c.benchmark_group("preprocess");
    let picture = RgbImage::from_fn(1920, 1080, |x, y| image::Rgb([x as u8, y as u8, (x ^ y) as u8]));
    for (name, config) in
        [("clip_336", PreprocessConfig::clip(336).padded()), ("siglip_384", PreprocessConfig::siglip(384))]
    {
        let preprocessor = Preprocessor::new(config);
        group.bench_function(name, |b| b.iter(|| preprocessor.run(black_box(picture.clone()))));
    }
    group.finish();
}

criterion_group!(kernels, linear, linear_of_one_row, linear_of_few_rows, tower_layer, paged_attention, preprocess);
criterion_main!(kernels);
