//! Masked softmax of attention scores on a GPU, in place: `softmax.cu`.

use candle_core::{DType, Result, Tensor};

use super::launch::{Executor, Launch, LaunchGeometry, WARP};

/// Maximum number of 16-byte accesses that a thread keeps in registers.
const MAX_ACCESSES: usize = 4;

/// Visible keys of each query of attention scores.
#[derive(Debug, Clone, Copy)]
pub(crate) enum KeyMask<'a> {
    /// Every key is visible.
    All,
    /// Keys up to `start + i` are visible to query `i`.
    Causal {
        /// Number of positions before the first query.
        start: usize,
    },
    /// Two ranges of keys for each query of each sequence: start and end of the first, start and end of the second.
    Spans(
        /// `(B S, 4)`, u32.
        &'a Tensor,
    ),
}

/// Softmax over masked attention scores.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MaskedSoftmax<'a> {
    /// Number of keys; further elements of a row are padding.
    pub(crate) n_keys: usize,
    /// Visible keys of each query.
    pub(crate) keys: KeyMask<'a>,
    /// Positive factor of the scores.
    pub(crate) scale: f32,
}

impl MaskedSoftmax<'_> {
    /// Replaces scores by their softmax in place; `scores` must have no other owner. The weights of masked keys and of
    /// padding are exactly 0.
    ///
    /// # Shapes
    /// `scores (B, n_heads, S, width)`, contiguous, of at least `n_keys` elements a row. Rows of a multiple of 8
    /// elements are read fastest.
    ///
    /// # Errors
    /// When the shapes do not match, or the launch fails.
    pub(crate) fn run(&self, executor: &dyn Executor, scores: &Tensor) -> Result<()> {
        let (batch, n_heads, n_queries, width) = scores.dims4()?;
        if width < self.n_keys || self.scale.is_nan() || self.scale <= 0.0 {
            candle_core::bail!("softmax: {} keys, scale {}, rows of {width}", self.n_keys, self.scale);
        }
        let geometry = geometry(batch * n_heads * n_queries, width, scores.dtype());
        let launch = Launch::new("masked_softmax", scores.dtype(), geometry).tensor(scores)?;
        let (launch, first, step) = match self.keys {
            KeyMask::All => (launch.optional(None)?, self.n_keys, 0),
            KeyMask::Causal { start } => (launch.optional(None)?, start + 1, 1),
            KeyMask::Spans(spans) if spans.dims() == [batch * n_queries, 4] => {
                (launch.tensor_of(spans, DType::U32)?, 0, 0)
            }
            KeyMask::Spans(spans) => {
                candle_core::bail!("softmax: spans {:?} for {batch} x {n_queries} queries", spans.dims())
            }
        };
        let launch = launch.size(n_queries)?.size(n_heads * n_queries)?.size(width)?.size(self.n_keys)?;
        launch.size(first)?.size(step)?.float(self.scale).run(executor)
    }
}

