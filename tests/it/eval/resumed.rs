//! Evaluations with a directory: killed and resumed, in shards, with missing videos, and scored from results.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use serde_json::{Value, json};

use super::Replica;
use super::runs::{shapes, vidense};
use crate::harness::repository;

/// Kills in CI; `VIDENSE_KILLS` asks for more.
const KILLS: usize = 30;

/// Benchmark over the sample clips and a damaged video.
struct Evaluation {
    replica: Replica,
}

impl Evaluation {
    fn new(missing: &[&str]) -> Self {
        let replica = shapes(missing);
        std::fs::write(replica.path("clips/broken.mp4"), "no video").unwrap();
        let path = replica.path("q.json");
        let mut rows: Vec<Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let broken = json!({ "video": "broken.mp4", "question": "What?", "candidates": ["x", "y"], "answer": "x", "question_type": "damaged" });
        rows.insert(0, broken);
        std::fs::write(&path, Value::Array(rows).to_string()).unwrap();
        Self { replica }
    }

    fn at(&self, name: &str) -> String {
        self.replica.path(name).to_str().unwrap().to_owned()
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let fixed = ["eval".to_owned(), self.at("spec.yaml"), "--data".to_owned(), self.at(".")];
        fixed.into_iter().chain(more.iter().map(|text| (*text).to_owned())).collect()
    }

