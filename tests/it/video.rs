//! Reading of videos: exact indices, times, colours, rotation, and broken files.
//!
//! The `ffmpeg` command makes the test clips; `make test` installs it beside the libraries.

use std::path::{Path, PathBuf};
use std::process::Command;

use image::RgbImage;
use vidense::error::{Error, Kind};
use vidense::units::{FrameIndex, Seconds};
use vidense::video::Timeline;
use vidense::video::{
    Flow, Frame, FrameRequest, ImageRate, ReadEvent, ReadLimits, ReadReport, Sample, Window, count_frames, read_frames,
};

use crate::harness::{ffmpeg, json, read_video, shared};

/// The frames that `ffmpeg` itself decodes, as RGB, without turning them.
fn by_ffmpeg(path: &Path, width: u32, height: u32) -> Vec<RgbImage> {
    let run = Command::new("ffmpeg")
        .args(["-v", "error", "-noautorotate", "-i"])
        .arg(path)
        .args(["-sws_flags", "bicubic", "-vsync", "passthrough"])
        .args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
        .output()
        .unwrap();
    let size = (width * height * 3) as usize;
    run.stdout.chunks_exact(size).map(|frame| RgbImage::from_raw(width, height, frame.to_vec()).unwrap()).collect()
}

fn read(path: &Path, sample: Sample, window: Window) -> Result<(Vec<Frame>, ReadReport), Error> {
    read_video(path, &FrameRequest::new(sample, window), &ReadLimits::default())
}

fn all(path: &Path) -> (Vec<Frame>, ReadReport) {
    read(path, Sample::All, Window::default()).unwrap()
}

fn mean_difference(a: &RgbImage, b: &RgbImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    let sum: u64 = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.as_raw().len() as f64
}

fn indices(frames: &[Frame]) -> Vec<usize> {
    frames.iter().map(|frame| frame.index.0).collect()
}

#[test]
fn every_container_and_codec_gives_the_frames_that_ffmpeg_gives() {
    let source = "-f lavfi -i testsrc2=size=66x50:rate=10:duration=3";
    for (output, what) in [
        ("-c:v libx264 -bf 3 -g 12 -pix_fmt yuv420p a.mp4", "h264 with B-frames"),
        ("-c:v libx264 -pix_fmt yuv420p10le b.mkv", "10 bits"),
        ("-c:v libx264 -pix_fmt yuv444p c.mov", "4:4:4"),
        ("-c:v libvpx-vp9 -deadline realtime d.webm", "vp9"),
        ("-c:v mpeg4 e.avi", "mpeg4 in avi"),
        ("-c:v mpeg2video -bf 2 f.ts", "a transport stream"),
        ("-c:v ffv1 g.mkv", "ffv1"),
        ("-c:v mjpeg -pix_fmt yuvj420p h.avi", "full range by its format"),
        ("-vf scale=65:49 -c:v libx264 -pix_fmt yuv444p i.mp4", "odd sizes"),
        ("j.gif", "an animated gif"),
    ] {
        let clip = ffmpeg(&format!("{source} {output}"));
        let (frames, report) = all(&clip.path);
        let (width, height) = frames[0].image.dimensions();
        let expected = by_ffmpeg(&clip.path, width, height);
        assert_eq!(frames.len(), expected.len(), "{what}");
        assert_eq!(report.damage.n_lost, 0, "{what}");
        assert_eq!(indices(&frames), (0..frames.len()).collect::<Vec<_>>(), "{what}");
        for (frame, expected) in frames.iter().zip(&expected) {
            // Colour conversion alone may differ, by the rounding of chroma.
            let difference = mean_difference(&frame.image, expected);
            assert!(difference < 2.0, "{what}: frame {} differs by {difference}", frame.index);
        }
    }
}

