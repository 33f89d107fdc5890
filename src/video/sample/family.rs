//! Sampling rules of the model families' own processors (transformers 5.24, LLaVA-NeXT's code), bit-identical in their
//! roundings, and the rule that stands for the checkpoint's own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::timeline::Timeline;
use super::{SamplingRule, UniformSampling, check_frames, check_rate};
use crate::error::{Error, Result};

/// `smolvlm` (`SmolVLMVideoProcessor.sample_frames`): `n = max(1, min(round(fps duration), max))` frames at equal
/// distances from the first to the last, each index rounded down. Of a video longer than `max fps + 2 skip` seconds the
/// first and the last `skip` seconds are left out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SmolVlmSampling {
    /// Frames per second. Default: `1`.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub fps: f64,
    /// Number of frames at most. Default: `64`.
    #[schemars(range(min = 1, max = 100_000))]
    pub max: usize,
    /// Seconds left out at both ends of a long video. Default: `1`.
    #[schemars(range(min = 0.0))]
    pub skip: f64,
}

impl Default for SmolVlmSampling {
    fn default() -> Self {
        Self { fps: 1.0, max: 64, skip: 1.0 }
    }
}

impl SamplingRule for SmolVlmSampling {
    fn indices(&self, timeline: &Timeline) -> Result<Vec<usize>> {
        let (total, duration) = (timeline.len(), timeline.duration()?);
        let rate = total as f64 / duration;
        let n = ((self.fps * duration).round_ties_even() as usize).min(self.max).max(1);
        let (mut start, mut end) = (0.0, (total - 1) as f64);
        if self.skip > 0.0 && duration - 2.0 * self.skip > self.max as f64 * self.fps {
            start = (self.skip * rate).floor();
            end = (total as f64 - self.skip * rate).floor().min(end);
            if start >= end {
                (start, end) = (0.0, (total - 1) as f64);
            }
        }
        let step = (end - start) / n.saturating_sub(1).max(1) as f64;
        let index = |i: usize| if i > 0 && i + 1 == n { end as usize } else { (start + step * i as f64) as usize };
        let mut indices: Vec<usize> = (0..n).map(index).collect();
        indices.dedup();
        Ok(indices)
    }

    fn check(&self) -> Result<()> {
        check_rate(self.fps)?;
        if !(self.skip.is_finite() && self.skip >= 0.0) {
            return Err(Error::invalid(format!("invalid skip of {} s", self.skip)).with_hint("0 or more seconds"));
        }
        check_frames(self.max)
    }
}

/// `one_vision` (`BaseVideoProcessor.sample_frames`, LLaVA-OneVision): index `i total / frames`, rounded down. Of a
/// video of fewer frames, every frame is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OneVisionSampling {
    /// Number of frames. Default: `32`, the number of the training.
    #[schemars(range(min = 1, max = 100_000))]
    pub frames: usize,
}

impl Default for OneVisionSampling {
    fn default() -> Self {
        Self { frames: 32 }
    }
}

impl SamplingRule for OneVisionSampling {
    fn indices(&self, timeline: &Timeline) -> Result<Vec<usize>> {
        let total = timeline.len();
        let n = self.frames.min(total);
        Ok((0..n).map(|i| i * total / n).collect())
    }

    fn check(&self) -> Result<()> {
        check_frames(self.frames)
    }
}

/// `llava_video` (LLaVA-NeXT's code for OneVision and LLaVA-Video): `linspace(0, total - 1, frames)`, rounded down. Of
/// a video of fewer frames, every frame is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LlavaVideoSampling {
    /// Number of frames. Default: `32`.
    #[schemars(range(min = 1, max = 100_000))]
    pub frames: usize,
}

impl Default for LlavaVideoSampling {
    fn default() -> Self {
        Self { frames: 32 }
    }
}

impl SamplingRule for LlavaVideoSampling {
    fn indices(&self, timeline: &Timeline) -> Result<Vec<usize>> {
        let total = timeline.len();
        let n = self.frames.min(total);
        let step = (total - 1) as f64 / (n - 1).max(1) as f64;
        Ok((0..n).map(|i| if i > 0 && i + 1 == n { total - 1 } else { (step * i as f64) as usize }).collect())
    }

    fn check(&self) -> Result<()> {
        check_frames(self.frames)
    }
}

/// `internvl` (`InternVLVideoProcessor.sample_frames`): the middle of each of `frames` equal parts, rounded down. Of a
/// video of fewer frames, every frame is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InternVlSampling {
    /// Number of frames. Default: `8`.
    #[schemars(range(min = 1, max = 100_000))]
    pub frames: usize,
}

impl Default for InternVlSampling {
    fn default() -> Self {
        Self { frames: 8 }
    }
}

impl SamplingRule for InternVlSampling {
    fn indices(&self, timeline: &Timeline) -> Result<Vec<usize>> {
        let total = timeline.len();
        let n = self.frames.min(total);
        // (2 i + 1) total / (2 n) without rounding on the way.
        Ok((0..n).map(|i| (2 * i + 1) * total / (2 * n)).collect())
    }

    fn check(&self) -> Result<()> {
        check_frames(self.frames)
    }
}

