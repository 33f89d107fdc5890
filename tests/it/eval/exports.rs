//! Exports of benchmarks, and answers of `vidense batch` scored by `eval --results`.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::Replica;
use super::runs::{shapes, vidense};
use crate::harness::{json as read_json, repository};

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
    assert!(task.starts_with("task: \"shapes\"\n") && task.contains(&format!("\"test\":{data:?}")), "{task}");
    let functions = std::fs::read_to_string(replica.path("t/utils.py")).unwrap();
    assert!(functions.starts_with("METRIC = \"choice\"\n\nimport json\n"), "{functions}");
    // The description is not written over.
    let over = run(&replica, &[&export[..6], &["lmms-eval", "--task", "spec", "--out", "@."]].concat());
    assert!(over.status.code() == Some(2) && read_json(&replica.path("q.json")).is_array(), "{over:?}");
    assert!(std::fs::read_to_string(replica.path("spec.yaml")).unwrap().contains("name: Shapes"));
    let odd = run(&replica, &[&export[..8], &["../x", "--out", "@u"]].concat());
    assert!(String::from_utf8_lossy(&odd.stderr).contains("invalid task name `../x`"), "{odd:?}");
}

/// Runs `eval score` over these lines.
fn score(metric: &str, lines: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vidense"));
    command.args(["eval", "score", "--metric", metric]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    process.wait_with_output().unwrap()
}

#[test]
fn answers_to_a_task_of_lmms_eval_are_scored_as_by_eval() {
    let replica = shapes(&[]);
    let evaluated = run(&replica, &["eval", "@spec.yaml", "--data", "@.", "--answers", "@scored.jsonl"]);
    assert_eq!(evaluated.status.code(), Some(0), "{evaluated:?}");
    let export = ["eval", "export", "@spec.yaml", "--data", "@.", "--to", "lmms-eval", "--out", "@t"];
    assert_eq!(run(&replica, &export).status.code(), Some(0));
    let (documents, scored) = (lines(&replica, "t/questions.jsonl"), lines(&replica, "scored.jsonl"));
    let mut given = String::new();
    for (document, answer) in documents.iter().zip(&scored) {
        let mut line = document.clone();
        line["given"] = answer["given"].clone();
        given.push_str(&format!("{line}\n"));
    }
    let output = score("choice", &given);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let found: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((found.len(), scored.len()), (12, 12));
    for (found, expected) in found.iter().zip(&scored) {
        assert_eq!((&found["score"], &found["question_id"]), (&expected["scores"]["choice"], &expected["question_id"]));
        assert_eq!((&found["parsed"], &found["status"]), (&expected["parsed"], &expected["status"]));
    }
    let refused = score("choice", &format!("{}\n{{}}\n", given.lines().next().unwrap()));
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(
        (refused.status.code(), error.contains("line 2: missing field `question_id`")),
        (Some(2), true),
        "{error}"
    );
    let unknown = score("bleu", "");
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("unknown metric `bleu`"), "{unknown:?}");
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

/// Evaluates the shapes world into `@e`: one video is missing, one is damaged.
fn evaluated_with_failures() -> (Replica, Value) {
    let replica = shapes(&["gone.mp4", "damaged.mp4"]);
    std::fs::write(replica.path("clips/damaged.mp4"), b"no video").unwrap();
    let evaluate = ["eval", "@spec.yaml", "--data", "@.", "--out", "@e", "--min-coverage", "10", "--json"];
    let output = run(&replica, &evaluate);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = serde_json::from_slice(&output.stdout).unwrap();
    (replica, report)
}

/// Exports the samples of an evaluation, and returns the file of samples and that of results.
fn export_samples(replica: &Replica) -> (Vec<Value>, Value) {
    let output = run(replica, &SAMPLES);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let entries = std::fs::read_dir(replica.path("s/vidense-mini")).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let [results, samples] = &names[..] else { panic!("two files: {names:?}") };
    let date = results.strip_suffix("_results.json").unwrap();
    assert_eq!(*samples, format!("{date}_samples_vidense.jsonl"));
    assert_eq!((date.len(), date.as_bytes()[8]), (15, b'_'), "{date}");
    let at = |name: &String| format!("s/vidense-mini/{name}");
    (lines(replica, &at(samples)), read_json(&replica.path(&at(results))))
}

const SAMPLES: [&str; 13] = [
    "eval",
    "export",
    "@spec.yaml",
    "--data",
    "@.",
    "--to",
    "lmms-eval-samples",
    "--evaluation",
    "@e",
    "--min-coverage",
    "10",
    "--out",
    "@s",
];

#[test]
fn the_accuracy_over_samples_of_lmms_eval_is_that_of_the_evaluation() {
    let (replica, report) = evaluated_with_failures();
    let (samples, results) = export_samples(&replica);
    let scored = lines(&replica, "e/scored.jsonl");
    assert_eq!((samples.len(), scored.len()), (14, 14));
    for (index, (sample, answer)) in samples.iter().zip(&scored).enumerate() {
        assert_eq!((&sample["doc_id"], &sample["target"]), (&json!(index), &json!("A")));
        assert_eq!((&sample["score"], &sample["status"]), (&answer["scores"]["choice"], &answer["status"]));
        let response = sample["filtered_resps"].as_str().unwrap();
        match answer["given"].as_str() {
            Some(given) => assert_eq!(response, given),
            None => assert!(response.starts_with("[LMMS_EVAL_REQUEST_FAILED after 0 retries] "), "{sample}"),
        }
    }
    let statuses: Vec<&str> = samples[12..].iter().map(|sample| sample["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["missing", "failed"]);
    assert_eq!((&samples[12]["input"], &samples[12]["token_counts"]), (&json!(""), &json!([null])));
    assert!(samples[0]["token_counts"][0]["input_tokens"].as_u64().unwrap() > 8, "{}", samples[0]);
    assert_eq!(samples[13]["error"], scored[13]["error"]);
    let right: f64 = samples.iter().map(|sample| sample["score"].as_f64().unwrap()).sum();
    let all = report["rows"].as_array().unwrap().last().unwrap();
    assert_eq!(all["group"], "all");
    let of_task = &results["results"]["vidense"];
    for mean in [&all["scores"]["choice"]["mean"], &of_task["score,none"]] {
        assert!((mean.as_f64().unwrap() - right / 14.0).abs() < 1e-12, "{mean}");
    }
    assert_eq!(results["n-samples"]["vidense"], json!({ "original": 14, "effective": 14 }));
}

/// Returns the SHA-256 of a text in hexadecimal.
fn sha256(text: &str) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn hashes_of_samples_are_those_of_the_rows_of_the_task() {
    let (replica, _) = evaluated_with_failures();
    let (samples, results) = export_samples(&replica);
    let task = ["eval", "export", "@spec.yaml", "--data", "@.", "--to", "lmms-eval", "--out", "@t"];
    let output = run(&replica, &[&task[..], &["--min-coverage", "10"]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let rows = lines(&replica, "t/questions.jsonl");
    assert_eq!(rows.len(), 13);
    for (row, sample) in rows.iter().zip(&samples[..12]) {
        assert_eq!(sample["doc_hash"], json!(sha256(&serde_json::to_string_pretty(row).unwrap())));
        assert_eq!(sample["input"], row["question"]);
    }
    let hash = |(index, sample): (usize, &Value)| format!("sample_{index}{}", sample["doc_hash"].as_str().unwrap());
    let hashes: String = samples.iter().enumerate().map(hash).collect();
    assert_eq!(results["task_hashes"]["vidense"], json!(sha256(&hashes)));
}

/// Lists the paths of `golden` that `found` lacks, or has with another type; null, of what is not known, has any type.
fn differing(golden: &Value, found: Option<&Value>, path: &str) -> Vec<String> {
    let kind = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    match (golden, found) {
        (_, None) => vec![path.to_owned()],
        (_, Some(Value::Null)) => Vec::new(),
        (Value::Object(keys), Some(found @ Value::Object(_))) => {
            let inner = |(key, golden): (&String, &Value)| differing(golden, found.get(key), &format!("{path}/{key}"));
            keys.iter().flat_map(inner).collect()
        }
        (Value::Array(golden), Some(Value::Array(found))) => {
            golden.iter().zip(found).flat_map(|(golden, found)| differing(golden, Some(found), path)).collect()
        }
        (golden, Some(found)) if golden == kind(found) => Vec::new(),
        (golden, Some(found)) => vec![format!("{path}: {}, not {golden}", kind(found))],
    }
}

#[test]
fn samples_and_results_have_the_keys_and_types_of_lmms_eval() {
    let (replica, _) = evaluated_with_failures();
    let (samples, results) = export_samples(&replica);
    let golden = read_json(&repository("tests/golden/eval/lmms_eval_files.json"));
    for sample in &samples {
        assert_eq!(differing(&golden["sample"], Some(sample), ""), [""; 0]);
    }
    let own: Vec<&String> = samples[0].as_object().unwrap().keys().collect();
    let known: Vec<&String> = golden["sample"].as_object().unwrap().keys().collect();
    assert_eq!((&own[..known.len()], &own[known.len()..]), (&known[..], &[&"status".to_owned()][..]));
    // Settings of lmms-eval itself, and its measurements of a client.
    let mut absent = differing(&golden["results"], Some(&results), "");
    absent.retain(|path| !path.starts_with("/config/resolved_cli_args/") && !path.starts_with("/usage/"));
    let expected = [
        "/config/bootstrap_iters",
        "/config/process_docs_parallel",
        "/config/random_seed",
        "/config/numpy_seed",
        "/config/torch_seed",
        "/config/fewshot_seed",
        "/throughput",
        "/efficiency",
    ];
    assert_eq!(absent, expected);
}

#[test]
fn samples_are_of_one_evaluation_of_the_same_questions() {
    let (replica, _) = evaluated_with_failures();
    export_samples(&replica);
    let refusal = |arguments: &[&str]| {
        let output = run(&replica, arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refusal(&SAMPLES).contains("not an empty directory: it has `vidense-mini`"));
    let to = |out: &'static str| [&SAMPLES[..12], &[out]].concat();
    assert!(refusal(&to("@e")).contains("not an empty directory: it has `"));
    let without = [&SAMPLES[..7], &["--min-coverage", "10", "--out", "@u"]].concat();
    assert!(refusal(&without).contains("--evaluation DIR: missing"));
    let other = [&SAMPLES[..6], &["manifest"], &SAMPLES[7..12], &["@u"]].concat();
    assert!(refusal(&other).contains("--evaluation DIR: a flag of --to lmms-eval-samples"));
    let spec = std::fs::read_to_string(replica.path("spec.yaml")).unwrap();
    std::fs::write(replica.path("spec.yaml"), spec.replace("{question}{options}", "Q: {question}{options}")).unwrap();
    assert!(refusal(&to("@u")).contains("its prompts are not those of the benchmark"));
    let text = std::fs::read_to_string(replica.path("q.json")).unwrap();
    std::fs::write(replica.path("q.json"), text.replacen("none of these", "no other", 1)).unwrap();
    assert!(refusal(&to("@u")).contains("its questions are not those of the benchmark"));
    assert!(!replica.path("u").exists());
}
