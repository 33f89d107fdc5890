//! The shapes world on disk: clips that decode to the rendered frames, files determined by their seed, and scores.

use std::path::Path;
use std::process::{Command, Output};

use vidense::video::{ClipFormat, Flow, FrameRequest, ReadEvent, ReadLimits, Sample, Window, read_frames, write_clip};
use vidense::world::{Clip, Draw};

use crate::harness::repository;

fn vidense(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vidense")).current_dir(repository("")).args(arguments).output().unwrap()
}

fn decoded(path: &Path) -> Vec<::image::RgbImage> {
    let mut pictures = Vec::new();
    let request = FrameRequest::new(Sample::All, Window::default());
    read_frames(path, &request, &ReadLimits::default(), &mut |event| {
        match event {
            ReadEvent::Frame(frame) => pictures.push(frame.image),
            ReadEvent::Restart => pictures.clear(),
            ReadEvent::Expected { .. } | ReadEvent::Progress { .. } | ReadEvent::Waiting => {}
        }
        Flow::Continue
    })
    .unwrap();
    pictures
}

#[test]
fn clips_decode_to_what_was_rendered() {
    let dir = tempfile::tempdir().unwrap();
    for (index, format) in ClipFormat::ALL.into_iter().enumerate() {
        let clip = Clip::draw(&mut Draw::new(77, index as u64));
        let path = dir.path().join("clip").with_extension(format.extension());
        write_clip(&path, format, 16, &mut (0..clip.n_frames).map(|frame| clip.render(frame))).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < 300_000);
        let pictures = decoded(&path);
        assert_eq!(pictures.len(), clip.n_frames, "{format:?}");
        for (frame, picture) in pictures.iter().enumerate() {
            let rendered = clip.render(frame);
            assert_eq!(picture.dimensions(), rendered.dimensions());
            let pairs = picture.as_raw().iter().zip(rendered.as_raw());
            let sum: u64 = pairs.map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            let mean = sum as f64 / rendered.as_raw().len() as f64;
            // Subsampled colour and compression change edges, and little else.
            assert!(mean < 3.0, "{format:?}, frame {frame}: {mean} levels off in the mean");
        }
    }
}

#[test]
fn a_clip_of_nothing_or_of_two_sizes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip.mp4");
    let error = write_clip(&path, ClipFormat::Mp4, 16, &mut std::iter::empty()).unwrap_err().to_string();
    assert!(error.contains("clip.mp4: a clip needs at least one frame"), "{error}");
    let sizes = [(64, 64), (64, 48)];
    let mut pictures = sizes.into_iter().map(|(width, height)| ::image::RgbImage::new(width, height));
    assert!(write_clip(&path, ClipFormat::Mp4, 16, &mut pictures).is_err());
    let mut one = std::iter::once(::image::RgbImage::new(64, 64));
    let nowhere = dir.path().join("no/clip.mp4");
    assert!(write_clip(&nowhere, ClipFormat::Mp4, 16, &mut one).unwrap_err().to_string().contains("no/clip.mp4"));
}

#[test]
fn a_world_follows_from_its_seed() {
    let dir = tempfile::tempdir().unwrap();
    let written = |name: &str, seed: &str| {
        let out = dir.path().join(name);
        let arguments = ["world", "--seed", seed, "--videos", "3", "--images", "2", "--format", "mixed", "--out"];
        let output = vidense(&[&arguments[..], &[out.to_str().unwrap()]].concat());
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
        let mut files: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
            .iter()
            .map(|path| (path.file_name().unwrap().to_owned(), std::fs::read(path).unwrap()))
            .collect::<Vec<_>>()
    };
    let (one, same, other) = (written("one", "9"), written("same", "9"), written("other", "10"));
    let names: Vec<_> = one.iter().map(|(name, _)| name.to_str().unwrap()).collect();
    let wanted = [
        "clip-00000.mp4",
        "clip-00001.webm",
        "clip-00002.gif",
        "image-00000.png",
        "image-00001.png",
        "questions.jsonl",
    ];
    assert_eq!(names, wanted);
    assert!(one == same && one != other);
    let questions = String::from_utf8(one[5].1.clone()).unwrap();
    let first: serde_json::Value = serde_json::from_str(questions.lines().next().unwrap()).unwrap();
    let keys: Vec<_> = first.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["video", "question", "answer", "type"]);
}

