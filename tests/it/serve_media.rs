//! Media of requests, with decoding processes: what a request names is read within the policy, and nothing else is.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;
use vidense::error::{Error, Kind};
use vidense::pipeline::Limits;
use vidense::serve::media::{
    AllowedDirectories, FrameOptions, FrameTiming, Media, MediaPart, MediaPolicy, MediaResolver, MediaSettings,
    MediaSource, ResolveContext, Scratch,
};
use vidense::video::worker::{Isolation, ProcessLifetime, Worker};
use vidense::video::{Bounds, Flow, Frame, FrameRequest, LinkedFilePolicy, ReadEvent, ReadLimits, Sample, Window};

use crate::harness::{read_video, repository};

/// Time within which each refusal must come.
const SECONDS: Duration = Duration::from_secs(20);

/// A resolver with a scratch, and an allowed directory `allowed` beside `outside/canary`.
struct TestResolver {
    root: TempDir,
    resolver: MediaResolver,
}

fn isolation() -> Isolation {
    Isolation {
        program: env!("CARGO_BIN_EXE_vidense").into(),
        arguments: vec!["decode-worker".into()],
        stall: Duration::from_secs(10),
        lifetime: ProcessLifetime::OneReading,
        memory: Some(1 << 30),
    }
}

impl TestResolver {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let allowed = root.path().join("allowed");
        std::fs::create_dir(&allowed).unwrap();
        std::fs::create_dir(root.path().join("outside")).unwrap();
        std::fs::write(root.path().join("outside/canary"), "canary").unwrap();
        std::fs::copy(repository("samples/three_shapes.mp4"), allowed.join("a video.mp4")).unwrap();
        let settings = MediaSettings {
            policy: MediaPolicy { files: AllowedDirectories::new([&allowed]).unwrap(), ..MediaPolicy::default() },
            scratch: Scratch::open(&root.path().join("scratch"), 64 << 20).unwrap(),
            plan: FrameRequest::new(Sample::uniform(8), Window::default()),
            isolation: Some(isolation()),
            limits: Limits::default().with_time(Duration::from_secs(10)),
        };
        Self { root, resolver: MediaResolver::new(settings) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn resolve(&self, part: MediaPart) -> Result<Arc<Media>, Error> {
        let start = Instant::now();
        let context = ResolveContext { scope: "", halt: Arc::new(|| false), known: &|_| None };
        let resolved = self.resolver.resolve(part, &context);
        assert!(start.elapsed() < SECONDS, "{:?}", start.elapsed());
        resolved
    }

    fn url(&self, url: String) -> Result<Arc<Media>, Error> {
        self.resolve(part(MediaSource::Url(url)))
    }

    fn file(&self, name: &str) -> Result<Arc<Media>, Error> {
        self.url(format!("file://{}/{name}", self.root.path().display()))
    }
}

fn part(source: MediaSource) -> MediaPart {
    MediaPart { source, uuid: None, frames: FrameOptions::default(), timing: None, param: String::new() }
}

fn data(bytes: &[u8]) -> String {
    format!("data:video/mp4;base64,{}", STANDARD.encode(bytes))
}

fn sample_video() -> Vec<u8> {
    std::fs::read(repository("samples/three_shapes.mp4")).unwrap()
}

/// Frames of a medium, from a process of its own.
fn read(media: &Media) -> Result<Vec<Frame>, Error> {
    let (isolation, mut frames) = (isolation(), Vec::new());
    let limits = ReadLimits { links: LinkedFilePolicy::Refuse, ..ReadLimits::default() };
    Worker::new(&isolation).read_frames(&media.path, &media.request, &Bounds::from(&limits), &mut |event| {
        match event {
            ReadEvent::Frame(frame) => frames.push(frame),
            ReadEvent::Restart => frames.clear(),
            _ => {}
        }
        Flow::Continue
    })?;
    Ok(frames)
}

fn assert_same(found: &[Frame], expected: &[Frame]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!((found.index, found.time), (expected.index, expected.time));
        assert!(found.image == expected.image, "frame {}", expected.index);
    }
}

fn frames_of(path: &Path, request: &FrameRequest) -> Vec<Frame> {
    read_video(path, request, &ReadLimits::default()).unwrap().0
}

