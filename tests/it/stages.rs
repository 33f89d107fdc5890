//! Opening of a model by the library, and the stages between a video and its visual tokens, without the command line.

use std::path::Path;
use std::sync::{Arc, Mutex};

use vidense::error::{Error, Kind};
use vidense::pipeline::{
    EncodedVideo, FirstQuestion, KnownScan, OpenEvent, Opening, Stages, VideoOptions, encode_video, open, open_with,
};
use vidense::spec::{Document, Plan, read_plan};
use vidense::video::{Access, Flow, ReadEvent, ReadLimits, Sample, read_frames, scan};

use crate::harness::{ask, ffmpeg, repository};

fn plan() -> Plan {
    Plan { model: repository("samples/mini").to_str().unwrap().to_owned(), ..Plan::default() }
}

/// What a listener heard, warnings apart, in the order in which it came.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    warnings: Vec<String>,
    n_begun: usize,
    n_expected: usize,
    n_read: usize,
    is_loaded: bool,
}

fn opening<'a>(document: &'a Document, first: Option<FirstQuestion<'a>>, heard: &Arc<Mutex<Heard>>) -> Opening<'a> {
    let heard = heard.clone();
    let on_open = move |event: OpenEvent<'_>| {
        let mut heard = heard.lock().unwrap();
        assert!(!heard.is_loaded || matches!(event, OpenEvent::Warning(_)));
        match event {
            OpenEvent::Warning(text) => heard.warnings.push(text.to_owned()),
            OpenEvent::Loading { n_parameters } => {
                (heard.n_begun, heard.n_expected) = (heard.n_begun + 1, n_parameters)
            }
            OpenEvent::Read { n_parameters } => heard.n_read += n_parameters,
            OpenEvent::Loaded => heard.is_loaded = true,
            OpenEvent::Note(text) => panic!("nothing to note of the CPU: {text}"),
        }
    };
    Opening { document, first, on_open: Arc::new(on_open) }
}

#[test]
fn a_model_is_opened_without_a_command() {
    let model = open(plan()).unwrap();
    assert_eq!((model.arithmetic().as_str(), model.device_name()), ("f32 on cpu", "cpu"));
    assert!(model.scanned.is_none() && model.fingerprint.len() == 32 && !model.model_files.is_empty());
    let video = repository("samples/three_shapes.mp4");
    let seen = encode_video(&model.vlm, &video, &model.plan, &|_| {}).unwrap();
    assert!(!ask(model.asking(), &seen, "What color is the circle?").unwrap().text.is_empty());
}

#[test]
fn a_listener_hears_of_warnings_and_of_all_that_is_read() {
    let heard = Arc::default();
    let plan = Plan { temporal: Some("max_pool:4".parse().unwrap()), ..plan() };
    let video = repository("samples/three_shapes.mp4");
    let first = FirstQuestion { video: &video, question: "Why?", read: ReadLimits::default() };
    let document = Document::empty();
    let model = open_with(plan, &opening(&document, Some(first), &heard)).unwrap();
    let heard = heard.lock().unwrap();
    assert!(heard.is_loaded && heard.n_begun == 1, "{heard:?}");
    // The tower's last norm is no part of what the connector fuses, and is not read.
    let n_left = heard.n_expected - heard.n_read;
    assert!(heard.n_read > 1_000_000 && n_left < heard.n_expected / 100, "{heard:?}");
    assert!(model.scanned.is_some());
}

#[test]
fn what_is_wrong_is_refused_before_a_weight_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.mp4");
    let clip = repository("samples/three_shapes.mp4");
    let first = |video, question| Some(FirstQuestion { video, question, read: ReadLimits::default() });
    let concat =
        |frames| Plan { sample: Some(Sample::uniform(frames)), temporal: Some("concat".parse().unwrap()), ..plan() };
    let system = {
        let mut plan = plan();
        plan.prompt.template = Some("plain".to_owned());
        plan.prompt.system = Some("Be brief.".to_owned());
        plan
    };
    let unknown = Plan { model: dir.path().join("no-model").to_str().unwrap().to_owned(), ..plan() };
    let long = "what ".repeat(5000);
    type IsRight = fn(&Error) -> bool;
    let cases: [(Plan, Option<FirstQuestion<'_>>, IsRight); 6] = [
        (plan(), first(&missing, "Why?"), |e| e.kind() == Kind::NotFound),
        // The video comes first: a model may have to be fetched.
        (unknown.clone(), first(&missing, "Why?"), |e| e.kind() == Kind::NotFound),
        (unknown, None, |e| e.kind() == Kind::NotFound && e.to_string().contains("no-model: no such directory")),
        (system, None, |e| e.rule().starts_with("prompt.system")),
        (concat(400), None, |e| e.kind() == Kind::Invalid),
        (plan(), first(&clip, &long), |e| e.kind() == Kind::TokenBudget),
    ];
    for (place, (plan, first, is_right)) in cases.into_iter().enumerate() {
        let heard = Arc::default();
        let document = Document::empty();
        let error = open_with(plan, &opening(&document, first, &heard)).map(|_| ()).unwrap_err();
        assert!(is_right(&error), "{place}: {error:?}");
        assert_eq!(heard.lock().unwrap().n_begun, 0, "{place}: weights were read");
    }
}

