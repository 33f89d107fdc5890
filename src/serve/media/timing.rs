//! Times of frames that are sent as images: index and time of each in the video that they are from.
//!
//! Frame `i` has the index `frames_indices[i]`, or `i`, and the time `index / fps` in seconds. The reader of a
//! directory knows neither; [`FrameTiming::stamps`] returns them after the frames are read. Fields have the names and
//! the meaning of vLLM's `media_io_kwargs.video`.

use crate::error::{Error, Result};
use crate::pipeline::FrameStamp;
use crate::units::{FrameIndex, Seconds};
use crate::video::Timeline;
use crate::video::sample::FrameFact;

use super::FrameTiming;

/// Frames per second of frames whose rate is not said, as in vLLM.
const DEFAULT_FPS: f64 = 1.0;
/// Index at most: exact as a float.
const MAX_INDEX: usize = 1 << 52;

impl FrameTiming {
    /// Returns index and time of each of `n` frames.
    ///
    /// # Errors
    /// Another number of indices than of frames, indices that do not ascend, a rate or a duration that is not positive,
    /// and frames beyond the number of frames or the duration of the video.
    pub fn stamps(&self, n: usize) -> Result<Vec<FrameStamp>> {
        let fps = self.rate()?;
        let indices = self.indices(n)?;
        self.check_end(n, indices.last().copied(), fps)?;
        let stamp =
            |index: usize| FrameStamp { index: FrameIndex(index), time_seconds: Some(Seconds(index as f64 / fps)) };
        Ok(indices.into_iter().map(stamp).collect())
    }

    /// Returns the duration of the video that `n` frames are from: as sent, or by the number of its frames.
    ///
    /// # Errors
    /// As [`Self::stamps`].
    pub fn duration_of(&self, n: usize) -> Result<Seconds> {
        let fps = self.rate()?;
        let last = self.indices(n)?.last().copied();
        let total = self.total_num_frames.unwrap_or_else(|| last.map_or(0, |last| last + 1));
        Ok(Seconds(self.duration.unwrap_or(total as f64 / fps)))
    }

    /// Returns the times of the frames at some positions of the list alone.
    pub(super) fn of_positions(&self, positions: &[usize]) -> Self {
        let index = |&position: &usize| match &self.frames_indices {
            Some(indices) => indices.get(position).copied().unwrap_or(position),
            None => position,
        };
        Self { frames_indices: Some(positions.iter().map(index).collect()), do_sample_frames: None, ..self.clone() }
    }

    fn rate(&self) -> Result<f64> {
        let fps = match (self.fps, self.duration, self.total_num_frames) {
            (Some(fps), ..) => fps,
            (None, Some(duration), Some(total)) if duration > 0.0 => total as f64 / duration,
            _ => DEFAULT_FPS,
        };
        if fps.is_finite() && fps > 0.0 {
            return Ok(fps);
        }
        let error = Error::invalid(format!("invalid rate of {fps} frames a second"));
        Err(error.with_hint("a number above 0").about("fps"))
    }

    fn indices(&self, n: usize) -> Result<Vec<usize>> {
        let Some(indices) = &self.frames_indices else { return Ok((0..n).collect()) };
        let invalid = |rule: String| Err(Error::invalid(rule).about("frames_indices"));
        if indices.len() != n {
            return invalid(format!("{} indices of {n} frames", indices.len()));
        }
        if let Some(pair) = indices.windows(2).find(|pair| pair[1] <= pair[0]) {
            return invalid(format!("{} after {}: indices do not ascend", pair[1], pair[0]));
        }
        match indices.last() {
            Some(&last) if last > MAX_INDEX => invalid(format!("index {last} is over the limit of {MAX_INDEX}")),
            _ => Ok(indices.clone()),
        }
    }

    /// Checks that the last frame is inside the video.
    fn check_end(&self, n: usize, last: Option<usize>, fps: f64) -> Result<()> {
        let Some(last) = last else { return Ok(()) };
        match self.total_num_frames {
            Some(total) if total < n => {
                return Err(Error::invalid(format!("{total} frames, of which {n} are sent")).about("total_num_frames"));
            }
            Some(total) if total <= last => {
                let rule = format!("{total} frames, before the frame of index {last}");
                return Err(Error::invalid(rule).about("total_num_frames"));
            }
            _ => {}
        }
        let Some(duration) = self.duration else { return Ok(()) };
        if !(duration.is_finite() && duration > 0.0) {
            return Err(Error::invalid(format!("invalid duration of {duration} s")).about("duration"));
        }
        let time = last as f64 / fps;
        // Durations are rounded, and some end with the beginning of the last frame.
        if time <= duration + 1.0 / fps {
            return Ok(());
        }
        Err(Error::invalid(format!("{duration} s, before the frame at {time} s")).about("duration"))
    }
}

