//! Seeking: frames fetched by seeking are bit-identical to those of full decoding, for any GOP structure.

use std::path::Path;

use vidense::error::Error;
use vidense::units::Seconds;
use vidense::video::{
    Access, Flow, Frame, FrameRequest, ReadEvent, ReadLimits, ReadReport, Sample, Window, read_frames,
};

use crate::harness::{Clip, ffmpeg};

/// What was read, and how often it was taken back.
struct Read {
    frames: Vec<Frame>,
    report: ReadReport,
    n_restarts: usize,
}

fn read(path: &Path, request: &FrameRequest, access: Access) -> Result<Read, Error> {
    read_within(path, request, &ReadLimits { access, ..ReadLimits::default() })
}

fn read_within(path: &Path, request: &FrameRequest, limits: &ReadLimits) -> Result<Read, Error> {
    let (mut frames, mut n_restarts) = (Vec::new(), 0);
    let report = read_frames(path, request, limits, &mut |event| {
        match event {
            ReadEvent::Frame(frame) => frames.push(frame),
            ReadEvent::Restart => {
                frames.clear();
                n_restarts += 1;
            }
            ReadEvent::Expected { .. } | ReadEvent::Progress { .. } | ReadEvent::Waiting => {}
        }
        Flow::Continue
    })?;
    Ok(Read { frames, report, n_restarts })
}

/// Fails unless both ways give the same frames; how many were decoded by seeking.
fn assert_same(name: &str, path: &Path, request: &FrameRequest) -> usize {
    let what = format!("{name}: {}", request.sample);
    let (straight, seek) = match (read(path, request, Access::Straight), read(path, request, Access::Seek)) {
        (Ok(straight), Ok(seek)) => (straight, seek),
        (Err(straight), Err(seek)) => {
            assert_eq!(straight.to_string(), seek.to_string(), "{what}");
            return 0;
        }
        (straight, seek) => panic!("{what}: {:?}, but {:?}", straight.err(), seek.err()),
    };
    let facts = |read: &Read| read.frames.iter().map(|frame| (frame.index.0, frame.time)).collect::<Vec<_>>();
    assert_eq!(facts(&straight), facts(&seek), "{what}");
    for (a, b) in straight.frames.iter().zip(&seek.frames) {
        assert!(a.image == b.image, "{what}: other pixels in frame {}", a.index);
    }
    let counts = |report: &ReadReport| (report.n_frames, report.n_inside, report.times, report.damage.clone());
    assert_eq!(counts(&straight.report), counts(&seek.report), "{what}");
    assert_eq!(seek.n_restarts, straight.n_restarts, "{what}");
    seek.report.n_decoded
}

fn samples() -> Vec<Sample> {
    let rules =
        ["linspace", "fps:fps=0.7", "every:n=37", "keyframes", "times:times=0+0.3+3.1+3.1+4.99", "ig_vlm", "all"];
    let mut samples: Vec<Sample> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    samples.extend([1, 3, 8].map(Sample::uniform));
    samples
}

fn windows() -> [Window; 3] {
    let window = |start: Option<f64>, end: Option<f64>| Window { start: start.map(Seconds), end: end.map(Seconds) };
    [Window::default(), window(Some(2.2), Some(3.3)), window(None, Some(0.9))]
}

/// Compares every rule in every window, and wants less to be decoded for one frame if `seeks`.
fn assert_exact(name: &str, path: &Path, seeks: bool) {
    for window in windows() {
        for sample in samples() {
            assert_same(name, path, &FrameRequest::new(sample, window));
        }
    }
    let request = FrameRequest::new(Sample::uniform(1), Window::default());
    let (n_decoded, n_frames) =
        (assert_same(name, path, &request), read(path, &request, Access::Straight).unwrap().report.n_frames);
    assert_eq!(n_decoded < n_frames, seeks, "{name}: {n_decoded} of {n_frames} decoded");
}

/// Five seconds of moving things, some of them fast, at 25 frames a second.
const SOURCE: &str = "-f lavfi -i testsrc2=size=192x112:rate=25:duration=5";

