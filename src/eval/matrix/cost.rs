//! Cost of a cell: visual tokens and busy seconds of a video, and the frames that were encoded or reused.

use std::collections::HashMap;

use serde::Serialize;

use crate::batch::Id;
use crate::batch::store::{RecordOutcome, StoredResults};
use crate::error::Result;

/// Cost of a cell over the videos with an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct CellCost {
    /// Number of videos or clips with an answer.
    pub videos: usize,
    /// Mean number of visual tokens of a video.
    pub visual_tokens: f64,
    /// Mean busy time of a video with all its questions, in seconds: every step from decoding to the answers. Without
    /// the steps of a video whose tokens were reused.
    pub seconds: f64,
    /// Number of frames that the cell decoded and encoded.
    pub frames_encoded: usize,
    /// Number of frames whose tokens come from the cache, as another cell or an earlier run encoded them.
    pub frames_reused: usize,
}

/// Sums of one video.
#[derive(Default)]
struct VideoCost {
    visual_tokens: usize,
    frames: usize,
    /// Milliseconds before the questions, of which the tower's.
    video: f64,
    encode: f64,
    /// Milliseconds of the questions.
    questions: f64,
}

impl CellCost {
    /// Reads the cost from the results of a cell.
    ///
    /// # Errors
    /// When the results cannot be read.
    pub fn of(results: &StoredResults) -> Result<Self> {
        let times = results.timings()?;
        let mut videos: HashMap<Id, VideoCost> = HashMap::new();
        results.for_each(&mut |record| {
            let key = record.key();
            let RecordOutcome::Answered(answer) = record.outcome else { return Ok(()) };
            let video = videos.entry(record.item).or_default();
            video.visual_tokens = answer.visual_tokens.0;
            video.frames = answer.frames.len();
            if let Some(steps) = times.get(&key) {
                // The steps of the video are repeated with each question; a resumed video was read again.
                let before = steps.decode + steps.preprocess + steps.encode + steps.connect;
                (video.video, video.encode) = (video.video.max(before), video.encode.max(steps.encode));
                video.questions += steps.prefill + steps.generate;
            }
            Ok(())
        })?;
        Ok(Self::sum(videos.values()))
    }

    fn sum<'v>(videos: impl Iterator<Item = &'v VideoCost>) -> Self {
        let mut cost = Self::default();
        for video in videos {
            cost.videos += 1;
            cost.visual_tokens += video.visual_tokens as f64;
            cost.seconds += (video.video + video.questions) / 1e3;
            // Tokens of the cache took no time in the tower.
            let frames = if video.encode > 0.0 { &mut cost.frames_encoded } else { &mut cost.frames_reused };
            *frames += video.frames;
        }
        let n = cost.videos.max(1) as f64;
        Self { visual_tokens: cost.visual_tokens / n, seconds: cost.seconds / n, ..cost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn videos_that_took_no_time_in_the_tower_were_reused() {
        let video = |encode: f64| VideoCost { visual_tokens: 64, frames: 8, video: 1000.0, encode, questions: 500.0 };
        let cost = CellCost::sum([video(3.0), video(0.0), video(5.0)].iter());
        assert_eq!((cost.videos, cost.frames_encoded, cost.frames_reused), (3, 16, 8));
        assert_eq!((cost.visual_tokens, cost.seconds), (64.0, 1.5));
        assert_eq!(CellCost::sum([].iter()), CellCost::default());
    }
}
