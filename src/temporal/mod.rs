//! Temporal aggregation: the tokens of many frames become one sequence (FreeVA, arXiv 2405.07798, and others).
//!
//! A strategy is one file: its options, what it does, its token count as a pure function, and a fold over frames in
//! time order that drops what it can as frames come. Most work behind the projector.

mod adaptive_3d;
mod any_res;
mod concat;
mod evs;
mod frame_tokens;
mod ig_vlm;
mod max_pool;
mod one_vision;
mod pool_2d;
mod slowfast;
mod spatial_mean;
mod spatial_temporal_mean;
mod temporal_mean;
mod ts_llava;

use std::fmt;
use std::str::FromStr;

use candle_core::{Result, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::choice;
use crate::error::{About, Error};
use crate::kernels::{self, Kernels};
use crate::units::Tokens;

pub use crate::kernels::PoolMode;
pub use adaptive_3d::Adaptive3d;
pub use any_res::{AnyRes, Unpad};
pub use evs::Evs;
pub use frame_tokens::{FrameTokens, Grid};
pub use ig_vlm::IgVlm;
pub use max_pool::MaxPool;
pub use one_vision::{NewlineRow, OneVision};
pub use pool_2d::Pool2d;
pub use slowfast::SlowFast;
pub use ts_llava::TsLlava;

use concat::ConcatFrames;
use one_vision::NewlineFold;
use spatial_mean::SpatialMeanStrategy;
use spatial_temporal_mean::SpatialTemporalMeanStrategy;
use temporal_mean::TemporalMeanStrategy;

/// Temporal strategy and its options.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Temporal {
    /// S1: the mean over frames.
    TemporalMean,
    /// S1 before the projector: the mean of what the connector fused.
    TemporalMeanBeforeProjector,
    /// S2: the mean over the tokens of each frame.
    SpatialMean,
    /// S3: the spatial means, then the temporal means.
    SpatialTemporalMean,
    /// D1: the frames one after the other.
    Concat,
    /// D2: each frame's tokens max-pooled, then one frame after the other.
    MaxPool(MaxPool),
    /// Each frame's patch grid pooled to another one.
    #[serde(rename = "pool_2d")]
    Pool2d(Pool2d),
    /// All frames' grids averaged to fewer frames of smaller grids.
    #[serde(rename = "adaptive_3d")]
    Adaptive3d(Adaptive3d),
    /// SlowFast-LLaVA.
    #[serde(rename = "slowfast")]
    SlowFast(SlowFast),
    /// TS-LLaVA.
    TsLlava(TsLlava),
    /// IG-VLM.
    IgVlm(IgVlm),
    /// EVS.
    Evs(Evs),
    /// LLaVA-OneVision's.
    OneVision(OneVision),
    /// The checkpoint's own family's way with a video; of a family of images the frames one after the other. A plan
    /// is resolved to the strategy itself once its model is known.
    Checkpoint,
    /// AnyRes, of a single image alone: nobody names this, the image decides what its views are.
    #[serde(skip)]
    AnyRes(AnyRes),
}

/// Facts of a strategy before it runs, and its fold.
trait Strategy {
    /// `V`: tokens of `n_frames` frames.
    fn n_tokens(&self, n_frames: usize, frame: FrameTokens) -> usize;

    /// Returns the arithmetic of that count in words, for messages.
    fn explain(&self, n_frames: usize, frame: FrameTokens) -> String;

    /// Checks that the strategy applies to frames of these tokens.
    fn check(&self, _frame: FrameTokens) -> crate::error::Result<()> {
        Ok(())
    }

    /// Returns the number of tokens at the end of each frame that the pool drops.
    fn n_dropped(&self, _frame: FrameTokens) -> usize {
        0
    }

    /// Returns the number of tokens per frame where each frame has rows of its own, in the order of frames; `None`
    /// where frames are mixed. Rows behind the last frame belong to it.
    fn frame_rows(&self, _frame: FrameTokens) -> Option<usize> {
        None
    }

    /// Returns the side of the projector on which frames are aggregated.
    fn aggregation_point(&self) -> AggregationPoint {
        AggregationPoint::AfterProjector
    }

    /// Returns the images to encode.
    fn views(&self) -> Views {
        Views::Frames
    }

    /// Returns the row behind the last frame.
    fn newline(&self) -> NewlineRow {
        NewlineRow::None
    }

    /// Begins an aggregation.
    fn begin(&self, frame: FrameTokens) -> Box<dyn FrameFold>;
}

/// Side of the projector on which a strategy aggregates frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AggregationPoint {
    /// Aggregation of the connector's tokens; the projector takes the result.
    BeforeProjector,
    /// Aggregation of projected tokens.
    AfterProjector,
}