#[test]
fn scores_are_counted_by_type() {
    let output = vidense(&["eval", "samples/clips/questions.jsonl", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let all = rows.last().unwrap();
    let lines = std::fs::read_to_string(repository("samples/clips/questions.jsonl")).unwrap().lines().count() as u64;
    assert_eq!((&all["type"], all["questions"].as_u64()), (&"all".into(), Some(lines)));
    let sum = |key: &str| rows[..rows.len() - 1].iter().map(|row| row[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("questions"), sum("right")), (lines, all["right"].as_u64().unwrap()));
    let table = String::from_utf8(vidense(&["eval", "samples/clips/questions.jsonl"]).stdout).unwrap();
    assert!(table.starts_with("type ") && table.lines().count() == rows.len() + 1, "{table}");
}

#[test]
fn questions_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("questions.jsonl");
    for (text, message) in [
        ("", "no questions"),
        ("\n{}\n", "line 2: missing field `video`"),
        ("{\"video\": \"gone.mp4\", \"question\": \"?\", \"answer\": \"\"}", "gone.mp4"),
    ] {
        std::fs::write(&path, text).unwrap();
        let output = vidense(&["eval", path.to_str().unwrap()]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && error.contains(message), "{error}");
    }
}

#[test]
fn a_question_that_fails_names_its_video() {
    let output = vidense(&["eval", "samples/clips/questions.jsonl", "--limit", "1", "--kv-memory", "1MiB"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && error.contains("over the budget of 1048576 bytes"), "{error}");
    assert!(
        error.contains("samples/clips/clip-00000.mp4: a prompt of ") && error.contains("(in the stage generate)"),
        "{error}"
    );
}

#[test]
fn eval_isolates_caches_and_limits_as_a_run_does() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let eval = |more: &[&str]| vidense(&[&["eval", "samples/clips/questions.jsonl", "--json"], more].concat());
    let plain = eval(&[]);
    let kept = ["--isolate", "--cache", cache.to_str().unwrap(), "--timings"];
    let (first, second) = (eval(&kept), eval(&kept));
    assert_eq!((first.status.code(), &first.stdout), (Some(0), &plain.stdout), "{first:?}");
    assert_eq!(second.stdout, plain.stdout);
    assert!(std::fs::read_dir(&cache).unwrap().count() > 0);
    // What was kept is not encoded again.
    let encoded = |output: &Output| {
        let told = String::from_utf8(output.stderr.clone()).unwrap();
        let line = told.lines().find(|line| line.starts_with("encode")).expect("a line about the tower").to_owned();
        line.split_whitespace().nth(3).unwrap().parse::<f64>().unwrap()
    };
    assert!(encoded(&second) < encoded(&first), "{second:?}");
    let late = eval(&["--time-limit", "decode=0.000001"]);
    let error = String::from_utf8(late.stderr).unwrap();
    assert!(late.status.code() == Some(1) && error.contains("longer than the limit"), "{error}");
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_eval_with_the_scores_so_far() {
    let dir = tempfile::tempdir().unwrap();
    let (questions, answers) = (dir.path().join("questions.jsonl"), dir.path().join("answers.jsonl"));
    // Neighbours are of different videos, so that each is a video of its own.
    let line = |i: usize| {
        let video = repository(["samples/clips/clip-00000.mp4", "samples/three_shapes.mp4"][i % 2]);
        serde_json::json!({"video": video, "question": "What color is the circle?", "answer": "red", "type": "color"})
    };
    let lines: String = (0..3000).map(|i| format!("{}\n", line(i))).collect();
    std::fs::write(&questions, lines).unwrap();
    for n_signals in [1, 2] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vidense"));
        command.current_dir(repository("")).args(["eval", "--json", "--answers"]).args([&answers, &questions]);
        let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let begin = std::time::Instant::now();
        while std::fs::metadata(&answers).map_or(0, |file| file.len()) == 0 {
            assert!(begin.elapsed().as_secs() < 60, "nothing was answered");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        for _ in 0..n_signals {
            assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && error.contains("of 3000 questions were not asked"), "{error}");
        let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        let asked = rows.last().unwrap()["questions"].as_u64().unwrap();
        let kept = std::fs::read_to_string(&answers).unwrap().lines().count() as u64;
        assert!((1..3000).contains(&asked) && asked == kept, "{asked} {kept}");
        std::fs::remove_file(&answers).unwrap();
    }
}
