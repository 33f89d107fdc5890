//! Ablations: files of matrices, and their runs by the binary over the sample clips.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use vidense::eval::matrix::{MatrixQuestions, read_matrix};

use crate::harness::repository;

/// Directory with a matrix and the questions about two of the sample clips.
struct Ablation {
    dir: tempfile::TempDir,
}

impl Ablation {
    fn new(matrix: &str) -> Self {
        let ablation = Self { dir: tempfile::tempdir().unwrap() };
        let text = std::fs::read_to_string(repository("samples/clips/questions.jsonl")).unwrap();
        let mut videos: Vec<String> = Vec::new();
        let mut kept = String::new();
        for line in text.lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let video = row["video"].as_str().unwrap().to_owned();
            if !videos.contains(&video) {
                if videos.len() == 2 {
                    break;
                }
                std::fs::copy(repository("samples/clips").join(&video), ablation.path(&video)).unwrap();
                videos.push(video);
            }
            kept += &format!("{line}\n");
        }
        std::fs::write(ablation.path("questions.jsonl"), kept).unwrap();
        std::fs::write(ablation.path("matrix.yaml"), matrix).unwrap();
        ablation
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, out: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vidense"));
        command.current_dir(self.dir.path()).args(["eval", "matrix.yaml", "--json", "--out", out]);
        command
    }

    fn run(&self, out: &str) -> Output {
        self.command(out).output().unwrap()
    }

    fn read(&self) -> String {
        read_matrix(&self.path("matrix.yaml"), &[]).unwrap_err().to_string()
    }
}

fn table(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Returns the rows without their times, which no run repeats.
fn without_times(table: &Value) -> Vec<Value> {
    let mut rows = table["rows"].as_array().unwrap().clone();
    for row in &mut rows {
        row["cost"].as_object_mut().unwrap().retain(|key, _| key == "visual_tokens" || key == "videos");
    }
    rows
}

const SHAPES: &str = "questions: questions.jsonl\nmatrix:\n  temporal: [concat, { max_pool: { stride: 2 } }, temporal_mean]\n  frames: [2, 4]\n\
                      exclude:\n  - { temporal: temporal_mean, frames: 2 }\nbaseline: { temporal: concat, frames: 4 }\n";

#[test]
fn every_shipped_matrix_is_valid() {
    let mut n = 0;
    for entry in std::fs::read_dir(repository("evals/ablations")).unwrap() {
        let path = entry.unwrap().path();
        let matrix = read_matrix(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        match matrix.questions {
            MatrixQuestions::Benchmark(file) | MatrixQuestions::Questions(file) => {
                assert!(file.is_file(), "{}: {}", path.display(), file.display());
            }
        }
        // A published result is that of one cell.
        assert!(matrix.published.iter().all(|row| row.cells.len() == 1), "{}", path.display());
        n += 1;
    }
    assert_eq!(n, 5);
    let matrix = read_matrix(&repository("evals/ablations/shapes.yaml"), &[]).unwrap();
    assert_eq!(matrix.cells.len(), 14);
    assert_eq!(matrix.cells[matrix.baseline].name, "temporal=D2,frames=8");
}

#[test]
fn every_error_of_a_matrix_is_printed_at_once_with_its_position() {
    let ablation = Ablation::new(
        "questions: q.jsonl\nbenchmark: b.yaml\nmatrix:\n  temporl: [concat]\n  temporal: [concat, { max_pool: { strid: 2 } }, concat]\n\
         \x20 frames: [0, 4]\n  model:\n    - { label: a/b, set: { model: x } }\n    - { label: c, set: { modl: x, temporal: concat } }\n\
         exclude:\n  - { frame: 4 }\n  - { frames: 5 }\nbaselin: 1\n\
         published:\n  - { cell: {}, split: s, metric: judge_score, value: 3, judge: m, source: s }\n",
    );
    let error = ablation.read();
    for part in [
        "matrix.yaml:4:3: matrix.temporl: unknown key `temporl`, of a pipeline; hint: `temporal`?",
        "matrix.temporal.2: the label `concat` comes twice",
        "matrix.yaml:6:12: matrix.frames.0: wants a whole number from 1",
        "matrix.model.0.label: wants letters, digits and . _ - only",
        "matrix.model.1.set.modl: unknown key `modl`; hint: `model`?",
        "matrix.model: sets `temporal`, and the axis `temporal` sets `temporal`",
        "exclude.0.frame: unknown axis `frame`; hint: frames",
        "exclude.1.frames: unknown label `5`",
        "baselin: unknown key `baselin`; hint: `baseline`?",
        "published.0.prompt: a judged metric has the judge's prompt, and no other; hint: prompt: video-chatgpt-qa",
        "wants either `benchmark` or `questions`",
        "matrix.yaml:5:22: temporal.max_pool.strid: unknown key `strid`; hint: `stride`?",
    ] {
        assert!(error.contains(part), "{part} in\n{error}");
    }
}

#[test]
fn cells_are_named_by_their_labels_and_selected_by_them() {
    let ablation = Ablation::new(SHAPES);
    let matrix = read_matrix(&ablation.path("matrix.yaml"), &[]).unwrap();
    let names: Vec<&str> = matrix.cells.iter().map(|cell| cell.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "temporal=concat,frames=2",
            "temporal=concat,frames=4",
            "temporal=max_pool-stride-2,frames=2",
            "temporal=max_pool-stride-2,frames=4",
            "temporal=temporal_mean,frames=4"
        ]
    );
    assert_eq!(matrix.baseline, 1);
    let wrong = |sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        read_matrix(&ablation.path("matrix.yaml"), &sets).unwrap_err().to_string()
    };
    let error = wrong(&["temporal.max_pool.stride=4"]);
    assert!(error.contains("--set temporal.max_pool.stride=4: the axis `temporal` sets this key"), "{error}");
    let error = wrong(&["sample=all"]);
    assert!(
        error.contains("temporal=concat,frames=2: sample: all: every frame is taken, so `frames` does not apply"),
        "{error}"
    );
    for (matrix, part) in [
        (
            "questions: q.jsonl\nmatrix:\n  frames: [2, 4]\nexclude: [{ frames: [2, 4] }]\n",
            "exclude: leaves no combination",
        ),
        ("questions: q.jsonl\nmatrix: { frames: [2, 4], seed: [1] }\n", "matrix.seed: unknown key `seed`"),
        (
            "questions: q.jsonl\nmatrix: { frames: [2, 4], generate.seed: [1, 2] }\nbaseline: { frames: 2 }\n",
            "baseline: selects 2 cells, not one; hint: a label on every axis",
        ),
        ("questions: q.jsonl\nmatrix: { frames: [] }\n", "matrix.frames: wants a list of values"),
        ("questions: q.jsonl\nmatrix: {}\n", "matrix: has no axis"),
    ] {
        let error = Ablation::new(matrix).read();
        assert!(error.contains(part), "{part} in\n{error}");
    }
}

