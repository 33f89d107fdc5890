//! Text around and between the frames of a video, as the processors of model families write it.
//!
//! Reference: `processing_smolvlm.py`, `processing_idefics3.py` and `processing_internvl.py` of transformers 5.24.
//! Text about single frames is left out where a temporal strategy mixes them: their tokens are then one run.
//!
//! Subtitles stand between frames as LongVideoBench interleaves them (arXiv 2407.15754, `insert_subtitles_into_frames`
//! of its data set's code).

use std::sync::Arc;

use super::numerals::in_words;
use super::prompt::{MediumIndex, Passage};
use super::question::without_visual;
use super::subtitle::Subtitle;
use super::timestamps::{Timestamps, hours, minutes, whole};
use crate::error::{Error, Kind, Result};
use crate::units::Seconds;

/// Marks around visual tokens, and the frames between each pair of marks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameMarks {
    /// Layout of frames.
    pub layout: FrameLayout,
    /// Text before each run of visual tokens.
    pub open: String,
    /// Text after each run.
    pub close: String,
}

/// Layout of the frames of a video in a prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FrameLayout {
    /// All frames between one pair of marks.
    #[default]
    Joint,
    /// Each frame between its own marks, as Idefics3 takes several images.
    PerFrame,
    /// SmolVLM: a sentence with the number of frames and the duration, then each frame with its time.
    SmolVlm,
    /// InternVL: each frame with its number.
    InternVl,
}

/// Frame that a prompt shows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ShownFrame {
    /// Index in the whole video.
    pub index: usize,
    /// Presentation time.
    pub time: Option<Seconds>,
}

/// Frames that a prompt shows, with facts of their video.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ShownFrames {
    /// Frames in time order.
    pub frames: Vec<ShownFrame>,
    /// Number of frames and duration of the whole video, if known.
    pub video: Option<(usize, Seconds)>,
    /// The temporal strategy keeps the visual tokens of each frame apart from those of the others.
    pub are_separate: bool,
    /// The frames are views of one still image, not frames of a video.
    pub is_single_image: bool,
    /// Subtitles that stand between the frames, in their order; none for a video without.
    pub subtitles: Arc<[Subtitle]>,
}

/// Kind of a medium in a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediumKind {
    /// A video, or several images in its place.
    Video,
    /// One still image.
    Image,
}

/// Frame rate that transformers assumes of frames without times.
const ASSUMED_RATE: f64 = 24.0;

impl ShownFrames {
    /// Makes `n` frames of an unknown video, one second apart, whose tokens the temporal strategy keeps apart.
    pub fn unknown(n: usize) -> Self {
        let frame = |index: usize| ShownFrame { index, time: Some(Seconds(index as f64)) };
        let video = Some((n, Seconds(n as f64)));
        Self { frames: (0..n).map(frame).collect(), video, are_separate: true, ..Self::default() }
    }

    /// Makes the views of a still image.
    pub(crate) fn of_single_image() -> Self {
        let frames = vec![ShownFrame::default()];
        Self { frames, are_separate: true, is_single_image: true, ..Self::default() }
    }

    /// Returns the times of all frames, between which subtitles stand.
    ///
    /// # Errors
    /// Frames without times, or mixed frames.
    fn times(&self) -> Result<Vec<Seconds>> {
        if !self.are_separate {
            return Err(no_subtitles("the temporal strategy mixes the frames").with_hint(KEEPS_FRAMES));
        }
        let times: Option<Vec<Seconds>> = self.frames.iter().map(|frame| frame.time).collect();
        times.ok_or_else(|| no_subtitles("the frames have no times"))
    }

    /// Returns the kind of medium for which a template writes a placeholder.
    pub fn kind(&self) -> MediumKind {
        if self.is_single_image { MediumKind::Image } else { MediumKind::Video }
    }

    /// Returns the time of a frame by its index and the mean frame rate, in whole seconds, as transformers computes it.
    fn second(&self, frame: ShownFrame) -> u64 {
        let rate = match self.video {
            Some((n, Seconds(duration))) if n > 0 && duration > 0.0 => n as f64 / duration,
            _ => ASSUMED_RATE,
        };
        whole(frame.index as f64 / rate)
    }

    /// Returns the duration in whole seconds; without one, the time of the last frame.
    fn duration(&self) -> u64 {
        match self.video {
            Some((_, Seconds(duration))) => whole(duration),
            None => self.frames.last().map_or(0, |&frame| self.second(frame)),
        }
    }
}

impl FrameMarks {
    /// Makes marks around all visual tokens.
    pub(crate) fn around_all(open: &str, close: &str) -> Self {
        Self { layout: FrameLayout::Joint, open: open.to_owned(), close: close.to_owned() }
    }

    /// Returns whether a prompt has text between frames.
    pub(crate) fn separates_frames(&self, timestamps: Timestamps) -> bool {
        self.layout != FrameLayout::Joint || matches!(timestamps, Timestamps::MmSs | Timestamps::Seconds)
    }

