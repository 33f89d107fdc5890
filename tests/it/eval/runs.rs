//! Descriptions of benchmarks, and runs of the binary over clips of the shapes world.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use vidense::eval::benchmark::{AnswerScorer, BenchmarkSpec, read_benchmark, score_table, submission};
use vidense::eval::judge::open_judge;

use super::Replica;
use crate::harness::{json as read_json, repository};

#[test]
fn every_shipped_description_is_valid_and_says_where_its_words_are_from() {
    let mut names: Vec<_> =
        std::fs::read_dir(repository("evals")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.is_file());
    names.sort();
    assert!(names.len() >= 25);
    for path in names {
        let spec: BenchmarkSpec = read_benchmark(&path).unwrap_or_else(|error| panic!("{error}"));
        assert!(!spec.prompt.source.is_empty() && !spec.source.is_empty(), "{}", path.display());
        for row in &spec.published {
            assert!(row.split == spec.split && !row.source.is_empty(), "{}: {}", path.display(), row.model);
            // The prompt is that of a built-in judge.
            assert!(row.prompt.as_deref().is_none_or(|name| open_judge(name).is_ok()), "{}", path.display());
        }
    }
}

#[test]
fn every_error_of_a_description_is_printed_at_once() {
    let replica = Replica::new(&[(
        "bad.yaml",
        "name: x\nsplit: test\nsauce: x\nformat:\n  next_qa: { questions: q.csv, video: v }\nprompt: { text: \"{options}{option}\", source: x }\nmetrics: [wups_1, exact]\npublished:\n  - { model: m, split: test, metric: judge_score, value: 3, source: s }\n",
    )]);
    let path = replica.dir.path().join("bad.yaml");
    let error = read_benchmark(&path).unwrap_err().to_string();
    for part in [
        "sauce: unknown key `sauce`; hint: `source`?",
        "the key `source` is missing",
        "bad.yaml:5:32: format.next_qa.video: unknown key `video`; hint: `videos`?",
        "prompt.text: wants {question} 1 times, found it 0 times",
        "prompt.text: unknown placeholder {option}; hint: {question}, {options}, {subtitles}",
        "metrics.0: unknown choice `wups_1`",
        "published.0.judge: a judged metric without its judge",
        "published.0.prompt: a judged metric has the judge's prompt, and no other; hint: prompt: video-chatgpt-qa",
    ] {
        assert!(error.contains(part), "{part} in\n{error}");
    }
}

#[test]
fn submissions_have_the_layout_of_the_benchmarks() {
    let replica = Replica::new(&[
        (
            "ego.json",
            r#"[{"q_uid": "u-1", "question": "why?", "option 0": "a", "option 1": "b"},
                {"q_uid": "u-2", "question": "how?", "option 0": "a", "option 1": "b"}]"#,
        ),
        (
            "mme.json",
            r#"[{"video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Law", "videoID": "f",
                 "question_id": "001-1", "task_type": "Counting Problem", "question": "which?",
                 "options": ["A. Apples.", "B. Candles."], "answer": "B"}]"#,
        ),
    ]);
    let written = |format: &str, given: &[&str]| {
        let spec = replica.spec(format).unwrap();
        let questions = spec.format.read(replica.dir.path()).unwrap().questions;
        let scorer = AnswerScorer { measures: &spec.metrics, wordnet: None };
        let answers: Vec<_> =
            questions.iter().zip(given).map(|(question, given)| scorer.answered(question, given)).collect();
        (submission(&spec.format, &questions, &answers).unwrap(), score_table(&answers, &spec.metrics))
    };
    let (sent, table) = written("ego_schema: { questions: ego.json, videos: v }", &["(B)", "No idea."]);
    assert_eq!(sent, json!({ "u-1": 1 }));
    // Without published answers nothing is scored.
    assert_eq!((table.len(), table[0].questions), (1, 0));
    let (sent, table) = written("video_mme: { questions: mme.json, videos: v }", &["B. Candles."]);
    let question = json!({
        "question_id": "001-1", "task_type": "Counting Problem", "question": "which?",
        "options": ["A. Apples.", "B. Candles."], "answer": "B", "response": "B. Candles.",
    });
    assert_eq!(
        sent,
        json!([{
            "video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Law", "missing": false,
            "questions": [question],
        }])
    );
    assert_eq!((table[0].questions, table[0].scores["choice"].mean), (1, 1.0));
}

pub(super) fn vidense(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vidense")).current_dir(repository("")).args(arguments).output().unwrap()
}