#[test]
fn colours_follow_the_matrix_and_range_of_the_stream() {
    // A red that survives only if matrix and range are read from the stream.
    for (matrix, range) in [("bt709", "tv"), ("bt709", "pc"), ("smpte170m", "tv"), ("smpte170m", "pc")] {
        let clip = ffmpeg(&format!(
            "-f lavfi -i color=0xC83214:size=64x64:rate=5:duration=1 \
             -vf scale=out_color_matrix={matrix}:out_range={range} -pix_fmt yuv444p \
             -colorspace {matrix} -color_range {range} -c:v libx264 -qp 1 red.mp4"
        ));
        let (frames, _) = all(&clip.path);
        let pixel = frames[0].image.get_pixel(32, 32).0;
        let near = pixel.iter().zip([0xC8u8, 0x32, 0x14]).all(|(a, b)| a.abs_diff(b) <= 3);
        assert!(near, "{matrix} {range}: {pixel:?}");
    }
}

#[test]
fn rotation_metadata_is_applied() {
    // Left half red, right half blue.
    let flat = ffmpeg(
        "-f lavfi -i color=red:size=32x32:rate=5:duration=1 -f lavfi -i color=blue:size=32x32:rate=5:duration=1 \
         -filter_complex hstack -c:v libx264 -qp 5 -pix_fmt yuv420p flat.mp4",
    );
    // FFmpeg's `rotate` tag counts counter-clockwise: a quarter turn brings the left half to the bottom.
    for (degrees, size, red_at) in [("90", (32, 64), (16, 56)), ("180", (64, 32), (56, 16)), ("270", (32, 64), (16, 8))]
    {
        let turned = ffmpeg(&format!("-i {} -c copy -metadata:s:v:0 rotate={degrees} turned.mp4", flat.path.display()));
        let (frames, _) = all(&turned.path);
        assert_eq!(frames[0].image.dimensions(), size, "{degrees}");
        let [red, _, blue] = frames[0].image.get_pixel(red_at.0, red_at.1).0;
        assert!(red > 200 && blue < 60, "{degrees}: {red} {blue}");
    }
}

