//! Paged attention against attention worked out in f64, and bit by bit against itself in other pieces.

use std::sync::Arc;

use candle_core::{DType, Device};

use super::*;
use crate::device::DTypeSpec;
use crate::kernels::QuantFormat;
use crate::kernels::candle_pages::CandlePages;
use crate::kernels::cpu::gemm;
use crate::kernels::paged_sequences::{Activations, GEOMETRIES, TestSequence};
use crate::kernels::row_blocks::BlockPart;

fn new_store(geometry: KvGeometry) -> Result<CpuPages> {
    CpuPages::with_kernel(geometry, KvPrecision::F32, kernel())
}

#[test]
fn attention_over_pages_is_attention() {
    for geometry in GEOMETRIES {
        let first = TestSequence::new(&geometry, &[7, 2, 9, 4], 100, 1);
        let second = TestSequence::new(&geometry, &[0, 40], 97, 2).with_prefix_of(&first, 2);
        let third = TestSequence::new(&geometry, &[5], 1, 3);
        let mut stores: Vec<(Box<dyn KvStore>, f64)> =
            vec![(Box::new(CandlePages::new(geometry, DType::F32, &Device::Cpu).expect("even heads")), 1e-5)];
        for kernel in gemm::all_kernels() {
            for (precision, tolerance) in [(KvPrecision::F32, 1e-5), (KvPrecision::F16, 2e-3)] {
                let store = CpuPages::with_kernel(geometry, precision, kernel).expect("even heads");
                stores.push((Box::new(store), tolerance));
            }
        }
        let activations = Activations::on_cpu(&geometry);
        for (mut store, tolerance) in stores {
            activations.step(&mut *store, &[(&first, 0, 64)]);
            activations.assert_step(&mut *store, &[(&third, 0, 1), (&second, 64, 33), (&first, 64, 36)], tolerance);
        }
    }
}

#[test]
fn a_position_is_bit_identical_in_any_pieces_beside_any_others() {
    let cases = GEOMETRIES.into_iter().flat_map(|g| gemm::all_kernels().iter().map(move |k| (g, k)));
    let cases = cases.flat_map(|(g, k)| [KvPrecision::F32, KvPrecision::F16].map(|precision| (g, k, precision)));
    for (geometry, kernel, precision) in cases {
        let activations = Activations::on_cpu(&geometry);
        let new_store = || CpuPages::with_kernel(geometry, precision, kernel).expect("even heads");
        let prefix = TestSequence::new(&geometry, &[0, 1, 2], 96, 1);
        let others: Vec<TestSequence> = (0..5)
            .map(|i| {
                TestSequence::new(&geometry, &[10 + 2 * i, 11 + 2 * i], 96 + 7 * (i as usize + 1), i + 2)
                    .with_prefix_of(&prefix, 3)
            })
            .collect();
        let width = geometry.n_heads * geometry.d_head;
        // Each alone, in one piece.
        let alone: Vec<Vec<f32>> = others
            .iter()
            .map(|sequence| activations.step(&mut new_store(), &[(sequence, 0, sequence.n)]).pop().expect("a layer"))
            .collect();
        // All together: the prefix once, then one position of each at a time, in turning order.
        let mut store = new_store();
        activations.step(&mut store, &[(&prefix, 0, 50)]);
        activations.step(&mut store, &[(&prefix, 50, 46)]);
        for position in 96..131 {
            let mut pieces: Vec<_> = others
                .iter()
                .filter(|sequence| position < sequence.n)
                .map(|sequence| (sequence, position, 1))
                .collect();
            let n = pieces.len().max(1);
            pieces.rotate_left(position % n);
            let y = activations.step(&mut store, &pieces).pop().expect("a layer");
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
    let activations = Activations::on_cpu(&geometry);
    let mut store = new_store(geometry).expect("even heads");
    let mut broken = TestSequence::new(&geometry, &[0], 32, 1);
    broken.qkv.iter_mut().for_each(|layer| layer.fill(f32::NAN));
    activations.step(&mut store, &[(&broken, 0, 32)]);
    let sequence = TestSequence::new(&geometry, &[0], 9, 2);
    let y = activations.step(&mut store, &[(&sequence, 0, 9)]);
    let mut fresh = new_store(geometry).expect("even heads");
    assert_eq!(y, activations.step(&mut fresh, &[(&sequence, 0, 9)]));
    assert!(y.iter().flatten().all(|y| y.is_finite()));
}

#[test]
fn a_copied_beginning_is_bit_identical_and_its_own() {
    for precision in [KvPrecision::F32, KvPrecision::F16] {
        let geometry = GEOMETRIES[0];
        let activations = Activations::on_cpu(&geometry);
        let new_store = || CpuPages::with_kernel(geometry, precision, kernel()).expect("even heads");
        let first = TestSequence::new(&geometry, &[0], 20, 1);
        let mut second = TestSequence::new(&geometry, &[1], 30, 2);
        for (own, other) in second.qkv.iter_mut().zip(&first.qkv) {
            own[..12 * geometry.width()].copy_from_slice(&other[..12 * geometry.width()]);
        }
        let whole = activations.step(&mut new_store(), &[(&second, 0, 30)]);
        let mut store = new_store();
        activations.step(&mut store, &[(&first, 0, 12)]);
        store.allocate(PageId(1)).expect("memory");
        store.copy_page(PageCopy { from: PageId(0), to: PageId(1) }).expect("two pages");
        activations.step(&mut store, &[(&first, 12, 8)]);
        let rest = activations.step(&mut store, &[(&second, 12, 18)]);
        for (whole, rest) in whole.iter().zip(&rest) {
            assert!(whole.ends_with(rest), "{precision:?}");
        }
        for to in [PageId(0), PageId(7)] {
            assert!(store.copy_page(PageCopy { from: PageId(0), to }).is_err());
        }
    }
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
