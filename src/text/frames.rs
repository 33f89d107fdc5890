//! The words that stand around and between the frames of a video, as the processors of model families write them.
//!
//! Reference: `processing_smolvlm.py`, `processing_idefics3.py` and `processing_internvl.py` of transformers 5.24.
//! Where a temporal strategy mixes the frames, their tokens have one place, and words that tell of single frames are
//! left out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumString, VariantNames};

use super::numerals::in_words;
use super::prompt::Passage;
use crate::choice;
use crate::error::{Error, Kind};
use crate::units::Seconds;

/// Marks around visual tokens, and the frames that each pair of marks holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameMarks {
    /// How frames are laid out.
    pub layout: FrameLayout,
    /// Text before each run of visual tokens.
    pub open: String,
    /// Text after it.
    pub close: String,
}

/// How the frames of a video are laid out in a prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FrameLayout {
    /// All frames between one pair of marks.
    #[default]
    Together,
    /// Each frame between marks of its own, as Idefics3 takes several images.
    Each,
    /// SmolVLM: a sentence with the number of frames and the duration, then each frame with its time.
    SmolVlm,
    /// InternVL: each frame with its number.
    InternVl,
}

/// Times of frames in the text of a prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, EnumString, VariantNames)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = Error, parse_err_fn = unknown_timestamps)]
pub enum Timestamps {
    /// As the model's own processor writes frames, with times or without.
    #[default]
    Checkpoint,
    /// None.
    None,
    /// `Frame from MM:SS: ` before each frame, and a line end after it.
    MmSs,
    /// `<3.0 seconds>` before each frame.
    Seconds,
}

fn unknown_timestamps(name: &str) -> Error {
    choice::unknown_name("timestamps", name, Timestamps::VARIANTS)
}

/// A frame as a prompt tells of it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ShownFrame {
    /// Index in the whole video.
    pub index: usize,
    /// Its own timestamp.
    pub time: Option<Seconds>,
}

/// The frames that a prompt shows, and the video that they are of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ShownFrames {
    /// In time order.
    pub frames: Vec<ShownFrame>,
    /// Frames of the whole video, and its duration, where it has one.
    pub video: Option<(usize, Seconds)>,
    /// Whether the visual tokens of each frame stand apart from those of the others.
    pub are_apart: bool,
    /// Whether they are the views of one still image, not frames of a video.
    pub is_single_image: bool,
}

/// Input that a prompt is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Medium {
    /// A video, or several images in its place.
    Video,
    /// One still image.
    Image,
}

/// Frame rate that transformers assumes of frames without times.
const ASSUMED_RATE: f64 = 24.0;

impl ShownFrames {
    /// `n` frames of a video of which nothing is known, a second apart.
    pub fn unknown(n: usize, are_apart: bool) -> Self {
        let frame = |index: usize| ShownFrame { index, time: Some(Seconds(index as f64)) };
        let video = Some((n, Seconds(n as f64)));
        Self { frames: (0..n).map(frame).collect(), video, are_apart, is_single_image: false }
    }

    /// The views of a still image.
    pub fn of_single_image() -> Self {
        let frames = vec![ShownFrame::default()];
        Self { frames, video: None, are_apart: true, is_single_image: true }
    }

    /// The kind of input that a template writes a placeholder for.
    pub(super) fn medium(&self) -> Medium {
        if self.is_single_image { Medium::Image } else { Medium::Video }
    }

    /// The time of a frame by its index and the mean frame rate, in whole seconds, as transformers counts it.
    fn second(&self, frame: ShownFrame) -> u64 {
        let rate = match self.video {
            Some((n, Seconds(duration))) if n > 0 && duration > 0.0 => n as f64 / duration,
            _ => ASSUMED_RATE,
        };
        whole(frame.index as f64 / rate)
    }

    /// The duration in whole seconds; of frames without times the time of the last.
    fn duration(&self) -> u64 {
        match self.video {
            Some((_, Seconds(duration))) => whole(duration),
            None => self.frames.last().map_or(0, |&frame| self.second(frame)),
        }
    }
}

/// Whole seconds. What is less than a microsecond below one is a rounding of the clock.
fn whole(seconds: f64) -> u64 {
    ((seconds * 1e6).round() / 1e6).max(0.0) as u64
}

fn minutes(second: u64) -> String {
    format!("{:02}:{:02}", second / 60, second % 60)
}

/// `H:MM:SS`, with days before it from 24 hours on, as Python prints a `timedelta`.
fn hours(second: u64) -> String {
    let time = format!("{}:{:02}:{:02}", second / 3600 % 24, second / 60 % 60, second % 60);
    match second / 86_400 {
        0 => time,
        1 => format!("1 day, {time}"),
        days => format!("{days} days, {time}"),
    }
}

impl FrameMarks {
    /// Marks around all visual tokens together.
    pub fn together(open: &str, close: &str) -> Self {
        Self { layout: FrameLayout::Together, open: open.to_owned(), close: close.to_owned() }
    }

    /// Whether a prompt has words between frames, which tell of single ones.
    pub fn tells_of_frames(&self, timestamps: Timestamps) -> bool {
        self.layout != FrameLayout::Together || matches!(timestamps, Timestamps::MmSs | Timestamps::Seconds)
    }