#[test]
fn times_are_the_timestamps_of_a_variable_frame_rate() {
    // Every second frame dropped from frame 10 on: steps of 0.1 s, then of 0.2 s.
    let clip = ffmpeg(
        "-f lavfi -i testsrc2=size=64x48:rate=10:duration=3 -vf select='lt(n\\,10)+not(mod(n\\,2))' -vsync vfr \
         -c:v libx264 -bf 2 -pix_fmt yuv420p vfr.mp4",
    );
    let (frames, report) = all(&clip.path);
    let times: Vec<f64> = frames.iter().map(|frame| frame.time.unwrap().0).collect();
    let expected: Vec<f64> = (0..10).chain((10..30).step_by(2)).map(|n| f64::from(n) / 10.0).collect();
    assert_eq!(times.len(), expected.len());
    assert!(times.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{times:?}");
    assert_eq!(report.times, Some((Seconds(0.0), frames.last().unwrap().time.unwrap())));
}

#[test]
fn a_window_keeps_global_indices() {
    let clip = ffmpeg("-f lavfi -i testsrc2=size=64x48:rate=10:duration=4 -c:v libx264 -bf 2 -pix_fmt yuv420p w.mp4");
    let window = Window { start: Some(Seconds(1.0)), end: Some(Seconds(2.0)) };
    let (frames, report) = read(&clip.path, Sample::All, window).unwrap();
    assert_eq!(indices(&frames), (10..20).collect::<Vec<_>>());
    assert_eq!((report.n_frames, report.n_inside), (40, 10));
    // Uniform places 1 3 5 8 of ten frames.
    let (frames, _) = read(&clip.path, Sample::uniform(4), window).unwrap();
    assert_eq!(indices(&frames), [11, 13, 15, 18]);

    let beyond = Window { start: Some(Seconds(60.0)), end: None };
    let error = read(&clip.path, Sample::All, beyond).unwrap_err().to_string();
    assert!(
        error.ends_with("no frame in the window 1:00.000 - end: its 40 frames run from 0:00.000 to 0:03.900"),
        "{error}"
    );
}

#[test]
fn an_edit_list_cuts_frames_out() {
    let whole =
        ffmpeg("-f lavfi -i testsrc2=size=64x48:rate=10:duration=4 -c:v libx264 -g 20 -bf 0 -pix_fmt yuv420p e.mp4");
    // Copying from the middle of a group of pictures keeps its beginning in the file and hides it by an edit list.
    let cut = ffmpeg(&format!("-ss 1.5 -i {} -c copy cut.mp4", whole.path.display()));
    let expected = by_ffmpeg(&cut.path, 64, 48);
    let (frames, report) = all(&cut.path);
    assert_eq!(frames.len(), expected.len());
    assert_eq!(report.n_frames, 25);
    assert!(frames.iter().zip(&expected).all(|(frame, expected)| mean_difference(&frame.image, expected) < 2.0));
}

#[test]
fn the_best_of_several_video_streams_is_read() {
    let clip = ffmpeg(
        "-f lavfi -i color=red:size=32x32:rate=5:duration=2 -f lavfi -i testsrc2=size=128x96:rate=10:duration=2 \
         -map 0 -map 1 -disposition:v:0 0 -disposition:v:1 default -c:v libx264 -pix_fmt yuv420p two.mp4",
    );
    let (frames, _) = all(&clip.path);
    assert_eq!((frames.len(), frames[0].image.dimensions()), (20, (128, 96)));
}

#[test]
fn a_truncated_file_yields_what_decodes_and_says_so() {
    let whole = ffmpeg(
        "-f lavfi -i testsrc2=size=128x96:rate=25:duration=4 -c:v libx264 -g 10 -movflags +faststart -pix_fmt yuv420p t.mp4",
    );
    let bytes = std::fs::read(&whole.path).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let cut = dir.path().join("cut.mp4");
    std::fs::write(&cut, &bytes[..bytes.len() * 6 / 10]).unwrap();
    let (frames, report) = all(&cut);
    assert!(report.n_frames > 20 && report.n_frames < 100, "{}", report.n_frames);
    assert!(report.damage.n_lost > 0 && report.damage.first.is_some());
    assert_eq!(report.damage.n_declared, Some(100));
    // The frames are numbered as they decode, and uniform sampling goes by their number.
    assert_eq!(indices(&frames), (0..report.n_frames).collect::<Vec<_>>());
    let (sampled, _) = read(&cut, Sample::uniform(8), Window::default()).unwrap();
    assert_eq!(indices(&sampled), Sample::uniform(8).select(&Timeline::of_count(report.n_frames)).unwrap());
}

#[test]
fn damaged_bytes_never_hang_or_panic() {
    let whole =
        ffmpeg("-f lavfi -i testsrc2=size=96x64:rate=25:duration=2 -c:v libx264 -g 8 -bf 2 -pix_fmt yuv420p d.mkv");
    let bytes = std::fs::read(&whole.path).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.mkv");
    // A small generator, so that a failure repeats.
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let mut read_whole = 0;
    for _ in 0..40 {
        let mut damaged = bytes.clone();
        for _ in 0..1 + random() % 30 {
            let at = 600 + random() % (damaged.len() - 600);
            damaged[at] ^= 1 << (random() % 8);
        }
        std::fs::write(&path, &damaged).unwrap();
        if let Ok((frames, report)) = read(&path, Sample::All, Window::default()) {
            assert_eq!(frames.len(), report.n_frames);
            read_whole += usize::from(report.damage.n_lost == 0);
        }
    }
    assert!(read_whole < 40, "not one of 40 damaged files was found damaged");
}

#[test]
fn what_is_no_video_is_refused_with_its_cause() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let sound = ffmpeg("-f lavfi -i sine=duration=1 sound.wav");
    let header_only = {
        let clip = ffmpeg(
            "-f lavfi -i testsrc2=size=64x48:rate=10:duration=1 -c:v libx264 -movflags +faststart -pix_fmt yuv420p h.mp4",
        );
        let bytes = std::fs::read(&clip.path).unwrap();
        let data = bytes.windows(4).position(|window| window == b"mdat").unwrap();
        write("header.mp4", &bytes[..data + 4])
    };
    for (path, cause) in [
        (dir.path().join("missing.mp4"), "no such file or directory"),
        (write("empty.mp4", b""), "the file is empty (0 bytes)"),
        (write("text.mp4", b"This is a text, not a video.\n"), "not a video that FFmpeg can read: Invalid data found"),
        (
            write("text.txt", "This is a text, not a video.\n".repeat(300).as_bytes()),
            "not a video that FFmpeg can read: it holds text",
        ),
        (sound.path.clone(), "no video stream among its 1 stream(s) (audio pcm_s16le)"),
        (header_only, "not one frame decodes"),
        (PathBuf::from("/dev/null"), "neither a regular file nor a directory"),
    ] {
        let error = read(&path, Sample::All, Window::default()).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
        assert!(error.contains(cause), "{error}");
    }
}

