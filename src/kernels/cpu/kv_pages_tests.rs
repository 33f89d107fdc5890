//! Paged attention against attention worked out in f64, and bit by bit against itself in other pieces.

use std::sync::Arc;

use candle_core::{DType, Device};

use super::*;
use crate::kernels::QuantFormat;
use crate::kernels::candle_pages::CandlePages;
use crate::kernels::cpu::gemm;
use crate::kernels::cpu::paged_attention::BlockPart;
use crate::kernels::finite_difference::random_elements as random;

/// A sequence with queries, keys and values of all its positions, for each layer.
struct Sequence {
    pages: Arc<[PageId]>,
    qkv: Vec<Vec<f32>>,
    n: usize,
}

impl Sequence {
    /// `n` positions; those that begin like another's have its values there.
    fn new(geometry: &KvGeometry, pages: &[u32], n: usize, seed: u32) -> Self {
        let qkv = (0..geometry.n_layers).map(|layer| random(n * geometry.width(), seed * 100 + layer as u32)).collect();
        Self { pages: pages.iter().map(|&page| PageId(page)).collect(), qkv, n }
    }

    /// One that begins with `n_shared` pages of another.
    fn after(other: &Self, n_shared: usize, geometry: &KvGeometry, (pages, n, seed): (&[u32], usize, u32)) -> Self {
        let mut new = Self::new(geometry, pages, n, seed);
        let n_elements = n_shared * PAGE_LEN * geometry.width();
        for (to, from) in new.qkv.iter_mut().zip(&other.qkv) {
            to[..n_elements].copy_from_slice(&from[..n_elements]);
        }
        new.pages = other.pages[..n_shared].iter().copied().chain(new.pages.iter().copied()).collect();
        new
    }
}

fn angle(position: usize, pair: usize) -> f32 {
    position as f32 * 0.3f32.powi(pair as i32)
}

/// Runs pieces of sequences as one step, and gives each layer's output, row by row.
fn step(store: &mut dyn KvStore, geometry: &KvGeometry, pieces: &[(&Sequence, usize, usize)]) -> Vec<Vec<f32>> {
    let half = geometry.d_head / 2;
    let positions: Vec<usize> = pieces.iter().flat_map(|(_, start, n)| *start..start + n).collect();
    let angles = |f: fn(f32) -> f32| {
        positions.iter().flat_map(|&p| (0..half).map(move |i| f(angle(p, i)))).collect::<Vec<f32>>()
    };
    let sequences = pieces.iter().map(|(sequence, start, n)| {
        sequence.pages.iter().for_each(|page| store.allocate(*page).expect("memory"));
        StepRows { pages: sequence.pages.clone(), start: *start, n: *n }
    });
    let layout = StepLayout { sequences: sequences.collect(), cos: angles(f32::cos), sin: angles(f32::sin) };
    store.begin(layout).expect("the layout fits");
    let width = geometry.width();
    (0..geometry.n_layers)
        .map(|layer| {
            let rows: Vec<f32> = pieces
                .iter()
                .flat_map(|(sequence, start, n)| sequence.qkv[layer][start * width..(start + n) * width].to_vec())
                .collect();
            let qkv = Tensor::from_vec(rows, (positions.len(), width), &Device::Cpu).expect("a matrix");
            store.attend(layer, &qkv).and_then(|y| y.flatten_all()?.to_vec1()).expect("the shapes fit")
        })
        .collect()
}

