//! Tests of texts between frames.

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
        (FrameLayout::SmolVlm, Checkpoint, true, format!("{intro}\nFrame from 00:00:(0)\nFrame from 00:08:(1)\n\n")),
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
