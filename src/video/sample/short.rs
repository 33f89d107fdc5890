//! Policy for a video that gives fewer frames than a sampling rule asks for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Policy for short videos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShortVideoPolicy {
    /// Takes fewer frames.
    #[default]
    Fewer,
    /// Repeats the last frame.
    RepeatLast,
    /// Refuses the video.
    Refuse,
}

impl ShortVideoPolicy {
    /// Applies the policy to the indices of a rule that asks for `wanted` frames.
    pub(super) fn fill(self, mut indices: Vec<usize>, wanted: usize) -> Result<Vec<usize>> {
        match (self, indices.last().copied()) {
            (Self::Fewer, _) => Ok(indices),
            _ if indices.len() >= wanted => Ok(indices),
            (Self::RepeatLast, Some(last)) => {
                indices.resize(wanted, last);
                Ok(indices)
            }
            (Self::RepeatLast, None) => Ok(indices),
            (Self::Refuse, _) => Err(Error::invalid(format!("the video gives {} of {wanted} frames", indices.len()))
                .with_hint("fewer frames, or `short: fewer`, or `short: repeat_last`")),
        }
    }
}
