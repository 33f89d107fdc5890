//! Tests of the rules: indices worked out by hand, and properties of all rules.

use ::image::{Rgb, RgbImage};
use proptest::prelude::*;

use super::*;
use crate::units::Seconds;

fn select(text: &str, total: usize) -> Vec<usize> {
    text.parse::<Sample>()
        .map_err(|error| error.to_string())
        .and_then(|sample| sample.select(&Timeline::of_count(total)).map_err(|error| error.to_string()))
        .expect("it selects")
}

fn refused(text: &str, timeline: &Timeline) -> String {
    text.parse::<Sample>()
        .map_err(|error| error.to_string())
        .and_then(|sample| sample.select(timeline).map_err(|error| error.to_string()))
        .expect_err("refused")
}

/// Timeline of frames at these times; every third is a keyframe.
fn timed(times: &[f64]) -> Timeline {
    let fact = |(i, &time): (usize, &f64)| FrameFact { time: Some(Seconds(time)), is_key: i % 3 == 0 };
    Timeline { frames: times.iter().enumerate().map(fact).collect(), ..Timeline::default() }
}

fn at(text: &str, times: &[f64]) -> Vec<usize> {
    text.parse::<Sample>().and_then(|sample| sample.select(&timed(times))).expect("it selects")
}

#[test]
fn uniform_gives_the_indices_of_the_reference() {
    assert_eq!(select("uniform:frames=4", 100), [12, 37, 62, 86]);
    assert_eq!(select("uniform", 300), [18, 56, 93, 131, 168, 205, 243, 280]);
    assert_eq!(select("uniform:frames=4", 10), [1, 3, 5, 8]);
    assert_eq!(select("uniform:frames=4", 390), [48, 145, 243, 340]);
    assert_eq!(select("uniform", 243), [15, 45, 75, 106, 136, 166, 197, 227]);
}

#[test]
fn short_videos_are_treated_as_the_policy_says() {
    assert_eq!(select("uniform", 0), [0; 0]);
    assert_eq!(select("uniform", 1), [0]);
    // s = 1/2: bounds 0, r(0.5) = 0, 1, so both indices are 0.
    assert_eq!(select("uniform", 2), [0, 0]);
    assert_eq!(select("linspace:frames=5", 3), [0, 1, 2]);
    assert_eq!(select("linspace:frames=5,short=repeat_last", 3), [0, 1, 2, 2, 2]);
    assert_eq!(
        refused("linspace:frames=5,short=refuse", &Timeline::of_count(3)),
        "sample.linspace: the video gives 3 of 5 frames; hint: fewer frames, or `short: fewer`, or `short: repeat_last`"
    );
    assert_eq!(select("ig_vlm", 4), [0, 1, 2, 3, 3, 3]);
}

#[test]
fn linspace_every_and_ig_vlm_count() {
    // 0, 2.25, 4.5 (to even: 4), 6.75, 9.
    assert_eq!(select("linspace:frames=5", 10), [0, 2, 4, 7, 9]);
    assert_eq!(select("linspace:frames=1", 10), [0]);
    assert_eq!(select("every:n=4", 10), [0, 4, 8]);
    assert_eq!(select("every:n=1,max=3", 9), [0, 4, 8]);
    assert_eq!(
        refused("every:n=9,min=2,short=refuse", &Timeline::of_count(9)).split(';').next(),
        Some("sample.every: the video gives 1 of 2 frames")
    );
    assert_eq!(select("ig_vlm", 20), [0, 3, 6, 9, 12, 15]);
    assert_eq!(select("all", 3), [0, 1, 2]);
}

#[test]
fn fps_and_times_take_the_frame_that_is_shown() {
    // A pause of two seconds in a video of four frames a second that begins at 10 s.
    let times = [10.0, 10.25, 10.5, 10.75, 13.0, 13.25];
    assert_eq!(at("fps", &times), [0, 3, 4]);
    assert_eq!(at("fps:fps=2", &times), [0, 2, 3, 4]);
    assert_eq!(at("fps:fps=100,max=3", &times), [0, 2, 5]);
    assert_eq!(at("fps:fps=0.1,min=3", &times), [0, 2, 5]);
    // A frame every six minutes: each is shown when a tick falls, and the end of the video is not lost.
    let sparse: Vec<f64> = (0..10).map(|i| f64::from(i) * 360.0).collect();
    assert_eq!(at("fps", &sparse), (0..10).collect::<Vec<_>>());
    assert_eq!(at("fps:fps=1e6", &times), [0, 1, 2, 3, 4, 5]);
    // Half a second into the pause, before the beginning, exactly on a frame, and the last frame for its own length.
    assert_eq!(at("times:times=11.5+0+10.5+13.4", &times), [0, 2, 3, 5]);
    assert_eq!(at("times:times=10+99", &times), [0]);
    assert_eq!(at("times:times=10+99+100,short=repeat_last", &times), [0, 5, 5]);
    assert!(
        refused("times:times=10+99,short=refuse", &timed(&times))
            .starts_with("sample.times: the video gives 1 of 2 frames")
    );
    assert_eq!(
        refused("times:times=99", &timed(&times)),
        "sample.times: no time before the end of the video, 13.500 s"
    );
    assert!(refused("fps", &Timeline::of_count(3)).starts_with("sample.fps: the frames have no times"));
}