/// Returns one block per row, with the fewest threads that keep a row in registers: fewer threads synchronise faster.
fn geometry(n_rows: usize, width: usize, dtype: DType) -> LaunchGeometry {
    let accesses = (width * dtype.size_in_bytes()).div_ceil(16);
    let threads = accesses.div_ceil(MAX_ACCESSES).next_multiple_of(WARP).clamp(WARP, 1024);
    LaunchGeometry { grid: [n_rows, 1, 1], threads, shared_bytes: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::VisibleKeys;
    use crate::kernels::cuda::tests::{Tested, reference, tested};
    use crate::kernels::finite_difference::random;

    /// Compares the softmax over random scores with the reference's over scaled and masked scores.
    fn assert_softmax(tested: &Tested, [batch, n_heads, s, width]: [usize; 4], n_keys: usize, causal: Option<usize>) {
        let scores = (random((batch, n_heads, s, width), 7) * 4.0).expect("small");
        let is_visible = |i: usize, key: usize| key < causal.map_or(n_keys, |start| start + i + 1).min(n_keys);
        let spans =
            (0..batch * s).map(|i| [0..(0..width).filter(|&key| is_visible(i % s, key)).count(), 0..0]).collect();
        let visible = VisibleKeys::new(spans, width);
        let scaled = (tested.rounded(&scores) * f64::from(0.7f32)).expect("small");
        let expected = reference().softmax_visible(&scaled, &visible).expect("the shapes match");
        let found = tested.given(&scores).copy().expect("memory");
        let keys = causal.map_or(KeyMask::All, |start| KeyMask::Causal { start });
        let softmax = MaskedSoftmax { n_keys, keys, scale: 0.7 };
        softmax.run(tested.kernels.executor, &found).expect("the shapes match");
        tested.assert_close(&format!("softmax of {s} x {width}, {keys:?}"), &found, &expected);
        let all = found.to_dtype(DType::F32).and_then(|x| x.flatten_to(2)?.to_vec2::<f32>()).expect("numeric");
        for (row, weights) in all.iter().enumerate() {
            assert!((0..width).all(|key| is_visible(row % s, key) || weights[key] == 0.0), "row {row}: {weights:?}");
        }
    }

    #[test]
    fn masked_softmax_agrees_with_the_cpu() {
        for tested in tested() {
            // Odd widths and padding; one row; rows of 1, 2 and 4 accesses per thread, and rows that exceed registers.
            for (shape, n_keys) in [([2, 3, 5, 7], 7), ([1, 2, 3, 16], 13), ([1, 1, 1, 1], 1), ([2, 2, 4, 736], 729)] {
                for causal in [None, Some(0), Some(4)] {
                    assert_softmax(&tested, shape, n_keys, causal);
                }
            }
            assert_softmax(&tested, [1, 1, 2, 2960], 2960, Some(2900));
            assert_softmax(&tested, [1, 1, 2, 33_792], 33_791, None);
        }
    }

    #[test]
    fn two_spans_are_visible_and_a_row_without_visible_keys_is_zero() {
        for tested in tested() {
            let scores = random((2, 2, 2, 8), 3);
            let spans = [[0u32, 2, 4, 6], [1, 1, 7, 8], [0, 8, 0, 0], [3, 3, 3, 3]];
            let ranges = spans.map(|[a, b, c, d]| [a as usize..b as usize, c as usize..d as usize]);
            let visible = VisibleKeys::new(ranges.to_vec(), 8);
            let expected = reference().softmax_visible(&tested.rounded(&scores), &visible).expect("the shapes match");
            // The last query has no visible key: 0, where candle gives NaN.
            let last = expected.narrow(0, 1, 1).and_then(|x| x.narrow(2, 1, 1)?.zeros_like()).expect("small");
            let rest = expected.narrow(0, 1, 1).and_then(|x| x.narrow(2, 0, 1)).expect("small");
            let second = Tensor::cat(&[&rest, &last], 2).expect("small");
            let expected = Tensor::cat(&[&expected.narrow(0, 0, 1).expect("small"), &second], 0).expect("small");
            let found = tested.given(&scores).copy().expect("memory");
            let spans = Tensor::new(&spans, &tested.device).expect("small");
            let softmax = MaskedSoftmax { n_keys: 8, keys: KeyMask::Spans(&spans), scale: 1.0 };
            softmax.run(tested.kernels.executor, &found).expect("the shapes match");
            tested.assert_close("softmax of two spans", &found, &expected);
            let narrow = MaskedSoftmax { n_keys: 9, ..softmax };
            assert!(narrow.run(tested.kernels.executor, &found).is_err());
        }
    }

    #[test]
    fn a_visible_nan_gives_nan_and_a_masked_nan_has_no_effect() {
        for tested in tested() {
            // In registers and in memory: a width of whole accesses, and an odd width.
            for width in [16, 13] {
                let mut scores = vec![0.5f32; 4 * width];
                scores[..width].fill(f32::NAN);
                scores[width + 1] = f32::NAN;
                scores[2 * width + 9] = f32::NAN;
                let scores = Tensor::from_vec(scores, (1, 1, 4, width), &candle_core::Device::Cpu).expect("small");
                let scores = tested.given(&scores).copy().expect("memory");
                // Keys up to 3 + i are visible to query i: the NaN of the third row is masked.
                let softmax = MaskedSoftmax { n_keys: width, keys: KeyMask::Causal { start: 3 }, scale: 1.0 };
                softmax.run(tested.kernels.executor, &scores).expect("the shapes match");
                let rows =
                    scores.to_dtype(DType::F32).and_then(|x| x.reshape((4, width))?.to_vec2::<f32>()).expect("f32");
                assert!(rows[0][..4].iter().chain(&rows[1][..5]).all(|x| x.is_nan()), "{rows:?}");
                assert!(rows[2].iter().chain(&rows[3]).all(|x| x.is_finite()), "{rows:?}");
            }
        }
    }

    #[test]
    fn a_row_of_minus_infinity_is_nan_as_on_the_cpu() {
        for tested in tested() {
            // In registers and in memory: a width of whole accesses, and an odd width.
            for width in [16, 13] {
                let mut scores = vec![0.5f32; 3 * width];
                // Visible are only these keys in the first row, one more in the second, and none in the third.
                scores[..4].fill(f32::NEG_INFINITY);
                scores[width..width + 4].fill(f32::NEG_INFINITY);
                let scores = Tensor::from_vec(scores, (1, 1, 3, width), &candle_core::Device::Cpu).expect("small");
                let visible = VisibleKeys::new(vec![[0..4, 0..0], [0..5, 0..0], [0..0, 0..0]], width);
                let expected = reference().softmax_visible(&scores, &visible).expect("the shapes match");
                let spans = Tensor::new(&[[0u32, 4, 0, 0], [0, 5, 0, 0], [2, 2, 0, 0]], &tested.device).expect("small");
                let found = tested.given(&scores).copy().expect("memory");
                let softmax = MaskedSoftmax { n_keys: width, keys: KeyMask::Spans(&spans), scale: 1.0 };
                softmax.run(tested.kernels.executor, &found).expect("the shapes match");
                let rows = |x: &Tensor| {
                    let rows = x.to_dtype(DType::F32).and_then(|x| x.reshape((3, width))?.to_vec2::<f32>());
                    rows.expect("numeric")
                };
                let (found, expected) = (rows(&found), rows(&expected));
                assert!(found[0][..4].iter().chain(&expected[0][..4]).all(|x| x.is_nan()), "{found:?} {expected:?}");
                assert!(found[1] == expected[1] && found[1][4] == 1.0, "{found:?} {expected:?}");
                assert!(found[2].iter().all(|&x| x == 0.0), "{found:?}");
            }
        }
    }

    #[test]
    fn a_thread_keeps_at_most_four_accesses_of_a_row() {
        let threads = |width, dtype| geometry(3, width, dtype).threads;
        // 736 keys in bf16 are 92 accesses: one warp, at most 3 per lane. 2,960: 370, 93 threads.
        assert_eq!([threads(736, DType::BF16), threads(2960, DType::BF16), threads(2960, DType::F32)], [32, 96, 192]);
        assert_eq!(threads(1 << 20, DType::F16), 1024);
    }
}