#[test]
fn a_cell_over_the_context_is_refused_before_anything_runs() {
    let ablation =
        Ablation::new("questions: questions.jsonl\nmatrix:\n  temporal: [temporal_mean, concat]\n  frames: [8, 16]\n");
    let output = ablation.run("out");
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    let rule =
        "temporal=concat,frames=16: matrix.yaml:3:29: temporal.concat: 16 frames x 64 tokens = 1024 visual tokens";
    assert!(text.contains(rule), "{text}");
    assert!(!ablation.path("out").exists());
    // The flags of a plan do not silently lose to the cells.
    let output = ablation.command("out").args(["--max-new-tokens", "3"]).output().unwrap();
    assert!(stderr(&output).contains("the flags of a plan do not apply to a matrix"), "{output:?}");
    let output = ablation.command("out").args(["--answers", "x.jsonl"]).output().unwrap();
    assert!(stderr(&output).contains("--answers: a flag of one run, not of a matrix"), "{output:?}");
}

#[test]
fn cells_share_frames_resume_and_agree_with_runs_of_their_own() {
    let ablation = Ablation::new(SHAPES);
    let output = ablation.run("out");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let found = table(&output);
    let rows = found["rows"].as_array().unwrap();
    // The first cell of each number of frames encodes the two videos, for the others as well.
    let frames: Vec<[u64; 2]> = rows
        .iter()
        .map(|row| ["frames_encoded", "frames_reused"].map(|key| row["cost"][key].as_u64().unwrap()))
        .collect();
    assert_eq!(frames, [[4, 0], [8, 0], [0, 4], [0, 8], [0, 8]]);
    let tokens: Vec<f64> = rows.iter().map(|row| row["cost"]["visual_tokens"].as_f64().unwrap()).collect();
    assert_eq!(tokens, [128.0, 256.0, 64.0, 128.0, 64.0]);
    assert_eq!((&rows[1]["compared"], &rows[0]["compared"]["metric"]), (&Value::Null, &json!("exact")));
    // A run of the binary with the same choices gives the same answers.
    let output = Command::new(env!("CARGO_BIN_EXE_vidense"))
        .current_dir(ablation.dir.path())
        .args(["eval", "questions.jsonl", "--json", "--frames", "4", "--temporal", "max_pool:2"])
        .output()
        .unwrap();
    let alone: Value = serde_json::from_slice(&output.stdout).unwrap();
    let all = alone.as_array().unwrap().iter().find(|row| row["type"] == "all").unwrap();
    assert_eq!(rows[3]["questions"], all["questions"]);
    let difference = rows[3]["scores"]["exact"]["mean"].as_f64().unwrap() - all["accuracy"].as_f64().unwrap();
    assert!(difference.abs() < 1e-12, "{difference}");
    // Each cell is an evaluation of its own, also one whose files a stopped process left out.
    let cell = ablation.path("out").join(rows[3]["cell"].as_str().unwrap());
    let report = std::fs::read_to_string(cell.join("report.md")).unwrap();
    std::fs::remove_file(cell.join("evaluation.json")).unwrap();
    std::fs::remove_file(cell.join("report.md")).unwrap();
    // Again: nothing is asked.
    let output = ablation.run("out");
    assert_eq!(std::fs::read_to_string(cell.join("report.md")).unwrap(), report);
    let again = Command::new(env!("CARGO_BIN_EXE_vidense")).args(["eval", "report"]).arg(&cell).output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    assert_eq!(stderr(&output).matches("done before").count(), 5, "{}", stderr(&output));
    assert_eq!(table(&output)["rows"], found["rows"]);
    let markdown = std::fs::read_to_string(ablation.path("out/table.md")).unwrap();
    assert!(
        markdown.starts_with("# questions, all\n\n| temporal | frames | exact | 95 % | difference |"),
        "{markdown}"
    );
    let csv = std::fs::read_to_string(ablation.path("out/table.csv")).unwrap();
    assert!(csv.lines().count() == 6 && csv.starts_with("temporal,frames,cell,state,questions,"), "{csv}");
}

