//! Lists of frames: files in order, times of the client, chosen frames, bad frames.

use super::*;

#[test]
fn frames_of_a_list_are_files_in_order_with_the_times_of_the_client() {
    let toy = ToyResolver::new(MediaPolicy::default());
    let timing = FrameTiming { fps: Some(2.0), frames_indices: Some(vec![0, 4, 9]), ..FrameTiming::default() };
    let list = MediaPart { timing: Some(timing), ..part(MediaSource::Url(frame_list(3))) };
    let media = toy.resolve_in("", list).expect("valid");
    assert_eq!(media.request.sample, Sample::All);
    for i in 0..3 {
        let bytes = std::fs::read(media.path.join(format!("{i:06}.jpg"))).expect("there");
        assert_eq!(bytes, [JPEG, i.to_string().as_bytes()].concat());
    }
    let found: Vec<_> = media.stamps(stamps(3)).expect("all decode");
    let facts: Vec<_> = found.iter().map(|stamp| (stamp.index.0, stamp.time_seconds)).collect();
    assert_eq!(facts, [(0, Some(Seconds(0.0))), (4, Some(Seconds(2.0))), (9, Some(Seconds(4.5)))]);
    let error = media.named(media.stamps(stamps(2)).expect_err("a frame is missing"), "frames");
    assert_eq!((error.kind(), error.to_string()), (Kind::NoFrames, "frames: 2 of 3 images decode".to_owned()));
    // Images without times, of several formats, of which one is a single image.
    let png = format!("data:image/jpeg;base64,{}", STANDARD.encode(b"\x89PNG\r\n\x1a\n"));
    let images = toy.resolve(MediaSource::Frames(vec![png.clone(), data(JPEG)])).expect("valid");
    assert!(images.path.join("000000.png").exists() && images.path.join("000001.jpg").exists());
    assert_eq!(images.stamps(stamps(2)).expect("all decode"), stamps(2));
    let single = toy.resolve(MediaSource::Frames(vec![png])).expect("valid");
    assert_eq!(single.expected, ExpectedMedium { n_frames: 1, image: Some((64, 48)) });
}

#[test]
fn frames_are_chosen_at_equal_distances_and_keep_their_times() {
    let toy = ToyResolver::new(MediaPolicy::default());
    let chosen = |frames: FrameOptions, n| {
        let timing = Some(FrameTiming { fps: Some(1.0), ..FrameTiming::default() });
        let list = MediaPart { frames, timing, ..part(MediaSource::Url(frame_list(n))) };
        let media = toy.resolve_in("", list).expect("valid");
        let n = std::fs::read_dir(&media.path).expect("there").count();
        let stamps = media.stamps(stamps(n)).expect("all decode");
        stamps.iter().map(|stamp| stamp.index.0).collect::<Vec<_>>()
    };
    let n = |n| FrameOptions { num_frames: Some(n), ..FrameOptions::default() };
    // Middles of four parts of 0..=8: 0-2, 2-4, 4-6, 6-8.
    assert_eq!(chosen(n(4), 9), [1, 3, 5, 7]);
    assert_eq!(chosen(n(4), 4), [0, 1, 2, 3], "no frame is left out where none need be");
    assert_eq!(chosen(n(40), 4), [0, 1, 2, 3]);
    let by_plan = FrameOptions { do_sample_frames: Some(true), ..FrameOptions::default() };
    assert_eq!(chosen(by_plan, 17).len(), 8);
    let all = FrameOptions { do_sample_frames: Some(false), ..FrameOptions::default() };
    assert_eq!(chosen(all, 17).len(), 17);
}

#[test]
fn a_bad_frame_is_named_by_its_number() {
    let toy = ToyResolver::new(MediaPolicy::default());
    let list = |frames: &[&str]| toy.url(&format!("data:video/jpeg;base64,{}", frames.join(",")));
    let good = jpeg("0");
    for (frames, expected) in [
        (vec![&*good, "AAAA"], "frame 2 of 2: not a JPEG image"),
        (vec![&*good, "", &*good], "frame 2 of 3: no data"),
        (vec![&*good, "AA*A"], "frame 2 of 2: invalid base64 at position 2; hint: "),
        (vec![""], "frame 1 of 1: no data"),
    ] {
        let error = list(&frames).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}, not {expected}");
    }
    let images = vec![data(JPEG), data(b"#EXTM3U\n/etc/passwd")];
    let error = toy.resolve(MediaSource::Frames(images)).expect_err("text").to_string();
    assert_eq!(error, "frame 2 of 2: not an image; hint: JPEG, PNG, GIF, WebP, BMP, TIFF");
    let nested = vec![data(JPEG), frame_list(2)];
    let error = toy.resolve(MediaSource::Frames(nested)).expect_err("a list in a list").to_string();
    assert_eq!(error, "frame 2 of 2: a list of frames inside a list");
    let timing = FrameTiming { frames_indices: Some(vec![0]), ..FrameTiming::default() };
    let list = MediaPart { timing: Some(timing), ..part(MediaSource::Url(frame_list(2))) };
    let error = toy.resolve_in("", list).expect_err("one index of two frames").to_string();
    assert_eq!(error, "frames_indices: 1 indices of 2 frames");
}
