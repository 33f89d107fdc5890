//! Report of a reading: numbers and times of frames, damage, warnings. Stored with the answers of a video.

use serde::{Deserialize, Serialize};

use crate::units::Seconds;

/// Report of a reading.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReadReport {
    /// Number of decodable frames of the whole video; after seeking, the number by the packets.
    pub n_frames: usize,
    /// Number of decodable frames inside the window.
    pub n_inside: usize,
    /// Number of decoded frames over all passes.
    #[serde(default)]
    pub n_decoded: usize,
    /// Times of the first and the last frame of the whole video.
    pub times: Option<(Seconds, Seconds)>,
    /// Duration of the last frame, where its packet has a duration.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "last_shown")]
    pub last_duration: Option<Seconds>,
    /// Damage met by the reading.
    pub damage: Damage,
    /// Warnings about assumptions and anomalies of the whole video, in words.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl ReadReport {
    /// Returns the duration of the whole video, as far as times are known.
    pub(crate) fn whole_duration(&self) -> Option<Seconds> {
        match (self.times, self.last_duration) {
            (Some((first, last)), Some(duration)) => Some(Seconds(last.0 + duration.0 - first.0)),
            _ => Self { n_inside: self.n_frames, ..self.clone() }.duration(),
        }
    }

    /// Returns the duration of the part inside the window, as far as times are known.
    pub fn duration(&self) -> Option<Seconds> {
        let (first, last) = self.times?;
        // The last frame has the average duration of the others.
        let each = (last.0 - first.0) / self.n_frames.saturating_sub(1).max(1) as f64;
        Some(Seconds(each * self.n_inside as f64)).filter(|duration| duration.0.is_finite() && duration.0 >= 0.0)
    }
}

/// Parts of a video that could not be read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Damage {
    /// Number of packets refused by the demuxer or the decoder.
    pub n_lost: usize,
    /// Number of files of a playlist that cannot be opened.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub n_missing: usize,
    /// Number of frames by the header.
    pub n_declared: Option<usize>,
    /// Number of frames with concealed errors.
    #[serde(default)]
    pub n_concealed: usize,
    /// First refusal or concealed error, in FFmpeg's words.
    pub first: Option<String>,
}

impl Damage {
    /// Counts a refused packet.
    pub(super) fn note(&mut self, cause: String) {
        self.n_lost += 1;
        self.first.get_or_insert(cause);
    }

    /// Counts a frame with concealed errors.
    pub(super) fn note_concealed(&mut self) {
        self.n_concealed += 1;
        self.first.get_or_insert_with(|| "decoding: errors were hidden in a frame".to_owned());
    }

    /// Sets the number of files that could not be opened so far, and the cause of the first.
    pub(super) fn note_missing(&mut self, n_missing: usize, first: Option<String>) {
        self.n_missing = n_missing;
        // A missing file is the cause of later errors.
        self.first = first.or(self.first.take());
    }

    /// Returns whether nothing was lost or concealed.
    pub fn is_none(&self) -> bool {
        self.n_lost + self.n_missing + self.n_concealed == 0
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}
