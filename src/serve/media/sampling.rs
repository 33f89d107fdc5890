//! Frames that a request asks for, as a sampling rule in place of the plan's.
//!
//! As in vLLM, `num_frames` and `fps` replace the plan's rule, whichever it is: `fps` takes frames at a rate, at most
//! `num_frames` of them; `num_frames` alone takes as many frames by the plan's rule, if that has a fixed number, else
//! by `uniform`. `max_frames` bounds either, and the plan's own rule. No request takes more frames than the server
//! allows.

use crate::error::{Error, Result};
use crate::units::Seconds;
use crate::video::sample::{FpsSampling, UniformSampling};
use crate::video::{FrameRequest, Sample, Window};

use super::FrameOptions;

/// Subject of errors about the part of a video.
const RANGE: &str = "start, end";

impl FrameOptions {
    /// Returns the request for frames of a video file: `plan`'s, changed by these options.
    ///
    /// # Errors
    /// Options outside of their range or over `limit` frames, and options that exclude each other.
    pub(super) fn of_file(&self, plan: &FrameRequest, limit: usize) -> Result<FrameRequest> {
        let window = self.window(plan.window)?;
        let sample = self.rule(&plan.sample, limit)?;
        sample.check()?;
        Ok(FrameRequest { sample, window, ..plan.clone() })
    }

    /// Returns the rule that chooses among frames sent as a list; `None` takes all of them.
    ///
    /// `fps` is here the rate of the list itself, as in vLLM, and chooses nothing.
    ///
    /// # Errors
    /// As [`Self::of_file`], and for a part of the video: its client has chosen the frames.
    pub(super) fn of_list(&self, plan: &Sample, limit: usize) -> Result<Option<Sample>> {
        if self.start.is_some() || self.end.is_some() {
            let error = Error::invalid("frames of a list are chosen by index").with_hint("leave the other frames out");
            return Err(error.about(RANGE));
        }
        let own = Self { fps: None, ..*self };
        match (self.num_frames.or(self.max_frames), self.do_sample_frames) {
            (Some(_), _) => Ok(Some(Sample::uniform(own.count(limit)?.unwrap_or(limit)))),
            (None, Some(true)) => Ok(Some(own.rule(plan, limit)?)),
            (None, Some(false) | None) => Ok(None),
        }
    }

    fn rule(&self, plan: &Sample, limit: usize) -> Result<Sample> {
        let count = self.count(limit)?;
        if let Some(fps) = self.fps {
            return self.at_rate(fps, count.unwrap_or(limit));
        }
        if self.min_frames.is_some() {
            return Err(Error::invalid("it bounds a rate, and none is given").with_hint("fps").about("min_frames"));
        }
        match (self.num_frames, self.max_frames, self.do_sample_frames) {
            (Some(_), ..) => Ok(with_count(plan, count.unwrap_or(limit))),
            (None, _, Some(false)) => Ok(Sample::All),
            (None, Some(max), _) => Ok(at_most(plan, max)),
            (None, None, _) => Ok(plan.clone()),
        }
    }

    /// Returns the number of frames at most: the smaller of `num_frames` and `max_frames`.
    fn count(&self, limit: usize) -> Result<Option<usize>> {
        for (name, count) in
            [("num_frames", self.num_frames), ("max_frames", self.max_frames), ("min_frames", self.min_frames)]
        {
            let is_least = name == "min_frames";
            match count {
                Some(0) if !is_least => {
                    let error = Error::invalid("invalid number of frames 0").with_hint(format!("from 1 to {limit}"));
                    return Err(error.about(name));
                }
                Some(n) if n > limit => {
                    return Err(Error::invalid(format!("{n} frames, over the limit of {limit}")).about(name));
                }
                _ => {}
            }
        }
        Ok(match (self.num_frames, self.max_frames) {
            (Some(n), Some(max)) => Some(n.min(max)),
            (n, max) => n.or(max),
        })
    }

