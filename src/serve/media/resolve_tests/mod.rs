//! Tests of the resolver with a probe and downloads of their own: keys, lists of frames, uuids, limits, broken parts.

mod hostile;
mod lists;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use super::resolve::MediaTools;
use super::scratch::Scratch;
use super::*;
use crate::error::{Error, Kind, Result};
use crate::pipeline::{ExpectedMedium, FrameStamp};
use crate::units::{FrameIndex, Seconds};
use crate::video::{FrameRequest, Sample, Window};

/// Bytes of a scratch.
const SCRATCH: u64 = 1 << 20;
/// First bytes of a JPEG image.
const JPEG: &[u8] = b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01";

/// A resolver, whose probe counts its calls and refuses files that begin with `bad`.
struct ToyResolver {
    root: TempDir,
    resolver: MediaResolver,
    n_probes: Arc<AtomicUsize>,
    /// Media whose visual tokens are cached.
    encoded: Mutex<HashMap<MediaKey, ExpectedMedium>>,
}

impl ToyResolver {
    fn new(policy: MediaPolicy) -> Self {
        let root = tempfile::tempdir().expect("room");
        let scratch = Scratch::open(&root.path().join("scratch"), SCRATCH).expect("room");
        let n_probes = Arc::new(AtomicUsize::new(0));
        let counter = n_probes.clone();
        let probe = move |path: &Path, request: &FrameRequest, _: &crate::video::Halt| {
            counter.fetch_add(1, Ordering::Relaxed);
            forecast(path, request)
        };
        // A host that sends its own URL, three times.
        let download = |url: &str, writer: &mut ScratchWriter, _: &dyn Fn() -> bool| {
            (0..3).try_for_each(|_| std::io::Write::write_all(writer, url.as_bytes())).map_err(Error::from)
        };
        let tools = MediaTools { download: Box::new(download), probe: Box::new(probe) };
        let plan = FrameRequest::new(Sample::uniform(8), Window::default());
        let resolver = MediaResolver::with_tools(policy, scratch, plan, tools);
        Self { root, resolver, n_probes, encoded: Mutex::default() }
    }

    fn resolve_in(&self, scope: &str, part: MediaPart) -> Result<Arc<Media>> {
        let known = |key: &MediaKey| self.encoded.lock().expect("no panic").get(key).copied();
        let context = ResolveContext { scope, halt: Arc::new(|| false), known: &known };
        self.resolver.resolve(part, &context)
    }

    fn resolve(&self, source: MediaSource) -> Result<Arc<Media>> {
        self.resolve_in("", part(source))
    }

    fn url(&self, url: &str) -> Result<Arc<Media>> {
        self.resolve(MediaSource::Url(url.to_owned()))
    }

    fn upload(&self, scope: &str, bytes: &[u8]) -> MediaSource {
        let mut writer = self.resolver.scratch().upload(scope, 1 << 20).expect("room");
        writer.push(bytes).expect("room");
        MediaSource::Url(format!("upload:{}", writer.finish().expect("not empty").id))
    }

    fn encode(&self, media: &Media) {
        self.encoded.lock().expect("no panic").insert(media.key, media.expected);
    }

    fn n_probes(&self) -> usize {
        self.n_probes.load(Ordering::Relaxed)
    }

    fn n_bytes(&self) -> u64 {
        self.resolver.scratch().usage().n_bytes
    }
}

fn forecast(path: &Path, request: &FrameRequest) -> Result<ExpectedMedium> {
    if path.is_dir() {
        let n_frames = std::fs::read_dir(path)?.count();
        return Ok(ExpectedMedium { n_frames, image: (n_frames == 1).then_some((64, 48)) });
    }
    if std::fs::read(path)?.starts_with(b"bad") {
        return Err(Error::new(Kind::NotMedia, "not a video").about(path));
    }
    let n_frames = match &request.sample {
        Sample::Uniform(rule) => rule.frames,
        _ => 1_000_000,
    };
    Ok(ExpectedMedium { n_frames, image: None })
}

fn part(source: MediaSource) -> MediaPart {
    MediaPart {
        source,
        uuid: None,
        frames: FrameOptions::default(),
        timing: None,
        param: "messages[0].content[0].video_url".to_owned(),
    }
}

fn data(bytes: &[u8]) -> String {
    format!("data:video/mp4;base64,{}", STANDARD.encode(bytes))
}

/// A JPEG image, as far as its first bytes say, and then `text`.
fn jpeg(text: &str) -> String {
    STANDARD.encode([JPEG, text.as_bytes()].concat())
}

fn frame_list(n: usize) -> String {
    let frames: Vec<String> = (0..n).map(|i| jpeg(&i.to_string())).collect();
    format!("data:video/jpeg;base64,{}", frames.join(","))
}

