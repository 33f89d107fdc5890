//! Clock of a stream: presentation times of frames in output order, in ticks of the stream's time base.
//!
//! Missing times are derived, small falls are levelled, and times that really run backwards are kept and noted.
//! Arithmetic without decoding; `schedule` feeds the clock with the stamps of packets, `decode` with those of frames.

/// Time stamps of a frame.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ClockStamp {
    /// Presentation time in ticks, by FFmpeg's best effort.
    pub(super) ticks: Option<i64>,
    /// Whether the frame has a decoding time. The last frames of a stream, which are output after the last packet, have
    /// none.
    pub(super) is_backed: bool,
    /// Duration in ticks, 0 where unknown.
    pub(super) duration: i64,
}

/// Two consecutive frames of which the second has the smaller time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ClockFall {
    /// Index of the second frame.
    pub(super) index: usize,
    /// Time of the first frame in ticks.
    pub(super) before: f64,
    /// Time of the second frame in ticks.
    pub(super) after: f64,
}

/// Assigns each frame its presentation time.
#[derive(Debug, Clone, Default)]
pub(super) struct FrameClock {
    /// Duration of a frame by the declared rate in ticks, 0 where no rate is declared.
    step: f64,
    last: Option<LastFrame>,
    n_frames: usize,
    n_stamped: usize,
    first_fall: Option<ClockFall>,
    n_falls: usize,
}

/// Time and duration of the last frame, in ticks.
#[derive(Debug, Clone, Copy)]
struct LastFrame {
    time: f64,
    duration: f64,
}

impl FrameClock {
    /// Makes a clock for frames of `step` ticks where they have no duration of their own; 0 if unknown.
    pub(super) fn new(step: f64) -> Self {
        Self { step: Some(step).filter(|step| step.is_finite() && *step > 0.0).unwrap_or(0.0), ..Self::default() }
    }

    /// Returns the time of the next frame in ticks.
    pub(super) fn next(&mut self, stamp: ClockStamp) -> f64 {
        let time = match (stamp.ticks, self.last) {
            (Some(ticks), None) => ticks as f64,
            (Some(ticks), Some(last)) => self.time_after(last, ticks as f64, stamp.is_backed),
            (None, Some(last)) => last.time + last.duration,
            (None, None) => 0.0,
        };
        self.n_stamped += usize::from(stamp.ticks.is_some());
        self.n_frames += 1;
        self.last = Some(LastFrame { time, duration: self.duration(stamp.duration) });
        time
    }

    /// Returns the time of a frame with a stamp, after the last frame.
    fn time_after(&mut self, last: LastFrame, ticks: f64, is_backed: bool) -> f64 {
        if ticks >= last.time {
            return ticks;
        }
        // Without a decoding time FFmpeg takes the presentation time, though it found those of this stream to be wrong.
        if !is_backed {
            return last.time + last.duration;
        }
        // Jitter; or the first stamp at all, after frames whose times were counted from 0.
        if last.time - ticks <= last.duration || self.n_stamped == 0 {
            return last.time;
        }
        self.n_falls += 1;
        self.first_fall.get_or_insert(ClockFall { index: self.n_frames, before: last.time, after: ticks });
        ticks
    }

    /// Returns the exact duration of a frame in ticks. Stamped durations are whole ticks, a declared rate is exact.
    fn duration(&self, duration: i64) -> f64 {
        let duration = duration.max(0) as f64;
        if duration == 0.0 || (duration - self.step).abs() < 1.0 { self.step } else { duration }
    }

    /// First fall, where times run backwards.
    pub(super) fn first_fall(&self) -> Option<ClockFall> {
        self.first_fall
    }

    /// Number of falls.
    pub(super) fn n_falls(&self) -> usize {
        self.n_falls
    }

    /// Duration of a frame in ticks, if all times so far are derived from that duration alone.
    pub(super) fn derived_step(&self) -> Option<f64> {
        let last = self.last?;
        (self.n_stamped == 0 && self.n_frames > 1).then_some(last.duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(ticks: Option<i64>) -> ClockStamp {
        ClockStamp { ticks, is_backed: true, duration: 10 }
    }

    fn times(clock: &mut FrameClock, ticks: &[Option<i64>]) -> Vec<f64> {
        ticks.iter().map(|&ticks| clock.next(stamp(ticks))).collect()
    }

    #[test]
    fn a_missing_time_is_the_last_one_and_a_duration() {
        let mut clock = FrameClock::new(10.0);
        assert_eq!(times(&mut clock, &[Some(5), Some(15), None, None, Some(60), None]), [5., 15., 25., 35., 60., 70.]);
        assert_eq!((clock.first_fall(), clock.derived_step()), (None, None));
    }

    #[test]
    fn without_any_time_frames_are_counted_by_their_rate() {
        // 1/7 s in milliseconds: durations are rounded, the rate is not.
        let step = 1000.0 / 7.0;
        let mut clock = FrameClock::new(step);
        let frames: Vec<f64> =
            (0..8).map(|_| clock.next(ClockStamp { ticks: None, is_backed: false, duration: 143 })).collect();
        assert!((frames[7] - 1000.0).abs() < 1e-9, "{frames:?}");
        assert_eq!(clock.derived_step(), Some(step));
    }

    #[test]
    fn jitter_is_levelled_and_a_fall_is_kept_and_noted() {
        let mut clock = FrameClock::new(10.0);
        assert_eq!(times(&mut clock, &[Some(0), Some(10), Some(8), Some(20), Some(20)]), [0., 10., 10., 20., 20.]);
        assert_eq!(clock.first_fall(), None);
        assert_eq!(times(&mut clock, &[Some(3), Some(13), Some(2)]), [3., 13., 2.]);
        assert_eq!(clock.first_fall(), Some(ClockFall { index: 5, before: 20.0, after: 3.0 }));
        assert_eq!(clock.n_falls(), 2);
    }

    #[test]
    fn the_last_frames_do_not_fall_back_to_wrong_stamps() {
        let mut clock = FrameClock::new(10.0);
        clock.next(stamp(Some(100)));
        let unbacked = |ticks| ClockStamp { is_backed: false, ..stamp(Some(ticks)) };
        assert_eq!([clock.next(unbacked(60)), clock.next(unbacked(100))], [110.0, 120.0]);
        assert_eq!(clock.first_fall(), None);
    }
}
