//! Subtitles of a video, which stand between its frames in a prompt.

use crate::units::Seconds;

/// Shortest time for which a subtitle counts as shown.
const MIN_SHOWN: f64 = 1.0;

/// A text that is spoken or shown in a part of a video.
#[derive(Debug, Clone, PartialEq)]
pub struct Subtitle {
    /// Beginning, on the video's clock.
    pub start: Seconds,
    /// End, on the video's clock.
    pub end: Seconds,
    /// Text.
    pub text: String,
}

impl Subtitle {
    /// Returns the time in the middle: frames up to it stand before the text.
    pub(super) fn middle(&self) -> f64 {
        f64::midpoint(self.start.0, self.end.0)
    }

    /// Returns whether a frame at `time` is inside the subtitle, its ends excluded. A subtitle of less than a second
    /// counts as one of a second around its middle.
    pub(super) fn covers(&self, time: f64) -> bool {
        let (start, end) = match self.end.0 - self.start.0 {
            shown if shown < MIN_SHOWN => (self.middle() - MIN_SHOWN / 2.0, self.middle() + MIN_SHOWN / 2.0),
            _ => (self.start.0, self.end.0),
        };
        start < time && time < end
    }
}
