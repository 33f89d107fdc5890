//! Which frames are looked at: arithmetic on a video's timeline, no decoding.
//!
//! The reader gives the [`Timeline`] of the window; [`Sample::select`] gives places in it. Only `scene` needs pictures:
//! the reader hands it their histograms.

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
use crate::error::Error;
use crate::units::linspace;

pub use family::{InternVl, LlavaVideo, OfCheckpoint, OneVision, SmolVlm};
pub use rules::{Every, Fps, IgVlm, Keyframes, Linspace, Times, Uniform};
pub use scene::{Histogram, Scene};
pub use short::Short;
pub use timeline::{FrameFact, Timeline};

/// A rule that chooses frames.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sample {
    /// Frames from the middles of equal shares. What FreeVA and the Dense Connector do.
    Uniform(Uniform),
    /// Frames at equal distances, the first and the last among them.
    Linspace(Linspace),
    /// So many frames a second.
    Fps(Fps),
    /// Every n-th frame.
    Every(Every),
    /// The frames that the codec stores whole.
    Keyframes(Keyframes),
    /// The frames that are shown at certain times.
    Times(Times),
    /// The middle of each scene.
    Scene(Scene),
    /// Frames at equal distances from the first on. What IG-VLM does.
    IgVlm(IgVlm),
    /// Every frame, in order: what a directory of chosen frames wants.
    All,
    /// Frames by the second. What SmolVLM2's processor does.
    #[serde(rename = "smolvlm")]
    SmolVlm(SmolVlm),
    /// Frames at equal distances from the first on. What LLaVA-OneVision's processor does.
    OneVision(OneVision),
    /// Frames at equal distances, the first and the last among them, rounded down. What LLaVA-NeXT's code does.
    LlavaVideo(LlavaVideo),
    /// The middles of equal parts. What InternVL's processor does.
    #[serde(rename = "internvl")]
    InternVl(InternVl),
    /// The rule of the checkpoint's own family.
    Checkpoint(OfCheckpoint),
}

impl Default for Sample {
    fn default() -> Self {
        Self::Uniform(Uniform::default())
    }
}

/// How a rule chooses.
trait Rule {
    /// Places in a timeline that is not empty, sorted; a place may come twice.
    fn places(&self, timeline: &Timeline) -> Result<Vec<usize>, String>;

    /// Whether the options make sense, in words.
    fn check(&self) -> Result<(), String>;
}

impl Sample {
    /// Every rule, with its default options.
    pub fn all() -> [Self; 14] {
        [
            Self::Uniform(Uniform::default()),
            Self::Linspace(Linspace::default()),
            Self::Fps(Fps::default()),
            Self::Every(Every::default()),
            Self::Keyframes(Keyframes::default()),
            Self::Times(Times::default()),
            Self::Scene(Scene::default()),
            Self::IgVlm(IgVlm::default()),
            Self::All,
            Self::SmolVlm(SmolVlm::default()),
            Self::OneVision(OneVision::default()),
            Self::LlavaVideo(LlavaVideo::default()),
            Self::InternVl(InternVl::default()),
            Self::Checkpoint(OfCheckpoint::default()),
        ]
    }

    /// `uniform` with so many frames.
    pub fn uniform(frames: usize) -> Self {
        Self::Uniform(Uniform { frames, ..Uniform::default() })
    }

    /// The same rule with another number of frames.
    ///
    /// # Errors
    /// In words, when the rule takes none.
    pub fn with_frames(mut self, n: usize) -> Result<Self, String> {
        match &mut self {
            Self::Uniform(Uniform { frames, .. })
            | Self::Linspace(Linspace { frames, .. })
            | Self::Scene(Scene { frames, .. })
            | Self::IgVlm(IgVlm { frames, .. })
            | Self::OneVision(OneVision { frames })
            | Self::LlavaVideo(LlavaVideo { frames })
            | Self::InternVl(InternVl { frames }) => *frames = n,
            Self::Checkpoint(OfCheckpoint { frames }) => *frames = Some(n),
            Self::Fps(Fps { max, .. })
            | Self::Every(Every { max, .. })
            | Self::Keyframes(Keyframes { max, .. })
            | Self::SmolVlm(SmolVlm { max, .. }) => *max = n,
            Self::All => return Err("all takes every frame".to_owned()),
            Self::Times(_) => return Err("times takes the frames at its times".to_owned()),
        }
        Ok(self)
    }

    fn rule(&self) -> &dyn Rule {
        match self {
            Self::Uniform(rule) => rule,
            Self::Linspace(rule) => rule,
            Self::Fps(rule) => rule,
            Self::Every(rule) => rule,
            Self::Keyframes(rule) => rule,
            Self::Times(rule) => rule,
            Self::Scene(rule) => rule,
            Self::IgVlm(rule) => rule,
            Self::All => &rules::All,
            Self::SmolVlm(rule) => rule,
            Self::OneVision(rule) => rule,
            Self::LlavaVideo(rule) => rule,
            Self::InternVl(rule) => rule,
            Self::Checkpoint(rule) => rule,
        }
    }

    /// Its name.
    pub fn name(&self) -> String {
        choice::name_and_options(self).0
    }

    /// The chosen places in a timeline, sorted.
    ///
    /// # Errors
    /// In words, when the video is shorter than the rule allows, or has not the facts that it needs.
    pub fn select(&self, timeline: &Timeline) -> Result<Vec<usize>, String> {
        if timeline.is_empty() {
            return Ok(Vec::new());
        }
        self.rule().places(timeline).map_err(|rule| format!("{} {rule}", self.name()))
    }

    /// Whether its options make sense.
    ///
    /// # Errors
    /// In words, with the rule's name.
    pub fn check(&self) -> Result<(), String> {
        self.rule().check().map_err(|rule| format!("{} {rule}", self.name()))
    }

    /// Whether it must be shown the pictures before it can choose.
    pub fn needs_histograms(&self) -> bool {
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

    fn from_str(text: &str) -> Result<Self, Error> {
        let sample: Self = choice::parse(text, "sampling rule", &Self::all())?;
        sample.check().map_err(|rule| Error::invalid(rule).about(format!("`{text}`")))?;
        Ok(sample)
    }
}

/// Frames that a rule may ask for: more than any model's context holds.
const MOST_FRAMES: usize = 100_000;

/// Whether a number of frames is one.
fn check_frames(frames: usize) -> Result<(), String> {
    if (1..=MOST_FRAMES).contains(&frames) {
        return Ok(());
    }
    Err(format!("takes {frames} frames; hint: from 1 to {MOST_FRAMES}"))
}

/// Whether a least and a most number of frames go together.
fn check_bounds(min: usize, max: usize) -> Result<(), String> {
    if min <= max && (1..=MOST_FRAMES).contains(&max) {
        return Ok(());
    }
    Err(format!("takes at least {min} and at most {max} frames; hint: min from 0 to max, max up to {MOST_FRAMES}"))
}

/// At most `max` of some places, at equal distances.
fn at_most(places: Vec<usize>, max: usize) -> Vec<usize> {
    if places.len() <= max {
        return places;
    }
    linspace(places.len(), max).into_iter().map(|i| places[i]).collect()
}