#[test]
fn a_video_has_the_same_frames_by_every_way() {
    let media = TestResolver::new();
    let request = FrameRequest::new(Sample::uniform(8), Window::default());
    let expected = frames_of(&repository("samples/three_shapes.mp4"), &request);
    let mut upload = media.resolver.scratch().upload("", 1 << 20).unwrap();
    upload.push(&sample_video()).unwrap();
    let upload = format!("upload:{}", upload.finish().unwrap().id);
    for url in [data(&sample_video()), upload, format!("file://{}", media.path("allowed/a video.mp4").display())] {
        let found = media.url(url).unwrap();
        assert_eq!((found.expected.n_frames, found.expected.image), (8, None));
        assert_same(&read(&found).unwrap(), &expected);
    }
    let rate = FrameOptions { fps: Some(1.0), num_frames: Some(3), ..FrameOptions::default() };
    let found = media.resolve(MediaPart { frames: rate, ..part(MediaSource::Url(data(&sample_video()))) }).unwrap();
    assert_eq!(found.expected.n_frames, 3);
    assert_same(&read(&found).unwrap(), &frames_of(&repository("samples/three_shapes.mp4"), &found.request));
}

#[test]
fn jpeg_frames_are_read_in_order_and_stamped_with_the_times_of_the_client() {
    let media = TestResolver::new();
    let images: Vec<image::RgbImage> =
        (0..3).map(|i| image::RgbImage::from_pixel(32, 24, image::Rgb([i * 100, 50, 50]))).collect();
    let jpeg = |image: &image::RgbImage| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
        STANDARD.encode(bytes.into_inner())
    };
    let list = images.iter().map(jpeg).collect::<Vec<_>>().join(",");
    let timing = FrameTiming { fps: Some(25.0), frames_indices: Some(vec![0, 25, 75]), ..FrameTiming::default() };
    let source = MediaSource::Url(format!("data:video/jpeg;base64,{list}"));
    let found = media.resolve(MediaPart { timing: Some(timing), ..part(source) }).unwrap();
    assert_eq!((found.expected.n_frames, found.expected.image), (3, None));
    let frames = read(&found).unwrap();
    assert_eq!(frames.len(), 3);
    for (frame, image) in frames.iter().zip(&images) {
        let (found, expected) = (frame.image.get_pixel(16, 12), image.get_pixel(16, 12));
        assert!(found.0.iter().zip(expected.0).all(|(a, b)| a.abs_diff(b) < 8), "{found:?}, not {expected:?}");
    }
    // One image alone is a single image, whose size decides its tokens.
    let png = {
        let mut bytes = std::io::Cursor::new(Vec::new());
        images[0].write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        format!("data:image/png;base64,{}", STANDARD.encode(bytes.into_inner()))
    };
    let single = media.resolve(part(MediaSource::Frames(vec![png]))).unwrap();
    assert_eq!((single.expected.n_frames, single.expected.image), (1, Some((32, 24))));
    assert_eq!(read(&single).unwrap().len(), 1);
}

#[test]
fn a_playlist_is_refused_inside_an_allowed_directory_and_under_any_name() {
    let media = TestResolver::new();
    let outside = media.path("outside/canary").display().to_string();
    let m3u8 = format!("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{outside}\n#EXT-X-ENDLIST\n");
    let concat = format!("ffconcat version 1.0\nfile '{outside}'\n");
    let sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n".to_owned();
    for (name, text) in [("a.m3u8", &m3u8), ("b.mp4", &m3u8), ("c.mp4", &concat), ("d.txt", &concat), ("e.mp4", &sdp)] {
        std::fs::write(media.path("allowed").join(name), text).unwrap();
        for found in [media.file(&format!("allowed/{name}")), media.url(data(text.as_bytes()))] {
            let error = found.expect_err(name);
            assert!(matches!(error.kind(), Kind::Refused | Kind::NotMedia), "{name}: {error}");
            assert!(!error.to_string().contains("canary") && !error.to_string().contains("/proc"), "{name}: {error}");
        }
    }
}