#[test]
fn a_name_is_never_a_protocol_or_a_pattern() {
    let clip = ffmpeg("-f lavfi -i testsrc2=size=64x48:rate=10:duration=1 -c:v libx264 -pix_fmt yuv420p n.mp4");
    let dir = tempfile::tempdir().unwrap();
    for name in ["a:b.mp4", "http:x.mp4", "50%d.mp4", "mit Raum und 日本語.mp4", "-.mp4"] {
        let path = dir.path().join(name);
        std::fs::copy(&clip.path, &path).unwrap();
        assert_eq!(all(&path).0.len(), 10, "{name}");
    }
}

#[test]
fn a_directory_of_images_is_read_by_name_and_has_no_times() {
    let dir = tempfile::tempdir().unwrap();
    for (name, level) in [("b.png", 2), ("a.png", 1), ("c.PNG", 3)] {
        RgbImage::from_pixel(4, 4, image::Rgb([level; 3])).save(dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("notes.txt"), "no image").unwrap();
    std::fs::write(dir.path().join("aa.jpg"), "broken").unwrap();
    let (frames, report) = all(dir.path());
    let levels: Vec<u8> = frames.iter().map(|frame| frame.image.get_pixel(0, 0).0[0]).collect();
    assert_eq!((levels, indices(&frames)), (vec![1, 2, 3], vec![0, 1, 2]));
    assert!(frames.iter().all(|frame| frame.time.is_none()));
    assert_eq!(report.damage.n_lost, 1);
    assert!(report.damage.first.unwrap().contains("aa.jpg"));

    let window = Window { start: Some(Seconds(0.0)), end: None };
    let error = read(dir.path(), Sample::All, window).unwrap_err().to_string();
    assert!(error.contains("carry no times") && error.contains("hint: --image-rate"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let error = read(empty.path(), Sample::All, Window::default()).expect_err("no image");
    assert_eq!(error.kind(), Kind::NoImages);
}

/// Image `i` of a directory is shown from `i / rate` seconds on, those that do not decode included.
#[test]
fn images_of_a_directory_with_a_rate_have_times() {
    let dir = tempfile::tempdir().unwrap();
    for i in 1..=9u8 {
        RgbImage::from_pixel(4, 4, image::Rgb([i; 3])).save(dir.path().join(format!("{i:05}.png"))).unwrap();
    }
    let read = |rate: f64, sample: &str, window: Window| {
        let image_rate = Some(ImageRate::new(rate).unwrap());
        let request = FrameRequest { image_rate, ..FrameRequest::new(sample.parse().unwrap(), window) };
        let (frames, report) = read_video(dir.path(), &request, &ReadLimits::default()).map_err(|e| e.to_string())?;
        let shown = frames.iter().map(|frame| (frame.image.get_pixel(0, 0).0[0], frame.time.unwrap().0)).collect();
        Ok::<(Vec<(u8, f64)>, ReadReport), String>((shown, report))
    };
    let window = |start, end| Window { start: Some(Seconds(start)), end: Some(Seconds(end)) };
    let (shown, report) = read(2.0, "all", window(1.0, 2.5)).unwrap();
    assert_eq!(shown, [(3, 1.0), (4, 1.5), (5, 2.0)]);
    assert_eq!(
        (report.n_frames, report.times, report.last_duration),
        (9, Some((Seconds(0.0), Seconds(4.0))), Some(Seconds(0.5)))
    );
    assert_eq!(
        read(2.0, "fps:fps=1", Window::default()).unwrap().0,
        [(1, 0.0), (3, 1.0), (5, 2.0), (7, 3.0), (9, 4.0)]
    );
    assert_eq!(read(3.0, "times:times=0.7+1", Window::default()).unwrap().0, [(3, 2.0 / 3.0), (4, 1.0)]);
    let error = read(2.0, "all", window(5.0, 6.0)).unwrap_err();
    assert!(error.contains("no frame in the window 0:05.000 - 0:06.000: its 9 frames run from 0:00.000 to"), "{error}");
    std::fs::write(dir.path().join("00002.png"), "broken").unwrap();
    assert_eq!(read(2.0, "fps:fps=1", window(0.0, 2.0)).unwrap().0, [(1, 0.0), (3, 1.0)]);
    let clip = ffmpeg("-f lavfi -i testsrc2=size=64x48:rate=10:duration=1 -c:v libx264 -pix_fmt yuv420p r.mp4");
    let image_rate = Some(ImageRate::new(2.0).unwrap());
    let request = FrameRequest { image_rate, ..FrameRequest::new(Sample::All, Window::default()) };
    let error = read_video(&clip.path, &request, &ReadLimits::default()).unwrap_err().to_string();
    assert!(error.contains("r.mp4: image_rate (--image-rate) gives the images of a directory times"), "{error}");
}

#[test]
fn counting_frames_converts_none() {
    let clip = ffmpeg("-f lavfi -i testsrc2=size=64x48:rate=10:duration=2 -c:v libx264 -pix_fmt yuv420p c.mp4");
    let mut events = 0;
    let report = count_frames(&clip.path, None, &ReadLimits::default(), &mut |event| {
        assert!(!matches!(event, ReadEvent::Frame(_)));
        events += 1;
        Flow::Continue
    });
    assert_eq!(report.unwrap().n_frames, 20);
    assert!(events > 0);
}

#[test]
fn a_consumer_that_has_enough_ends_the_reading() {
    let clip = ffmpeg("-f lavfi -i testsrc2=size=64x48:rate=10:duration=2 -c:v libx264 -pix_fmt yuv420p s.mp4");
    let request = FrameRequest::new(Sample::All, Window::default());
    let mut n_frames = 0;
    let report = read_frames(&clip.path, &request, &ReadLimits::default(), &mut |event| {
        n_frames += usize::from(matches!(event, ReadEvent::Frame(_)));
        if n_frames == 3 { Flow::Stop } else { Flow::Continue }
    });
    assert_eq!((report.unwrap().n_frames, n_frames), (3, 3));
}

#[test]
fn sampled_frames_are_those_of_the_reference() {
    let (Some(reference), Some(videos)) = (shared("reference"), shared("videos")) else { return };
    for name in ["clip-none", "clip-sti", "clip-sci", "clip-dci", "siglip-dci"] {
        let expected = json(&reference.join(name).join("expected.json"));
        let wanted: Vec<usize> = expected["frame_indices"]
            .as_array()
            .unwrap()
            .iter()
            .map(|index| index.as_u64().unwrap() as usize)
            .collect();
        let video = videos.join(expected["video"].as_str().unwrap());
        let (frames, report) = read(&video, Sample::uniform(wanted.len()), Window::default()).unwrap();
        assert_eq!(indices(&frames), wanted, "{name}");
        assert_eq!(report.n_frames as u64, expected["n_frames_total"].as_u64().unwrap(), "{name}");
        for (t, frame) in frames.iter().enumerate() {
            let theirs = image::open(reference.join(name).join(format!("frames/{t:03}.png"))).unwrap().into_rgb8();
            let difference = mean_difference(&frame.image, &theirs);
            assert!(difference <= 2.0, "{name} frame {t}: {difference}");
        }
    }
}

#[test]
fn the_two_streams_of_a_real_file_are_told_apart() {
    let Some(video) = shared("videos/nasa_13013.mp4") else { return };
    let (frames, _) = read(&video, Sample::uniform(4), Window::default()).unwrap();
    assert_eq!(indices(&frames), [48, 145, 243, 340]);
    assert_eq!(frames[0].index, FrameIndex(48));
}
