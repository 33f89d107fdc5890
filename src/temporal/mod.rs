//! Temporal aggregation: the tokens of many frames become one sequence (FreeVA, arXiv 2405.07798).
//!
//! A strategy is a fold over frames in time order, after the projector, so frames are dropped as they come where the
//! strategy allows it. Its token count is a pure function of the frame count and of the tokens a frame.

mod concat;
mod max_pool;
mod spatial_mean;
mod spatial_temporal_mean;
mod temporal_mean;

use std::fmt;
use std::str::FromStr;

use candle_core::{Result, Tensor};
use serde::Serialize;

use crate::units::Tokens;

/// A strategy and its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Temporal {
    /// S1: the mean over frames.
    TemporalMean,
    /// S2: the mean over the tokens of each frame.
    SpatialMean,
    /// S3: the spatial means, then the temporal means.
    SpatialTemporalMean,
    /// D1: the frames one after the other.
    Concat,
    /// D2: each frame's tokens max-pooled, then one frame after the other.
    MaxPool {
        /// Tokens that become one. Default: `2`. A larger one fits more frames and blurs more.
        stride: usize,
    },
}

/// A running aggregation.
pub trait Fold {
    /// Takes the next frames, `(t, N', H)`, in time order.
    ///
    /// # Errors
    /// When candle fails.
    fn push(&mut self, frames: &Tensor) -> Result<()>;

    /// The sequence, `(V, H)`.
    ///
    /// # Errors
    /// When no frame came.
    fn finish(self: Box<Self>) -> Result<Tensor>;
}

impl Temporal {
    /// The names that are read, with the paper's.
    pub const NAMES: &'static str =
        "temporal_mean (S1), spatial_mean (S2), spatial_temporal_mean (S3), concat (D1), max_pool[:STRIDE] (D2)";

    /// `V`: tokens of `n_frames` frames with `n_tokens` tokens each.
    pub fn n_tokens(self, n_frames: usize, n_tokens: usize) -> Tokens {
        Tokens(match self {
            Self::TemporalMean => n_tokens,
            Self::SpatialMean => n_frames,
            Self::SpatialTemporalMean => n_frames.saturating_add(n_tokens),
            Self::Concat => n_frames.saturating_mul(n_tokens),
            Self::MaxPool { stride } => n_frames.saturating_mul(n_tokens / stride.max(1)),
        })
    }

    /// The same count as arithmetic in words.
    pub fn explain(self, n_frames: usize, n_tokens: usize) -> String {
        match self {
            Self::TemporalMean => format!("{n_tokens} tokens of a mean frame"),
            Self::SpatialMean => format!("{n_frames} frames x 1 token"),
            Self::SpatialTemporalMean => format!("{n_frames} frames + {n_tokens} tokens of a mean frame"),
            Self::Concat => format!("{n_frames} frames x {n_tokens} tokens"),
            Self::MaxPool { stride } => {
                format!("{n_frames} frames x {} tokens ({n_tokens} / {stride})", n_tokens / stride.max(1))
            }
        }
    }

    /// Begins an aggregation.
    pub fn begin(self) -> Box<dyn Fold> {
        match self {
            Self::TemporalMean => Box::new(temporal_mean::TemporalMean::default()),
            Self::SpatialMean => Box::new(spatial_mean::SpatialMean::default()),
            Self::SpatialTemporalMean => Box::new(spatial_temporal_mean::SpatialTemporalMean::default()),
            Self::Concat => Box::new(concat::Concat::default()),
            Self::MaxPool { stride } => Box::new(max_pool::MaxPool::new(stride)),
        }
    }
}

/// What a fold without frames answers.
fn no_frames() -> candle_core::Error {
    candle_core::Error::msg("temporal aggregation of no frames")
}

impl fmt::Display for Temporal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TemporalMean => f.write_str("temporal_mean"),
            Self::SpatialMean => f.write_str("spatial_mean"),
            Self::SpatialTemporalMean => f.write_str("spatial_temporal_mean"),
            Self::Concat => f.write_str("concat"),
            Self::MaxPool { stride } => write!(f, "max_pool:{stride}"),
        }
    }
}

impl FromStr for Temporal {
    type Err = String;

