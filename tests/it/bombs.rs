//! Videos that take too much: sizes, tables and lengths that a small file declares; and decoders that were taken over.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vidense::error::{Error, Kind};
use vidense::video::worker::{Isolation, ProcessLifetime, Worker};
use vidense::video::{Access, Bounds, Flow, ReadLimits};

use crate::harness::{Clip, ffmpeg};
use crate::untrusted::{all, directory, isolation, read_isolated, read_with, strict};

/// Time within which each file must be done with.
const SECONDS: Duration = Duration::from_secs(20);

/// A directory of attack files.
struct Attacks(TempDir);

impl Attacks {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// A GIF of a declared size and of frames of one pixel.
fn gif((width, height): (u16, u16), n_frames: usize) -> Vec<u8> {
    const FRAME: [u8; 23] = [0x21, 0xf9, 4, 0, 5, 0, 0, 0, 0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0];
    let mut bytes = b"GIF89a".to_vec();
    bytes.extend([width, height].map(u16::to_le_bytes).concat());
    bytes.extend([0x80, 0, 0, 0, 0, 0, 255, 255, 255]);
    bytes.extend(FRAME.repeat(n_frames));
    bytes.push(0x3b);
    bytes
}

/// Bytes of a clip in which `new` stands so many bytes after the first occurrence of `mark`.
fn patched(clip: &Clip, mark: &[u8], after: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = std::fs::read(&clip.path).unwrap();
    let at = bytes.windows(mark.len()).position(|window| window == mark).unwrap() + mark.len() + after;
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

/// Returns the bytes of a box of ISO base media.
fn boxed(kind: &[u8], content: &[u8]) -> Vec<u8> {
    [&u32::try_from(content.len() + 8).unwrap().to_be_bytes()[..], kind, content].concat()
}

/// Returns boxes in which the box at the end of a path of types is replaced.
fn with_box(mut boxes: &[u8], path: &[&[u8]], new: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some((size, _)) = boxes.split_first_chunk::<4>() {
        let (this, others) = boxes.split_at(u32::from_be_bytes(*size) as usize);
        match path {
            [kind] if this[4..8] == **kind => bytes.extend(new),
            [kind, inner @ ..] if this[4..8] == **kind => {
                bytes.extend(boxed(kind, &with_box(&this[8..], inner, new)));
            }
            _ => bytes.extend(this),
        }
        boxes = others;
    }
    bytes
}

/// Outcome of reading a file of a stranger, which must come in time and leave the server whole.
fn outcome(path: &Path, limits: ReadLimits) -> Result<usize, Error> {
    let start = Instant::now();
    let outcome = read_isolated(path, limits).map(|frames| frames.len());
    assert!(start.elapsed() < SECONDS, "{}: {:?}", path.display(), start.elapsed());
    if let Err(error) = &outcome {
        let is_clear = !matches!(error.kind(), Kind::Hang | Kind::Defect | Kind::NoProcess);
        assert!(is_clear && error.to_string().starts_with(path.to_str().unwrap()), "{error}");
    }
    outcome
}

fn assert_one_of(path: &Path, limits: ReadLimits, kinds: &[Kind]) {
    let error = outcome(path, limits).expect_err("over a limit");
    assert!(kinds.contains(&error.kind()), "{:?}: {error}", error.kind());
}

#[test]
fn declared_sizes_over_the_limit_allocate_nothing() {
    let attacks = Attacks::new();
    let most = [0xff; 4];
    let mov = ffmpeg("-f lavfi -i testsrc=s=64x48:r=5:d=1 -c:v rawvideo -pix_fmt yuyv422 video.mov");
    let mp4 = ffmpeg("-f lavfi -i testsrc=s=64x48:r=5:d=1 -c:v mpeg4 video.mp4");
    let mkv = ffmpeg("-f lavfi -i testsrc=s=320x300:r=5:d=1 -c:v rawvideo -pix_fmt yuyv422 video.mkv");
    let jpeg = ffmpeg("-f lavfi -i testsrc=s=64x48 -frames:v 1 image.jpg");
    let png = ffmpeg("-f lavfi -i testsrc=s=64x48 -frames:v 1 image.png");
    for (name, bytes) in [
        ("size.gif", gif((65535, 65535), 3)),
        ("size.jpg", patched(&jpeg, b"\xff\xc0\0\x11\x08", 0, &most)),
        ("size.png", patched(&png, b"IHDR", 0, &[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff])),
        ("size.mov", patched(&mov, b"yuvs", 24, &most)),
        ("size.mkv", patched(&mkv, b"\xb0\x82\x01\x40\xba\x82", 0, &most[..2])),
    ] {
        let limits = ReadLimits { frame_bytes: 1 << 24, ..strict() };
        assert_one_of(&attacks.write(name, &bytes), limits, &[Kind::FrameSize, Kind::NoFrames, Kind::NotMedia]);
    }
    // The size of the stream counts, not that of its container.
    let path = attacks.write("size.mp4", &patched(&mp4, b"mp4v", 24, &most));
    assert!(outcome(&path, strict()).is_ok_and(|n_frames| n_frames == 5));
}

#[test]
fn declared_tables_and_nested_boxes_end_in_bounded_memory() {
    let attacks = Attacks::new();
    let mp4 = ffmpeg("-f lavfi -i testsrc=s=64x48:r=5:d=1 -c:v mpeg4 video.mp4");
    let whole = std::fs::read(&mp4.path).unwrap();
    let most = [0xff; 4];
    let nested = (0..20_000).fold(Vec::new(), |inner, _| {
        // Sizes only; the content follows once.
        let size = u32::try_from(8 * 20_000 - inner.len()).unwrap().to_be_bytes();
        [&inner[..], &size, b"moov"].concat()
    });
    for (name, bytes) in [
        ("samples.mp4", patched(&mp4, b"stsz", 8, &most)),
        ("equal_samples.mp4", patched(&mp4, b"stsz", 4, &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff])),
        ("times.mp4", patched(&mp4, b"stts", 4, &most)),
        ("repeated_times.mp4", patched(&mp4, b"stts", 8, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1])),
        ("chunks.mp4", patched(&mp4, b"stco", 4, &most)),
        ("chunk_sizes.mp4", patched(&mp4, b"stsc", 12, &[0x7f, 0xff, 0xff, 0xff])),
        ("edits.mp4", patched(&mp4, b"elst", 4, &most)),
        ("movie.mp4", patched(&mp4, b"moov", 4, b"moov")),
        ("nested.mp4", [boxed(b"ftyp", b"isom\0\0\0\0isom"), nested].concat()),
        ("cut.mp4", whole[..whole.len() / 2].to_vec()),
    ] {
        if let Ok(n_frames) = outcome(&attacks.write(name, &bytes), strict()) {
            assert!(n_frames <= 5, "{name}: {n_frames}");
        }
    }
}

