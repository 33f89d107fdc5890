//! Window: a part of a video by presentation times.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Seconds;

/// A part of a video by time: frames with `start <= time < end`. Default: the whole video.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Window {
    /// First time inside the window: seconds, or h:mm:ss.
    pub start: Option<Seconds>,
    /// First time after the window: seconds, or h:mm:ss.
    pub end: Option<Seconds>,
}

/// Position of a time relative to a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WindowSide {
    Before,
    Inside,
    After,
}

impl Window {
    /// Returns whether the window is the whole video.
    pub(crate) fn is_whole(&self) -> bool {
        self.start.is_none() && self.end.is_none()
    }

    /// Returns the position of a time.
    pub(crate) fn side(&self, time: Seconds) -> WindowSide {
        if self.start.is_some_and(|start| time < start) {
            WindowSide::Before
        } else if self.end.is_some_and(|end| time >= end) {
            WindowSide::After
        } else {
            WindowSide::Inside
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.start {
            Some(start) => write!(f, "{start} - ")?,
            None => f.write_str("beginning - ")?,
        }
        match self.end {
            Some(end) => end.fmt(f),
            None => f.write_str("end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_keeps_its_start_and_leaves_its_end() {
        let window = Window { start: Some(Seconds(1.0)), end: Some(Seconds(2.0)) };
        let sides = [0.99, 1.0, 1.99, 2.0].map(|t| window.side(Seconds(t)));
        assert_eq!(sides, [WindowSide::Before, WindowSide::Inside, WindowSide::Inside, WindowSide::After]);
        assert!(Window::default().is_whole() && !window.is_whole());
    }
}