#[test]
fn keyframes_are_what_the_codec_marks() {
    let times: Vec<f64> = (0..10).map(f64::from).collect();
    assert_eq!(at("keyframes", &times), [0, 3, 6, 9]);
    assert_eq!(at("keyframes:max=2", &times), [0, 9]);
    let unmarked = Timeline { frames: vec![FrameFact { time: None, is_key: false }; 4], ..Timeline::default() };
    assert_eq!("keyframes".parse::<Sample>().and_then(|sample| sample.select(&unmarked)).expect("it selects"), [0]);
}

#[test]
fn scenes_are_cut_where_colours_change() {
    let frame = |level: u8| Histogram::of(&RgbImage::from_pixel(9, 5, Rgb([level, 0, 0])));
    let levels = [10, 12, 11, 200, 201, 202, 203, 90];
    let histograms: Vec<Histogram> = levels.iter().map(|&level| frame(level)).collect();
    assert_eq!((histograms[0].distance(&histograms[1]), histograms[2].distance(&histograms[3])), (0.0, 1.0));
    let distances = (0..8).map(|i: usize| histograms[i].distance(&histograms[i.saturating_sub(1)])).collect();
    let timeline = Timeline { distances, ..Timeline::of_count(8) };
    let select = |text: &str| text.parse::<Sample>().and_then(|sample| sample.select(&timeline)).expect("it selects");
    // Scenes 0..3, 3..7 and 7..8.
    assert_eq!(select("scene"), [1, 4, 7]);
    assert_eq!(select("scene:frames=2"), [1, 7]);
    assert_eq!(select("scene:frames=4,short=repeat_last"), [1, 4, 7, 7]);
    assert!(refused("scene", &Timeline::of_count(3)).contains("histograms of the frames are missing"));
    // Half of the pixels change.
    let mut half = RgbImage::from_pixel(8, 8, Rgb([0, 0, 0]));
    (0..8).for_each(|y| (0..4).for_each(|x| half.put_pixel(x, y, Rgb([255, 255, 255]))));
    assert_eq!(Histogram::of(&half).distance(&Histogram::of(&RgbImage::new(8, 8))), 0.5);
}

#[test]
fn rules_print_as_they_are_read_and_refuse_what_makes_no_sense() {
    for sample in Sample::all() {
        assert_eq!(sample.to_string().parse().ok(), Some(sample));
    }
    for (text, message) in [
        ("uniform:frames=0", "invalid number of frames 0"),
        ("fps:fps=0", "invalid rate of 0 frames a second"),
        ("fps:min=9,max=3", "invalid range of 9 to 3 frames"),
        ("every:n=0", "invalid distance of 0 frames"),
        ("times:times=", "no times"),
        ("scene:threshold=1", "invalid threshold 1"),
        ("uniform:short=maybe", "unknown variant `maybe`"),
        ("random", "unknown sampling rule `random`; hint: uniform, linspace, fps"),
    ] {
        let error = text.parse::<Sample>().expect_err(message).to_string();
        assert!(error.contains(message), "{error}");
    }
    assert_eq!(
        "scene".parse::<Sample>().expect("a rule").with_frames(3).expect("it takes a number").to_string(),
        "scene:frames=3,threshold=0.4,short=fewer"
    );
    assert!(Sample::All.with_frames(3).is_err());
}

proptest! {
    #[test]
    fn indices_are_sorted_and_within_range(
        total in 0usize..3000, frames in 1usize..80, which in 0..Sample::all().len(), gaps in prop::collection::vec(0.001f64..3.0, 1..40),
    ) {
        let sample = Sample::all()[which].clone();
        let sample = sample.clone().with_frames(frames).unwrap_or(sample);
        let mut time = 0.0;
        let fact = |i: usize| {
            time += gaps[i % gaps.len()];
            FrameFact { time: Some(Seconds(time)), is_key: i.is_multiple_of(7) }
        };
        let timeline = Timeline { frames: (0..total).map(fact).collect(), distances: vec![0.0; total], ..Timeline::default() };
        let indices = sample.select(&timeline).expect("it selects");
        prop_assert!(indices.windows(2).all(|pair| pair[0] <= pair[1]));
        prop_assert!(indices.iter().all(|&index| index < total));
        prop_assert_eq!(indices.is_empty(), total == 0);
    }
}