#[test]
fn long_videos_of_tiny_frames_end_at_the_limit_of_frames() {
    let attacks = Attacks::new();
    let jpeg = ffmpeg("-f lavfi -i testsrc=s=16x16 -frames:v 1 image.jpg");
    let hours = ffmpeg("-f lavfi -i color=s=16x16:r=1:d=36000 -c:v mpeg4 video.mkv");
    for path in [
        attacks.write("million.gif", &gif((4, 4), 1_000_000)),
        attacks.write("many.mjpeg", &std::fs::read(&jpeg.path).unwrap().repeat(20_000)),
        hours.path.clone(),
    ] {
        assert_one_of(&path, strict(), &[Kind::FrameCount]);
    }
}

#[test]
fn more_frames_than_the_limit_are_refused_by_every_access() {
    let clip = ffmpeg("-f lavfi -i testsrc=s=16x16:r=50:d=1 -pix_fmt yuv420p video.mp4");
    let dir = directory();
    for access in [Access::Auto, Access::Straight, Access::Seek] {
        let limit = |n| ReadLimits { max_frames: Some(n), access, ..strict() };
        assert_eq!(read_isolated(&clip.path, limit(50)).unwrap().len(), 50);
        assert_eq!(read_isolated(dir.path.parent().unwrap(), limit(3)).unwrap().len(), 3);
        for (path, n) in [(&*clip.path, 49), (dir.path.parent().unwrap(), 2)] {
            let error = read_isolated(path, limit(n)).expect_err("over the limit");
            assert_eq!(
                (error.kind(), error.rule()),
                (Kind::FrameCount, &*format!("more frames than the limit of {n}"))
            );
        }
    }
}