/// The images that are encoded for a strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Views {
    /// Each frame.
    Frames,
    /// Each frame, then an image as large as the tower's of some of them.
    FramesAndThumbnail {
        /// Rows of frames.
        rows: usize,
        /// Frames in a row.
        columns: usize,
    },
    /// One image of some frames at their own size.
    Grid {
        /// Rows of frames.
        rows: usize,
        /// Frames in a row.
        columns: usize,
    },
}

/// Running aggregation of frames in time order.
pub trait FrameFold {
    /// Takes the next frames, `(t, N', H)`, in time order.
    ///
    /// # Errors
    /// When candle fails.
    fn push(&mut self, frames: &Tensor) -> Result<()>;

    /// Returns the sequence, `(V, H)`.
    ///
    /// # Errors
    /// When no frame came.
    fn finish(self: Box<Self>) -> Result<Tensor>;
}

impl Temporal {
    /// D2 with its default, what the Dense Connector uses for video.
    pub const D2: Self = Self::MaxPool(MaxPool { stride: 2 });

    /// Every strategy that can be named, with its default options.
    pub fn all() -> [Self; 14] {
        [
            Self::TemporalMean,
            Self::TemporalMeanBeforeProjector,
            Self::SpatialMean,
            Self::SpatialTemporalMean,
            Self::Concat,
            Self::D2,
            Self::Pool2d(Pool2d::default()),
            Self::Adaptive3d(Adaptive3d::default()),
            Self::SlowFast(SlowFast::default()),
            Self::TsLlava(TsLlava::default()),
            Self::IgVlm(IgVlm::default()),
            Self::Evs(Evs::default()),
            Self::OneVision(OneVision::default()),
            Self::Checkpoint,
        ]
    }

    fn strategy(&self) -> &dyn Strategy {
        match self {
            Self::TemporalMean => &TemporalMeanStrategy { point: AggregationPoint::AfterProjector },
            Self::TemporalMeanBeforeProjector => &TemporalMeanStrategy { point: AggregationPoint::BeforeProjector },
            Self::SpatialMean => &SpatialMeanStrategy,
            Self::SpatialTemporalMean => &SpatialTemporalMeanStrategy,
            Self::Concat | Self::Checkpoint => &ConcatFrames,
            Self::MaxPool(config) => config,
            Self::Pool2d(config) => config,
            Self::Adaptive3d(config) => config,
            Self::SlowFast(config) => config,
            Self::TsLlava(config) => config,
            Self::IgVlm(config) => config,
            Self::Evs(config) => config,
            Self::OneVision(config) => config,
            Self::AnyRes(config) => config,
        }
    }

    /// `V`: tokens of `n_frames` frames.
    pub fn n_tokens(&self, n_frames: usize, frame: FrameTokens) -> Tokens {
        Tokens(self.strategy().n_tokens(n_frames, frame))
    }

    /// Returns the arithmetic of that count in words, for messages.
    pub fn explain(&self, n_frames: usize, frame: FrameTokens) -> String {
        self.strategy().explain(n_frames, frame)
    }

    /// Checks that the strategy applies to frames of these tokens.
    ///
    /// # Errors
    /// When it does not; the subject is the name of the strategy.
    pub fn check(&self, frame: FrameTokens) -> crate::error::Result<()> {
        self.strategy().check(frame).about(self.name())
    }

    /// Returns the number of tokens at the end of each frame that the pool drops.
    pub fn n_dropped(&self, frame: FrameTokens) -> usize {
        self.strategy().n_dropped(frame)
    }

    /// Returns the number of tokens per frame where each frame has rows of its own, in the order of frames; `None`
    /// where frames are mixed. Rows behind the last frame belong to it.
    pub fn frame_rows(&self, frame: FrameTokens) -> Option<usize> {
        self.strategy().frame_rows(frame)
    }

    /// Returns the side of the projector on which frames are aggregated.
    pub fn aggregation_point(&self) -> AggregationPoint {
        self.strategy().aggregation_point()
    }

    /// Returns the images to encode.
    pub fn views(&self) -> Views {
        self.strategy().views()
    }

    /// Begins an aggregation of frames with such tokens.
    pub fn begin(&self, frame: FrameTokens) -> Box<dyn FrameFold> {
        self.strategy().begin(frame)
    }

    /// Begins an aggregation, for a model with a row `image_newline`, `(H)`, which is used where the strategy asks for
    /// it.
    pub fn begin_with(&self, frame: FrameTokens, newline: Option<Tensor>) -> Box<dyn FrameFold> {
        if let Self::AnyRes(config) = self {
            return config.packing(frame, newline);
        }
        let fold = self.begin(frame);
        match newline.filter(|_| self.strategy().newline() == NewlineRow::End) {
            Some(row) => Box::new(NewlineFold { fold, row }),
            None => fold,
        }
    }