    fn run(&self, more: &[&str]) -> std::process::Output {
        vidense(&self.arguments(more).iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn spawn(&self, more: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vidense"));
        command.current_dir(repository("")).args(self.arguments(more));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.replica.path(name)).unwrap_or_default()
    }
}

#[test]
#[ignore = "slow"]
fn a_killed_evaluation_is_resumed_to_the_same_scores() {
    let evaluation = Evaluation::new(&[]);
    let (whole, killed) = (evaluation.at("whole"), evaluation.at("killed"));
    let begin = Instant::now();
    let expected = evaluation.run(&["--out", &whole, "--json"]);
    let whole_run = begin.elapsed();
    assert_eq!(expected.status.code(), Some(1), "{expected:?}");
    let kills = std::env::var("VIDENSE_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let mut rng = ChaCha8Rng::seed_from_u64(2405);
    let (mut n_killed, mut n_begun) = (0, 0);
    while n_killed < kills {
        let _ = std::fs::remove_dir_all(&killed);
        for _ in 0..4 {
            let mut child = evaluation.spawn(&["--out", &killed]);
            std::thread::sleep(whole_run.mul_f64(f64::from(rng.next_u32()) / f64::from(u32::MAX)));
            child.kill().unwrap();
            n_killed += usize::from(child.wait().unwrap().code().is_none());
            n_begun += usize::from(evaluation.read("killed/run/answers.jsonl").lines().count() > 1);
        }
        let resumed = evaluation.run(&["--out", &killed, "--json"]);
        assert_eq!((resumed.status.code(), &resumed.stdout), (Some(1), &expected.stdout), "after {n_killed} kills");
        for name in ["scored.jsonl", "report.md", "report.html"] {
            let (found, expected) =
                (evaluation.read(&format!("killed/{name}")), evaluation.read(&format!("whole/{name}")));
            assert!(!found.is_empty() && found == expected, "{name} after {n_killed} kills");
        }
    }
    assert!(n_begun > 0, "no kill came after an answer");
}

#[test]
fn an_evaluation_that_is_run_again_asks_nothing_and_says_the_same() {
    let evaluation = Evaluation::new(&[]);
    let out = evaluation.at("out");
    let first = evaluation.run(&["--out", &out, "--json"]);
    let lines = evaluation.read("out/run/answers.jsonl");
    let again = evaluation.run(&["--out", &out, "--json"]);
    assert_eq!((again.status.code(), &again.stdout), (Some(1), &first.stdout), "{again:?}");
    assert_eq!(evaluation.read("out/run/answers.jsonl"), lines);
    // The damaged video failed, is told by name, and counts as wrong.
    let report: Value = serde_json::from_slice(&first.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let all = rows.last().unwrap();
    assert_eq!((&all["questions"], &all["failed"]), (&json!(13), &json!(1)));
    assert!(String::from_utf8_lossy(&first.stderr).contains("clips/broken.mp4"), "{first:?}");
    // Its report names the failure, and is written again from the directory alone, to the byte.
    let (page, text) = (evaluation.read("out/report.html"), evaluation.read("out/report.md"));
    assert!(text.contains("| clips/broken.mp4 | 1 | ") && text.contains("(run/thumbnails/"), "{text}");
    assert!(page.contains("data:image/jpeg;base64,") && page.contains("data:image/svg+xml;base64,"), "{page}");
    std::fs::remove_file(evaluation.replica.path("out/report.html")).unwrap();
    let reported = Command::new(env!("CARGO_BIN_EXE_vidense")).args(["eval", "report", &out]).output().unwrap();
    assert_eq!((reported.status.code(), evaluation.read("out/report.html")), (Some(0), page), "{reported:?}");
    // Another plan is not mixed with these answers.
    let other = evaluation.run(&["--out", &out, "--frames", "2"]);
    let error = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(other.status.code() == Some(2) && error.contains("sample.uniform.frames: 8 there, 2 here"), "{error}");
    // Repaired, it is asked about once failures are retried.
    std::fs::copy(repository("samples/three_shapes.mp4"), evaluation.replica.path("clips/broken.mp4")).unwrap();
    assert_eq!(evaluation.run(&["--out", &out]).status.code(), Some(1));
    let retried = evaluation.run(&["--out", &out, "--retry-failed", "--json"]);
    let report: Value = serde_json::from_slice(&retried.stdout).unwrap();
    let all = report["rows"].as_array().unwrap().last().unwrap();
    assert_eq!((retried.status.code(), &all["failed"]), (Some(0), &json!(0)), "{retried:?}");
}

#[test]
fn shards_are_merged_and_scored_as_one_run() {
    let evaluation = Evaluation::new(&["gone.mp4"]);
    let covered = ["--min-coverage", "60"];
    let with = |more: &[&str]| evaluation.run(&[&covered[..], more].concat());
    let whole = with(&["--json"]);
    let parts = ["0/2", "1/2"].map(|shard| {
        let out = evaluation.at(&shard.replace('/', "-of-"));
        let part = with(&["--out", &out, "--shard", shard]);
        assert!(matches!(part.status.code(), Some(0 | 1)), "{part:?}");
        assert!(part.stdout.is_empty(), "a part has no scores: {part:?}");
        format!("{out}/run")
    });
    let merged = evaluation.at("merged");
    let output = vidense(&["results", "merge", &parts[0], &parts[1], "--out", &merged]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let scored = with(&["--results", &merged, "--json"]);
    assert_eq!((scored.status.code(), &scored.stdout), (whole.status.code(), &whole.stdout), "{scored:?}");
    // A single part does not pass for the whole.
    let part = with(&["--results", &parts[0], "--json"]);
    let report: Value = serde_json::from_slice(&part.stdout).unwrap();
    assert_eq!(part.status.code(), Some(1));
    assert!(report["notes"].to_string().contains("were not asked, and are not counted"), "{report}");
}

#[test]
fn flags_that_would_be_ignored_are_refused() {
    let evaluation = Evaluation::new(&[]);
    for (flags, word) in [
        (&["--shard", "0/2"][..], "--out"),
        (&["--retry-failed"], "--out"),
        (&["--results", "x", "--model", "m"], "--model"),
        (&["--results", "x", "--frames", "2"], "--frames"),
        (&["--results", "x", "--isolate"], "--isolate"),
        (&["--results", "x", "--cache", "c"], "--cache"),
        (&["--results", "x", "--shard", "0/2", "--out", "y"], "--shard"),
    ] {
        let output = evaluation.run(flags);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && error.contains(word), "{flags:?}: {error}");
    }
}