/// Attention of a sequence's position, in f64.
fn exact(geometry: &KvGeometry, sequence: &Sequence, layer: usize, position: usize) -> Vec<f64> {
    let KvGeometry { n_heads, n_kv_heads, d_head, .. } = *geometry;
    let element =
        |p: usize, head: usize, i: usize| f64::from(sequence.qkv[layer][p * geometry.width() + head * d_head + i]);
    let half = d_head / 2;
    let rotated = |p: usize, head: usize, i: usize| {
        let angle = f64::from(angle(p, i % half));
        let (first, second) = (element(p, head, i % half), element(p, head, i % half + half));
        if i < half { first * angle.cos() - second * angle.sin() } else { first * angle.sin() + second * angle.cos() }
    };
    let mut y = Vec::new();
    for head in 0..n_heads {
        let kv = head / geometry.group();
        let dot = |p: usize| (0..d_head).map(|i| rotated(position, head, i) * rotated(p, n_heads + kv, i)).sum::<f64>();
        let weights: Vec<f64> = (0..=position).map(|p| (dot(p) / (d_head as f64).sqrt()).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let value = |i: usize| {
            let terms = weights.iter().enumerate().map(|(p, w)| w * element(p, n_heads + n_kv_heads + kv, i));
            terms.sum::<f64>() / sum
        };
        y.extend((0..d_head).map(value));
    }
    y
}

fn new_store(geometry: KvGeometry) -> Result<CpuPages> {
    CpuPages::with_kernel(geometry, KvPrecision::F32, kernel())
}

const GEOMETRIES: [KvGeometry; 4] = [
    KvGeometry { n_layers: 2, n_heads: 4, n_kv_heads: 2, d_head: 8 },
    KvGeometry { n_layers: 1, n_heads: 3, n_kv_heads: 3, d_head: 72 },
    KvGeometry { n_layers: 1, n_heads: 64, n_kv_heads: 1, d_head: 34 },
    KvGeometry { n_layers: 1, n_heads: 8, n_kv_heads: 1, d_head: 128 },
];

#[test]
fn attention_over_pages_is_attention() {
    for geometry in GEOMETRIES {
        let first = Sequence::new(&geometry, &[7, 2, 9, 4], 100, 1);
        let second = Sequence::after(&first, 2, &geometry, (&[0, 40], 97, 2));
        let third = Sequence::new(&geometry, &[5], 1, 3);
        let mut stores: Vec<(Box<dyn KvStore>, f64)> =
            vec![(Box::new(CandlePages::new(geometry, DType::F32, &Device::Cpu).expect("even heads")), 1e-5)];
        for kernel in gemm::all_kernels() {
            for (precision, tolerance) in [(KvPrecision::F32, 1e-5), (KvPrecision::F16, 2e-3)] {
                let store = CpuPages::with_kernel(geometry, precision, kernel).expect("even heads");
                stores.push((Box::new(store), tolerance));
            }
        }
        for (mut store, tolerance) in stores {
            step(&mut *store, &geometry, &[(&first, 0, 64)]);
            let pieces = [(&third, 0, 1), (&second, 64, 33), (&first, 64, 36)];
            let layers = step(&mut *store, &geometry, &pieces);
            let width = geometry.n_heads * geometry.d_head;
            for (layer, y) in layers.iter().enumerate() {
                let rows =
                    pieces.iter().flat_map(|(sequence, start, n)| (*start..start + n).map(move |p| (sequence, p)));
                for ((sequence, position), y) in rows.zip(y.chunks_exact(width)) {
                    for (y, exact) in y.iter().zip(exact(&geometry, sequence, layer, position)) {
                        assert!((f64::from(*y) - exact).abs() < tolerance, "{geometry:?} at {position}: {y} {exact}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_position_is_bit_identical_in_any_pieces_beside_any_others() {
    let cases = GEOMETRIES.into_iter().flat_map(|g| gemm::all_kernels().iter().map(move |k| (g, k)));
    let cases = cases.flat_map(|(g, k)| [KvPrecision::F32, KvPrecision::F16].map(|precision| (g, k, precision)));
    for (geometry, kernel, precision) in cases {
        let new_store = || CpuPages::with_kernel(geometry, precision, kernel).expect("even heads");
        let prefix = Sequence::new(&geometry, &[0, 1, 2], 96, 1);
        let others: Vec<Sequence> = (0..5)
            .map(|i| {
                Sequence::after(&prefix, 3, &geometry, (&[10 + 2 * i, 11 + 2 * i], 96 + 7 * (i as usize + 1), i + 2))
            })
            .collect();
        let width = geometry.n_heads * geometry.d_head;
        // Each alone, in one piece.
        let alone: Vec<Vec<f32>> = others
            .iter()
            .map(|sequence| step(&mut new_store(), &geometry, &[(sequence, 0, sequence.n)]).pop().expect("a layer"))
            .collect();
        // All together: the prefix once, then one position of each at a time, in turning order.
        let mut store = new_store();
        step(&mut store, &geometry, &[(&prefix, 0, 50)]);
        step(&mut store, &geometry, &[(&prefix, 50, 46)]);
        for position in 96..131 {
            let mut pieces: Vec<_> = others
                .iter()
                .filter(|sequence| position < sequence.n)
                .map(|sequence| (sequence, position, 1))
                .collect();
            let n = pieces.len().max(1);
            pieces.rotate_left(position % n);
            let y = step(&mut store, &geometry, &pieces).pop().expect("a layer");
            for ((sequence, ..), y) in pieces.iter().zip(y.chunks_exact(width)) {
                let i = others.iter().position(|other| std::ptr::eq(other, *sequence)).expect("one of them");
                assert!(y == &alone[i][position * width..][..width], "{geometry:?}, {position} of {i}");
            }
        }
    }
}

#[test]
fn what_a_page_held_before_touches_nobody() {
    let geometry = GEOMETRIES[0];
    let mut store = new_store(geometry).expect("even heads");
    let mut broken = Sequence::new(&geometry, &[0], 32, 1);
    broken.qkv.iter_mut().for_each(|layer| layer.fill(f32::NAN));
    step(&mut store, &geometry, &[(&broken, 0, 32)]);
    let sequence = Sequence::new(&geometry, &[0], 9, 2);
    let y = step(&mut store, &geometry, &[(&sequence, 0, 9)]);
    let mut fresh = new_store(geometry).expect("even heads");
    assert_eq!(y, step(&mut fresh, &geometry, &[(&sequence, 0, 9)]));
    assert!(y.iter().flatten().all(|y| y.is_finite()));
}

#[test]
fn rows_that_share_pages_come_together() {
    let pages = |pages: &[u32]| pages.iter().map(|&page| PageId(page)).collect::<Arc<[PageId]>>();
    let rows = |p: &[u32], start, n| StepRows { pages: pages(p), start, n };
    let sequences = [
        rows(&[0, 1, 2, 3], 100, 1),
        rows(&[8, 9], 40, 1),
        rows(&[0, 1, 2, 5], 110, 2),
        // Shares one page of three: reading that twice is better than reading three twice.
        rows(&[0, 6, 7, 4], 100, 1),
    ];
    let found = blocks(&sequences, 2, 8);
    let part = |sequence, first, n| BlockPart { sequence, first, n };
    assert_eq!(
        found,
        [
            RowBlock { parts: vec![part(0, 0, 1), part(2, 0, 2)], n_shared: 3 },
            RowBlock { parts: vec![part(3, 0, 1)], n_shared: 3 },
            RowBlock { parts: vec![part(1, 0, 1)], n_shared: 1 },
        ]
    );
    // A long piece is cut.
    let cut = blocks(&[rows(&[0], 0, 9)], 2, 8);
    assert_eq!(cut.iter().map(|block| block.parts[0].n).collect::<Vec<_>>(), [4, 4, 1]);
}

#[test]
fn layouts_that_do_not_fit_are_refused() {
    let geometry = GEOMETRIES[0];
    let mut store = new_store(geometry).expect("even heads");
    let pages: Arc<[PageId]> = [PageId(0)].into();
    let layout = |start, n, n_angles| StepLayout {
        sequences: vec![StepRows { pages: pages.clone(), start, n }],
        cos: vec![1.0; n_angles],
        sin: vec![0.0; n_angles],
    };
    assert!(store.begin(layout(0, 1, 4)).is_err(), "no memory");
    store.allocate(PageId(0)).expect("memory");
    assert!(store.begin(layout(0, 1, 4)).is_ok());
    for (start, n, n_angles) in [(32, 1, 4), (0, 33, 132), (0, 0, 0), (0, 1, 3)] {
        assert!(store.begin(layout(start, n, n_angles)).is_err(), "{start} {n} {n_angles}");
    }
    let qkv = Tensor::zeros((1, geometry.width()), DType::F32, &Device::Cpu).expect("small");
    assert!(store.attend(geometry.n_layers, &qkv).is_err());
    assert!(KvGeometry { n_kv_heads: 3, ..geometry }.check().is_err());
}

#[test]
fn half_precision_takes_half_the_memory_and_is_chosen_beside_quantized_weights() {
    let geometry = GEOMETRIES[3];
    let of = |precision, quantization| {
        let config = KvConfig { geometry, precision, activations: DType::F32, quantization, device: &Device::Cpu };
        CpuPages::new(&config).map(|store| store.page_bytes() / (2 * PAGE_LEN * geometry.n_kv_heads * geometry.d_head))
    };
    let fixed = DTypeSpec::Fixed;
    assert_eq!(of(DTypeSpec::Auto, None).expect("f32"), 4);
    assert_eq!(of(DTypeSpec::Auto, Some(QuantFormat::Q4K)).expect("f16"), 2);
    assert_eq!(of(fixed(DType::F32), Some(QuantFormat::Q8_0)).expect("f32"), 4);
    assert_eq!(of(fixed(DType::F16), None).expect("f16"), 2);
    let error = of(fixed(DType::BF16), None).expect_err("no kernel").to_string();
    assert!(error.starts_with("keys and values in bf16 have no kernel on the CPU; hint: f32, f16"), "{error}");
}