/// Returns the timeline of frames with these stamps, or of `n` frames without times.
pub(super) fn timeline(stamps: Option<&[FrameStamp]>, n: usize) -> Timeline {
    let fact = |stamp: &FrameStamp| FrameFact { time: stamp.time_seconds, is_key: true };
    match stamps {
        Some(stamps) => Timeline { frames: stamps.iter().map(fact).collect(), ..Timeline::default() },
        None => Timeline::of_count(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(timing: &FrameTiming, n: usize) -> Vec<(usize, f64)> {
        let stamps = timing.stamps(n).expect("consistent");
        stamps.iter().map(|stamp| (stamp.index.0, stamp.time_seconds.expect("a time").0)).collect()
    }

    #[test]
    fn a_frame_has_the_time_of_its_index() {
        let timing = FrameTiming::default();
        assert_eq!(times(&timing, 3), [(0, 0.0), (1, 1.0), (2, 2.0)]);
        assert_eq!(timing.duration_of(3).expect("consistent"), Seconds(3.0));
        let timing = FrameTiming {
            fps: Some(25.0),
            frames_indices: Some(vec![0, 50, 75]),
            total_num_frames: Some(100),
            ..FrameTiming::default()
        };
        assert_eq!(times(&timing, 3), [(0, 0.0), (50, 2.0), (75, 3.0)]);
        assert_eq!(timing.duration_of(3).expect("consistent"), Seconds(4.0));
        // 100 frames in 5 s are 20 a second.
        let timing = FrameTiming { fps: None, duration: Some(5.0), ..timing };
        assert_eq!(times(&timing, 3), [(0, 0.0), (50, 2.5), (75, 3.75)]);
        assert_eq!(times(&timing.of_positions(&[0, 2]), 2), [(0, 0.0), (75, 3.75)]);
        assert_eq!(times(&FrameTiming::default().of_positions(&[1, 4]), 2), [(1, 1.0), (4, 4.0)]);
        assert_eq!(times(&FrameTiming::default(), 0), []);
    }

    #[test]
    fn contradictions_are_refused_by_name() {
        let indices =
            |indices: &[usize]| FrameTiming { frames_indices: Some(indices.to_vec()), ..FrameTiming::default() };
        let two = || indices(&[0, 9]);
        for (timing, expected) in [
            (indices(&[0, 1, 2]), "frames_indices: 3 indices of 2 frames"),
            (indices(&[5, 5]), "frames_indices: 5 after 5: indices do not ascend"),
            (indices(&[5, 4]), "frames_indices: 4 after 5: indices do not ascend"),
            (
                indices(&[0, usize::MAX]),
                "frames_indices: index 18446744073709551615 is over the limit of 4503599627370496",
            ),
            (FrameTiming { fps: Some(0.0), ..two() }, "fps: invalid rate of 0 frames a second; hint: a number above 0"),
            (
                FrameTiming { fps: Some(f64::NAN), ..two() },
                "fps: invalid rate of NaN frames a second; hint: a number above 0",
            ),
            (
                FrameTiming { total_num_frames: Some(1), ..FrameTiming::default() },
                "total_num_frames: 1 frames, of which 2 are sent",
            ),
            (
                FrameTiming { total_num_frames: Some(9), ..two() },
                "total_num_frames: 9 frames, before the frame of index 9",
            ),
            (FrameTiming { duration: Some(-1.0), ..two() }, "duration: invalid duration of -1 s"),
            (FrameTiming { duration: Some(7.5), ..two() }, "duration: 7.5 s, before the frame at 9 s"),
        ] {
            assert_eq!(timing.stamps(2).expect_err(expected).to_string(), expected);
        }
        // The last frame may begin where a rounded duration ends.
        assert!(FrameTiming { duration: Some(9.0), ..two() }.stamps(2).is_ok());
        let huge =
            FrameTiming { fps: None, duration: Some(1e-320), total_num_frames: Some(2), ..FrameTiming::default() };
        assert!(huge.stamps(2).is_err(), "the rate overflows");
    }
}