    fn at_rate(&self, fps: f64, max: usize) -> Result<Sample> {
        let min = self.min_frames.unwrap_or(1);
        if min > max {
            return Err(Error::invalid(format!("{min} frames at least, and {max} at most")).about("min_frames"));
        }
        let rule = Sample::Fps(FpsSampling { fps, min, max, ..FpsSampling::default() });
        rule.check().map_err(|error| error.about("fps"))?;
        Ok(rule)
    }

    fn window(&self, plan: Window) -> Result<Window> {
        if self.start.is_none() && self.end.is_none() {
            return Ok(plan);
        }
        let is_time = |time: Option<Seconds>| time.is_none_or(|Seconds(time)| time.is_finite());
        let window = Window { start: self.start, end: self.end };
        let is_empty = matches!((self.start, self.end), (Some(start), Some(end)) if end <= start);
        if is_empty || !is_time(self.start) || !is_time(self.end) {
            return Err(Error::invalid(format!("no frame is in {window}")).about(RANGE));
        }
        Ok(window)
    }
}

/// Returns the plan's rule with `n` frames, or `uniform` where the rule has no fixed number.
fn with_count(plan: &Sample, n: usize) -> Sample {
    let uniform = || Sample::Uniform(UniformSampling { frames: n, ..UniformSampling::default() });
    match plan {
        Sample::Fps(_) | Sample::SmolVlm(_) | Sample::Every(_) | Sample::Keyframes(_) => uniform(),
        rule => rule.clone().with_frames(n).unwrap_or_else(|_| uniform()),
    }
}

/// Returns the plan's rule with at most `max` frames.
fn at_most(plan: &Sample, max: usize) -> Sample {
    match plan {
        Sample::Times(_) | Sample::All => with_count(plan, max),
        Sample::Fps(rule) => Sample::Fps(FpsSampling { max: rule.max.min(max), min: rule.min.min(max), ..*rule }),
        rule => {
            let own = fixed_count(rule).unwrap_or(max);
            rule.clone().with_frames(own.min(max)).unwrap_or_else(|_| with_count(rule, max))
        }
    }
}

