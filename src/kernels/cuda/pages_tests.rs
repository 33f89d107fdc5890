//! Tests of the paged store against reference attention in f64: emulated in every build, and on a GPU where one is
//! present.

use std::sync::Arc;

use super::step_plan::TASK_ROWS;
use super::tests::{Tested, tested};
use super::*;
use crate::device::DTypeSpec;
use crate::kernels::kv::{KvConfig, KvGeometry, PAGE_LEN, PageId, StepLayout, StepRows};
use crate::kernels::paged_sequences::{Activations, GEOMETRIES, TestSequence};

/// Returns the configuration of a store in the precision of the tested kernels.
fn config<'t>(tested: &'t Tested, geometry: &KvGeometry) -> KvConfig<'t> {
    let (geometry, precision, quantization) = (*geometry, DTypeSpec::Auto, None);
    KvConfig { geometry, precision, activations: tested.dtype, quantization, device: &tested.device }
}

/// Returns an empty store, its activations, and the tolerance of its precision.
fn store(tested: &Tested, geometry: &KvGeometry) -> (Box<dyn KvStore>, Activations, f64) {
    let Tested { kernels, device, dtype } = tested;
    let store = kernels.kv_store(&config(tested, geometry)).expect("even heads");
    let activations = Activations { geometry: *geometry, dtype: *dtype, device: device.clone() };
    (store, activations, if *dtype == DType::F32 { 2e-5 } else { 1e-2 })
}

#[test]
fn paged_attention_agrees_for_chunks_of_any_length() {
    for (tested, geometry) in tested().iter().flat_map(|tested| GEOMETRIES.iter().map(move |g| (tested, g))) {
        let (mut store, activations, tolerance) = store(tested, geometry);
        let first = TestSequence::new(geometry, &[7, 2, 39, 4], 100, 1).rounded(tested.dtype);
        let second = TestSequence::new(geometry, &[0, 40], 97, 2).with_prefix_of(&first, 2).rounded(tested.dtype);
        let third = TestSequence::new(geometry, &[5], 1, 3).rounded(tested.dtype);
        activations.step(&mut *store, &[(&first, 0, 64)]);
        // First position, many positions after shared pages, few positions, and a position that ends a page.
        activations.assert_step(&mut *store, &[(&third, 0, 1), (&second, 64, 26), (&first, 64, 7)], tolerance);
        activations.assert_step(&mut *store, &[(&first, 71, 25), (&second, 90, 6)], tolerance);
        activations.assert_step(&mut *store, &[(&second, 96, 1), (&first, 96, 1)], tolerance);
    }
}

#[test]
fn rows_that_share_pages_agree_with_the_reference() {
    let geometry = &KvGeometry { n_layers: 1, n_heads: 4, n_kv_heads: 2, d_head: 16 };
    for tested in tested() {
        let (mut store, activations, tolerance) = store(&tested, geometry);
        let prefix = TestSequence::new(geometry, &[3, 1, 2], 96, 1).rounded(tested.dtype);
        activations.step(&mut *store, &[(&prefix, 0, 96)]);
        // More rows than the maximum of a task; one row at the end of the shared pages.
        let others: Vec<TestSequence> = (0..TASK_ROWS as u32 + 3)
            .map(|i| {
                let own = TestSequence::new(geometry, &[10 + i], 96 + i as usize + 1, 20 + i);
                own.with_prefix_of(&prefix, 3).rounded(tested.dtype)
            })
            .collect();
        let ranges: Vec<_> = others.iter().map(|sequence| (sequence, 96, sequence.n - 96)).collect();
        activations.step(&mut *store, &ranges);
        let last: Vec<_> = others.iter().map(|sequence| (sequence, sequence.n - 1, 1)).collect();
        activations.assert_step(&mut *store, &last, tolerance);
        activations.assert_step(&mut *store, &[(&prefix, 95, 1), (&others[4], 96, 5)], tolerance);
    }
}

