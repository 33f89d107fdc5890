//! The rules that go by count, by time, or by what the codec says.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::short::Short;
use super::timeline::{Timeline, shown_at};
use super::{Rule, at_most, check_bounds, check_frames};
use crate::units::linspace;

/// `uniform` (FreeVA, arXiv 2405.07798, and the released Dense Connector code): with `n = min(total, frames)` and
/// `s = (total - 1) / n`, place `i` is `(r(s i) + r(s (i + 1))) / 2` in integer division, where `r` rounds half to
/// even. A place may come twice in a very short video; so it does in the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Uniform {
    /// Frames wanted. Default: `8`. More see more, and cost visual tokens in proportion.
    #[schemars(range(min = 1, max = 100_000))]
    pub frames: usize,
    /// For a video of fewer frames. Default: `fewer`.
    pub short: Short,
}

impl Default for Uniform {
    fn default() -> Self {
        Self { frames: 8, short: Short::Fewer }
    }
}

impl Rule for Uniform {
    fn places(&self, timeline: &Timeline) -> Result<Vec<usize>, String> {
        let total = timeline.len();
        let n = total.min(self.frames);
        let step = (total - 1) as f64 / n as f64;
        let bound = |i: usize| (step * i as f64).round_ties_even() as usize;
        let places = (0..n).map(|i| usize::midpoint(bound(i), bound(i + 1))).collect();
        self.short.fill(places, self.frames)
    }

    fn check(&self) -> Result<(), String> {
        check_frames(self.frames)
    }
}

/// `linspace`: `round(linspace(0, total - 1, frames))`, half to even.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Linspace {
    /// Frames wanted. Default: `8`.
    #[schemars(range(min = 1, max = 100_000))]
    pub frames: usize,
    /// For a video of fewer frames. Default: `fewer`.
    pub short: Short,
}

impl Default for Linspace {
    fn default() -> Self {
        Self { frames: 8, short: Short::Fewer }
    }
}

impl Rule for Linspace {
    fn places(&self, timeline: &Timeline) -> Result<Vec<usize>, String> {
        let total = timeline.len();
        self.short.fill(linspace(total, self.frames.min(total)), self.frames)
    }

    fn check(&self) -> Result<(), String> {
        check_frames(self.frames)
    }
}

/// `fps`: the frames shown at the first frame's time and every `1 / fps` seconds after it, to the last frame's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Fps {
    /// Frames a second. Default: `1`.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub fps: f64,
    /// A video that would give fewer gives so many, spread as `linspace` does. Default: `1`.
    #[schemars(range(max = 100_000))]
    pub min: usize,
    /// Of more, so many are taken at equal distances. Default: `64`.
    #[schemars(range(min = 1, max = 100_000))]
    pub max: usize,
    /// For a video of fewer frames than `min`. Default: `fewer`.
    pub short: Short,
}

impl Default for Fps {
    fn default() -> Self {
        Self { fps: 1.0, min: 1, max: 64, short: Short::Fewer }
    }
}

impl Rule for Fps {
    fn places(&self, timeline: &Timeline) -> Result<Vec<usize>, String> {
        let times = timeline.times()?;
        // Ticks come every 1 / fps seconds from the first frame on. A frame is taken if one falls between its beginning
        // and that of the next; the last one if one falls on it.
        const SLACK: f64 = 1e-6;
        let tick_before = |time: f64| ((time - times[0]) * self.fps - SLACK).floor();
        let is_taken = |&i: &usize| {
            let next = times.get(i + 1).copied().unwrap_or(times[i] + 2.0 * SLACK / self.fps);
            i == 0 || tick_before(next) > tick_before(times[i])
        };
        let mut places: Vec<usize> = (0..times.len()).filter(is_taken).collect();
        if places.len() < self.min {
            places = linspace(times.len(), self.min.min(times.len()));
        }
        self.short.fill(at_most(places, self.max), self.min)
    }

    fn check(&self) -> Result<(), String> {
        if !(self.fps.is_finite() && self.fps > 0.0) {
            return Err(format!("takes {} frames a second; hint: a number above 0", self.fps));
        }
        check_bounds(self.min, self.max)
    }
}

/// `every`: frames 0, n, 2 n and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Every {
    /// From one to the next. Default: `30`.
    #[schemars(range(min = 1))]
    pub n: usize,
    /// A video that would give fewer is treated as `short` says. Default: `1`.
    #[schemars(range(max = 100_000))]
    pub min: usize,
    /// Of more, so many are taken at equal distances. Default: `64`.
    #[schemars(range(min = 1, max = 100_000))]
    pub max: usize,
    /// For a video that gives fewer than `min`. Default: `fewer`.
    pub short: Short,
}