#[test]
#[ignore = "slow"]
fn h264_in_every_structure() {
    for (name, options, file, seeks) in [
        ("two seconds, no b", "-g 50 -bf 0", "a.mp4", true),
        ("b pyramid", "-g 25 -bf 3 -x264-params b-pyramid=normal:ref=6:weightp=2", "a.mp4", true),
        ("open groups", "-g 25 -bf 4 -x264-params open-gop=1:b-pyramid=normal:ref=4:scenecut=0", "a.mp4", true),
        ("open groups in a transport stream", "-g 25 -bf 3 -x264-params open-gop=1", "a.ts", true),
        ("uneven groups", "-bf 2 -force_key_frames 0.4,0.48,1.7,4.6", "a.mkv", true),
        ("all intra", "-g 1", "a.mp4", true),
        ("one group", "-g 9999 -x264-params scenecut=0", "a.mp4", true),
        ("periodic refresh", "-bf 0 -x264-params keyint=25:intra-refresh=1", "a.mp4", true),
        ("start codes", "-g 25 -bf 2", "a.ts", true),
        ("fields", "-g 25 -bf 2 -flags +ildct+ilme -x264-params tff=1", "a.mp4", false),
        ("ten bits", "-g 25 -bf 2 -pix_fmt yuv420p10le", "a.mkv", true),
        ("slices", "-g 25 -bf 2 -x264-params slices=4", "a.mp4", true),
    ] {
        let clip = ffmpeg(&format!("{SOURCE} -c:v libx264 -preset veryfast {options} {file}"));
        assert_exact(name, &clip.path, seeks);
    }
}