#[test]
fn a_killed_matrix_resumes_to_the_same_table() {
    let ablation = Ablation::new(SHAPES);
    let whole = table(&ablation.run("whole"));
    let mut child = ablation.command("killed").spawn().unwrap();
    let first = ablation.path("killed/temporal=concat,frames=2/run/answers.jsonl");
    // Killed within the matrix, at whatever moment; a run that ends before is a resumed run with nothing left.
    let has_answer = || std::fs::read_to_string(&first).is_ok_and(|text| text.lines().count() > 1);
    while !has_answer() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let output = ablation.run("killed");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(without_times(&table(&output)), without_times(&whole));
}

#[test]
fn a_cell_that_fails_does_not_take_others_down() {
    let ablation = Ablation::new(SHAPES);
    let bad = "temporal=max_pool-stride-2,frames=4";
    let whole = table(&ablation.run("out"));
    std::fs::remove_dir_all(ablation.path("out").join(bad)).unwrap();
    copy(&ablation.path("out/temporal=concat,frames=2"), &ablation.path("out").join(bad));
    std::fs::remove_dir_all(ablation.path("out/temporal=temporal_mean,frames=4")).unwrap();
    let output = ablation.run("out");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let rows = table(&output)["rows"].as_array().unwrap().clone();
    let failed = rows.iter().find(|row| row["cell"] == bad).unwrap();
    assert_eq!((&failed["state"], &failed["scores"]), (&json!("failed"), &json!({})));
    assert!(failed["error"].as_str().unwrap().contains("results of another plan than that of the cell"), "{failed}");
    let n_done = rows.iter().filter(|row| row["state"] == "done").count();
    assert_eq!((n_done, &rows[4]["scores"]), (4, &whole["rows"][4]["scores"]));
    // A damaged video fails its questions, and the exit code says so.
    std::fs::write(ablation.path("clip-00000.mp4"), "no video").unwrap();
    let output = ablation.run("damaged");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(table(&output)["rows"].as_array().unwrap().iter().all(|row| row["state"] == "done" && row["failed"] != 0));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}