    /// The parts that stand for a video.
    ///
    /// # Errors
    /// [`Error`] for times of frames that have none, or that are mixed.
    pub(super) fn passages(&self, timestamps: Timestamps, shown: &ShownFrames) -> Result<Vec<Passage<String>>, Error> {
        let words = |words: String| Passage::Words(words);
        let mut parts = Vec::new();
        let is_smolvlm = self.layout == FrameLayout::SmolVlm && timestamps == Timestamps::Checkpoint;
        if is_smolvlm {
            let (count, duration) = (in_words(shown.frames.len()), hours(shown.duration()));
            parts.push(words(format!(
                "You are provided the following series of {count} frames from a {duration} [H:MM:SS] video.\n"
            )));
        }
        match (self.tells_of_frames(timestamps), shown.are_apart) {
            (true, true) => {
                for (i, &frame) in shown.frames.iter().enumerate() {
                    let (before, after) = self.around(timestamps, (i, frame), shown)?;
                    let is_last = i + 1 == shown.frames.len();
                    let visual = Passage::Frames(i..i + 1);
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
                parts.extend([open, Passage::Video, words(self.close.clone())]);
            }
        }
        if is_smolvlm {
            parts.push(words("\n\n".to_owned()));
        }
        Ok(parts)
    }

    /// Words before a frame, and those between it and the next.
    fn around(
        &self,
        timestamps: Timestamps,
        (i, frame): (usize, ShownFrame),
        shown: &ShownFrames,
    ) -> Result<(String, &'static str), Error> {
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

/// Returns the error of times of frames that cannot be written.
fn no_timestamps(rule: &str) -> Error {
    let hint = "none, or a strategy that keeps frames apart, such as concat";
    Error::new(Kind::Text, format!("prompt.timestamps (--timestamps) {rule}")).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::prompt::Prompt;

    fn marks(layout: FrameLayout) -> FrameMarks {
        FrameMarks { layout, open: "(".to_owned(), close: ")".to_owned() }
    }

    /// Two of 68 frames at 8 a second.
    fn shown(are_apart: bool) -> ShownFrames {
        let frame = |index: usize| ShownFrame { index, time: Some(Seconds(index as f64 / 8.0)) };
        let frames = vec![frame(0), frame(67)];
        ShownFrames { frames, video: Some((68, Seconds(8.5))), are_apart, is_single_image: false }
    }

    /// A prompt with the tokens of a frame as its number, and those of all frames as `V`.
    fn text(layout: FrameLayout, timestamps: Timestamps, shown: &ShownFrames) -> String {
        let parts = marks(layout).passages(timestamps, shown).expect("it can be written");
        let show = |part: &Passage<String>| match part {
            Passage::Words(words) => words.clone(),
            Passage::Video => "V".to_owned(),
            Passage::Frames(frames) => frames.start.to_string(),
        };
        Prompt::around("", parts, "").parts.iter().map(show).collect()
    }

    #[test]
    fn each_family_writes_frames_its_own_way() {
        use Timestamps::{Checkpoint, MmSs, None, Seconds};
        let intro = "You are provided the following series of two frames from a 0:00:08 [H:MM:SS] video.\n";
        for (layout, timestamps, are_apart, expected) in [
            (FrameLayout::Together, Checkpoint, true, "(V)".to_owned()),
            (FrameLayout::Each, Checkpoint, true, "(0)(1)".to_owned()),
            (FrameLayout::Each, Checkpoint, false, "(V)".to_owned()),
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
            (FrameLayout::Together, MmSs, true, "Frame from 00:00: (0)\nFrame from 00:08: (1)".to_owned()),
            (FrameLayout::Together, Seconds, true, "<0.0 seconds>(0)<8.4 seconds>(1)".to_owned()),
            (FrameLayout::InternVl, Seconds, true, "<0.0 seconds>(0)<8.4 seconds>(1)".to_owned()),
        ] {
            assert_eq!(text(layout, timestamps, &shown(are_apart)), expected, "{layout:?} {timestamps:?}");
        }
    }

    #[test]
    fn times_are_cut_to_whole_seconds_and_may_be_long() {
        assert_eq!((whole(7.999), whole(7.999_999_9), whole(-1.0)), (7, 8, 0));
        assert_eq!((minutes(59), minutes(3725)), ("00:59".to_owned(), "62:05".to_owned()));
        let expected = ["0:00:08", "1:02:03", "1 day, 0:00:00", "2 days, 1:00:00"];
        assert_eq!([8, 3723, 86_400, 176_400].map(hours), expected);
    }

    #[test]
    fn frames_without_times_are_counted_at_24_a_second_or_refused() {
        let bare = |index| ShownFrame { index, time: None };
        let frames = ShownFrames { frames: vec![bare(0), bare(50)], are_apart: true, ..ShownFrames::default() };
        let smolvlm = text(FrameLayout::SmolVlm, Timestamps::Checkpoint, &frames);
        assert!(smolvlm.contains("from a 0:00:02 [") && smolvlm.contains("Frame from 00:02:"), "{smolvlm}");
        let refused = |shown: &ShownFrames| {
            let error = marks(FrameLayout::Together).passages(Timestamps::MmSs, shown).expect_err("refused");
            error.to_string()
        };
        assert!(refused(&frames).contains("the frames carry none"), "{}", refused(&frames));
        assert!(refused(&shown(false)).contains("mixes the frames"), "{}", refused(&shown(false)));
    }
}
