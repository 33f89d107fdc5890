//! Which frames are looked at: arithmetic on a count, no decoding.
//!
//! The reader gives the number of decodable frames in the window; [`Sample::select`] gives indices.

use std::fmt;

use serde::Serialize;

use crate::units::Seconds;

/// A rule that chooses frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sample {
    /// `frames` frames spread evenly, each from the middle of its share. Default: 8 of them. More frames
    /// see more and cost visual tokens in proportion, except under `temporal_mean`.
    Uniform {
        /// Frames wanted; a shorter video gives what it has.
        frames: usize,
    },
    /// Every frame, in order: what a directory of chosen frames wants.
    All,
}

impl Sample {
    /// The chosen places, sorted, among `total` frames.
    ///
    /// Uniform (FreeVA, arXiv 2405.07798, and the released Dense Connector code): with `n = min(total, want)`
    /// and `s = (total - 1) / n`, place `i` is `(r(s i) + r(s (i + 1))) / 2` in integer division, where `r`
    /// rounds half to even. A place may come twice in a very short video; so it does in the reference.
    pub fn select(self, total: usize) -> Vec<usize> {
        match self {
            Self::All => (0..total).collect(),
            Self::Uniform { frames } => {
                let n = total.min(frames);
                let step = total.saturating_sub(1) as f64 / n as f64;
                let bound = |i: usize| (step * i as f64).round_ties_even() as usize;
                (0..n).map(|i| usize::midpoint(bound(i), bound(i + 1))).collect()
            }
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform { frames } => write!(f, "uniform, {frames} frames"),
            Self::All => f.write_str("all frames"),
        }
    }
}

/// A part of a video by time: frames with `start <= time < end`. Default: all of it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Window {
    /// First time that belongs to it.
    pub start: Option<Seconds>,
    /// First time after it.
    pub end: Option<Seconds>,
}

/// Where a time lies, seen from a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Before,
    Inside,
    After,
}

impl Window {
    /// Whether it leaves nothing out.
    pub fn is_whole(&self) -> bool {
        self.start.is_none() && self.end.is_none()
    }

    /// Where `time` lies.
    pub(crate) fn side(&self, time: Seconds) -> Side {
        if self.start.is_some_and(|start| time < start) {
            Side::Before
        } else if self.end.is_some_and(|end| time >= end) {
            Side::After
        } else {
            Side::Inside
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
    use proptest::prelude::*;

    fn uniform(total: usize, frames: usize) -> Vec<usize> {
        Sample::Uniform { frames }.select(total)
    }

    #[test]
    fn uniform_gives_the_places_of_the_reference() {
        assert_eq!(uniform(100, 4), [12, 37, 62, 86]);
        assert_eq!(uniform(300, 8), [18, 56, 93, 131, 168, 205, 243, 280]);
        assert_eq!(uniform(10, 4), [1, 3, 5, 8]);
        assert_eq!(uniform(390, 4), [48, 145, 243, 340]);
        assert_eq!(uniform(243, 8), [15, 45, 75, 106, 136, 166, 197, 227]);
    }

    #[test]
    fn a_video_shorter_than_the_wish_gives_what_it_has() {
        assert_eq!(uniform(0, 8), [0; 0]);
        assert_eq!(uniform(1, 8), [0]);
        // s = 1/2: bounds 0, r(0.5) = 0, 1, so both places are 0.
        assert_eq!(uniform(2, 8), [0, 0]);
        assert_eq!(uniform(5, 0), [0; 0]);
    }

    #[test]
    fn a_window_keeps_its_start_and_leaves_its_end() {
        let window = Window { start: Some(Seconds(1.0)), end: Some(Seconds(2.0)) };
        let sides = [0.99, 1.0, 1.99, 2.0].map(|t| window.side(Seconds(t)));
        assert_eq!(sides, [Side::Before, Side::Inside, Side::Inside, Side::After]);
        assert!(Window::default().is_whole() && !window.is_whole());
    }

    proptest! {
        #[test]
        fn places_are_sorted_and_within_range(total in 0usize..2_000_000, frames in 0usize..600) {
            let places = uniform(total, frames);
            prop_assert_eq!(places.len(), total.min(frames));
            prop_assert!(places.windows(2).all(|pair| pair[0] <= pair[1]));
            prop_assert!(places.iter().all(|&place| place < total));
        }

        #[test]
        fn all_takes_every_place_once(total in 0usize..5_000) {
            prop_assert_eq!(Sample::All.select(total), (0..total).collect::<Vec<_>>());
        }
    }
}
