//! Tests of recorded decode steps.

use super::*;
use crate::device::DTypeSpec;
use crate::kernels::Kernels;
use crate::kernels::cuda::tests::{Tested, tested};
use crate::kernels::finite_difference::random;
use crate::kernels::kv::{KvConfig, KvGeometry, KvStore, PAGE_LEN};

const GEOMETRY: KvGeometry = KvGeometry { n_layers: 1, n_heads: 2, n_kv_heads: 1, d_head: 8 };

fn store(tested: &Tested) -> Box<dyn KvStore> {
    let (geometry, precision, quantization) = (GEOMETRY, DTypeSpec::Auto, None);
    let config = KvConfig { geometry, precision, activations: tested.dtype, quantization, device: &tested.device };
    let mut store = tested.kernels.kv_store(&config).expect("even heads");
    (0..32).for_each(|page| store.allocate(PageId(page)).expect("memory"));
    // The steps below begin after positions that none of them writes.
    let n = 8 * PAGE_LEN;
    let sequences = (0..4).map(|s| StepRows { pages: pages(s), start: 0, n }).collect();
    let angles = |f: fn(f32) -> f32| (0..4 * 4 * n).map(|j| f(j as f32)).collect();
    store.begin(StepLayout { sequences, cos: angles(f32::cos), sin: angles(f32::sin) }).expect("the shapes match");
    store.attend(0, &tested.given(&random((4 * n, GEOMETRY.width()), 3))).expect("the shapes match");
    store
}

/// Returns the pages of a sequence.
fn pages(sequence: usize) -> Arc<[PageId]> {
    (0..8u32).map(|page| PageId(8 * sequence as u32 + page)).collect()
}

/// Returns step `i` of `n` sequences, each with its own pages.
fn step(i: usize, n: usize) -> DecodeStep {
    let sequences = (0..n).map(|s| StepRows { pages: pages(s), start: i + PAGE_LEN * s, n: 1 }).collect();
    let angles = |f: fn(f32) -> f32| (0..4 * n).map(|j| f((i * j) as f32)).collect();
    let ids = (0..n).map(|s| ((7 * i + s) % 40) as u32).collect();
    DecodeStep { ids, layout: StepLayout { sequences, cos: angles(f32::cos), sin: angles(f32::sin) } }
}

/// Returns a model of one layer: embeddings as queries, keys and values, attention, and an output head.
fn forward<'t>(
    tested: &'t Tested,
    attended: impl Fn(Tensor) -> Result<Tensor> + 't,
) -> impl FnMut(&Tensor, &mut dyn KvStore) -> Result<Tensor> + 't {
    let (table, head) = (tested.given(&random((40, GEOMETRY.width()), 1)), tested.given(&random((40, 16), 2)));
    move |ids: &Tensor, store: &mut dyn KvStore| {
        let qkv = tested.kernels.gather(&table, ids)?;
        let y = attended(store.attend(0, &qkv)?)?;
        tested.kernels.matmul(&y, &head.t()?)
    }
}

/// Runs a step operation by operation.
fn by_operations(
    store: &mut dyn KvStore,
    step: DecodeStep,
    forward: DecodeForward<'_>,
    tested: &Tested,
) -> Vec<Option<u32>> {
    let ids = Tensor::new(step.ids, &tested.device).expect("small");
    store.begin(step.layout).expect("the shapes match");
    tested.kernels.argmax_rows(&forward(&ids, store).expect("the shapes match")).expect("a matrix")
}

/// Returns the argmax of each row of a step's logits.
fn largest(output: &DecodeOutput, tested: &Tested) -> Vec<Option<u32>> {
    tested.kernels.argmax_rows(&output.logits).expect("a matrix")
}

