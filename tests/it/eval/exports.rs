//! Exports of benchmarks, and answers of `vidense batch` scored by `eval --results`.

use std::process::Output;

use serde_json::{Value, json};

use super::Replica;
use super::runs::{shapes, vidense};
use crate::harness::json as read_json;

fn run(replica: &Replica, arguments: &[&str]) -> Output {
    let at = |name: &&str| match name.strip_prefix('@') {
        Some(name) => replica.path(name).to_str().unwrap().to_owned(),
        None => (*name).to_owned(),
    };
    let arguments: Vec<String> = arguments.iter().map(at).collect();
    vidense(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn lines(replica: &Replica, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(replica.path(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Gives the benchmark of the shapes world a beginning of answers.
fn with_prefix(replica: &Replica) {
    let path = replica.path("spec.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("prompt: { ", "prompt: { answer: \"It is\", ");
    assert!(text.contains("It is"));
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_manifest_answered_by_batch_scores_as_eval_does() {
    let replica = shapes(&[]);
    with_prefix(&replica);
    let evaluated = run(&replica, &["eval", "@spec.yaml", "--data", "@.", "--out", "@e", "--json"]);
    assert_eq!(evaluated.status.code(), Some(0), "{evaluated:?}");
    let export = ["eval", "export", "@spec.yaml", "--data", "@.", "--to", "manifest", "--out", "@m"];
    assert_eq!(run(&replica, &export).status.code(), Some(0));
    let manifest = lines(&replica, "m/manifest.jsonl");
    assert!(manifest.iter().all(|line| line["video"].as_str().unwrap().starts_with("clips/")), "{manifest:?}");
    let batch = ["batch", "@m/pipeline.yaml", "@m/manifest.jsonl", "--root", "@.", "--out", "@r", "--no-cache"];
    let batch = run(&replica, &batch);
    assert_eq!(batch.status.code(), Some(0), "{batch:?}");
    let score = ["eval", "@spec.yaml", "--data", "@.", "--results", "@r", "--answers", "@scored.jsonl", "--json"];
    let scored = run(&replica, &score);
    assert_eq!((scored.status.code(), &scored.stdout), (Some(0), &evaluated.stdout), "{scored:?}");
    assert_eq!(lines(&replica, "scored.jsonl"), lines(&replica, "e/scored.jsonl"));
    // Answers that began otherwise are scored, and told.
    let plain = ["batch", "pipelines/mini.yaml", "@m/manifest.jsonl", "--root", "@.", "--out", "@p", "--no-cache"];
    assert_eq!(run(&replica, &plain).status.code(), Some(0));
    let scored = run(&replica, &["eval", "@spec.yaml", "--data", "@.", "--results", "@p", "--json"]);
    let report: Value = serde_json::from_slice(&scored.stdout).unwrap();
    let notes = report["notes"].to_string();
    assert!(notes.contains("prompt.answer") && notes.contains("It is"), "{notes}");
}

#[test]
fn a_task_of_lmms_eval_has_prompts_labels_and_paths() {
    let replica = shapes(&[]);
    let export =
        ["eval", "export", "@spec.yaml", "--data", "@.", "--to", "lmms-eval", "--task", "shapes", "--out", "@t"];
    let output = run(&replica, &export);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let questions = lines(&replica, "t/questions.jsonl");
    assert_eq!(questions.len(), 12);
    for question in &questions {
        assert_eq!((&question["answer"], &question["answers"]), (&json!("A"), &json!(["A"])));
        assert!(question["question"].as_str().unwrap().contains("none of these"), "{question}");
        assert!(std::path::Path::new(question["video"].as_str().unwrap()).is_absolute());
    }
    let task = std::fs::read_to_string(replica.path("t/shapes.yaml")).unwrap();
    let data = replica.path("t/questions.jsonl");
    assert!(task.starts_with("task: shapes\n") && task.contains(&format!("test: {data:?}")), "{task}");
    // The description is not written over.
    let over = run(&replica, &[&export[..6], &["lmms-eval", "--task", "spec", "--out", "@."]].concat());
    assert!(over.status.code() == Some(2) && read_json(&replica.path("q.json")).is_array(), "{over:?}");
    assert!(std::fs::read_to_string(replica.path("spec.yaml")).unwrap().contains("name: Shapes"));
    let odd = run(&replica, &[&export[..8], &["../x", "--out", "@u"]].concat());
    assert!(String::from_utf8_lossy(&odd.stderr).contains("invalid task name `../x`"), "{odd:?}");
}

#[test]
fn a_data_set_of_hugging_face_names_its_split_and_has_one_row_a_question() {
    let replica = shapes(&[]);
    let export = ["eval", "export", "@spec.yaml", "--data", "@.", "--to", "hugging-face", "--out", "@h"];
    let output = run(&replica, &export);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let rows = lines(&replica, "h/data/test.jsonl");
    assert_eq!(rows.len(), 12);
    for row in &rows {
        assert_eq!((&row["answer_index"], &row["start"], &row["answers"]), (&json!(0), &json!(null), &json!([])));
        assert!(row["video"].as_str().unwrap().starts_with("clips/"), "{row}");
        assert!(row["prompt"].as_str().unwrap().starts_with(row["question"].as_str().unwrap()), "{row}");
    }
    let card = std::fs::read_to_string(replica.path("h/README.md")).unwrap();
    let head = card.split("---\n").nth(1).unwrap();
    let head: Value = serde_json::from_str(head).unwrap();
    assert_eq!(head["configs"][0]["data_files"], json!([{ "split": "test", "path": "data/test.jsonl" }]));
    assert!(card.contains("12 questions about"), "{card}");
    // An export replaces no file of another, and a flag of another format is not ignored.
    let again = run(&replica, &export);
    let error = String::from_utf8_lossy(&again.stderr).into_owned();
    assert_eq!((again.status.code(), error.contains("not an empty directory: it has `")), (Some(2), true), "{error}");
    let task = run(&replica, &[&export[..8], &["@x", "--task", "x"]].concat());
    assert!(String::from_utf8_lossy(&task.stderr).contains("--task: a flag of --to lmms-eval"), "{task:?}");
}