fn stamps(n: usize) -> Vec<FrameStamp> {
    (0..n).map(|i| FrameStamp { index: FrameIndex(i), time_seconds: None }).collect()
}

#[test]
fn equal_content_has_one_key_and_is_probed_once() {
    let toy = ToyResolver::new(MediaPolicy::default());
    let first = toy.url(&data(b"video")).expect("valid");
    assert_eq!((first.expected.n_frames, &*first.name, first.n_listed), (8, "data", None));
    assert_eq!(std::fs::read(&first.path).expect("there"), b"video");
    let uploaded = toy.upload("", b"video");
    for source in [MediaSource::Base64(STANDARD.encode(b"video")), uploaded] {
        assert_eq!(toy.resolve(source).expect("valid").key, first.key);
    }
    assert_eq!(toy.n_probes(), 1);
    assert_ne!(toy.url(&data(b"other")).expect("valid").key, first.key);
    let four = FrameOptions { num_frames: Some(4), ..FrameOptions::default() };
    let fewer = toy.resolve_in("", MediaPart { frames: four, ..part(MediaSource::Url(data(b"video"))) });
    let fewer = fewer.expect("valid");
    assert_eq!(fewer.expected.n_frames, 4);
    assert_ne!(fewer.key, first.key);
    assert_eq!(toy.n_probes(), 3);
}

#[test]
fn files_are_removed_with_the_request_and_after_an_error() {
    let toy = ToyResolver::new(MediaPolicy::default());
    let media = [toy.url(&data(b"video")), toy.url(&frame_list(3))].map(|media| media.expect("valid"));
    let paths = media.each_ref().map(|media| media.path.clone());
    assert!(paths.iter().all(|path| path.exists()) && toy.n_bytes() == 4 * 4096);
    drop(media);
    assert!(!paths.iter().any(|path| path.exists()));
    let error = toy.url(&data(b"bad video")).expect_err("not a video").to_string();
    assert_eq!(error, "data: not a video", "no path of this machine is said");
    assert!(toy.url(&format!("{},!", frame_list(3))).is_err());
    assert_eq!(toy.n_bytes(), 0);
    let directory = std::fs::read_dir(toy.root.path().join("scratch")).expect("there");
    let left: usize = directory
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir())
        .map(|path| std::fs::read_dir(path).expect("there").count())
        .sum();
    assert_eq!(left, 0);
}

#[test]
fn a_uuid_stands_for_content_that_was_sent_before() {
    let toy = ToyResolver::new(MediaPolicy::default());
    let named = |source| MediaPart { uuid: Some("clip".to_owned()), ..part(source) };
    let known = || named(MediaSource::Known);
    assert_eq!(toy.resolve_in("alice", known()).expect_err("never sent").kind(), Kind::NotFound);
    let first = toy.resolve_in("alice", named(MediaSource::Url(data(b"video")))).expect("valid");
    let error = toy.resolve_in("alice", known()).expect_err("its tokens are not cached").to_string();
    assert_eq!(error, "the content of uuid `clip` is not kept; hint: send the content with its uuid");
    toy.encode(&first);
    let again = toy.resolve_in("alice", known()).expect("cached");
    assert!(again.key == first.key && again.expected == first.expected && again.is_absent() && !first.is_absent());
    assert!(toy.resolve_in("bob", known()).is_err(), "of another client");
    let error = toy.resolve_in("alice", named(MediaSource::Url(data(b"other")))).expect_err("other content");
    assert_eq!(
        error.to_string(),
        "uuid `clip` was sent with other content before; hint: a uuid of its own for each content"
    );
    // Other frames of the same content are not encoded yet.
    let four = FrameOptions { num_frames: Some(4), ..FrameOptions::default() };
    assert!(toy.resolve_in("alice", MediaPart { frames: four, ..known() }).is_err());
    // Content that is not a video is not remembered.
    let bad = MediaPart { uuid: Some("bad".to_owned()), ..part(MediaSource::Url(data(b"bad"))) };
    assert!(toy.resolve_in("alice", bad).is_err());
    let unknown = MediaPart { uuid: Some("bad".to_owned()), ..part(MediaSource::Known) };
    assert_eq!(toy.resolve_in("alice", unknown).expect_err("unknown").kind(), Kind::NotFound);
    assert!(toy.resolve_in("alice", part(MediaSource::Known)).is_err(), "neither content nor uuid");
    // A list is known by its number of frames.
    let list = || MediaPart { uuid: Some("list".to_owned()), ..part(MediaSource::Url(frame_list(3))) };
    let first = toy.resolve_in("alice", list()).expect("valid");
    toy.encode(&first);
    let again = toy.resolve_in("alice", MediaPart { source: MediaSource::Known, ..list() }).expect("cached");
    assert_eq!((again.key, again.n_listed), (first.key, Some(3)));
}

