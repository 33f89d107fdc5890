//! Sampling rules by count, by time, or by the codec's keyframes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::short::ShortVideoPolicy;
use super::timeline::{Timeline, shown_at};
use super::{SamplingRule, at_most, check_bounds, check_frames, check_rate};
use crate::error::{Error, Result};
use crate::units::linspace;

/// `uniform` (FreeVA, arXiv 2405.07798, and the released Dense Connector code): with `n = min(total, frames)` and
/// `s = (total - 1) / n`, the `i`-th index is `(r(s i) + r(s (i + 1))) / 2` in integer division, where `r` rounds
/// half to even. An index may occur twice in a very short video, as in the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UniformSampling {
    /// Number of frames. Default: `8`. More frames show more, and cost visual tokens in proportion.
    #[schemars(range(min = 1, max = 100_000))]
    pub frames: usize,
    /// Policy for a video of fewer frames. Default: `fewer`.
    pub short: ShortVideoPolicy,
}

impl Default for UniformSampling {
    fn default() -> Self {
        Self { frames: 8, short: ShortVideoPolicy::Fewer }
    }
}

impl SamplingRule for UniformSampling {
    fn indices(&self, timeline: &Timeline) -> Result<Vec<usize>> {
        let total = timeline.len();
        let n = total.min(self.frames);
        let step = (total - 1) as f64 / n as f64;
        let bound = |i: usize| (step * i as f64).round_ties_even() as usize;
        let indices = (0..n).map(|i| usize::midpoint(bound(i), bound(i + 1))).collect();
        self.short.fill(indices, self.frames)
    }

    fn check(&self) -> Result<()> {
        check_frames(self.frames)
    }
}

/// `linspace`: `round(linspace(0, total - 1, frames))`, half to even.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LinspaceSampling {
    /// Number of frames. Default: `8`.
    #[schemars(range(min = 1, max = 100_000))]
    pub frames: usize,
    /// Policy for a video of fewer frames. Default: `fewer`.
    pub short: ShortVideoPolicy,
}

impl Default for LinspaceSampling {
    fn default() -> Self {
        Self { frames: 8, short: ShortVideoPolicy::Fewer }
    }
}

impl SamplingRule for LinspaceSampling {
    fn indices(&self, timeline: &Timeline) -> Result<Vec<usize>> {
        let total = timeline.len();
        self.short.fill(linspace(total, self.frames.min(total)), self.frames)
    }

    fn check(&self) -> Result<()> {
        check_frames(self.frames)
    }
}

/// `fps`: the frames shown at the first frame's time and every `1 / fps` seconds after it, to the last frame's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FpsSampling {
    /// Frames per second. Default: `1`.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub fps: f64,
    /// Number of frames at least: a video that would give fewer is sampled by `linspace` instead. Default: `1`.
    #[schemars(range(max = 100_000))]
    pub min: usize,
    /// Number of frames at most; of more frames, `max` are taken at equal distances. Default: `64`.
    #[schemars(range(min = 1, max = 100_000))]
    pub max: usize,
    /// Policy for a video of fewer frames than `min`. Default: `fewer`.
    pub short: ShortVideoPolicy,
}

impl Default for FpsSampling {
    fn default() -> Self {
        Self { fps: 1.0, min: 1, max: 64, short: ShortVideoPolicy::Fewer }
    }
}

impl SamplingRule for FpsSampling {
    fn indices(&self, timeline: &Timeline) -> Result<Vec<usize>> {
        let times = timeline.times()?;
        // Ticks come every 1 / fps seconds from the first frame on. A frame is taken if a tick falls between its
        // beginning and that of the next frame; the last frame if a tick falls on its beginning.
        const SLACK: f64 = 1e-6;
        let tick_before = |time: f64| ((time - times[0]) * self.fps - SLACK).floor();
        let is_taken = |&i: &usize| {
            let next = times.get(i + 1).copied().unwrap_or(times[i] + 2.0 * SLACK / self.fps);
            i == 0 || tick_before(next) > tick_before(times[i])
        };
        let mut indices: Vec<usize> = (0..times.len()).filter(is_taken).collect();
        if indices.len() < self.min {
            indices = linspace(times.len(), self.min.min(times.len()));
        }
        self.short.fill(at_most(indices, self.max), self.min)
    }

    fn check(&self) -> Result<()> {
        check_rate(self.fps)?;
        check_bounds(self.min, self.max)
    }
}

/// `every`: frames 0, n, 2 n and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EverySampling {
    /// Frames from a chosen frame to the next. Default: `30`.
    #[schemars(range(min = 1))]
    pub n: usize,
    /// Number of frames at least; `short` applies below. Default: `1`.
    #[schemars(range(max = 100_000))]
    pub min: usize,
    /// Number of frames at most; of more frames, `max` are taken at equal distances. Default: `64`.
    #[schemars(range(min = 1, max = 100_000))]
    pub max: usize,
    /// Policy for a video that gives fewer frames than `min`. Default: `fewer`.
    pub short: ShortVideoPolicy,
}