    /// Makes the parts of a prompt that show a medium. A still image has the marks, and no text about frames.
    ///
    /// # Errors
    /// For requested times or subtitles of frames without times, or of mixed frames.
    pub(super) fn passages(
        &self,
        timestamps: Timestamps,
        medium: MediumIndex,
        shown: &ShownFrames,
    ) -> Result<Vec<Passage<String>>> {
        if shown.is_single_image && self.layout != FrameLayout::Joint {
            return Self { layout: FrameLayout::Joint, ..self.clone() }.passages(timestamps, medium, shown);
        }
        let words = |words: String| Passage::Text(words);
        let mut parts = Vec::new();
        let is_smolvlm = self.layout == FrameLayout::SmolVlm && timestamps == Timestamps::Checkpoint;
        if is_smolvlm {
            let (count, duration) = (in_words(shown.frames.len()), hours(shown.duration()));
            parts.push(words(format!(
                "You are provided the following series of {count} frames from a {duration} [H:MM:SS] video.\n"
            )));
        }
        match (self.separates_frames(timestamps), shown.are_separate) {
            _ if !shown.subtitles.is_empty() => parts.extend(self.interleaved(timestamps, medium, shown)?),
            (true, true) => {
                for i in 0..shown.frames.len() {
                    let (before, after) = self.around(timestamps, i, shown)?;
                    let is_last = i + 1 == shown.frames.len();
                    let visual = Passage::Frames(medium, i..i + 1);
                    parts.extend([words(before + &self.open), visual, words(self.close.clone())]);
                    parts.extend((!is_last).then(|| words(after.to_owned())));
                }
            }
            (_, false) if matches!(timestamps, Timestamps::MmSs | Timestamps::Seconds) => {
                let rule = "stand before each frame, but the temporal strategy mixes the frames";
                return Err(no_timestamps(rule));
            }
            _ => {
                let before = if is_smolvlm { "\n" } else { "" };
                let open = words(format!("{before}{}", self.open));
                parts.extend([open, Passage::Medium(medium), words(self.close.clone())]);
            }
        }
        if is_smolvlm {
            parts.push(words("\n\n".to_owned()));
        }
        Ok(parts)
    }

    /// Makes the parts of a video with subtitles: each frame and each subtitle is a line. Frames up to the middle of a
    /// subtitle stand before it; a subtitle that covers no frame is left out.
    fn interleaved(
        &self,
        timestamps: Timestamps,
        medium: MediumIndex,
        shown: &ShownFrames,
    ) -> Result<Vec<Passage<String>>> {
        let times = shown.times()?;
        let mut parts = Vec::new();
        let mut add = |line: &mut dyn Iterator<Item = Passage<String>>| {
            parts.extend((!parts.is_empty()).then(|| Passage::Text("\n".to_owned())));
            parts.extend(line);
        };
        let frame = |i: usize| -> Result<[Passage<String>; 3]> {
            let (before, _) = self.around(timestamps, i, shown)?;
            let open = format!("{}{}", before.trim_start_matches('\n'), self.open);
            Ok([Passage::Text(open), Passage::Frames(medium, i..i + 1), Passage::Text(self.close.clone())])
        };
        let mut next = 0;
        for subtitle in &*shown.subtitles {
            while times.get(next).is_some_and(|time| time.0 <= subtitle.middle()) {
                add(&mut frame(next)?.into_iter());
                next += 1;
            }
            if times.iter().any(|time| subtitle.covers(time.0)) {
                add(&mut std::iter::once(Passage::Text(without_visual(&subtitle.text))));
            }
        }
        for i in next..times.len() {
            add(&mut frame(i)?.into_iter());
        }
        Ok(parts)
    }

    /// Returns the text before frame `i`, and the text between it and the next frame.
    fn around(&self, timestamps: Timestamps, i: usize, shown: &ShownFrames) -> Result<(String, &'static str)> {
        let frame = shown.frames[i];
        let time = || {
            let rule = "stand before each frame, but the frames carry none";
            frame.time.map(|Seconds(time)| time).ok_or_else(|| no_timestamps(rule))
        };
        Ok(match (timestamps, self.layout) {
            (Timestamps::MmSs, _) => (format!("Frame from {}: ", minutes(whole(time()?))), "\n"),
            (Timestamps::Seconds, _) => (format!("<{:.1} seconds>", time()?), ""),
            (Timestamps::Checkpoint, FrameLayout::SmolVlm) => {
                (format!("\nFrame from {}:", minutes(shown.second(frame))), "")
            }
            (Timestamps::Checkpoint, FrameLayout::InternVl) => (format!("Frame{}: ", i + 1), "\n"),
            _ => (String::new(), ""),
        })
    }
}

/// Hint of a strategy between whose frames text can stand.
const KEEPS_FRAMES: &str = "a temporal strategy that keeps frames apart, such as concat";

/// Makes the error of times that a prompt cannot contain.
fn no_timestamps(rule: &str) -> Error {
    let hint = format!("none, or {KEEPS_FRAMES}");
    Error::new(Kind::Text, format!("prompt.timestamps (--timestamps) {rule}")).with_hint(hint)
}

/// Makes the error of subtitles that have no place in a prompt.
fn no_subtitles(rule: &str) -> Error {
    Error::new(Kind::Text, format!("subtitles stand between frames, but {rule}"))
}

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
