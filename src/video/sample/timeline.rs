//! Timeline of a video: the facts about its frames that sampling goes by, without their pixels. Made by the reader from
//! packets or from decoded frames.

use crate::error::{Error, Result};
use crate::units::{FrameIndex, Seconds};
use crate::video::error::TimeFall;

/// Facts about a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FrameFact {
    /// Presentation time; `None` for an image of a directory without a rate.
    pub time: Option<Seconds>,
    /// Whether the frame is a keyframe, which the codec stores whole.
    pub is_key: bool,
}

/// Frames of a window, in presentation order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timeline {
    /// Facts about each frame.
    pub frames: Vec<FrameFact>,
    /// Distance of each frame's histogram to that of the frame before, for a rule that needs histograms; 0 for the
    /// first frame.
    pub distances: Vec<f32>,
    /// Duration of the last frame, where its packet has a duration.
    pub last_duration: Option<Seconds>,
}

impl Timeline {
    /// Makes a timeline of `n` frames without times, each a keyframe.
    pub fn of_count(n: usize) -> Self {
        Self { frames: vec![FrameFact { time: None, is_key: true }; n], ..Self::default() }
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Returns whether the timeline has no frames.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Returns the duration in seconds, to the end of the last frame. Frames without times count as 24 a second, as in
    /// transformers.
    pub(super) fn duration(&self) -> Result<f64> {
        const ASSUMED_RATE: f64 = 24.0;
        if self.frames.iter().all(|frame| frame.time.is_none()) {
            return Ok(self.len() as f64 / ASSUMED_RATE);
        }
        let times = self.times()?;
        let (first, last) = (times[0], times[times.len() - 1]);
        let mean = (last - first) / (times.len() - 1).max(1) as f64;
        let shown = self.last_duration.map_or(mean, |Seconds(duration)| duration);
        // A single frame of unknown length counts as one of the assumed rate.
        let duration = last + shown - first;
        Ok(if duration > 0.0 { duration } else { 1.0 / ASSUMED_RATE })
    }

    /// Returns the times of all frames, which must not run backwards.
    pub(super) fn times(&self) -> Result<Vec<f64>> {
        let times: Option<Vec<f64>> = self.frames.iter().map(|frame| frame.time.map(|time| time.0)).collect();
        let times = times
            .ok_or_else(|| Error::invalid("the frames have no times").with_hint("uniform, linspace, every, all"))?;
        match times.windows(2).position(|pair| pair[1] < pair[0]) {
            None => Ok(times),
            Some(i) => {
                let (before, after) = (Seconds(times[i]), Seconds(times[i + 1]));
                let fall = TimeFall { index: FrameIndex(i + 1), before, after };
                Err(Error::invalid(format!("times run backwards {fall}")).with_hint(TimeFall::HINT))
            }
        }
    }
}

/// Returns the index of the frame shown at `time`: the last frame that has begun, or the first frame.
pub(super) fn shown_at(times: &[f64], time: f64) -> usize {
    // Containers round times: a frame that begins within the rounding has begun.
    const SLACK: f64 = 1e-6;
    times.partition_point(|&begin| begin <= time + SLACK).saturating_sub(1)
}