/// Returns the number of frames of a rule, or its maximum.
fn fixed_count(rule: &Sample) -> Option<usize> {
    match rule {
        Sample::Uniform(rule) => Some(rule.frames),
        Sample::Linspace(rule) => Some(rule.frames),
        Sample::Scene(rule) => Some(rule.frames),
        Sample::IgVlm(rule) => Some(rule.frames),
        Sample::OneVision(rule) => Some(rule.frames),
        Sample::LlavaVideo(rule) => Some(rule.frames),
        Sample::InternVl(rule) => Some(rule.frames),
        Sample::VideoChat2(rule) => Some(rule.frames),
        Sample::Checkpoint(rule) => Some(rule.uniform().frames),
        Sample::Fps(rule) => Some(rule.max),
        Sample::Every(rule) => Some(rule.max),
        Sample::Keyframes(rule) => Some(rule.max),
        Sample::SmolVlm(rule) => Some(rule.max),
        Sample::Times(_) | Sample::All => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 100;

    fn plan(sample: Sample) -> FrameRequest {
        FrameRequest { stream: Some(1), ..FrameRequest::new(sample, Window::default()) }
    }

    fn rule(options: FrameOptions, sample: Sample) -> String {
        options.of_file(&plan(sample), LIMIT).expect("valid").sample.to_string()
    }

    #[test]
    fn a_request_replaces_the_rule_of_the_plan() {
        let none = FrameOptions::default();
        let own = Sample::uniform(8);
        let fps: Sample = "fps:fps=2,max=16".parse().expect("a rule");
        assert_eq!(none.of_file(&plan(own.clone()), LIMIT).expect("valid"), plan(own.clone()));
        let n = FrameOptions { num_frames: Some(4), ..none };
        assert_eq!(rule(n, own.clone()), Sample::uniform(4).to_string());
        // The plan's rate does not bound the number of frames that is asked for.
        assert_eq!(rule(n, fps.clone()), Sample::uniform(4).to_string());
        assert_eq!(rule(n, "linspace:frames=8".parse().expect("a rule")), "linspace:frames=4,short=fewer");
        assert_eq!(rule(n, Sample::All), Sample::uniform(4).to_string());
        let rate = FrameOptions { fps: Some(0.5), ..none };
        assert_eq!(rule(rate, own.clone()), "fps:fps=0.5,min=1,max=100,short=fewer");
        let both = FrameOptions { num_frames: Some(32), min_frames: Some(4), ..rate };
        assert_eq!(rule(both, own.clone()), "fps:fps=0.5,min=4,max=32,short=fewer");
        let bounded = FrameOptions { max_frames: Some(6), ..none };
        assert_eq!(rule(bounded, own.clone()), Sample::uniform(6).to_string());
        assert_eq!(rule(bounded, Sample::uniform(4)), Sample::uniform(4).to_string());
        assert_eq!(rule(bounded, fps), "fps:fps=2.0,min=1,max=6,short=fewer");
        let every = FrameOptions { do_sample_frames: Some(false), ..none };
        assert_eq!(every.of_file(&plan(own.clone()), LIMIT).expect("valid").sample, Sample::All);
        assert_eq!(rule(FrameOptions { num_frames: Some(4), ..every }, own), Sample::uniform(4).to_string());
    }

    #[test]
    fn a_part_of_the_video_replaces_that_of_the_plan() {
        let options = FrameOptions { start: Some(Seconds(1.0)), ..FrameOptions::default() };
        let request = options.of_file(&plan(Sample::All), LIMIT).expect("valid");
        assert_eq!((request.window, request.stream), (Window { start: Some(Seconds(1.0)), end: None }, Some(1)));
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        let none = FrameOptions::default();
        for (options, expected) in [
            (
                FrameOptions { num_frames: Some(0), ..none },
                "num_frames: invalid number of frames 0; hint: from 1 to 100",
            ),
            (FrameOptions { num_frames: Some(101), ..none }, "num_frames: 101 frames, over the limit of 100"),
            (FrameOptions { max_frames: Some(101), ..none }, "max_frames: 101 frames, over the limit of 100"),
            (
                FrameOptions { fps: Some(-2.0), ..none },
                "fps: invalid rate of -2 frames a second; hint: a number above 0",
            ),
            (
                FrameOptions { min_frames: Some(2), ..none },
                "min_frames: it bounds a rate, and none is given; hint: fps",
            ),
            (
                FrameOptions { fps: Some(1.0), min_frames: Some(9), max_frames: Some(8), ..none },
                "min_frames: 9 frames at least, and 8 at most",
            ),
            (
                FrameOptions { start: Some(Seconds(2.0)), end: Some(Seconds(2.0)), ..none },
                "start, end: no frame is in 0:02.000 - 0:02.000",
            ),
            (FrameOptions { end: Some(Seconds(f64::NAN)), ..none }, "start, end: no frame is in beginning - NaN s"),
        ] {
            let error = options.of_file(&plan(Sample::uniform(8)), LIMIT).expect_err(expected).to_string();
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn a_list_is_taken_whole_unless_the_request_says_otherwise() {
        let none = FrameOptions::default();
        let plan = Sample::uniform(8);
        assert_eq!(none.of_list(&plan, LIMIT).expect("valid"), None);
        assert_eq!(FrameOptions { fps: Some(2.0), ..none }.of_list(&plan, LIMIT).expect("valid"), None);
        let n = FrameOptions { num_frames: Some(4), max_frames: Some(3), ..none };
        assert_eq!(n.of_list(&plan, LIMIT).expect("valid"), Some(Sample::uniform(3)));
        let sampled = FrameOptions { do_sample_frames: Some(true), ..none };
        assert_eq!(sampled.of_list(&plan, LIMIT).expect("valid"), Some(plan.clone()));
        let part = FrameOptions { end: Some(Seconds(2.0)), ..none };
        assert_eq!(
            part.of_list(&plan, LIMIT).expect_err("no times").to_string(),
            "start, end: frames of a list are chosen by index; hint: leave the other frames out"
        );
    }
}