#[test]
fn limits_hold_before_anything_is_decoded() {
    let policy = MediaPolicy { max_bytes: 1000, max_frames: 16, max_media: 2, ..MediaPolicy::default() };
    let toy = ToyResolver::new(policy);
    let kind = |found: Result<Arc<Media>>| found.expect_err("over a limit").kind();
    assert_eq!(kind(toy.url(&data(&[0; 1001]))), Kind::TooLarge);
    assert!(toy.url(&data(&[0; 1000])).is_ok());
    // The frames of a list share the limit.
    let large = jpeg(&"x".repeat(600));
    assert_eq!(kind(toy.url(&format!("data:video/jpeg;base64,{large},{large}"))), Kind::TooLarge);
    let commas = ",".repeat(1_000_000);
    assert_eq!(kind(toy.url(&format!("data:video/jpeg;base64,{commas}"))), Kind::TooLarge);
    assert_eq!(kind(toy.url(&frame_list(17))), Kind::TooLarge);
    assert!(toy.url(&frame_list(16)).is_ok());
    let every = FrameOptions { do_sample_frames: Some(false), ..FrameOptions::default() };
    let whole = toy.resolve_in("", MediaPart { frames: every, ..part(MediaSource::Url(data(b"video"))) });
    let error = whole.expect_err("a million frames").to_string();
    assert_eq!(error, "data: 1000000 frames, over the limit of 16; hint: media_io_kwargs.video.num_frames");
    let parts = || (0..3).map(|i| part(MediaSource::Url(data(&[i])))).collect::<Vec<_>>();
    let context = ResolveContext { scope: "", halt: Arc::new(|| false), known: &|_| None };
    let error = toy.resolver.resolve_all(parts(), &context).expect_err("three of two").to_string();
    assert_eq!(error, "3 videos and images, over the limit of 2");
    let error = toy.resolver.resolve_all(vec![part(MediaSource::Url(data(b"bad")))], &context).expect_err("bad");
    assert_eq!(error.to_string(), "messages[0].content[0].video_url: data: not a video");
    assert_eq!(toy.n_bytes(), 0);
}

#[test]
fn requests_in_progress_share_the_scratch() {
    let toy = ToyResolver::new(MediaPolicy::default());
    let half = vec![0; (SCRATCH / 2 + 1) as usize];
    let first = toy.url(&data(&half)).expect("room");
    assert_eq!(toy.url(&data(&half)).expect_err("no room").kind(), Kind::Busy);
    drop(first);
    assert!(toy.url(&data(&half)).is_ok());
}

#[test]
fn downloads_keep_to_the_limit_of_a_medium() {
    let toy = ToyResolver::new(MediaPolicy { max_bytes: 150, ..MediaPolicy::default() });
    let media = toy.url("https://example.org/a.mp4?token=secret").expect("short");
    assert_eq!((&*media.name, media.path.exists()), ("https://example.org/a.mp4", true));
    let error = toy.url(&format!("https://example.org/{}", "a".repeat(100))).expect_err("long");
    assert_eq!((error.kind(), toy.n_bytes() <= 4096), (Kind::TooLarge, true));
}

#[test]
fn uploads_belong_to_their_scope() {
    let toy = ToyResolver::new(MediaPolicy::default());
    let source = toy.upload("alice", b"video");
    assert!(toy.resolve_in("alice", part(source.clone())).is_ok());
    assert_eq!(toy.resolve_in("bob", part(source)).expect_err("of another client").kind(), Kind::NotFound);
    for url in ["upload:", "upload:../x", "upload:vid_0"] {
        assert_eq!(toy.url(url).expect_err(url).kind(), Kind::NotFound, "{url}");
    }
}

#[test]
fn a_client_that_has_gone_away_ends_the_work() {
    let toy = ToyResolver::new(MediaPolicy::default());
    let context = ResolveContext { scope: "", halt: Arc::new(|| true), known: &|_| None };
    let error = toy.resolver.resolve(part(MediaSource::Url(data(b"video"))), &context).expect_err("gone");
    assert_eq!(error.kind(), Kind::Stopped);
}

#[test]
fn times_of_frames_are_refused_for_a_file() {
    let toy = ToyResolver::new(MediaPolicy::default());
    let timing = |timing| MediaPart { timing: Some(timing), ..part(MediaSource::Url(data(b"video"))) };
    let error =
        toy.resolve_in("", timing(FrameTiming { fps: Some(1.0), ..FrameTiming::default() })).expect_err("a file");
    assert!(error.to_string().starts_with("timing: a video file has times of its own; hint: "), "{error}");
    assert!(toy.resolve_in("", timing(FrameTiming::default())).is_ok());
}