    /// Reads a name, or `max_pool:STRIDE`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let stride = text.strip_prefix("max_pool:").map(str::parse::<usize>);
        match (text, stride) {
            ("temporal_mean", _) => Ok(Self::TemporalMean),
            ("spatial_mean", _) => Ok(Self::SpatialMean),
            ("spatial_temporal_mean", _) => Ok(Self::SpatialTemporalMean),
            ("concat", _) => Ok(Self::Concat),
            ("max_pool", _) => Ok(Self::MaxPool { stride: 2 }),
            (_, Some(Ok(stride))) if stride > 0 => Ok(Self::MaxPool { stride }),
            (_, Some(_)) => Err(format!("`{text}`: the stride is a whole number from 1")),
            _ => Err(format!("`{text}` is no temporal strategy; hint: {}", Self::NAMES)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use proptest::prelude::*;

    const ALL: [Temporal; 6] = [
        Temporal::TemporalMean,
        Temporal::SpatialMean,
        Temporal::SpatialTemporalMean,
        Temporal::Concat,
        Temporal::MaxPool { stride: 2 },
        Temporal::MaxPool { stride: 5 },
    ];

    /// Frames 1 and 2 of three tokens of width 1.
    fn aggregate(strategy: Temporal) -> Vec<f32> {
        let mut fold = strategy.begin();
        for frame in [[1f32, 5.0, 3.0], [3.0, 1.0, 5.0]] {
            let frame = Tensor::new(&frame, &Device::Cpu).and_then(|x| x.reshape((1, 3, 1))).expect("small");
            fold.push(&frame).expect("the shapes fit");
        }
        fold.finish().and_then(|out| out.flatten_all()?.to_vec1()).expect("two frames came")
    }

    #[test]
    fn each_strategy_does_what_its_paper_says() {
        assert_eq!(aggregate(Temporal::TemporalMean), [2.0, 3.0, 4.0]);
        assert_eq!(aggregate(Temporal::SpatialMean), [3.0, 3.0]);
        assert_eq!(aggregate(Temporal::SpatialTemporalMean), [3.0, 3.0, 2.0, 3.0, 4.0]);
        assert_eq!(aggregate(Temporal::Concat), [1.0, 5.0, 3.0, 3.0, 1.0, 5.0]);
    }

    #[test]
    fn odd_last_token_is_dropped() {
        // Of 1 5 3 the pair (1, 5) gives 5, the 3 is dropped; of 3 1 5 the pair (3, 1) gives 3.
        assert_eq!(aggregate(Temporal::MaxPool { stride: 2 }), [5.0, 3.0]);
    }

    #[test]
    fn token_counts_are_those_of_the_paper() {
        let d2 = Temporal::MaxPool { stride: 2 };
        assert_eq!(
            (d2.n_tokens(8, 576), d2.n_tokens(8, 729), d2.n_tokens(8, 911)),
            (Tokens(2304), Tokens(2912), Tokens(3640))
        );
        assert_eq!(d2.explain(8, 729), "8 frames x 364 tokens (729 / 2)");
    }

    #[test]
    fn names_print_as_they_are_read() {
        for strategy in ALL {
            assert_eq!(strategy.to_string().parse(), Ok(strategy));
        }
        assert_eq!("max_pool".parse(), Ok(Temporal::MaxPool { stride: 2 }));
        for text in ["", "mean", "max_pool:0", "max_pool:x", "max_pool:", "concat:2"] {
            assert!(text.parse::<Temporal>().is_err(), "{text}");
        }
    }

    #[test]
    fn no_frames_are_an_error() {
        for strategy in ALL {
            assert!(strategy.begin().finish().is_err(), "{strategy}");
        }
    }

    proptest! {
        #[test]
        fn every_token_count_is_that_of_its_tensor(
            chunks in prop::collection::vec(1usize..4, 1..5), n in 5usize..40, which in 0..ALL.len(), stride in 1usize..6,
        ) {
            let strategy = match ALL[which] {
                Temporal::MaxPool { .. } => Temporal::MaxPool { stride },
                other => other,
            };
            let mut fold = strategy.begin();
            for &frames in &chunks {
                fold.push(&Tensor::zeros((frames, n, 2), DType::F32, &Device::Cpu).expect("small")).expect("fits");
            }
            let out = fold.finish().expect("frames came");
            prop_assert_eq!(out.dims(), [strategy.n_tokens(chunks.iter().sum(), n).0, 2]);
        }

        #[test]
        fn batches_do_not_change_the_result(split in 1usize..6, which in 0..ALL.len()) {
            let frames = Tensor::randn(0f32, 1.0, (6, 10, 3), &Device::Cpu).expect("small");
            let run = |sizes: &[usize]| {
                let mut fold = ALL[which].begin();
                let mut start = 0;
                for &size in sizes {
                    fold.push(&frames.narrow(0, start, size).expect("in range")).expect("fits");
                    start += size;
                }
                fold.finish().and_then(|out| out.flatten_all()?.to_vec1::<f32>()).expect("frames came")
            };
            prop_assert_eq!(run(&[1; 6]), run(&[split, 6 - split].map(|size| size).iter().copied().filter(|&s| s > 0).collect::<Vec<_>>()));
        }
    }
}
