//! Scans: a file is scanned once per answer, and decoding after a scan gives the frames of decoding from the beginning.

use std::path::Path;
#[cfg(target_os = "linux")]
use std::process::{Command, Stdio};
use std::time::Duration;

#[cfg(target_os = "linux")]
use serde_json::json;
use vidense::error::{Error, Kind};
use vidense::video::{
    Access, Flow, Frame, FrameRequest, ReadEvent, ReadLimits, ReadReport, Sample, Window, read_scanned, scan,
};

use crate::harness::{ffmpeg, read_video, repository};

/// Scans a video, runs `pause`, and reads on.
fn read_on(
    path: &Path,
    request: &FrameRequest,
    limits: &ReadLimits,
    pause: impl FnOnce(),
) -> Result<(Vec<Frame>, ReadReport), Error> {
    let scanned = scan(path, request, limits)?;
    let expected = scanned.n_sampled()?;
    pause();
    let mut frames = Vec::new();
    // The stages read on another thread than the one that scanned.
    let report = std::thread::scope(|scope| {
        let take = |event| {
            match event {
                ReadEvent::Frame(frame) => frames.push(frame),
                ReadEvent::Restart => frames.clear(),
                ReadEvent::Expected { n_sampled, .. } => assert_eq!(n_sampled, expected),
                ReadEvent::Progress { .. } | ReadEvent::Waiting => {}
            }
            Flow::Continue
        };
        scope.spawn(|| read_scanned(scanned, limits, &mut { take })).join().unwrap()
    })?;
    Ok((frames, report))
}

fn assert_same(one: &(Vec<Frame>, ReadReport), other: &(Vec<Frame>, ReadReport), name: &str) {
    assert_eq!(one.1, other.1, "{name}");
    assert_eq!(one.0.len(), other.0.len(), "{name}");
    for (a, b) in one.0.iter().zip(&other.0) {
        assert!(a.index == b.index && a.time == b.time && a.image == b.image, "{name}: frame {}", a.index);
    }
}

#[test]
fn a_scan_that_is_read_on_gives_the_same_frames() {
    let source = "-f lavfi -i testsrc2=size=320x240:rate=25:duration=4";
    let clips = [
        ffmpeg(&format!("{source} -c:v libx264 -g 25 -bf 2 a.mp4")),
        ffmpeg(&format!("{source} -c:v mpeg2video -g 10 a.ts")),
        ffmpeg(&format!("{source} -c:v libx265 -x265-params log-level=none:slices=2 a.mkv")),
        ffmpeg(&format!("{source} a.gif")),
    ];
    let frames = repository("tests/golden/checkpoints/frames");
    let paths = clips.iter().map(|clip| clip.path.clone()).chain([frames]);
    for path in paths {
        for sample in ["uniform", "scene:frames=3", "keyframes"] {
            for access in [Access::Straight, Access::Seek] {
                let limits = ReadLimits { access, ..ReadLimits::default() };
                let request = FrameRequest::new(sample.parse().unwrap(), Window::default());
                let name = format!("{} {sample} {access:?}", path.display());
                let whole = read_video(&path, &request, &limits).unwrap();
                assert_same(&read_on(&path, &request, &limits, || {}).unwrap(), &whole, &name);
            }
        }
    }
}

#[test]
fn a_file_that_changes_after_its_scan_is_scanned_again() {
    let make = |frames| ffmpeg(&format!("-f lavfi -i testsrc2=size=64x48:rate=25 -frames:v {frames} -g 5 a.mp4"));
    let (old, new) = (make(40), make(25));
    for access in [Access::Straight, Access::Seek] {
        let limits = ReadLimits { access, ..ReadLimits::default() };
        let request = FrameRequest::new(Sample::uniform(4), Window::default());
        let path = old.path.with_file_name("changing.mp4");
        std::fs::copy(&old.path, &path).unwrap();
        let whole = read_video(&new.path, &request, &limits).unwrap();
        let read = read_on(&path, &request, &limits, || {
            std::fs::copy(&new.path, &path).unwrap();
        });
        let read = read.unwrap();
        assert_same(&read, &whole, &format!("{access:?}"));
        let error = read_on(&path, &request, &limits, || std::fs::remove_file(&path).unwrap()).unwrap_err();
        assert!(error.kind() == Kind::NotFound, "{error}");
    }
}

#[test]
fn a_scan_may_wait_longer_than_a_read_may() {
    let clip = ffmpeg("-f lavfi -i testsrc2=size=64x48:rate=25:duration=2 -g 5 a.mp4");
    for access in [Access::Straight, Access::Seek] {
        let stall = Duration::from_secs(1);
        let limits = ReadLimits { access, stall, time: Some(Duration::from_secs(20)), ..ReadLimits::default() };
        let request = FrameRequest::new(Sample::uniform(4), Window::default());
        let read = read_on(&clip.path, &request, &limits, || std::thread::sleep(stall + stall / 4)).unwrap();
        assert_eq!(read.0.len(), 4);
    }
}

/// Bytes that a command read from files, once it has ended and before it is waited for; `None` where the kernel does
/// not tell.
#[cfg(target_os = "linux")]
fn bytes_read(arguments: &[&str]) -> Option<u64> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vidense"));
    let mut child =
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // SAFETY: the child is ours and not waited for; the structure is plain memory that the call fills.
    let ended = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_PID, child.id(), &mut info, libc::WEXITED | libc::WNOWAIT)
    };
    assert_eq!(ended, 0);
    let counters = std::fs::read_to_string(format!("/proc/{}/io", child.id()));
    assert!(child.wait().unwrap().success(), "{arguments:?}");
    let counters = counters.ok()?;
    counters.lines().find_map(|line| line.strip_prefix("rchar: ")).and_then(|n| n.parse().ok())
}

/// How often a command read the whole of a file, beside what it reads of others.
#[cfg(target_os = "linux")]
fn times_read(file: &Path, arguments: &[&str]) -> Option<f64> {
    let length = std::fs::metadata(file).unwrap().len();
    Some(bytes_read(arguments)? as f64 / length as f64)
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_is_scanned_once_for_an_answer() {
    // Frames that are stored as they are: 32 MiB, of which decoding reads as much as scanning.
    let clip = ffmpeg("-f lavfi -i testsrc=size=640x360:rate=25:duration=4 -c:v rawvideo -pix_fmt yuv420p a.avi");
    let path = clip.path.to_str().unwrap();
    let questions = clip.path.with_file_name("questions.jsonl");
    let line = json!({ "video": path, "question": "What is it?", "answer": "red", "type": "color" });
    std::fs::write(&questions, format!("{line}\n")).unwrap();
    let short = ["--max-new-tokens", "1", "--frames", "2"];
    let ask = [&["ask", path, "What is it?"], &short[..]].concat();
    let eval = [&["eval", questions.to_str().unwrap()], &short[..]].concat();
    // One scan and one decoding; to open the file takes a little of it each time.
    for (access, most) in [("straight", 2.5), ("seek", 1.5)] {
        for command in [&ask, &eval] {
            let arguments = [&command[..], &["--access", access]].concat();
            let Some(times) = times_read(&clip.path, &arguments) else { return };
            assert!(times > 1.0 && times < most, "{arguments:?} read the file {times:.2} times");
        }
    }
}