#[test]
fn problems_of_a_plan_are_placed_in_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.yaml");
    let model = repository("samples/mini");
    let text = format!("model: {}\nsample: {{ uniform: {{ frames: 400 }} }}\ntemporal: concat\n", model.display());
    std::fs::write(&path, text).unwrap();
    let (plan, document) = read_plan(&path, &[]).unwrap();
    let error = open_with(plan, &opening(&document, None, &Arc::default())).map(|_| ()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}:3:1: temporal.concat: ", path.display())), "{error}");
}

/// A clip of 30 frames that are stored one by one, some of which do not decode.
fn damaged_clip() -> crate::harness::Clip {
    let clip = ffmpeg("-f lavfi -i testsrc=size=96x64:rate=10:duration=3 -c:v png a.avi");
    let mut bytes = std::fs::read(&clip.path).unwrap();
    let images: Vec<usize> = (0..bytes.len() - 4).filter(|&at| &bytes[at..at + 4] == b"\x89PNG").collect();
    assert_eq!(images.len(), 30);
    for broken in [3, 11, 29] {
        bytes[images[broken]..images[broken] + 60].fill(0x5a);
    }
    std::fs::write(&clip.path, bytes).unwrap();
    clip
}

fn n_restarts(path: &Path, plan: &Plan) -> usize {
    let mut n_restarts = 0;
    let count = &mut |event| {
        n_restarts += usize::from(matches!(event, ReadEvent::Restart));
        Flow::Continue
    };
    read_frames(path, &plan.frames(), &ReadLimits::default(), count).unwrap();
    n_restarts
}

fn values(video: &EncodedVideo) -> Vec<f32> {
    video.visual.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn frames_that_are_taken_back_stay_so_however_many_threads_prepare_them() {
    let clip = damaged_clip();
    let model = open(plan()).unwrap();
    let with = |threads| {
        let mut plan = Plan { sample: Some(Sample::uniform(4)), ..model.plan.clone() };
        plan.exec.preprocess_threads = Some(threads);
        plan
    };
    assert!(n_restarts(&clip.path, &with(1)) > 0);
    let one = encode_video(&model.vlm, &clip.path, &with(1), &|_| {}).unwrap();
    assert!(one.frames.len() == 4 && one.report.n_frames < 30, "{:?}", one.report);
    for threads in [2, 5, 16] {
        let many = encode_video(&model.vlm, &clip.path, &with(threads), &|_| {}).unwrap();
        assert_eq!(many.frames, one.frames, "{threads} threads");
        assert!(values(&many) == values(&one), "{threads} threads: other tokens");
    }
}

#[test]
fn a_known_scan_serves_the_video_that_it_is_of() {
    let model = open(plan()).unwrap();
    let clip = repository("samples/three_shapes.mp4");
    let other = ffmpeg("-f lavfi -i testsrc=size=96x64:rate=10:duration=2 a.mp4");
    for access in [Access::Straight, Access::Seek] {
        let mut plan = Plan { sample: Some(Sample::uniform(2)), ..model.plan.clone() };
        plan.exec.access = access;
        let alone = encode_video(&model.vlm, &clip, &plan, &|_| {}).unwrap();
        let known = KnownScan::new(scan(&clip, &plan.frames(), &ReadLimits::default()).unwrap());
        let options = VideoOptions { scanned: Some(&known), ..VideoOptions::default() };
        let stages = Stages::new(&model.vlm, &plan, &|_, _| {}).with(options);
        let encode = |path: &Path| stages.encode_one(path).unwrap();
        assert_ne!(encode(&other.path).frames, alone.frames);
        // The first takes the scan, the second finds none.
        for _ in 0..2 {
            let seen = encode(&clip);
            assert_eq!((&seen.frames, &seen.report), (&alone.frames, &alone.report));
            assert!(values(&seen) == values(&alone));
        }
    }
}