#[cfg(unix)]
#[test]
fn paths_and_links_that_lead_out_of_the_directory_are_refused() {
    use std::os::unix::fs::symlink;
    let media = TestResolver::new();
    symlink(media.path("outside/canary"), media.path("allowed/link.mp4")).unwrap();
    symlink(media.path("outside"), media.path("allowed/directory")).unwrap();
    symlink("a video.mp4", media.path("allowed/inner.mp4")).unwrap();
    assert!(media.file("allowed/inner.mp4").is_ok());
    for name in [
        "allowed/../outside/canary",
        "allowed/%2e%2e/outside/canary",
        "allowed/..%2foutside/canary",
        "allowed/%2E%2E%2Foutside%2Fcanary",
        "outside/canary",
        "allowed/link.mp4",
        "allowed/directory/canary",
        "allowed/directory%2Fcanary",
    ] {
        assert_eq!(media.file(name).expect_err(name).kind(), Kind::Refused, "{name}");
    }
    assert!(media.file("allowed/a%20video.mp4%00.jpg").is_err());
    for url in
        ["file:///etc/passwd", "file://localhost/etc/passwd", "file:///proc/self/environ", "file://evil/etc/passwd"]
    {
        assert_eq!(media.url(url.to_owned()).expect_err(url).kind(), Kind::Refused, "{url}");
    }
    for url in ["/etc/passwd", "concat:/etc/passwd", "pipe:0", "fd:0", "lavfi:testsrc", "crypto:/etc/passwd"] {
        assert_eq!(media.url(url.to_owned()).expect_err(url).kind(), Kind::Invalid, "{url}");
    }
    for url in ["http://169.254.169.254/latest/meta-data", "https://example.org/a.mp4", "http://localhost:80/"] {
        assert_eq!(media.url(url.to_owned()).expect_err(url).kind(), Kind::Refused, "{url}");
    }
}

/// A PNG file whose header declares a size, without pixels.
fn huge_png(side: u32) -> Vec<u8> {
    let mut header = b"IHDR".to_vec();
    header.extend(side.to_be_bytes());
    header.extend(side.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    png.extend(&header);
    png.extend(crc32(&header).to_be_bytes());
    png.extend(b"\0\0\0\0IDAT");
    png.extend(crc32(b"IDAT").to_be_bytes());
    png
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn declared_sizes_cost_neither_memory_nor_time() {
    let media = TestResolver::new();
    let huge = huge_png(65_535);
    for source in [MediaSource::Url(data(&huge)), MediaSource::Frames(vec![data(&huge); 2])] {
        if let Ok(found) = media.resolve(part(source)) {
            let error = read(&found).map(|frames| frames.len()).expect_err("no pixel is there");
            assert!(!error.to_string().is_empty());
        }
    }
    // An MP4 file with a box that claims four exabytes, and one nested in itself to the end.
    let claim = [&b"\0\0\0\x01moov"[..], &u64::MAX.to_be_bytes()].concat();
    let nested: Vec<u8> =
        (0..5_000u32).rev().flat_map(|i| [&(8 * (i + 1)).to_be_bytes()[..], b"moov"].concat()).collect();
    let nested = nested.chunks(8).rev().flatten().copied().collect::<Vec<u8>>();
    let head = b"\0\0\0\x18ftypisom\0\0\0\0isomiso2";
    for body in [claim, nested, vec![0; 1 << 20]] {
        let error = media.url(data(&[head, &body[..]].concat())).expect_err("not a video");
        assert!(!error.to_string().contains("scratch"), "{error}");
    }
}

#[test]
fn a_damaged_video_is_an_answer_and_leaves_nothing() {
    const N: usize = 40;
    let media = TestResolver::new();
    let whole = sample_video();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 8) as usize
    };
    for i in 0..N {
        let mut bytes = whole.clone();
        // Most damage in the tables at either end, where it changes what is read.
        for _ in 0..1 + next() % 16 {
            let n = bytes.len();
            let near = next() % 2048.min(n);
            let at = if next() % 2 == 0 { near } else { n - 1 - near };
            bytes[at] = next() as u8;
        }
        if i % 4 == 0 {
            bytes.truncate(next() % bytes.len() + 1);
        }
        if let Ok(found) = media.url(data(&bytes)) {
            let _ = read(&found);
        }
    }
    assert_eq!(media.resolver.scratch().usage().n_bytes, 0);
    assert!(media.url(data(&whole)).is_ok(), "the resolver still works");
}
