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
mod tests {
    use super::*;
    use crate::text::prompt::Prompt;

    fn marks(layout: FrameLayout) -> FrameMarks {
        FrameMarks { layout, open: "(".to_owned(), close: ")".to_owned() }
    }

    /// Two of 68 frames at 8 a second.
    fn shown(are_separate: bool) -> ShownFrames {
        let frame = |index: usize| ShownFrame { index, time: Some(Seconds(index as f64 / 8.0)) };
        let frames = vec![frame(0), frame(67)];
        ShownFrames { frames, video: Some((68, Seconds(8.5))), are_separate, ..ShownFrames::default() }
    }

    /// A prompt with the tokens of a frame as its number, and those of all frames as `V`.
    fn text(layout: FrameLayout, timestamps: Timestamps, shown: &ShownFrames) -> String {
        let parts = marks(layout).passages(timestamps, MediumIndex(0), shown).expect("it can be written");
        let show = |part: &Passage<String>| match part {
            Passage::Text(words) => words.clone(),
            Passage::Medium(_) => "V".to_owned(),
            Passage::Frames(_, frames) => frames.start.to_string(),
        };
        Prompt::joined(parts).parts.iter().map(show).collect()
    }

    #[test]
    fn each_family_writes_frames_its_own_way() {
        use Timestamps::{Checkpoint, MmSs, None, Seconds};
        let intro = "You are provided the following series of two frames from a 0:00:08 [H:MM:SS] video.\n";
        for (layout, timestamps, are_separate, expected) in [
            (FrameLayout::Joint, Checkpoint, true, "(V)".to_owned()),
            (FrameLayout::PerFrame, Checkpoint, true, "(0)(1)".to_owned()),
            (FrameLayout::PerFrame, Checkpoint, false, "(V)".to_owned()),
            (
                FrameLayout::SmolVlm,
                Checkpoint,
                true,
                format!("{intro}\nFrame from 00:00:(0)\nFrame from 00:08:(1)\n\n"),
            ),
            (FrameLayout::SmolVlm, Checkpoint, false, format!("{intro}\n(V)\n\n")),
            (FrameLayout::SmolVlm, None, true, "(0)(1)".to_owned()),
            (FrameLayout::InternVl, Checkpoint, true, "Frame1: (0)\nFrame2: (1)".to_owned()),
            (FrameLayout::InternVl, Checkpoint, false, "(V)".to_owned()),
            (FrameLayout::Joint, MmSs, true, "Frame from 00:00: (0)\nFrame from 00:08: (1)".to_owned()),
            (FrameLayout::Joint, Seconds, true, "<0.0 seconds>(0)<8.4 seconds>(1)".to_owned()),
            (FrameLayout::InternVl, Seconds, true, "<0.0 seconds>(0)<8.4 seconds>(1)".to_owned()),
        ] {
            assert_eq!(text(layout, timestamps, &shown(are_separate)), expected, "{layout:?} {timestamps:?}");
        }
    }

    #[test]
    fn a_still_image_has_marks_and_no_text_about_frames() {
        let image = ShownFrames::of_single_image();
        for layout in [FrameLayout::Joint, FrameLayout::PerFrame, FrameLayout::SmolVlm, FrameLayout::InternVl] {
            assert_eq!(text(layout, Timestamps::Checkpoint, &image), "(V)", "{layout:?}");
        }
    }

    #[test]
    fn frames_without_times_are_counted_at_24_a_second_or_refused() {
        let bare = |index| ShownFrame { index, time: None };
        let frames = ShownFrames { frames: vec![bare(0), bare(50)], are_separate: true, ..ShownFrames::default() };
        let smolvlm = text(FrameLayout::SmolVlm, Timestamps::Checkpoint, &frames);
        assert!(smolvlm.contains("from a 0:00:02 [") && smolvlm.contains("Frame from 00:02:"), "{smolvlm}");
        let refused = |shown: &ShownFrames| {
            let marks = marks(FrameLayout::Joint);
            marks.passages(Timestamps::MmSs, MediumIndex(0), shown).expect_err("refused").to_string()
        };
        assert!(refused(&frames).contains("the frames carry none"), "{}", refused(&frames));
        assert!(refused(&shown(false)).contains("mixes the frames"), "{}", refused(&shown(false)));
    }

    /// Frames at these times with these subtitles, as `text` shows them.
    fn with_subtitles(times: &[f64], subtitles: &[(f64, f64, &str)]) -> ShownFrames {
        let subtitle = |&(start, end, text): &(f64, f64, &str)| Subtitle {
            start: Seconds(start),
            end: Seconds(end),
            text: text.to_owned(),
        };
        let frame = |(index, &time): (usize, &f64)| ShownFrame { index, time: Some(Seconds(time)) };
        ShownFrames {
            frames: times.iter().enumerate().map(frame).collect(),
            are_separate: true,
            subtitles: subtitles.iter().map(subtitle).collect(),
            ..ShownFrames::default()
        }
    }

    /// Expects the lines of lmms-eval 0.7.3's `insert_subtitles_into_frames` for these times and subtitles, where
    /// `<image>` is a frame's number in brackets.
    #[test]
    fn subtitles_stand_between_frames_as_long_video_bench_interleaves_them() {
        let lines = |times: &[f64], subtitles: &[(f64, f64, &str)]| {
            text(FrameLayout::Joint, Timestamps::Checkpoint, &with_subtitles(times, subtitles))
        };
        let spoken =
            [(0.0, 2.0, "one"), (2.0, 2.4, "two"), (3.0, 3.5, "left out"), (4.0, 7.0, "three"), (7.5, -90.0, "four")];
        assert_eq!(lines(&[0.0, 2.0, 4.0, 6.0, 8.0], &spoken), "(0)\n(1)\ntwo\n(2)\nthree\n(3)\n(4)");
        let spoken = [(1.0, 3.0, "one"), (3.0, 3.1, "two"), (3.0, 5.0, "two and a half"), (9.0, 11.5, "late")];
        assert_eq!(lines(&[0.0, 2.0, 4.0, 6.0], &spoken), "(0)\n(1)\none\n(2)\ntwo and a half\n(3)");
        assert_eq!(lines(&[0.0, 1.0, 2.0, 10.0], &spoken), "(0)\n(1)\n(2)\none\n(3)\nlate");
    }

    #[test]
    fn subtitles_stand_beside_times_and_are_refused_where_frames_have_no_place_for_them() {
        let shown = with_subtitles(&[0.0, 65.0], &[(64.0, 65.5, "hi \u{10FFFF}!")]);
        assert_eq!(
            text(FrameLayout::Joint, Timestamps::MmSs, &shown),
            "Frame from 00:00: (0)\nhi !\nFrame from 01:05: (1)"
        );
        assert_eq!(text(FrameLayout::InternVl, Timestamps::Checkpoint, &shown), "Frame1: (0)\nhi !\nFrame2: (1)");
        let refused = |shown: &ShownFrames| {
            let parts = marks(FrameLayout::Joint).passages(Timestamps::Checkpoint, MediumIndex(0), shown);
            parts.expect_err("refused").to_string()
        };
        let mixed = ShownFrames { are_separate: false, ..shown.clone() };
        assert!(refused(&mixed).starts_with("subtitles stand between frames, but the temporal strategy mixes"));
        let untimed = ShownFrames { frames: vec![ShownFrame::default()], ..shown };
        assert_eq!(refused(&untimed), "subtitles stand between frames, but the frames have no times");
    }
}
