//! Tests of tiled attention and of its self-test.

use super::*;
use crate::kernels::cuda::tests::{Tested, reference, tested};
use crate::kernels::finite_difference::random;

/// Returns the tested kernels in the precisions of tiled attention.
fn with_tiles() -> impl Iterator<Item = Tested> {
    tested().into_iter().filter(|tested| tested.dtype != DType::F32)
}

fn assert_tiled(tested: &Tested, sizes: AttentionSizes, start: Option<usize>) {
    let AttentionSizes { batch, n_heads, n_kv_heads, n_queries, n_keys, d_head } = sizes;
    let q = random((batch, n_heads, n_queries, d_head), 1);
    let [k, v] = [2, 3].map(|seed| random((batch, n_kv_heads, n_keys, d_head), seed));
    let end = |query: usize| start.map_or(n_keys, |start| (start + query + 1).min(n_keys));
    let spans = (0..batch * n_queries).map(|i| [0..end(i % n_queries), 0..0]).collect();
    let visible = VisibleKeys::new(spans, n_keys);
    let [rounded_q, rounded_k, rounded_v] = [&q, &k, &v].map(|x| tested.rounded(x));
    let expected =
        reference().attention(&rounded_q, &rounded_k, &rounded_v, Mask::Visible(&visible)).expect("the shapes match");
    // Output rows in the layout of towers: (B, S, n d).
    let y = tested.kernels.executor.empty((batch, n_queries, n_heads, d_head).into(), tested.dtype).expect("memory");
    let [q, k, v] = [&q, &k, &v].map(|x| tested.given(x));
    let packed =
        |tensor, n_heads, rows| StridedHeads { tensor, strides: [n_heads * rows * d_head, rows * d_head, d_head] };
    let joined = StridedHeads { tensor: &y, strides: [n_queries * n_heads * d_head, d_head, n_heads * d_head] };
    let attention = TiledAttention {
        y: joined,
        queries: packed(&q, n_heads, n_queries),
        keys: packed(&k, n_kv_heads, n_keys),
        values: &v,
        sizes,
        mask: start.map_or(KeyMask::All, |start| KeyMask::Causal { start }),
        scale: 1.0 / (d_head as f32).sqrt(),
    };
    attention.run(tested.kernels.executor).expect("the shapes match");
    let found = y.transpose(1, 2).and_then(|y| y.contiguous()).expect("rank 4");
    tested.assert_close(&format!("{sizes:?} from {start:?}"), &found, &expected);
}

#[test]
fn tiled_attention_agrees_with_the_cpu() {
    let sizes = |[n_heads, n_kv_heads, n_queries, n_keys]: [usize; 4], d_head| AttentionSizes {
        batch: 2,
        n_heads,
        n_kv_heads,
        n_queries,
        n_keys,
        d_head,
    };
    for tested in with_tiles() {
        // Head widths of released models; whole tiles, a remainder of one row, fewer rows than a warp's, grouped
        // heads.
        for (of, d_head) in [
            ([2, 2, 64, 64], 64),
            ([2, 2, 65, 129], 72),
            ([1, 1, 7, 3], 80),
            ([4, 2, 66, 66], 96),
            ([3, 1, 1, 200], 128),
            ([1, 1, 3, 5], 8),
        ] {
            assert_tiled(&tested, sizes(of, d_head), None);
            let [_, _, n_queries, n_keys] = of;
            assert_tiled(&tested, sizes(of, d_head), Some(n_keys.saturating_sub(n_queries)));
        }
        // A causal prompt from position 0: whole tiles of masked keys.
        assert_tiled(&tested, sizes([1, 1, 130, 130], 64), Some(0));
    }
}

#[test]
fn a_query_of_nan_gives_nan_and_a_masked_key_of_nan_has_no_effect() {
    let sizes = AttentionSizes { batch: 1, n_heads: 1, n_kv_heads: 1, n_queries: 3, n_keys: 70, d_head: 64 };
    for tested in with_tiles() {
        let with_nan = |rows: usize, row: usize| {
            let mut elements = vec![0.5f32; rows * 64];
            elements[row * 64] = f32::NAN;
            tested.given(&Tensor::from_vec(elements, (1, 1, rows, 64), &Device::Cpu).expect("small"))
        };
        let (q, k, v) = (with_nan(3, 1), with_nan(70, 68), tested.given(&random((1, 1, 70, 64), 3)));
        let y = tested.kernels.executor.empty(q.shape().clone(), tested.dtype).expect("memory");
        let heads = |tensor| StridedHeads { tensor, strides: [0, 0, 64] };
        let (mask, scale) = (KeyMask::Causal { start: 65 }, 0.125);
        let attention =
            TiledAttention { y: heads(&y), queries: heads(&q), keys: heads(&k), values: &v, sizes, mask, scale };
        attention.run(tested.kernels.executor).expect("the shapes match");
        let rows = y.to_dtype(DType::F32).and_then(|y| y.reshape((3, 64))?.to_vec2::<f32>()).expect("f32");
        assert!(rows[1].iter().all(|x| x.is_nan()));
        assert!(rows[0].iter().chain(&rows[2]).all(|x| x.is_finite()));
    }
}

#[test]
fn the_self_test_passes_for_supported_heads_only() {
    for tested in with_tiles() {
        for d_head in [8, 64, 72, 80, 96, 128] {
            let difference = self_test(tested.kernels.executor, tested.dtype, d_head).expect("it runs");
            assert!(difference < 1e-2, "{difference}");
            assert!(is_available(tested.kernels.executor, tested.dtype, d_head));
        }
        assert!(!is_available(tested.kernels.executor, tested.dtype, 68));
        assert!(!is_available(tested.kernels.executor, tested.dtype, 136));
        assert!(!is_available(tested.kernels.executor, DType::F32, 64));
    }
}
