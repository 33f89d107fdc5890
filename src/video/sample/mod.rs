//! Frame sampling: arithmetic on a video's timeline, without decoding.
//!
//! The reader passes the [`Timeline`] of the window; [`Sample::select`] returns indices into the timeline. Only `scene`
//! needs decoded frames, as distances of their histograms. Each rule is a struct of options with its formula and
//! source.

mod family;
mod rules;
mod scene;
mod short;
#[cfg(test)]
mod tests;
mod timeline;

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::choice;
use crate::error::{About, Error, Kind, Result};
use crate::units::linspace;

pub use family::CheckpointFrameSampling;
pub(crate) use family::{InternVlSampling, LlavaVideoSampling, OneVisionSampling, SmolVlmSampling, VideoChat2Sampling};
pub use rules::TimesSampling;
pub(crate) use rules::{
    EverySampling, FpsSampling, IgVlmSampling, KeyframesSampling, LinspaceSampling, UniformSampling,
};
pub(crate) use scene::{Histogram, SceneSampling};
pub(crate) use timeline::FrameFact;
pub use timeline::Timeline;

/// Sampling rule, with its options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sample {
    /// Middles of equal parts, as in FreeVA and the Dense Connector.
    Uniform(UniformSampling),
    /// Frames at equal distances, the first and the last included.
    Linspace(LinspaceSampling),
    /// Frames at a rate per second.
    Fps(FpsSampling),
    /// Every n-th frame.
    Every(EverySampling),
    /// Frames that the codec stores whole.
    Keyframes(KeyframesSampling),
    /// Frames shown at given times.
    Times(TimesSampling),
    /// Middle frame of each scene.
    Scene(SceneSampling),
    /// Frames at equal distances from the first, as in IG-VLM.
    IgVlm(IgVlmSampling),
    /// Every frame, in order; for a directory of chosen frames.
    All,
    /// Frames at a rate per second, as in SmolVLM2's processor.
    #[serde(rename = "smolvlm")]
    SmolVlm(SmolVlmSampling),
    /// Frames at equal distances from the first, as in LLaVA-OneVision's processor.
    OneVision(OneVisionSampling),
    /// Frames at equal distances, the first and the last included, rounded down, as in LLaVA-NeXT's code.
    LlavaVideo(LlavaVideoSampling),
    /// Middles of equal parts, as in InternVL's processor.
    #[serde(rename = "internvl")]
    InternVl(InternVlSampling),
    /// Middles of equal parts, as in VideoChat2's evaluation of MVBench.
    VideoChat2(VideoChat2Sampling),
    /// Rule of the checkpoint's own family.
    Checkpoint(CheckpointFrameSampling),
}

impl Default for Sample {
    fn default() -> Self {
        Self::Uniform(UniformSampling::default())
    }
}

/// Arithmetic of a rule, and the check of its options.
trait SamplingRule {
    /// Returns sorted indices into a timeline that is not empty; an index may occur twice.
    fn indices(&self, timeline: &Timeline) -> Result<Vec<usize>>;

    /// Checks the options.
    fn check(&self) -> Result<()>;
}

impl Sample {
    /// Returns every rule, with its default options.
    pub fn all() -> [Self; 15] {
        [
            Self::Uniform(UniformSampling::default()),
            Self::Linspace(LinspaceSampling::default()),
            Self::Fps(FpsSampling::default()),
            Self::Every(EverySampling::default()),
            Self::Keyframes(KeyframesSampling::default()),
            Self::Times(TimesSampling::default()),
            Self::Scene(SceneSampling::default()),
            Self::IgVlm(IgVlmSampling::default()),
            Self::All,
            Self::SmolVlm(SmolVlmSampling::default()),
            Self::OneVision(OneVisionSampling::default()),
            Self::LlavaVideo(LlavaVideoSampling::default()),
            Self::InternVl(InternVlSampling::default()),
            Self::VideoChat2(VideoChat2Sampling::default()),
            Self::Checkpoint(CheckpointFrameSampling::default()),
        ]
    }

    /// Returns `uniform` with a number of frames.
    pub fn uniform(frames: usize) -> Self {
        Self::Uniform(UniformSampling { frames, ..UniformSampling::default() })
    }

    /// Sets the number of frames, or the maximum of a rule without a fixed number.
    ///
    /// # Errors
    /// When the rule has no number of frames.
    pub fn with_frames(mut self, n: usize) -> Result<Self> {
        match &mut self {
            Self::Uniform(UniformSampling { frames, .. })
            | Self::Linspace(LinspaceSampling { frames, .. })
            | Self::Scene(SceneSampling { frames, .. })
            | Self::IgVlm(IgVlmSampling { frames, .. })
            | Self::OneVision(OneVisionSampling { frames })
            | Self::LlavaVideo(LlavaVideoSampling { frames })
            | Self::InternVl(InternVlSampling { frames })
            | Self::VideoChat2(VideoChat2Sampling { frames }) => *frames = n,
            Self::Checkpoint(CheckpointFrameSampling { frames }) => *frames = Some(n),
            Self::Fps(FpsSampling { max, .. })
            | Self::Every(EverySampling { max, .. })
            | Self::Keyframes(KeyframesSampling { max, .. })
            | Self::SmolVlm(SmolVlmSampling { max, .. }) => *max = n,
            Self::All => return Err(Error::invalid("every frame is taken").about("all")),
            Self::Times(_) => return Err(Error::invalid("one frame is taken for each time").about("times")),
        }
        Ok(self)
    }

