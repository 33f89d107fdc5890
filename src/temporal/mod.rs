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
mod strategy;
mod temporal_mean;
mod ts_llava;

use std::fmt;
use std::str::FromStr;

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::choice;
use crate::error::{About, Error};
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
pub use strategy::{AggregationPoint, FrameFold, Views};
pub use ts_llava::TsLlava;

use concat::ConcatFrames;
use one_vision::NewlineFold;
use spatial_mean::SpatialMeanStrategy;
use spatial_temporal_mean::SpatialTemporalMeanStrategy;
use strategy::{Strategy, kernels_of, no_frames};
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
    pub(crate) fn n_dropped(&self, frame: FrameTokens) -> usize {
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
mod tests;