#[test]
fn a_reference_to_another_file_is_not_followed() {
    let attacks = Attacks::new();
    let mp4 = ffmpeg("-f lavfi -i testsrc=s=64x48:r=5:d=1 -c:v mpeg4 video.mov");
    let whole = std::fs::read(&mp4.path).unwrap();
    let target = attacks.write("target.mov", &whole);
    // A Macintosh alias: volume, file name, levels up and down, and the path.
    let path = target.to_str().unwrap().replace('/', ":");
    let length = u16::try_from(path.len()).unwrap().to_be_bytes();
    let record = [&[0; 10][..], &[0; 28], &[0; 12], &[0; 64], &[0; 16], &[0, 1, 0, 1], &[0; 16], &[0, 2], &length];
    let padding = vec![0; path.len() % 2];
    let record = [&record.concat()[..], path.as_bytes(), &padding, &[0xff, 0xff, 0, 0]].concat();
    let alias = boxed(b"alis", &[&[0; 4][..], &record].concat());
    let reference = boxed(b"dref", &[&[0, 0, 0, 0, 0, 0, 0, 1][..], &alias].concat());
    let boxes: [&[u8]; 6] = [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"];
    let bytes = with_box(&whole, &boxes, &reference);
    assert_ne!(bytes, whole);
    assert_one_of(&attacks.write("reference.mov", &bytes), strict(), &[Kind::NoFrames, Kind::Refused]);
    assert!(outcome(&target, strict()).is_ok());
}

/// Isolation with a fault for the files of a name.
#[cfg(unix)]
fn faulty(fault: &str, memory: u64) -> Isolation {
    let program = env!("CARGO_BIN_EXE_vidense");
    let arguments = [format!("VIDENSE_FAULT={fault}=video.mp4"), program.to_owned(), "decode-worker".to_owned()];
    let arguments = arguments.into_iter().map(Into::into).collect();
    let isolation = isolation(ProcessLifetime::OneReading);
    Isolation { program: "/usr/bin/env".into(), arguments, memory: Some(memory), ..isolation }
}

#[cfg(unix)]
#[test]
fn a_decoder_without_memory_fails_its_video_alone() {
    let clip = ffmpeg("-f lavfi -i testsrc=s=64x48:r=5:d=1 -c:v mpeg4 video.mp4");
    let other = clip.path.with_file_name("other.mp4");
    std::fs::copy(&clip.path, &other).unwrap();
    let isolation = faulty("hoard", 512 << 20);
    let mut worker = Worker::new(&isolation);
    for _ in 0..2 {
        let bounds = Bounds::from(&strict());
        let error = worker.read_frames(&clip.path, &all(), &bounds, &mut |_| Flow::Continue).expect_err("no memory");
        let text = error.to_string();
        assert!(error.kind() == Kind::Crash && text.contains("within its limit of 512.0 MiB of memory"), "{text}");
        assert_eq!(worker.probe(&other, &all(), &bounds).unwrap().n_sampled, 5);
    }
    // 12000 x 12000 x 4 bytes.
    let attacks = Attacks::new();
    let path = attacks.write("large.gif", &gif((12_000, 12_000), 2));
    let error = read_with(&isolation, &path, strict()).expect_err("no memory");
    assert_eq!((error.kind(), error.rule()), (Kind::HostMemory, "no memory is left to decode it"));
}

#[cfg(unix)]
#[test]
fn a_decoder_that_was_taken_over_reaches_nothing_but_its_video() {
    let clip = ffmpeg("-f lavfi -i testsrc=s=64x48:r=5:d=1 -c:v mpeg4 video.mp4");
    assert_eq!(read_with(&faulty("escape", 1 << 30), &clip.path, strict()).unwrap().len(), 5);
    let is_written = std::fs::metadata(clip.path.with_file_name("written")).is_ok_and(|meta| meta.len() > 0);
    assert!(!is_written);
    // The same process without the confinement of one reading.
    let kept = Isolation { lifetime: ProcessLifetime::Kept, ..faulty("escape", 1 << 30) };
    let reads_more = cfg!(target_os = "linux").then(|| read_with(&kept, &clip.path, strict()).is_err());
    assert_ne!(reads_more, Some(false), "the fault shows nothing");
}