    /// Returns the number of frames that the rule takes at most, where it does not depend on the video.
    pub(crate) fn max_frames(&self) -> Option<usize> {
        match self {
            Self::Uniform(UniformSampling { frames, .. })
            | Self::Linspace(LinspaceSampling { frames, .. })
            | Self::Scene(SceneSampling { frames, .. })
            | Self::IgVlm(IgVlmSampling { frames, .. })
            | Self::OneVision(OneVisionSampling { frames })
            | Self::LlavaVideo(LlavaVideoSampling { frames })
            | Self::InternVl(InternVlSampling { frames })
            | Self::VideoChat2(VideoChat2Sampling { frames }) => Some(*frames),
            Self::Checkpoint(CheckpointFrameSampling { frames }) => *frames,
            Self::Fps(FpsSampling { max, .. })
            | Self::Every(EverySampling { max, .. })
            | Self::Keyframes(KeyframesSampling { max, .. })
            | Self::SmolVlm(SmolVlmSampling { max, .. }) => Some(*max),
            Self::Times(TimesSampling { times, .. }) => Some(times.len()),
            Self::All => None,
        }
    }

    fn rule(&self) -> &dyn SamplingRule {
        match self {
            Self::Uniform(rule) => rule,
            Self::Linspace(rule) => rule,
            Self::Fps(rule) => rule,
            Self::Every(rule) => rule,
            Self::Keyframes(rule) => rule,
            Self::Times(rule) => rule,
            Self::Scene(rule) => rule,
            Self::IgVlm(rule) => rule,
            Self::All => &rules::AllSampling,
            Self::SmolVlm(rule) => rule,
            Self::OneVision(rule) => rule,
            Self::LlavaVideo(rule) => rule,
            Self::InternVl(rule) => rule,
            Self::VideoChat2(rule) => rule,
            Self::Checkpoint(rule) => rule,
        }
    }

    /// Name of the rule in YAML and on the command line.
    pub fn name(&self) -> String {
        choice::name_and_options(self).0
    }

    /// Returns the sorted indices of the chosen frames of a timeline.
    ///
    /// # Errors
    /// [`Kind::Sample`], when the video is shorter than the rule allows, or lacks the facts that the rule needs.
    pub fn select(&self, timeline: &Timeline) -> Result<Vec<usize>> {
        if timeline.is_empty() {
            return Ok(Vec::new());
        }
        let selected = self.rule().indices(timeline);
        selected.map_err(|error| error.with_kind(Kind::Sample).about(format!("sample.{}", self.name())))
    }

    /// Checks the options of the rule.
    ///
    /// # Errors
    /// For an option out of its range; the caller names the rule.
    pub fn check(&self) -> Result<()> {
        self.rule().check()
    }

    /// Returns whether the rule needs the histograms of all frames.
    pub(crate) fn needs_histograms(&self) -> bool {
        matches!(self, Self::Scene(_))
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&choice::to_line(self))
    }
}

impl FromStr for Sample {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let sample: Self = choice::parse(text, "sampling rule", &Self::all())?;
        sample.check().about(format!("`{text}`"))?;
        Ok(sample)
    }
}

/// Number of frames of a rule at most: more than any model's context holds.
const MAX_FRAMES: usize = 100_000;

/// Checks a number of frames.
fn check_frames(frames: usize) -> Result<()> {
    if (1..=MAX_FRAMES).contains(&frames) {
        return Ok(());
    }
    Err(Error::invalid(format!("invalid number of frames {frames}")).with_hint(format!("from 1 to {MAX_FRAMES}")))
}

/// Checks the smallest and the largest number of frames of a rule.
fn check_bounds(min: usize, max: usize) -> Result<()> {
    if min <= max && (1..=MAX_FRAMES).contains(&max) {
        return Ok(());
    }
    let rule = format!("invalid range of {min} to {max} frames");
    Err(Error::invalid(rule).with_hint(format!("min from 0 to max, max up to {MAX_FRAMES}")))
}

/// Checks a rate of frames per second.
fn check_rate(fps: f64) -> Result<()> {
    if fps.is_finite() && fps > 0.0 {
        return Ok(());
    }
    Err(Error::invalid(format!("invalid rate of {fps} frames a second")).with_hint("a number above 0"))
}

/// Returns at most `max` of some indices, at equal distances.
fn at_most(indices: Vec<usize>, max: usize) -> Vec<usize> {
    if indices.len() <= max {
        return indices;
    }
    linspace(indices.len(), max).into_iter().map(|i| indices[i]).collect()
}