#[test]
fn several_queries_on_tensor_cores_agree_with_the_reference() {
    for (d_head, n_heads, n_kv_heads) in [(64, 2, 2), (128, 2, 1), (64, 7, 1)] {
        let geometry = &KvGeometry { n_layers: 2, n_heads, n_kv_heads, d_head };
        for tested in tested() {
            let (mut store, activations, tolerance) = store(&tested, geometry);
            let prefix = TestSequence::new(geometry, &[3, 1, 2], 96, 1).rounded(tested.dtype);
            activations.step(&mut *store, &[(&prefix, 0, 96)]);
            // More rows than the maximum of a task, which end anywhere in a page, and a row without shared pages.
            let others: Vec<TestSequence> = (0..TASK_ROWS as u32 + 3)
                .map(|i| {
                    let own = TestSequence::new(geometry, &[10 + i], 96 + 3 * (i as usize % 10) + 1, 20 + i);
                    own.with_prefix_of(&prefix, 3).rounded(tested.dtype)
                })
                .collect();
            let alone = TestSequence::new(geometry, &[40, 41], 50, 9).rounded(tested.dtype);
            let ranges: Vec<_> = others.iter().map(|sequence| (sequence, 96, sequence.n - 96)).collect();
            activations.assert_step(&mut *store, &ranges, tolerance);
            activations.step(&mut *store, &[(&alone, 0, 33)]);
            let mut last: Vec<_> = others.iter().map(|sequence| (sequence, sequence.n - 1, 1)).collect();
            last.push((&alone, 33, 17));
            activations.assert_step(&mut *store, &last, tolerance);
        }
    }
}

#[test]
fn long_contexts_are_split_and_joined() {
    let geometry = &KvGeometry { n_layers: 1, n_heads: 2, n_kv_heads: 1, d_head: 8 };
    for tested in tested() {
        let (mut store, activations, tolerance) = store(&tested, geometry);
        let pages: Vec<u32> = (0..14).map(|i| (i * 5) % 14).collect();
        let long = TestSequence::new(geometry, &pages, 423, 1).rounded(tested.dtype);
        let short = TestSequence::new(geometry, &[14, 15], 40, 2).rounded(tested.dtype);
        activations.step(&mut *store, &[(&long, 0, 420), (&short, 0, 39)]);
        activations.assert_step(&mut *store, &[(&long, 420, 3), (&short, 39, 1)], tolerance);
    }
}

#[test]
fn previous_contents_of_a_page_have_no_effect() {
    let geometry = &GEOMETRIES[0];
    for tested in tested() {
        let (mut store, activations, tolerance) = store(&tested, geometry);
        let mut broken = TestSequence::new(geometry, &[0], 32, 1);
        broken.qkv.iter_mut().for_each(|layer| layer.fill(f32::NAN));
        let y = activations.step(&mut *store, &[(&broken, 0, 32)]);
        assert!(y.iter().flatten().all(|y| y.is_nan()), "of NaN nothing else is made");
        let y = activations.step(&mut *store, &[(&broken, 31, 1)]);
        assert!(y.iter().flatten().all(|y| y.is_nan()), "of NaN nothing else is made");
        let sequence = TestSequence::new(geometry, &[0], 13, 2).rounded(tested.dtype);
        activations.assert_step(&mut *store, &[(&sequence, 0, 9)], tolerance);
        activations.assert_step(&mut *store, &[(&sequence, 9, 4)], tolerance);
    }
}

#[test]
fn all_head_widths_up_to_the_maximum_are_supported() {
    for d_head in [2, 64, 80, 100, 264] {
        for (n_heads, n_kv_heads) in [(2, 2), (5, 1)] {
            let geometry = &KvGeometry { n_layers: 1, n_heads, n_kv_heads, d_head };
            for tested in tested() {
                let (mut store, activations, tolerance) = store(&tested, geometry);
                let sequence = TestSequence::new(geometry, &[1, 0], 40, 1).rounded(tested.dtype);
                activations.step(&mut *store, &[(&sequence, 0, 37)]);
                activations.assert_step(&mut *store, &[(&sequence, 37, 3)], tolerance);
            }
        }
    }
    // Larger heads run on candle's kernels.
    let of = |d_head| KvGeometry { n_layers: 1, n_heads: 1, n_kv_heads: 1, d_head };
    assert_eq!(
        [512, 514, 1024, 1026, 1032].map(|d| CudaPages::is_supported(&of(d))),
        [true, false, true, false, false]
    );
    for tested in tested() {
        assert!(!tested.kernels.kv_store(&config(&tested, &of(514))).expect("candle's pages").runs_decode());
    }
}