    /// Returns the name of the strategy.
    pub fn name(&self) -> String {
        match self {
            Self::AnyRes(_) => "any_res".to_owned(),
            named => choice::name_and_options(named).0,
        }
    }
}

/// Kernels of the device that frames are on.
fn kernels_of(frames: &Tensor) -> &'static dyn Kernels {
    kernels::of(frames.device(), frames.dtype())
}

/// Error of a fold without frames.
fn no_frames() -> candle_core::Error {
    candle_core::Error::msg("temporal aggregation of no frames")
}

impl fmt::Display for Temporal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyRes(_) => f.write_str(&self.name()),
            named => f.write_str(&choice::to_line(named)),
        }
    }
}

impl FromStr for Temporal {
    type Err = Error;

    fn from_str(text: &str) -> std::result::Result<Self, Error> {
        match choice::parse(text, "temporal strategy", &Self::all())? {
            Self::MaxPool(MaxPool { stride: 0 }) => {
                Err(Error::invalid("the stride is a whole number from 1").about(format!("`{text}`")))
            }
            strategy => Ok(strategy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use proptest::prelude::*;

    fn max_pool(stride: usize) -> Temporal {
        Temporal::MaxPool(MaxPool { stride })
    }

    /// Frames 1 and 2 of three tokens of width 1.
    fn aggregate(strategy: Temporal) -> Vec<f32> {
        let mut fold = strategy.begin(FrameTokens::loose(3));
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
        assert_eq!(aggregate(max_pool(2)), [5.0, 3.0]);
    }

    #[test]
    fn token_counts_are_those_of_the_paper() {
        let count = |strategy: Temporal, n_frames, n| strategy.n_tokens(n_frames, FrameTokens::loose(n)).0;
        assert_eq!([576, 729, 911].map(|n| count(Temporal::D2, 8, n)), [2304, 2912, 3640]);
        assert_eq!(Temporal::D2.explain(8, FrameTokens::loose(729)), "8 frames x 364 tokens (729 / 2)");
        assert_eq!(Temporal::D2.n_dropped(FrameTokens::loose(729)), 1);
        assert_eq!(count(Temporal::SlowFast(SlowFast::default()), 50, 576), 3680);
        assert_eq!(count(Temporal::Adaptive3d(Adaptive3d::default()), 50, 576), 16 * 144);
        assert_eq!(count(Temporal::IgVlm(IgVlm::default()), 6, 576), 576);
    }

    #[test]
    fn names_print_as_they_are_read() {
        for strategy in Temporal::all() {
            assert_eq!(strategy.to_string().parse().ok(), Some(strategy));
            assert_eq!(strategy.name().parse().ok(), Some(strategy));
        }
        assert_eq!("max_pool:3".parse().ok(), Some(max_pool(3)));
        let pool = Pool2d { mode: PoolMode::Max, height: 3, ..Pool2d::default() };
        assert_eq!("evs:0.5".parse().ok(), Some(Temporal::Evs(Evs { drop: 0.5 })));
        assert_eq!((max_pool(3).to_string(), Temporal::Concat.to_string()), ("max_pool:3".into(), "concat".into()));
        assert_eq!("pool_2d:mode=max,height=3".parse().ok(), Some(Temporal::Pool2d(pool)));
        for text in
            ["", "mean", "max_pool:0", "max_pool:x", "max_pool:", "concat:2", "evs:drop=much", "slowfast:fast=4"]
        {
            assert!(text.parse::<Temporal>().is_err(), "{text}");
        }
        let error = "slowfast:fast=4".parse::<Temporal>().expect_err("no such option");
        assert_eq!(
            error.to_string(),
            "`slowfast:fast=4`: unknown option `fast` of slowfast; hint: slow_frames, slow_stride, fast_grid"
        );
    }

    #[test]
    fn no_frames_are_an_error() {
        for strategy in Temporal::all() {
            assert!(strategy.begin(frame()).finish().is_err(), "{strategy}");
        }
    }

    /// Returns a grid that no default pool is too large for.
    fn frame() -> FrameTokens {
        FrameTokens { has_newline: true, ..FrameTokens::on_grid(Grid { height: 13, width: 14 }) }
    }

    #[test]
    fn strategies_refuse_frames_that_they_cannot_work_on() {
        let refused = |strategy: Temporal, frame| strategy.check(frame).expect_err("refused").to_string();
        let pool = Temporal::Pool2d(Pool2d::default());
        assert!(
            refused(pool, FrameTokens::loose(720)).starts_with("pool_2d: pools on the patch grid, but the 720 tokens")
        );
        let small = FrameTokens::on_grid(Grid { height: 8, width: 8 });
        assert!(refused(pool, small).starts_with("pool_2d: pools to 12 x 12, but the patch grid is 8 x 8"));
        assert!(refused(Temporal::Evs(Evs { drop: 1.0 }), small).contains("evs: drops 1 of the tokens"));
        for strategy in Temporal::all() {
            assert!(strategy.check(frame()).is_ok(), "{strategy}");
        }
    }

    /// Every strategy with options that the draws decide.
    fn drawn(which: usize, a: usize, b: usize) -> Temporal {
        match Temporal::all()[which] {
            Temporal::MaxPool(_) => max_pool(a),
            Temporal::Pool2d(pool) => Temporal::Pool2d(Pool2d { height: a, width: b, ..pool }),
            Temporal::Adaptive3d(_) => Temporal::Adaptive3d(Adaptive3d { frames: b, height: a, width: b }),
            Temporal::SlowFast(_) => Temporal::SlowFast(SlowFast { slow_frames: b, slow_stride: a, fast_grid: b }),
            Temporal::TsLlava(view) => Temporal::TsLlava(TsLlava { tokens: 17 * a * b, ..view }),
            Temporal::Evs(_) => Temporal::Evs(Evs { drop: a as f64 / 6.0 }),
            Temporal::OneVision(pool) => Temporal::OneVision(OneVision { stride: a, ..pool }),
            other => other,
        }
    }

    /// Returns the frames that go into a strategy's fold, with the images that it adds.
    fn images(strategy: Temporal, n_frames: usize) -> Tensor {
        let n_images = match strategy.views() {
            Views::Frames => n_frames,
            Views::FramesAndThumbnail { .. } => n_frames + 1,
            Views::Grid { .. } => 1,
        };
        Tensor::randn(0f32, 1.0, (n_images, frame().count, 3), &Device::Cpu).expect("small")
    }

    fn folded(strategy: Temporal, images: &Tensor, sizes: impl Iterator<Item = usize>) -> Tensor {
        let row = Tensor::ones(3, DType::F32, &Device::Cpu).expect("small");
        let (mut fold, mut start) = (strategy.begin_with(frame(), Some(row)), 0);
        for size in sizes {
            let size = size.min(images.dim(0).expect("rank 3") - start);
            if size > 0 {
                fold.push(&images.narrow(0, start, size).expect("in range")).expect("it fits");
                start += size;
            }
        }
        fold.finish().expect("images came")
    }

    proptest! {
        #[test]
        fn every_token_count_is_that_of_its_tensor(
            n_frames in 1usize..12, which in 0..Temporal::all().len(), a in 1usize..6, b in 1usize..6,
        ) {
            let strategy = drawn(which, a, b);
            prop_assert!(strategy.check(frame()).is_ok());
            let out = folded(strategy, &images(strategy, n_frames), std::iter::repeat_n(2, 20));
            prop_assert_eq!(out.dims(), [strategy.n_tokens(n_frames, frame()).0, 3]);
        }

        #[test]
        fn frames_that_stand_apart_have_their_own_rows(
            n_frames in 1usize..6, which in 0..Temporal::all().len(), a in 1usize..6, b in 1usize..6,
        ) {
            let strategy = drawn(which, a, b);
            if let Some(rows) = strategy.frame_rows(frame()) {
                let images = images(strategy, n_frames);
                let out = folded(strategy, &images, std::iter::repeat_n(2, 20));
                let alone = folded(strategy, &images.narrow(0, n_frames - 1, 1).expect("one"), std::iter::once(1));
                let own = out.narrow(0, (n_frames - 1) * rows, rows).expect("its rows");
                let values = |x: &Tensor| x.flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("f32");
                prop_assert_eq!(values(&own), values(&alone.narrow(0, 0, rows).expect("its rows")));
            }
        }

        #[test]
        fn batches_do_not_change_the_result(
            n_frames in 1usize..9, which in 0..Temporal::all().len(), a in 1usize..6, b in 1usize..6, split in 1usize..6,
        ) {
            let strategy = drawn(which, a, b);
            let images = images(strategy, n_frames);
            let values = |x: Tensor| x.flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("f32");
            let one_by_one = values(folded(strategy, &images, std::iter::repeat_n(1, 20)));
            prop_assert_eq!(one_by_one, values(folded(strategy, &images, std::iter::repeat_n(split, 20))));
        }
    }
}