#[test]
fn replayed_steps_agree_with_steps_by_operations_while_sequences_grow_and_vary() {
    for tested in tested() {
        let (mut replayed, mut plain) = (store(&tested), store(&tested));
        let mut forward = forward(&tested, Ok);
        let mut n_replayed = 0;
        // One sequence that grows over two pages, then three of unequal lengths.
        for (i, n) in (0..70).map(|i| (i, 1)).chain((70..80).map(|i| (i, 3))) {
            let expected = by_operations(&mut *plain, step(i, n), &mut forward, &tested);
            let found =
                replayed.run_decode(step(i, n), &mut forward).expect("it runs").expect("one row of each sequence");
            assert_eq!(largest(&found, &tested), expected, "step {i} in {:?} on {:?}", tested.dtype, tested.device);
            n_replayed += usize::from(found.is_replayed);
        }
        // Of each shape, all steps but the first ones and the recorded one.
        let n_others = 2 * (STEPS_BEFORE_RECORDING + 1);
        assert_eq!((n_replayed, replayed.runs_decode()), (80 - n_others, true));
    }
}

#[test]
fn a_replay_without_one_of_the_operations_is_detected_and_disables_graphs() {
    for tested in tested() {
        let mut store = store(&tested);
        // An operation of candle's, which a recording lacks.
        let mut forward = forward(&tested, |y| y.affine(2.0, 1.0));
        for i in 0..STEPS_BEFORE_RECORDING {
            let found = store.run_decode(step(i, 2), &mut forward).expect("it runs").expect("one row of each sequence");
            assert!(!found.is_replayed && store.runs_decode());
        }
        let expected = {
            let mut other = self::store(&tested);
            by_operations(&mut *other, step(0, 2), &mut forward, &tested)
        };
        let found = store.run_decode(step(0, 2), &mut forward).expect("the step itself ran");
        let found = found.expect("one row of each sequence");
        assert_eq!((largest(&found, &tested), found.is_replayed, store.runs_decode()), (expected, false, false));
        assert!(store.run_decode(step(1, 2), &mut forward).expect("off").is_none());
    }
}

#[test]
fn steps_with_prompts_are_left_to_the_caller() {
    for tested in tested() {
        let mut store = store(&tested);
        let mut forward = forward(&tested, Ok);
        let mut prompt = step(0, 1);
        prompt.layout.sequences[0].n = 2;
        for _ in 0..=STEPS_BEFORE_RECORDING {
            assert!(store.run_decode(prompt.clone(), &mut forward).expect("not run").is_none());
        }
    }
}

#[test]
fn steps_of_many_sequences_are_padded_and_never_recorded() {
    for tested in tested() {
        let (mut padded, mut plain) = (store(&tested), store(&tested));
        let mut forward = forward(&tested, Ok);
        // One page for each sequence, all of which read the same page before it.
        let step = |i: usize, n: usize| {
            let pages = |s: usize| -> Arc<[PageId]> { [PageId(0), PageId(100 + s as u32)].into() };
            let sequences = (0..n).map(|s| StepRows { pages: pages(s), start: PAGE_LEN + i, n: 1 }).collect();
            let DecodeStep { layout, .. } = self::step(i, n);
            let ids = (0..n).map(|s| ((11 * i + 3 * s) % 40) as u32).collect();
            DecodeStep { ids, layout: StepLayout { sequences, ..layout } }
        };
        for store in [&mut padded, &mut plain] {
            (100..170).for_each(|page| store.allocate(PageId(page)).expect("memory"));
        }
        for (i, n) in [33, 64, 65, 40, 33, 64].into_iter().enumerate() {
            let expected = by_operations(&mut *plain, step(i, n), &mut forward, &tested);
            let found =
                padded.run_decode(step(i, n), &mut forward).expect("it runs").expect("one row of each sequence");
            assert_eq!((largest(&found, &tested), found.is_replayed), (expected, false), "{n} sequences");
        }
    }
}

#[test]
fn numbers_of_rows_are_padded_to_few() {
    let (n, padded) = ([1, 3, 8, 9, 16, 17, 32, 33, 64, 65, 200], [1, 3, 8, 16, 16, 32, 32, 64, 64, 128, 256]);
    assert_eq!(n.map(n_padded_rows), padded);
}