#[test]
fn keys_and_values_in_another_precision_are_rejected() {
    for tested in tested() {
        let other = if tested.dtype == DType::F16 { DType::BF16 } else { DType::F16 };
        let config = KvConfig { precision: DTypeSpec::Fixed(other), ..config(&tested, &GEOMETRIES[0]) };
        let error = tested.kernels.kv_store(&config).err().expect("no kernel").to_string();
        assert!(error.contains("of keys and values with activations"), "{error}");
    }
}

#[test]
fn invalid_layouts_are_rejected() {
    let geometry = &GEOMETRIES[0];
    for tested in tested() {
        let (mut store, ..) = store(&tested, geometry);
        let layout = |page, start, n, n_angles| StepLayout {
            sequences: vec![StepRows { pages: Arc::new([PageId(page)]), start, n }],
            cos: vec![1.0; n_angles],
            sin: vec![0.0; n_angles],
        };
        let error = store.begin(layout(0, 0, 1, 4)).expect_err("no memory").to_string();
        assert!(error.contains("page 0 is not allocated"), "{error}");
        store.allocate(PageId(0)).expect("memory");
        assert!(store.begin(layout(store.pages_at_once() as u32, 0, 1, 4)).is_err(), "memory of another page");
        for (start, n, n_angles) in [(PAGE_LEN, 1, 4), (0, 33, 132), (0, 0, 0), (0, 1, 3)] {
            assert!(store.begin(layout(0, start, n, n_angles)).is_err(), "{start} {n} {n_angles}");
        }
        let qkv = |n, width| tested.given(&Tensor::zeros((n, width), DType::F32, &Device::Cpu).expect("small"));
        let mut twice = layout(0, 0, 1, 8);
        twice.sequences.push(twice.sequences[0].clone());
        let error = store.begin(twice).expect_err("one page").to_string();
        assert!(error.contains("two sequences write to page 0"), "{error}");
        assert!(store.attend(0, &qkv(1, geometry.width())).is_err(), "no current step");
        store.begin(layout(0, 0, 1, 4)).expect("the shapes match");
        assert!(store.attend(geometry.n_layers, &qkv(1, geometry.width())).is_err());
        assert!(store.attend(0, &qkv(2, geometry.width())).is_err());
        assert!(store.attend(0, &qkv(1, geometry.width() - 1)).is_err());
    }
}

#[test]
fn the_largest_element_of_each_row_is_found_as_on_the_cpu() {
    for Tested { kernels, device, dtype } in tested() {
        for width in [1, 31, 1025, 3000] {
            let mut rows: Vec<Vec<f32>> = Vec::new();
            for at in [0, width / 2, width - 1] {
                let row: Vec<f32> = (0..width).map(|i| -1.0 - (i % 7) as f32).collect();
                let with = |x: f32| {
                    let mut row = row.clone();
                    (row[at], row[width - 1]) = (x, x);
                    row
                };
                rows.extend([2.0, f32::NAN, f32::INFINITY].map(with));
            }
            rows.push(vec![f32::NEG_INFINITY; width]);
            let x = Tensor::new(rows, &device).expect("a matrix");
            let expected =
                super::super::of(&Device::Cpu, DType::F32).argmax_rows(&x.to_device(&Device::Cpu).expect("small"));
            // Small integers: exact in every precision.
            let found = kernels.argmax_rows(&x.to_dtype(dtype).expect("numeric")).expect("a matrix");
            assert_eq!(found, expected.expect("a matrix in f32"));
            assert_eq!(found[0], Some(0));
        }
        assert_eq!(kernels.argmax_rows(&Tensor::zeros((0, 4), DType::F32, &device).expect("empty")).expect("rows"), []);
        assert!(kernels.argmax_rows(&Tensor::zeros((1, 4), DType::U32, &device).expect("small")).is_err());
    }
}