/// A multiple-choice benchmark over the sample clips: the questions about one, and its description.
pub(super) fn shapes(extra_videos: &[&str]) -> Replica {
    let text = std::fs::read_to_string(repository("samples/clips/questions.jsonl")).unwrap();
    let rows: Vec<Value> = text.lines().take(12).map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut list = Vec::new();
    for row in &rows {
        let answer = row["answer"].as_str().unwrap();
        let candidates = json!([answer, "none of these"]);
        list.push(json!({ "video": row["video"], "question": row["question"], "candidates": candidates, "answer": answer, "question_type": row["type"] }));
    }
    for video in extra_videos {
        list.push(json!({ "video": video, "question": "What?", "candidates": ["x", "y"], "answer": "x", "question_type": "lost" }));
    }
    let spec = "name: Shapes\nsplit: test\nsource: x\nformat: { mlvu: { tasks: [{ questions: q.json, videos: clips }] } }\n\
                prompt: { text: \"{question}{options}\", source: x }\nmetrics: [choice]\naverage: tasks\n";
    let replica = Replica::new(&[("q.json", &Value::Array(list).to_string()), ("spec.yaml", spec)]);
    std::fs::create_dir(replica.dir.path().join("clips")).unwrap();
    for row in &rows {
        let name = row["video"].as_str().unwrap();
        let from = repository("samples/clips").join(name);
        std::fs::copy(from, replica.dir.path().join("clips").join(name)).unwrap();
    }
    replica
}

#[test]
fn a_benchmark_counts_every_question_and_is_compared_with_itself() {
    let replica = shapes(&[]);
    let at = |name: &str| replica.dir.path().join(name).to_str().unwrap().to_owned();
    let (spec, data, answers, sent) = (at("spec.yaml"), at("."), at("answers.jsonl"), at("submission.json"));
    let run = ["eval", &spec, "--data", &data, "--json", "--answers", &answers, "--submission", &sent];
    let output = vidense(&run);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let all = rows.last().unwrap();
    assert_eq!((&all["group"], &all["questions"], &all["missing"]), (&json!("all"), &json!(12), &json!(0)));
    assert_eq!(rows[rows.len() - 2]["group"], "macro");
    let lines: Vec<Value> =
        std::fs::read_to_string(&answers).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let right: f64 = lines.iter().map(|line| line["scores"]["choice"].as_f64().unwrap()).sum();
    assert!((all["scores"]["choice"]["mean"].as_f64().unwrap() - right / 12.0).abs() < 1e-12);
    let unparsed = lines.iter().filter(|line| line["status"] == "unparsed").count();
    assert_eq!(all["unparsed"], json!(unparsed));
    assert_eq!(read_json(Path::new(&sent)).as_array().unwrap().len(), 12);
    let output = vidense(&["eval", "compare", &answers, &answers]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("B - A = +0.00 points") && text.contains("p = 1.0000") && !text.contains("McNemar"),
        "{text}"
    );
}

