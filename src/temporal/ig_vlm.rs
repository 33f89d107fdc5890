//! IG-VLM (arXiv 2403.18406): six frames pasted into one image, which is all the model sees.
//!
//! # Shapes
//! `(1, N', H)` to `(N', H)`, whatever the frame count.

use candle_core::{Result, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::concat::ConcatFold;
use super::ts_llava::check_mosaic;
use super::{FrameFold, FrameTokens, Strategy, Views};

/// The image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IgVlm {
    /// Rows of frames. Default: `3`.
    #[schemars(range(min = 1, max = 16))]
    pub rows: usize,
    /// Frames of a row. Default: `2`.
    #[schemars(range(min = 1, max = 16))]
    pub columns: usize,
}

impl Default for IgVlm {
    fn default() -> Self {
        Self { rows: 3, columns: 2 }
    }
}

impl Strategy for IgVlm {
    fn n_tokens(&self, _: usize, frame: FrameTokens) -> usize {
        frame.count
    }

    fn explain(&self, _: usize, frame: FrameTokens) -> String {
        format!("1 image of {} x {} frames x {} tokens", self.rows, self.columns, frame.count)
    }

    fn check(&self, _: FrameTokens) -> crate::error::Result<()> {
        check_mosaic(self.rows, self.columns)
    }

    fn views(&self) -> Views {
        Views::Grid { rows: self.rows, columns: self.columns }
    }

    fn begin(&self, _: FrameTokens) -> Box<dyn FrameFold> {
        Box::new(IgVlmFold(ConcatFold::default()))
    }
}

struct IgVlmFold(ConcatFold);

impl FrameFold for IgVlmFold {
    fn push(&mut self, images: &Tensor) -> Result<()> {
        self.0.push(images)
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        Box::new(self.0).finish()
    }
}
