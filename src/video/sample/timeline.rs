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
}

impl Timeline {
    /// `n` frames of which nothing else is known.
    pub fn of_count(n: usize) -> Self {
        Self { frames: vec![FrameFact { time: None, is_key: true }; n], distances: Vec::new() }
    }

    /// How many frames there are.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
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