impl Default for EverySampling {
    fn default() -> Self {
        Self { n: 30, min: 1, max: 64, short: ShortVideoPolicy::Fewer }
    }
}

impl SamplingRule for EverySampling {
    fn indices(&self, timeline: &Timeline) -> Result<Vec<usize>> {
        let indices = (0..timeline.len()).step_by(self.n.max(1)).collect();
        self.short.fill(at_most(indices, self.max), self.min)
    }

    fn check(&self) -> Result<()> {
        if self.n == 0 {
            return Err(Error::invalid("invalid distance of 0 frames").with_hint("n from 1"));
        }
        check_bounds(self.min, self.max)
    }
}

/// `keyframes`: the frames that the codec stores whole. In a directory of images every frame is a keyframe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeyframesSampling {
    /// Number of keyframes at least; `short` applies below. Default: `1`.
    #[schemars(range(max = 100_000))]
    pub min: usize,
    /// Number of frames at most; of more frames, `max` are taken at equal distances. Default: `32`.
    #[schemars(range(min = 1, max = 100_000))]
    pub max: usize,
    /// Policy for a video of fewer keyframes than `min`. Default: `fewer`.
    pub short: ShortVideoPolicy,
}

impl Default for KeyframesSampling {
    fn default() -> Self {
        Self { min: 1, max: 32, short: ShortVideoPolicy::Fewer }
    }
}

impl SamplingRule for KeyframesSampling {
    fn indices(&self, timeline: &Timeline) -> Result<Vec<usize>> {
        let mut indices: Vec<usize> = (0..timeline.len()).filter(|&i| timeline.frames[i].is_key).collect();
        if indices.is_empty() {
            // Streams with gradual refresh mark no frame.
            indices.push(0);
        }
        self.short.fill(at_most(indices, self.max), self.min)
    }

    fn check(&self) -> Result<()> {
        check_bounds(self.min, self.max)
    }
}

/// `times`: the frames shown at these times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TimesSampling {
    /// Times in seconds, on the stream's clock. Default: `[0]`.
    #[schemars(length(min = 1))]
    pub times: Vec<f64>,
    /// Policy for times after the last frame: they are left out, or take the last frame, or the video is refused.
    /// Default: `fewer`.
    pub short: ShortVideoPolicy,
}

impl Default for TimesSampling {
    fn default() -> Self {
        Self { times: vec![0.0], short: ShortVideoPolicy::Fewer }
    }
}

impl SamplingRule for TimesSampling {
    fn indices(&self, timeline: &Timeline) -> Result<Vec<usize>> {
        let times = timeline.times()?;
        let mut wanted = self.times.clone();
        wanted.sort_by(f64::total_cmp);
        // The last frame is taken to be shown as long as the frame before it.
        let n = times.len();
        let shown = if n > 1 { times[n - 1] - times[n - 2] } else { f64::INFINITY };
        let end = times[n - 1] + shown;
        let within: Vec<usize> =
            wanted.iter().filter(|&&time| time < end).map(|&time| shown_at(&times, time)).collect();
        if within.is_empty() && self.short != ShortVideoPolicy::RepeatLast {
            return Err(Error::invalid(format!("no time before the end of the video, {end:.3} s")));
        }
        let filled = if within.is_empty() { vec![n - 1] } else { within };
        let last = ShortVideoPolicy::RepeatLast == self.short && filled.len() < wanted.len();
        let filled = if last { filled.into_iter().chain([n - 1]).take(wanted.len()).collect() } else { filled };
        self.short.fill(filled, wanted.len())
    }

    fn check(&self) -> Result<()> {
        if self.times.is_empty() {
            return Err(Error::invalid("no times").with_hint("times: [0, 1.5]"));
        }
        match self.times.iter().find(|time| !time.is_finite()) {
            Some(time) => Err(Error::invalid(format!("invalid time {time}")).with_hint("seconds")),
            None => Ok(()),
        }
    }
}

/// `ig_vlm` (imagegridworth/IG-VLM): indices 0, k, 2 k, ... with `k = total / frames` in integer division.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IgVlmSampling {
    /// Number of frames. Default: `6`.
    #[schemars(range(min = 1, max = 100_000))]
    pub frames: usize,
    /// Policy for a video of fewer frames. Default: `repeat_last`.
    pub short: ShortVideoPolicy,
}

impl Default for IgVlmSampling {
    fn default() -> Self {
        Self { frames: 6, short: ShortVideoPolicy::RepeatLast }
    }
}

impl SamplingRule for IgVlmSampling {
    fn indices(&self, timeline: &Timeline) -> Result<Vec<usize>> {
        let n = self.frames.min(timeline.len());
        let step = timeline.len() / n.max(1);
        self.short.fill((0..n).map(|i| i * step).collect(), self.frames)
    }

    fn check(&self) -> Result<()> {
        check_frames(self.frames)
    }
}

/// `all`: every frame.
pub(super) struct AllSampling;

impl SamplingRule for AllSampling {
    fn indices(&self, timeline: &Timeline) -> Result<Vec<usize>> {
        Ok((0..timeline.len()).collect())
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }
}
