//! Batches over URLs of a server on loopback: answers as those about local files, failures of one item, resumption, and
//! no more files at a time than videos are decoded.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::Batch;
use crate::batch::store::{ANSWERS, Header, Store};
use crate::batch::{Archive, ArchiveOptions, ArchiveUrls, BatchQuestion, Shard, Tally};
use crate::exec::RunControl;
use crate::fetch::test_server::{TestServer, response};
use crate::files::MINI;
use crate::pipeline::{Downloads, LoadedModel, VideoOptions, open};
use crate::spec::{ExecPlan, Plan};
use crate::video::Sample;

const N_DECODERS: usize = 2;

fn model() -> LoadedModel {
    let sample = Sample::Checkpoint(Default::default()).with_frames(2).expect("a number of frames");
    let exec = ExecPlan { decode_threads: N_DECODERS, ..ExecPlan::default() };
    open(Plan { model: MINI.to_owned(), sample: Some(sample), exec, ..Plan::default() }).expect("the built-in model")
}

fn sample_video() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/three_shapes.mp4")).expect("a sample")
}

/// Manifest and results of a test.
struct DownloadBatch {
    dir: tempfile::TempDir,
    model: LoadedModel,
}

impl DownloadBatch {
    fn new(manifest: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("m.txt"), manifest).expect("a small file");
        std::fs::write(dir.path().join("local.mp4"), sample_video()).expect("a small file");
        Self { dir, model: model() }
    }

    fn downloads(&self) -> PathBuf {
        self.dir.path().join("results/downloads")
    }

    /// Runs the batch, and returns its lines of results as JSON.
    fn run(&self, server: &TestServer, retry_failed: bool) -> Vec<serde_json::Value> {
        let (model, results) = (&self.model, self.dir.path().join("results"));
        let header = Header::new(&model.plan, &model.fingerprint, model.arithmetic(), &model.model_files);
        let (mut store, state) = Store::open(&results, &header.expect("a resolved plan")).expect("results");
        let options = ArchiveOptions { urls: ArchiveUrls::Videos, ..ArchiveOptions::default() };
        let archive = Archive::open(&self.dir.path().join("m.txt"), &options).expect("a manifest");
        let downloads = Downloads::open(server.fetcher(), self.downloads()).expect("a directory");
        let tally = Tally::new("cpu");
        let batch = Batch {
            asking: model.asking(),
            archive: &archive,
            questions: &[BatchQuestion::new("How many objects are there?")],
            shard: Shard::default(),
            retry_failed,
            is_only_archive: true,
            options: VideoOptions { downloads: Some(&downloads), ..VideoOptions::default() },
            tally: &tally,
        };
        let outcome = batch.run(&mut store, state, &RunControl::default(), &|_| {}).expect("a run");
        assert!(outcome.complete);
        drop(downloads);
        assert!(!self.downloads().exists(), "nothing is left of downloads");
        let text = std::fs::read_to_string(results.join(ANSWERS)).expect("results");
        text.lines().skip(1).map(|line| serde_json::from_str(line).expect("an object")).collect()
    }
}

/// Returns the last line about a video.
fn about<'a>(lines: &'a [serde_json::Value], video: &str) -> &'a serde_json::Value {
    lines.iter().rev().find(|line| line["video"] == video).unwrap_or_else(|| panic!("no line about {video}"))
}

#[test]
fn urls_are_answered_like_files_and_never_downloaded_twice() {
    let is_there = Arc::new(AtomicBool::new(false));
    let (late, video) = (is_there.clone(), sample_video());
    let server = TestServer::start(move |path, stream| match path {
        "/a.mp4?key=1" => stream.write_all(&response("200 OK", "", &video)),
        "/late" if late.load(Ordering::SeqCst) => stream.write_all(&response("200 OK", "", &video)),
        "/page.mp4" => stream.write_all(&response("200 OK", "", b"<!DOCTYPE html><title>Sign in</title>")),
        "/list.mp4" => stream.write_all(&response("200 OK", "", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n")),
        _ => stream.write_all(&response("404 Not Found", "", b"")),
    });
    let [a, late, page, list] = ["/a.mp4?key=1", "/late", "/page.mp4", "/list.mp4"].map(|path| server.url(path));
    let other = "http://other.example/a.mp4";
    let place = DownloadBatch::new(&format!("{a}\nlocal.mp4\n{late}\n{page}\n{list}\n{other}\n"));
    let lines = place.run(&server, false);
    assert_eq!(lines.len(), 6);
    // The answer, its tokens and its frames.
    for key in ["answer", "token_ids", "frames"] {
        assert!(
            about(&lines, "local.mp4")[key] == about(&lines, &a)[key] && !about(&lines, &a)[key].is_null(),
            "{key}"
        );
    }
    for (video, kind, cause) in [
        (&late, "fetch", format!("{late}: the server answered with status 404")),
        (
            &page,
            "not_media",
            format!("{page}: not a video that FFmpeg can read: a web page (HTML), not the file itself"),
        ),
        (&list, "refused", format!("{list}: ")),
        (&other.to_owned(), "refused", format!("{other}: host `other.example` is not allowed")),
    ] {
        let error = &about(&lines, video)["error"];
        assert_eq!((error["stage"].as_str(), error["kind"].as_str()), (Some("decode"), Some(kind)), "{error}");
        assert!(error["cause"].as_str().expect("a text").starts_with(&cause), "{error}");
        assert!(!error.to_string().contains("vidense-download"), "{error}");
    }
    let n_requests = server.requests().len();
    assert_eq!(n_requests, 4);
    // Resumed: nothing is left to be asked.
    assert_eq!(place.run(&server, false).len(), 6);
    assert_eq!(server.requests().len(), n_requests);
    // Retried: the failures alone.
    is_there.store(true, Ordering::SeqCst);
    let lines = place.run(&server, true);
    assert_eq!(about(&lines, &late)["answer"], about(&lines, &a)["answer"]);
    let retried = server.requests().split_off(n_requests);
    assert_eq!(retried.len(), 3, "{retried:?}");
    assert!(!retried.iter().any(|request| request.contains("/a.mp4")));
}

#[test]
fn no_more_files_are_there_at_a_time_than_videos_are_decoded() {
    let (most, directory) = (Arc::new(AtomicUsize::new(0)), Arc::new(std::sync::OnceLock::<PathBuf>::new()));
    let (seen, place_of, video) = (most.clone(), directory.clone(), sample_video());
    let server = TestServer::start(move |_, stream| {
        let n_files = std::fs::read_dir(place_of.get().expect("set before the run"))?.count();
        seen.fetch_max(n_files, Ordering::SeqCst);
        stream.write_all(&response("200 OK", "", &video))
    });
    let place = DownloadBatch::new(&(0..8).map(|i| server.url(&format!("/{i}.mp4")) + "\n").collect::<String>());
    directory.set(place.downloads()).expect("once");
    std::fs::create_dir_all(place.downloads()).expect("ours");
    std::fs::write(place.downloads().join("vidense-download-of-a-killed-run"), "").expect("ours");
    let lines = place.run(&server, false);
    assert_eq!(lines.iter().filter(|line| line["answer"].is_string()).count(), 8);
    let most = most.load(Ordering::SeqCst);
    assert!((1..=N_DECODERS).contains(&most), "{most}");
}
