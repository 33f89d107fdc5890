//! What is known of a video's frames before any picture is looked at.

use crate::units::Seconds;

/// What is known of one frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FrameFact {
    /// Its own timestamp; none for an image of a directory.
    pub time: Option<Seconds>,
    /// Whether the codec stores it whole.
    pub is_key: bool,
}

/// The frames of a window, in presentation order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timeline {
    /// One a frame.
    pub frames: Vec<FrameFact>,
    /// How far each frame's colours are from those of the one before, for a rule that must see the pictures; 0 for the
    /// first.
    pub distances: Vec<f32>,
    /// How long the last frame is shown, where its packet says so.
    pub last_shown: Option<Seconds>,
}

impl Timeline {
    /// `n` frames of which nothing else is known.
    pub fn of_count(n: usize) -> Self {
        Self { frames: vec![FrameFact { time: None, is_key: true }; n], ..Self::default() }
    }

    /// How many frames there are.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How long the frames are shown, in seconds: to the end of the last one. Frames without times count as 24 a
    /// second, which transformers assumes.
    pub(super) fn duration(&self) -> Result<f64, String> {
        const ASSUMED_RATE: f64 = 24.0;
        if self.frames.iter().all(|frame| frame.time.is_none()) {
            return Ok(self.len() as f64 / ASSUMED_RATE);
        }
        let times = self.times()?;
        let (first, last) = (times[0], times[times.len() - 1]);
        let mean = (last - first) / (times.len() - 1).max(1) as f64;
        let shown = self.last_shown.map_or(mean, |Seconds(shown)| shown);
        // A single frame of unknown length counts as one of the assumed rate.
        let duration = last + shown - first;
        Ok(if duration > 0.0 { duration } else { 1.0 / ASSUMED_RATE })
    }

    /// The times of all frames, none smaller than the one before.
    pub(super) fn times(&self) -> Result<Vec<f64>, String> {
        let times: Option<Vec<f64>> = self.frames.iter().map(|frame| frame.time.map(|time| time.0)).collect();
        let times = times.ok_or("goes by times, but the frames carry none; hint: uniform, linspace, every, all")?;
        match times.windows(2).position(|pair| pair[1] < pair[0]) {
            None => Ok(times),
            Some(i) => Err(format!(
                "goes by times, but they run backwards at frame {}, from {} to {}; hint: uniform, linspace, every, all go by \
                 number; or join the parts again with `ffmpeg -f concat`",
                i + 1,
                Seconds(times[i]),
                Seconds(times[i + 1])
            )),
        }
    }
}

/// The place of the frame that is shown at `time`: the last one that has begun, or the first.
pub(super) fn shown_at(times: &[f64], time: f64) -> usize {
    // A frame whose time was rounded when it was stored has begun all the same.
    const SLACK: f64 = 1e-6;
    times.partition_point(|&begin| begin <= time + SLACK).saturating_sub(1)
}