#[test]
fn missing_videos_fail_the_run_before_a_model_is_loaded_or_count_as_wrong() {
    let replica = shapes(&["gone-1.mp4", "gone-2.mp4"]);
    let at = |name: &str| replica.dir.path().join(name).to_str().unwrap().to_owned();
    let (spec, data) = (at("spec.yaml"), at("."));
    let output = vidense(&["eval", &spec, "--data", &data, "--model", "no/such-model"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(
        error.contains("2 of ") && error.contains("clips/gone-1.mp4, clips/gone-2.mp4; hint: --min-coverage"),
        "{error}"
    );
    let output = vidense(&["eval", &spec, "--data", &data, "--min-coverage", "10", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows: BTreeMap<&str, &Value> =
        report["rows"].as_array().unwrap().iter().map(|row| (row["name"].as_str().unwrap(), row)).collect();
    assert_eq!(
        (&report["missing_videos"], &rows["all"]["questions"], &rows["all"]["missing"]),
        (&json!(2), &json!(14), &json!(2))
    );
    assert_eq!((&rows["lost"]["missing"], &rows["lost"]["scores"]["choice"]["mean"]), (&json!(2), &json!(0.0)));
    let table = String::from_utf8(vidense(&["eval", &spec, "--data", &data, "--min-coverage", "10"]).stdout).unwrap();
    assert!(table.contains("of which 2 are missing") && table.contains("missing questions count as wrong"), "{table}");
}

#[test]
fn a_damaged_first_video_fails_alone_and_counts_as_wrong() {
    let replica = shapes(&[]);
    let list = read_json(&replica.path("q.json"));
    let first = list[0]["video"].as_str().unwrap();
    let n_about_it = list.as_array().unwrap().iter().filter(|row| row["video"] == first).count();
    assert!(n_about_it < 12);
    std::fs::write(replica.path("clips").join(first), "no video").unwrap();
    let at = |name: &str| replica.path(name).to_str().unwrap().to_owned();
    let output = vidense(&["eval", &at("spec.yaml"), "--data", &at("."), "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let all = report["rows"].as_array().unwrap().last().unwrap();
    assert_eq!((&all["questions"], &all["failed"]), (&json!(12), &json!(n_about_it)));
    assert!(String::from_utf8_lossy(&output.stderr).contains(first));
}

#[test]
fn flags_of_benchmarks_and_of_files_of_questions_are_told_apart() {
    let replica = shapes(&[]);
    let spec = replica.dir.path().join("spec.yaml").to_str().unwrap().to_owned();
    let stderr = |arguments: &[&str]| {
        let output = vidense(arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(stderr(&["eval", &spec]).contains("a benchmark needs --data DIR"));
    let data = replica.dir.path().to_str().unwrap().to_owned();
    let list = replica.path("q.json").to_str().unwrap().to_owned();
    for flag in ["--answers", "--submission"] {
        let found = stderr(&["eval", &spec, "--data", &data, flag, &list]);
        assert!(found.contains("which this command reads"), "{flag}: {found}");
    }
    assert!(read_json(Path::new(&list)).is_array());
    assert!(stderr(&["eval", &spec, "--data", "x", "--limit", "0"]).contains("expected a number of at least 1"));
    let found = stderr(&["eval", "samples/clips/questions.jsonl", "--data", "x"]);
    assert!(found.contains("--data: a flag of benchmarks, not of files of questions"), "{found}");
    assert!(
        stderr(&["eval", "evals/next-qa-open-val.yaml", "--data", "x"])
            .contains("needs WordNet's database; hint: --wordnet DIR")
    );
    assert!(
        stderr(&["eval", &spec, "--data", "x", "--wordnet", "y"]).contains("no metric of this benchmark needs WordNet")
    );
    assert!(
        stderr(&["eval", &spec, "--data", "x", "--min-coverage", "101"]).contains("expected a number from 0 to 100")
    );
    for flag in [["--answers", "a.jsonl"], ["--submission", "s.json"]] {
        let of_a_part = ["eval", &spec, "--data", &data, "--out", "x", "--shard", "0/2", flag[0], flag[1]];
        let found = stderr(&of_a_part);
        assert!(found.contains(&format!("{}: a shard has no scores of its own", flag[0])), "{found}");
    }
    let found = stderr(&["eval", &spec, "--data", &data, "--limit", "5", "--submission", "s.json"]);
    assert!(found.contains("--limit: a submission is of all questions"), "{found}");
    let found = stderr(&["eval", &spec, "--data", &data, "--answers", "a.json", "--submission", "a.json"]);
    assert!(found.contains("a.json: one file for --answers and --submission"), "{found}");
}

#[test]
fn a_directory_keeps_the_evaluation_of_one_split() {
    let replica = shapes(&[]);
    let at = |name: &str| replica.path(name).to_str().unwrap().to_owned();
    let (data, out) = (at("."), at("out"));
    let output = vidense(&["eval", &at("spec.yaml"), "--data", &data, "--out", &out]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let scored = std::fs::read(replica.path("out/scored.jsonl")).unwrap();
    let other = std::fs::read_to_string(replica.path("spec.yaml")).unwrap().replace("split: test", "split: val");
    std::fs::write(replica.path("other.yaml"), other).unwrap();
    let output = vidense(&["eval", &at("other.yaml"), "--data", &data, "--out", &out]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("an evaluation of Shapes, test, not of Shapes, val; hint: another --out"), "{error}");
    assert_eq!(std::fs::read(replica.path("out/scored.jsonl")).unwrap(), scored);
    // Results that answer none of the questions have no scores, and leave no files.
    let none = at("none");
    let other = std::fs::read_to_string(replica.path("spec.yaml")).unwrap().replace("{question}", "Say: {question}");
    std::fs::write(replica.path("asked.yaml"), other).unwrap();
    let results = at("out/run");
    let output = vidense(&["eval", &at("asked.yaml"), "--data", &data, "--out", &none, "--results", &results]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("no record is of one of the 12 questions of Shapes"), "{error}");
    assert!(!Path::new(&none).exists());
}

#[test]
fn failed_questions_of_a_file_are_lines_of_its_answers() {
    let dir = tempfile::tempdir().unwrap();
    let clips = repository("samples/clips");
    let text = std::fs::read_to_string(clips.join("questions.jsonl")).unwrap();
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let clip = first["video"].as_str().unwrap();
    std::fs::copy(clips.join(clip), dir.path().join(clip)).unwrap();
    std::fs::write(dir.path().join("bad.mp4"), "no video").unwrap();
    let bad = |n: usize| json!({ "video": "bad.mp4", "question": format!("{n}?"), "answer": "x", "type": "bad" });
    let lines = [first.clone(), bad(1), bad(2), bad(3)].map(|line| line.to_string() + "\n").concat();
    let (questions, answers) = (dir.path().join("q.jsonl"), dir.path().join("a.jsonl"));
    std::fs::write(&questions, lines).unwrap();
    let run = ["eval", questions.to_str().unwrap(), "--json", "--answers", answers.to_str().unwrap()];
    let output = vidense(&run);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    let all = rows.as_array().unwrap().last().unwrap();
    assert_eq!((&all["questions"], &all["failed"]), (&json!(4), &json!(3)));
    let text = std::fs::read_to_string(&answers).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[1]["given"]), (4, &Value::Null));
    assert!(lines[3]["error"].as_str().unwrap().contains("bad.mp4") && lines[0].get("error").is_none());
    // The file compares as the table counts.
    let paths = [answers.to_str().unwrap(); 2];
    let output = vidense(&["eval", "compare", paths[0], paths[1], "--json"]);
    let compared: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&compared["n"], &compared["mean_a"]), (&json!(4), &all["accuracy"]));
}
