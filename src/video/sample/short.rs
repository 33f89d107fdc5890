//! What happens when a video has fewer frames than a rule asks for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The policy for short videos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Short {
    /// Fewer frames are taken.
    #[default]
    Fewer,
    /// The last one is repeated.
    RepeatLast,
    /// The video is refused.
    Refuse,
}

impl Short {
    /// Brings `places` to `wanted`, as the policy says.
    pub(super) fn fill(self, mut places: Vec<usize>, wanted: usize) -> Result<Vec<usize>, String> {
        match (self, places.last().copied()) {
            (Self::Fewer, _) => Ok(places),
            _ if places.len() >= wanted => Ok(places),
            (Self::RepeatLast, Some(last)) => {
                places.resize(wanted, last);
                Ok(places)
            }
            (Self::RepeatLast, None) => Ok(places),
            (Self::Refuse, _) => Err(format!(
                "wants {wanted} frames, the video gives {}; hint: fewer frames, or `short: fewer`, or `short: repeat_last`",
                places.len()
            )),
        }
    }
}
