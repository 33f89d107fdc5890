//! Interface of a temporal strategy: facts that are known before it runs, and a fold over frames.
//!
//! The token count, the check and the images to encode are pure functions of a [`FrameTokens`], so that a plan is
//! refused before a model is loaded. The fold takes frames in time order, in batches of any size, and its result does
//! not depend on the batches. Each file of a strategy implements both; callers go through
//! [`Temporal`](super::Temporal).

use candle_core::{Result, Tensor};

use super::FrameTokens;
use super::one_vision::NewlineRow;
use crate::kernels::{self, Kernels};

/// Facts of a strategy before it runs, and its fold.
pub(super) trait Strategy {
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

/// Kernels of the device that frames are on.
pub(super) fn kernels_of(frames: &Tensor) -> &'static dyn Kernels {
    kernels::of(frames.device(), frames.dtype())
}

/// Error of a fold without frames.
pub(super) fn no_frames() -> candle_core::Error {
    candle_core::Error::msg("temporal aggregation of no frames")
}