impl Default for Every {
    fn default() -> Self {
        Self { n: 30, min: 1, max: 64, short: Short::Fewer }
    }
}

impl Rule for Every {
    fn places(&self, timeline: &Timeline) -> Result<Vec<usize>, String> {
        let places = (0..timeline.len()).step_by(self.n.max(1)).collect();
        self.short.fill(at_most(places, self.max), self.min)
    }

    fn check(&self) -> Result<(), String> {
        if self.n == 0 {
            return Err("takes every 0th frame; hint: n from 1".to_owned());
        }
        check_bounds(self.min, self.max)
    }
}

/// `keyframes`: the frames that the codec stores whole. In a directory of images that is each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Keyframes {
    /// A video that has fewer is treated as `short` says. Default: `1`.
    #[schemars(range(max = 100_000))]
    pub min: usize,
    /// Of more, so many are taken at equal distances. Default: `32`.
    #[schemars(range(min = 1, max = 100_000))]
    pub max: usize,
    /// For a video of fewer keyframes than `min`. Default: `fewer`.
    pub short: Short,
}

impl Default for Keyframes {
    fn default() -> Self {
        Self { min: 1, max: 32, short: Short::Fewer }
    }
}

impl Rule for Keyframes {
    fn places(&self, timeline: &Timeline) -> Result<Vec<usize>, String> {
        let mut places: Vec<usize> = (0..timeline.len()).filter(|&i| timeline.frames[i].is_key).collect();
        if places.is_empty() {
            // Some streams refresh bit by bit and mark no frame.
            places.push(0);
        }
        self.short.fill(at_most(places, self.max), self.min)
    }

    fn check(&self) -> Result<(), String> {
        check_bounds(self.min, self.max)
    }
}

/// `times`: the frames shown at these times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Times {
    /// In seconds, on the stream's clock. Default: `[0]`.
    #[schemars(length(min = 1))]
    pub times: Vec<f64>,
    /// For times after the last frame: they are left out, or take the last frame, or the video is refused. Default:
    /// `fewer`.
    pub short: Short,
}

impl Default for Times {
    fn default() -> Self {
        Self { times: vec![0.0], short: Short::Fewer }
    }
}

impl Rule for Times {
    fn places(&self, timeline: &Timeline) -> Result<Vec<usize>, String> {
        let times = timeline.times()?;
        let mut wanted = self.times.clone();
        wanted.sort_by(f64::total_cmp);
        // The last frame is shown as long as the one before it was.
        let n = times.len();
        let shown = if n > 1 { times[n - 1] - times[n - 2] } else { f64::INFINITY };
        let end = times[n - 1] + shown;
        let within: Vec<usize> =
            wanted.iter().filter(|&&time| time < end).map(|&time| shown_at(&times, time)).collect();
        if within.is_empty() && self.short != Short::RepeatLast {
            return Err(format!("names no time before the end of the video, {end:.3} s"));
        }
        let filled = if within.is_empty() { vec![n - 1] } else { within };
        let last = Short::RepeatLast == self.short && filled.len() < wanted.len();
        let filled = if last { filled.into_iter().chain([n - 1]).take(wanted.len()).collect() } else { filled };
        self.short.fill(filled, wanted.len())
    }

    fn check(&self) -> Result<(), String> {
        if self.times.is_empty() {
            return Err("names no time; hint: times: [0, 1.5]".to_owned());
        }
        match self.times.iter().find(|time| !time.is_finite()) {
            Some(time) => Err(format!("names the time {time}; hint: seconds")),
            None => Ok(()),
        }
    }
}

/// `ig_vlm` (imagegridworth/IG-VLM): places 0, k, 2 k, ... with `k = total / frames` in integer division.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IgVlm {
    /// Frames wanted. Default: `6`.
    #[schemars(range(min = 1, max = 100_000))]
    pub frames: usize,
    /// For a video of fewer frames. Default: `repeat_last`.
    pub short: Short,
}

impl Default for IgVlm {
    fn default() -> Self {
        Self { frames: 6, short: Short::RepeatLast }
    }
}

impl Rule for IgVlm {
    fn places(&self, timeline: &Timeline) -> Result<Vec<usize>, String> {
        let n = self.frames.min(timeline.len());
        let step = timeline.len() / n.max(1);
        self.short.fill((0..n).map(|i| i * step).collect(), self.frames)
    }

    fn check(&self) -> Result<(), String> {
        check_frames(self.frames)
    }
}

/// `all`.
pub(super) struct All;

impl Rule for All {
    fn places(&self, timeline: &Timeline) -> Result<Vec<usize>, String> {
        Ok((0..timeline.len()).collect())
    }

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}