/// `video_chat2` (`get_index` of VideoChat2's evaluation of MVBench): with `s = (total - 1) / frames`, index
/// `int(s / 2 + round(s i))`, half to even. An index occurs several times in a video of fewer frames, as in the
/// reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VideoChat2Sampling {
    /// Number of frames. Default: `16`, the number of the reference.
    #[schemars(range(min = 1, max = 100_000))]
    pub frames: usize,
}

impl Default for VideoChat2Sampling {
    fn default() -> Self {
        Self { frames: 16 }
    }
}

impl SamplingRule for VideoChat2Sampling {
    fn indices(&self, timeline: &Timeline) -> Result<Vec<usize>> {
        let step = (timeline.len() - 1) as f64 / self.frames as f64;
        Ok((0..self.frames).map(|i| (step / 2.0 + (step * i as f64).round_ties_even()) as usize).collect())
    }

    fn check(&self) -> Result<()> {
        check_frames(self.frames)
    }
}

/// `checkpoint`: the rule of the checkpoint's own family, or `uniform` of a family without a rule. A plan is resolved
/// to the rule itself once its model is known; until then this rule equals `uniform`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointFrameSampling {
    /// Number of frames; the maximum of a rule by seconds. Default: the rule's own number.
    #[schemars(range(min = 1, max = 100_000))]
    pub frames: Option<usize>,
}

impl CheckpointFrameSampling {
    /// Returns `uniform` with this number of frames.
    pub fn uniform(self) -> UniformSampling {
        let default = UniformSampling::default();
        UniformSampling { frames: self.frames.unwrap_or(default.frames), ..default }
    }
}

impl SamplingRule for CheckpointFrameSampling {
    fn indices(&self, timeline: &Timeline) -> Result<Vec<usize>> {
        self.uniform().indices(timeline)
    }

    fn check(&self) -> Result<()> {
        self.uniform().check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Seconds;
    use crate::video::sample::FrameFact;

    fn timeline(total: usize, rate: f64) -> Timeline {
        let fact = |i: usize| FrameFact { time: Some(Seconds(i as f64 / rate)), is_key: true };
        Timeline { frames: (0..total).map(fact).collect(), ..Timeline::default() }
    }

    /// Expects the results of transformers 5.24's `sample_frames` with these metadata.
    #[test]
    fn families_sample_as_their_processors_do() {
        let smolvlm = |total, rate, max| {
            SmolVlmSampling { max, ..SmolVlmSampling::default() }.indices(&timeline(total, rate)).expect("it has times")
        };
        // round(8.5) = 8, half to even.
        assert_eq!(smolvlm(68, 8.0, 64), [0, 9, 19, 28, 38, 47, 57, 67]);
        // 20 s - 2 s > 8 frames at 1 a second: from int(8) to int(160 - 8).
        assert_eq!(smolvlm(160, 8.0, 8), [8, 28, 49, 69, 90, 110, 131, 152]);
        assert_eq!(smolvlm(2, 8.0, 64), [0]);
        // Fewer frames than the rule asks for: each once.
        assert_eq!(
            SmolVlmSampling { fps: 16.0, ..SmolVlmSampling::default() }
                .indices(&timeline(3, 1.0))
                .expect("it has times"),
            [0, 1, 2]
        );
        let one_vision =
            |total, frames| OneVisionSampling { frames }.indices(&timeline(total, 8.0)).expect("it counts");
        assert_eq!(one_vision(60, 6), [0, 10, 20, 30, 40, 50]);
        assert_eq!((one_vision(10, 4), one_vision(3, 8)), (vec![0, 2, 5, 7], vec![0, 1, 2]));
        let llava_video =
            |total, frames| LlavaVideoSampling { frames }.indices(&timeline(total, 8.0)).expect("it counts");
        assert_eq!(llava_video(60, 7), [0, 9, 19, 29, 39, 49, 59]);
        assert_eq!((llava_video(9, 1), llava_video(2, 8)), (vec![0], vec![0, 1]));
        let internvl = |total, frames| InternVlSampling { frames }.indices(&timeline(total, 8.0)).expect("it counts");
        assert_eq!(internvl(60, 5), [6, 18, 30, 42, 54]);
        assert_eq!((internvl(10, 4), internvl(2, 8)), (vec![1, 3, 6, 8], vec![0, 1]));
    }

    /// Expects the results of `get_index` without a bound, with numpy 2.
    #[test]
    fn video_chat2_samples_as_its_notebook_does() {
        let indices =
            |total, frames| VideoChat2Sampling { frames }.indices(&Timeline::of_count(total)).expect("counts");
        assert_eq!(indices(60, 8), [3, 10, 18, 25, 33, 40, 47, 55]);
        assert_eq!(indices(61, 16), [1, 5, 9, 12, 16, 20, 23, 27, 31, 35, 39, 42, 46, 50, 53, 57]);
        assert_eq!((indices(10, 4), indices(1, 4)), (vec![1, 3, 5, 8], vec![0; 4]));
        assert_eq!(indices(3, 8), [0, 0, 0, 1, 1, 1, 2, 2]);
    }

    #[test]
    fn frames_without_times_are_taken_as_24_a_second() {
        let indices = SmolVlmSampling::default().indices(&Timeline::of_count(72)).expect("it is assumed");
        assert_eq!(indices, [0, 35, 71]);
    }
}