#[test]
#[ignore = "slow"]
fn other_codecs_in_their_structures() {
    for (name, options, file, seeks) in [
        (
            "hevc, open groups",
            "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=25:bframes=4:open-gop=1",
            "a.mp4",
            true,
        ),
        (
            "hevc, closed groups",
            "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=30:bframes=3:open-gop=0",
            "a.mkv",
            true,
        ),
        (
            "hevc, layers",
            "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=30:temporal-layers=2",
            "a.ts",
            true,
        ),
        ("vp9", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 30", "a.webm", true),
        (
            "vp9, hidden frames",
            "-c:v libvpx-vp9 -deadline good -cpu-used 5 -g 40 -auto-alt-ref 1 -lag-in-frames 16",
            "a.webm",
            true,
        ),
        (
            "vp8, hidden frames",
            "-c:v libvpx -deadline good -cpu-used 5 -g 40 -auto-alt-ref 1 -lag-in-frames 16",
            "a.webm",
            false,
        ),
        ("av1", "-c:v libaom-av1 -cpu-used 8 -usage realtime -g 30", "a.mkv", true),
        ("mjpeg", "-c:v mjpeg", "a.mov", true),
        ("prores", "-c:v prores_ks -pix_fmt yuv422p10le", "a.mov", true),
        ("mpeg-2", "-c:v mpeg2video -g 15 -bf 2", "a.ts", false),
        ("mpeg-4", "-c:v mpeg4 -g 25 -bf 2", "a.mp4", false),
        ("no times", "-c:v mpeg4 -g 25", "a.avi", false),
    ] {
        let clip = ffmpeg(&format!("{SOURCE} {options} {file}"));
        assert_exact(name, &clip.path, seeks);
    }
}

#[test]
fn times_that_are_uneven_or_cut() {
    let uneven =
        ffmpeg(&format!("{SOURCE} -vf select='not(mod(n,3))+gt(n,90)' -vsync vfr -c:v libx264 -g 20 -bf 2 a.mp4"));
    assert_exact("uneven", &uneven.path, true);
    let late = ffmpeg(&format!("{SOURCE} -c:v libx264 -g 25 -bf 2 -output_ts_offset 7 a.mp4"));
    assert_exact("late", &late.path, true);
    // An edit list that begins within a group of pictures: some frames are decoded and not shown.
    let whole = ffmpeg(&format!("{SOURCE} -c:v libx264 -g 25 -bf 2 a.mp4"));
    let cut = ffmpeg(&format!("-ss 1.5 -i {} -c copy cut.mp4", whole.path.display()));
    assert_exact("cut", &cut.path, true);
    // With sound between the pictures.
    let sound = ffmpeg(&format!("{SOURCE} -f lavfi -i sine=duration=5 -c:v libx264 -g 25 -bf 2 -c:a aac a.mp4"));
    assert_exact("sound", &sound.path, true);
}

/// A clip, and its stream copied into another file without new times.
fn copied(source: &str, options: &str, file: &str) -> (Clip, Clip) {
    let source = ffmpeg(&format!("{SOURCE} {source}"));
    let copy = ffmpeg(&format!("{options} -i {} -c copy {file}", source.path.display()));
    (source, copy)
}

#[test]
#[ignore = "slow"]
fn decoding_times_in_place_of_presentation_times_are_not_trusted() {
    const H264: &str = "-c:v libx264 -preset veryfast -g 25 -bf 3 -x264-params b-pyramid=normal:scenecut=0";
    const OPEN: &str = "-c:v libx264 -preset veryfast -g 25 -bf 3 -x264-params open-gop=1:b-pyramid=none:scenecut=0";
    const HEVC: &str = "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=25:bframes=4";
    for (source, options, file) in [
        (format!("{H264} a.avi"), "", "a.mp4"),
        (format!("{H264} a.avi"), "-fflags +genpts", "a.mkv"),
        (format!("{H264} a.avi"), "-fflags +genpts", "a.ts"),
        (format!("{H264} a.h264"), "", "a.mov"),
        (format!("{OPEN} a.h264"), "-fflags +genpts", "a.mp4"),
        (format!("{HEVC} a.hevc"), "", "a.mp4"),
        ("-c:v mpeg4 -g 25 -bf 2 a.avi".to_owned(), "", "a.mp4"),
        ("-c:v mpeg2video -g 25 -bf 2 a.m2v".to_owned(), "-fflags +genpts", "a.mkv"),
    ] {
        let name = format!("{source} {options} {file}");
        let (source, copy) = copied(&source, options, file);
        assert_exact(&name, &copy.path, false);
        let all = FrameRequest { sample: Sample::All, window: Window::default(), stream: None, image_rate: None };
        let frames = |path: &Path| read(path, &all, Access::Auto).unwrap().frames;
        let (original, copied) = (frames(&source.path), frames(&copy.path));
        // An edit list may hide the first frames, as FFmpeg writes it for times that it made up.
        let n_hidden = original.len() - copied.len();
        assert!(n_hidden <= 2, "{name}");
        let found = copied.iter().filter(|frame| original.iter().any(|other| other.image == frame.image)).count();
        assert_eq!(found, copied.len(), "{name}");
        assert!(copied.windows(2).all(|pair| pair[0].time <= pair[1].time), "{name}");
    }
}

#[test]
fn a_stream_cut_off_its_beginning_is_decoded_whole() {
    for (name, options) in [
        ("h264", "-c:v libx264 -preset veryfast -g 25 -bf 3 -x264-params open-gop=1:scenecut=0"),
        ("hevc", "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=25:bframes=4"),
    ] {
        let whole = ffmpeg(&format!("{SOURCE} {options} a.ts"));
        let bytes = std::fs::read(&whole.path).unwrap();
        let cut = whole.path.with_file_name("cut.ts");
        std::fs::write(&cut, &bytes[bytes.len() / 3..]).unwrap();
        let request =
            FrameRequest { sample: Sample::uniform(3), window: Window::default(), stream: None, image_rate: None };
        assert!(assert_same(name, &cut, &request) > 0);
    }
}

#[test]
fn damage_on_the_way_leads_back_to_decoding_everything() {
    let clip = ffmpeg(&format!("{SOURCE} -c:v libx264 -preset veryfast -g 25 -bf 2 a.mkv"));
    let bytes = std::fs::read(&clip.path).unwrap();
    let request = FrameRequest::new(Sample::uniform(5), Window::default());
    for i in 1..30 {
        let mut damaged = bytes.clone();
        let at = bytes.len() * i / 31;
        damaged[at..at + 40].iter_mut().for_each(|byte| *byte ^= 0x5a);
        let path = clip.path.with_file_name(format!("{i}.mkv"));
        std::fs::write(&path, damaged).unwrap();
        let read = |access| read(&path, &request, access);
        let (Ok(straight), Ok(seek)) = (read(Access::Straight), read(Access::Seek)) else { continue };
        // Where some frame is lost in a part that no sampled frame needs, only decoding everything can know it.
        if straight.report.n_frames == 125 {
            let indices = |read: &Read| read.frames.iter().map(|frame| frame.index.0).collect::<Vec<_>>();
            assert_eq!(indices(&straight), indices(&seek), "{i}");
            for (a, b) in straight.frames.iter().zip(&seek.frames) {
                assert!(
                    a.image == b.image,
                    "{i}: frame {}, restarts {}, damage {:?}",
                    a.index,
                    seek.n_restarts,
                    straight.report.damage
                );
            }
        }
    }
}

#[test]
fn short_clips_are_decoded_whole_and_long_ones_are_not() {
    let n_decoded = |path: &Path| {
        let request = FrameRequest::new(Sample::uniform(2), Window::default());
        let report = read(path, &request, Access::Auto).unwrap().report;
        (report.n_decoded, report.n_frames)
    };
    let short = ffmpeg(&format!("{SOURCE} -c:v libx264 -g 25 a.mp4"));
    assert_eq!(n_decoded(&short.path), (125, 125));
    let long = ffmpeg("-f lavfi -i color=size=1280x720:rate=25:duration=12 -c:v libx264 -preset ultrafast -g 25 a.mp4");
    let (n, of) = n_decoded(&long.path);
    assert!(n <= 50 && of == 300, "{n} of {of}");
}
