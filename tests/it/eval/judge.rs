//! Judges: prompts and replies against the scripts of Video-ChatGPT, batches, and a service on loopback that answers,
//! refuses, breaks and hangs.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use vidense::eval::benchmark::{
    AnswerStatus, CoverageRecord, EvaluationFormat, EvaluationRecord, Measure, PlanRecord, ScoredAnswer,
    read_benchmark, write_scored,
};
use vidense::eval::judge::{JudgeOptions, JudgeRequests, JudgeVerdict, open_judge, parse_verdict};

use crate::harness::{json as read_json, repository};

/// Words of the prompt before the predicted answer.
const PREDICTED: &str = "Predicted Answer: ";

fn answer(id: &str, question: &str, reference: &str, given: Option<&str>) -> ScoredAnswer {
    ScoredAnswer {
        question_id: id.to_owned(),
        video: format!("video-{}", id.len() % 2),
        question: question.to_owned(),
        options: Vec::new(),
        answer: vec![reference.to_owned()],
        rubric: None,
        kind: String::new(),
        task: String::new(),
        weight: 1.0,
        given: given.map(str::to_owned),
        parsed: None,
        status: if given.is_some() { AnswerStatus::Answered } else { AnswerStatus::Failed },
        error: None,
        scores: BTreeMap::from([("exact".to_owned(), 0.0)]),
    }
}

#[test]
fn prompts_are_those_of_the_scripts() {
    let golden = read_json(&repository("tests/golden/eval/judge_prompts.json"));
    let value = |key: &str| golden["values"][key].as_str().unwrap();
    let model = JudgeOptions { model: "m".to_owned() };
    let judges = golden["messages"].as_object().unwrap();
    assert_eq!(judges.len(), 9);
    for (name, messages) in judges {
        let judge = open_judge(name).unwrap();
        let rubric = match name.as_str() {
            "tempcompass-captioning" => Some(value("choices").to_owned()),
            "mlvu-sub-scene" => Some(value("rubric").to_owned()),
            _ => None,
        };
        // The reference of a choice is not in its prompt.
        let reference = if name == "tempcompass-captioning" { "B. b" } else { value("answer") };
        let answers = match judge.is_of_pairs() {
            false => vec![ScoredAnswer { rubric, ..answer("k", value("question"), reference, Some(value("pred"))) }],
            true => ["1", "2"]
                .map(|i| {
                    let (question, given) = (value(&format!("question{i}")), value(&format!("pred{i}")));
                    answer(&format!("k/{i}"), question, value("answer"), Some(given))
                })
                .to_vec(),
        };
        let lines = JudgeRequests::new(&judge, &answers).unwrap().batch_lines(&model).unwrap();
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        let (temperature, max_tokens) = match name.as_str() {
            "tempcompass-captioning" => (1.0, 128),
            "mlvu-sub-scene" | "mlvu-summary" => (0.0, 4096),
            _ => (0.0, 64),
        };
        let mut body =
            json!({ "model": "m", "messages": messages, "temperature": temperature, "max_tokens": max_tokens });
        if name == "tempcompass-captioning" {
            body["presence_penalty"] = json!(1.0);
        }
        assert_eq!(lines.len(), 1);
        let digits = line["custom_id"].as_str().unwrap().strip_prefix(&format!("{name}/k/")).unwrap();
        assert!(digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()), "{digits}");
        assert_eq!(
            line,
            json!({ "custom_id": line["custom_id"], "method": "POST", "url": "/v1/chat/completions", "body": body })
        );
    }
}

#[test]
fn replies_are_parsed_as_they_are_meant_and_differ_from_the_scripts_in_known_ways() {
    let judge = open_judge("video-chatgpt-qa").unwrap();
    let rows = read_json(&repository("tests/golden/eval/judge_replies.json"));
    let rows = rows.as_array().unwrap();
    assert!(rows.len() >= 70);
    let (mut only_here, mut only_there) = (0, 0);
    for row in rows {
        let (reply, python) = (row["reply"].as_str().unwrap(), &row["python"]);
        let found = parse_verdict(&judge, reply, "a dog");
        let expected = row["verdict"].as_array().map(|verdict| JudgeVerdict {
            is_accepted: Some(verdict[0] == "yes"),
            scores: vec![verdict[1].as_f64().unwrap()],
        });
        assert_eq!(found, expected, "{reply}");
        let of_python = python["pred"].as_str().zip(python["score"].as_f64());
        match (found, of_python) {
            (Some(found), Some((pred, score))) => {
                let word = if found.is_accepted == Some(true) { "yes" } else { "no" };
                assert_eq!((word, found.score()), (pred.trim().to_lowercase().as_str(), Some(score)), "{reply}");
            }
            (Some(_), None) => only_here += 1,
            (None, Some(_)) => only_there += 1,
            (None, None) => {}
        }
    }
    // Here only: text around the dictionary, constants of JSON, a list. There only: scores out of range, other words
    // than yes and no, a key that comes twice.
    assert_eq!((only_here, only_there), (14, 9));
}

/// A directory with answers and files of replies.
struct Work {
    dir: tempfile::TempDir,
}

impl Work {
    fn new(answers: &[ScoredAnswer]) -> Self {
        let work = Self { dir: tempfile::tempdir().unwrap() };
        let lines: Vec<Value> = answers.iter().map(|answer| serde_json::to_value(answer).unwrap()).collect();
        work.write("scored.jsonl", &lines);
        work
    }

    /// Answers of which each is its own id.
    fn of(names: &[&str]) -> Self {
        Self::new(&names.iter().map(|name| answer(name, "what?", "a dog", Some(name))).collect::<Vec<_>>())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, lines: &[Value]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(self.path(name), text).unwrap();
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vidense"));
        command.current_dir(self.dir.path()).args(["eval", "judge"]).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs `ask` on a service.
    fn ask(&self, service: &FakeJudge, flags: &[&str]) -> Command {
        let (endpoint, host) = (format!("http://127.0.0.1:{}/v1", service.port), format!("127.0.0.1:{}", service.port));
        let mut command = self.command(&["ask", "scored.jsonl", "--judge", "video-chatgpt-qa", "--model", "m"]);
        command.args(["--endpoint", &endpoint, "--allow-hosts", &host, "--out", "out"]).args(flags);
        command
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn completion(text: &str) -> Value {
    json!({
        "model": "m-0125",
        "choices": [{ "message": { "role": "assistant", "content": text } }],
        "usage": { "prompt_tokens": 100, "completion_tokens": 10 },
    })
}

/// Returns the id of the first request of a judge about answers.
fn custom_id(judge: &str, answers: &[ScoredAnswer]) -> String {
    let judge = open_judge(judge).unwrap();
    JudgeRequests::new(&judge, answers).unwrap().all[0].custom_id.clone()
}

/// Id of the request about an answer that is its own id.
fn id_of(name: &str) -> String {
    custom_id("video-chatgpt-qa", &[answer(name, "what?", "a dog", Some(name))])
}

fn reply(id: &str, text: &str) -> Value {
    let response = json!({ "status_code": 200, "request_id": "r", "body": completion(text) });
    json!({ "id": "batch_req", "custom_id": id_of(id), "response": response, "error": null })
}

const YES: &str = "{'pred': 'yes', 'score': 4}";
const NO: &str = "{'pred': 'no', 'score': 1}";

#[test]
fn replies_of_a_batch_are_joined_and_every_question_counts() {
    let mut answers: Vec<ScoredAnswer> = ["yes", "no", "prose", "twice", "same", "error", "lost"]
        .map(|id| answer(id, "what?", "a dog", Some(id)))
        .into();
    answers.push(answer("failed", "what?", "a dog", None));
    answers.push(answer("empty", "what?", "a dog", Some(" ")));
    let work = Work::new(&answers);
    let judge = ["--judge", "video-chatgpt-qa"];
    let output =
        work.run(&[&["request", "scored.jsonl", "--model", "m", "--out", "requests.jsonl"][..], &judge].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("7 requests at temperature 0; 2 more are not sent"), "{}", stderr(&output));
    assert_eq!(work.lines("requests.jsonl").len(), 7);
    let error = json!({ "code": "server_error", "message": "out of luck" });
    let failed = json!({ "custom_id": id_of("error"), "response": null, "error": error });
    let (stranger, unsent) = (reply("stranger", YES), reply("empty", YES));
    let first = [reply("yes", YES), reply("no", NO), reply("prose", "Both are dogs."), reply("same", YES), failed];
    let second = [reply("twice", YES), reply("twice", NO), reply("same", YES), stranger, unsent];
    work.write("first.jsonl", &first);
    work.write("second.jsonl", &second);
    let read = ["read", "scored.jsonl", "first.jsonl", "second.jsonl", "--out", "judged.jsonl", "--json"];
    let output = work.run(&[&read[..], &judge].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let unused = |to: &str, id: &str| format!("1 replies are {to}, and are not used: {}", id_of(id));
    for text in [
        unused("to requests about other answers of the model, or by another judge's prompt", "empty"),
        unused("to no request of this judge about these questions", "stranger"),
    ] {
        assert!(stderr(&output).contains(&text), "{text} in {}", stderr(&output));
    }
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let counts = json!({
        "judged": 3, "unanswered": 2, "missing": 1, "failed": 1, "unparsed": 1, "duplicate": 1, "fractional": 0,
    });
    assert_eq!((&report["counts"], &report["models"]), (&counts, &json!(["m-0125"])));
    // Seven questions were sent; `yes`, `no`, `prose` and `same` have one text of 100 tokens, `twice` has two.
    assert_eq!((&report["requests"], &report["cost"]["tokens"]["prompt_tokens"]), (&json!(7), &json!(600)));
    assert_eq!(report["max_points"], json!({ "judge_score": 5.0 }));
    assert_eq!(report["metrics"], json!(["judge_accuracy", "judge_score", "exact"]));
    let all = report["rows"].as_array().unwrap().last().unwrap();
    assert_eq!((&all["verdicts"], &all["failed"]), (&counts, &json!(1)));
    let mean = |name: &str| all["scores"][name]["mean"].as_f64().unwrap();
    // 2 of 9 are accepted; the scores are 4, 1 and 4 of 5.
    assert!((mean("judge_accuracy") - 2.0 / 9.0).abs() < 1e-12 && (mean("judge_score") - 9.0 / 45.0).abs() < 1e-12);
    let judged = work.lines("judged.jsonl");
    let status: Vec<&str> = judged.iter().map(|line| line["judge"]["status"].as_str().unwrap()).collect();
    let expected =
        ["judged", "judged", "unparsed", "duplicate", "judged", "failed", "missing", "unanswered", "unanswered"];
    assert_eq!(status, expected);
    let record = &judged[0]["judge"];
    let judge = open_judge("video-chatgpt-qa").unwrap();
    assert_eq!(
        record,
        &json!({
            "name": "video-chatgpt-qa", "model": "m-0125", "temperature": 0.0,
            "prompt_hash": judge.prompt_hash(), "max_score": 5.0, "judge_hash": judge.hash(),
            "custom_id": id_of("yes"),
            "usage": { "prompt_tokens": 100, "completion_tokens": 10, "unknown_replies": 0 },
            "replies": [YES], "pred": "yes", "score": 4.0, "status": "judged",
        })
    );
    assert_eq!(
        (&judged[3]["judge"]["replies"], &judged[5]["judge"]["error"]),
        (&json!([YES, NO]), &json!("out of luck"))
    );
    compare_and_recount(&work, &judged);
}

/// Compares judged answers with themselves, and restores scores that were changed.
fn compare_and_recount(work: &Work, judged: &[Value]) {
    let mut compare = Command::new(env!("CARGO_BIN_EXE_vidense"));
    let arguments = ["eval", "compare", "judged.jsonl", "judged.jsonl", "--metric", "judge_score"];
    let output = compare.current_dir(work.dir.path()).args(arguments).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("judge_score: 9 questions"), "{output:?}");
    let output = work.run(&["recount", "judged.jsonl", "--out", "again.jsonl"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("0 of 9 judgements changed"), "{}", stderr(&output));
    assert_eq!(std::fs::read(work.path("again.jsonl")).unwrap(), std::fs::read(work.path("judged.jsonl")).unwrap());
    let mut changed = judged.to_vec();
    changed[0]["scores"]["judge_score"] = json!(0.25);
    changed[0]["judge"]["score"] = json!(1.25);
    changed[1]["judge"]["replies"] = json!(["I am not sure."]);
    work.write("changed.jsonl", &changed);
    let output = work.run(&["recount", "changed.jsonl", "--out", "changed.jsonl"]);
    assert!(stderr(&output).contains("2 of 9 judgements changed"), "{}", stderr(&output));
    let again = work.lines("changed.jsonl");
    assert_eq!((&again[0], &again[1]["judge"]["status"]), (&judged[0], &json!("unparsed")));
    assert_eq!((&again[1]["scores"]["judge_accuracy"], &again[2..]), (&json!(0.0), &judged[2..]));
    changed[0]["judge"]["prompt_hash"] = json!("other");
    work.write("changed.jsonl", &changed);
    let output = work.run(&["recount", "changed.jsonl"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(stderr(&output).contains("question `yes`: judged by `video-chatgpt-qa` with another prompt"));
    for (key, value, words) in [
        ("temperature", json!(1.0), "judged at temperature 1, and `video-chatgpt-qa` has 0"),
        ("max_score", json!(10.0), "judged with the highest score 10, and `video-chatgpt-qa` has 5"),
        ("judge_hash", json!("x"), "judged with other settings than those of `video-chatgpt-qa`"),
    ] {
        let mut changed = judged.to_vec();
        changed[0]["judge"][key] = value;
        work.write("changed.jsonl", &changed);
        let output = work.run(&["recount", "changed.jsonl"]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains(&format!("question `yes`: {words}")), "{}", stderr(&output));
    }
    work.write("doubled.jsonl", &[judged, judged].concat());
    let text = stderr(&work.run(&["recount", "doubled.jsonl"]));
    assert!(text.contains("line 10: the question `yes` comes twice"), "{text}");
    let mut mixed = judged.to_vec();
    mixed[0]["judge"]["model"] = json!("m-0613");
    work.write("mixed.jsonl", &mixed);
    let text = stderr(&work.run(&["recount", "mixed.jsonl"]));
    assert!(text.contains("replies of several models, so no score of one judge: m-0125 ("), "{text}");
    assert!(text.contains("), m-0613 (1)"), "{text}");
}

#[test]
fn each_row_counts_the_answers_without_a_verdict() {
    let of = |id: &str| ScoredAnswer { kind: format!("type {id}"), ..answer(id, "what?", "a dog", Some(id)) };
    let work = Work::new(&[of("a"), of("b")]);
    let failed = json!({ "custom_id": id_of("a"), "response": { "status_code": 500 } });
    work.write("replies.jsonl", &[failed, reply("b", YES)]);
    let read = ["read", "scored.jsonl", "replies.jsonl", "--judge", "video-chatgpt-qa", "--out", "judged.jsonl"];
    let output = work.run(&[&read[..], &["--json"]].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let counts = |row: usize| {
        let verdicts = &report["rows"][row]["verdicts"];
        ["judged", "failed"].map(|name| verdicts[name].as_u64().unwrap())
    };
    assert_eq!([counts(0), counts(1), counts(3)], [[0, 1], [1, 0], [1, 1]]);
    let table = String::from_utf8(work.run(&read).stdout).unwrap();
    let row = |name: &str| {
        let line = table.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().take(7).collect::<Vec<_>>()
    };
    // Questions, judged, unanswered, missing, failed, unparsed, contradictory.
    assert_eq!(row("type a"), ["1", "0", "0", "0", "1", "0", "0"]);
    assert_eq!(row("type b"), ["1", "1", "0", "0", "0", "0", "0"]);
}

#[test]
#[ignore = "slow"]
fn a_batch_over_the_limits_is_several_files() {
    let names: Vec<String> = (0..50_001).map(|i| i.to_string()).collect();
    let work = Work::of(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let request = ["request", "scored.jsonl", "--model", "m", "--judge", "video-chatgpt-qa", "--out", "r.jsonl"];
    std::fs::write(work.path("r-3.jsonl"), "").unwrap();
    let output = work.run(&request);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("r-1.jsonl: 50000 requests") && text.contains("r-2.jsonl: 1 requests"), "{text}");
    assert!(text.contains("r-3.jsonl: of another run"), "{text}");
    assert_eq!(["r.jsonl", "r-1.jsonl", "r-2.jsonl"].map(|name| n_lines(&work.path(name))), [0, 50_000, 1]);
    assert_eq!(work.lines("r-2.jsonl")[0]["custom_id"], id_of("50000"));
}

#[test]
fn pairs_are_one_request_and_share_its_score() {
    let of = |id: &str, question: &str, given| ScoredAnswer { weight: 0.5, ..answer(id, question, "a dog", given) };
    let answers =
        [of("a/1", "what?", Some("a dog")), of("a/2", "which?", Some("a cat")), of("b/1", "what?", Some("x"))];
    let unpaired = JudgeRequests::new(&open_judge("video-chatgpt-consistency").unwrap(), &answers).unwrap_err();
    assert!(unpaired.to_string().starts_with("question `b/1`: is not one of a pair"), "{unpaired}");
    let answers = [&answers[..], &[of("b/2", "which?", None)]].concat();
    let work = Work::new(&answers);
    let (body, id) = (completion("{'score': 2}"), custom_id("video-chatgpt-consistency", &answers));
    let line = json!({ "custom_id": id, "response": { "status_code": 200, "body": body } });
    work.write("replies.jsonl", &[line]);
    let judge = ["--judge", "video-chatgpt-consistency", "--out", "judged.jsonl", "--json"];
    let output = work.run(&[&["read", "scored.jsonl", "replies.jsonl"][..], &judge].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let scores: Vec<Value> = work.lines("judged.jsonl").iter().map(|line| line["scores"].clone()).collect();
    let expected = [0.4, 0.4, 0.0, 0.0].map(|score| json!({ "exact": 0.0, "judge_score": score }));
    assert_eq!(scores, expected);
}

#[test]
fn answers_that_are_not_open_are_refused_by_name() {
    let judge = open_judge("video-chatgpt-qa").unwrap();
    let with = |change: &dyn Fn(&mut ScoredAnswer)| {
        let mut answers = vec![answer("a", "what?", "x", Some("y")), answer("b", "what?", "x", Some("y"))];
        change(&mut answers[1]);
        JudgeRequests::new(&judge, &answers).unwrap_err().to_string()
    };
    assert!(with(&|answer| answer.options = vec!["A. x".to_owned()]).starts_with("question `b`: has options"));
    assert!(with(&|answer| answer.answer.clear()).starts_with("question `b`: has no reference"));
    assert!(with(&|answer| answer.answer.push("z".to_owned())).starts_with("question `b`: has several references"));
    assert_eq!(
        with(&|answer| answer.question_id = "a".to_owned()),
        "question `a`: comes twice, in the answers 1 and 2"
    );
}

#[test]
fn published_results_are_of_the_same_split_and_judging_model() {
    let work = Work::of(&["a", "b"]);
    work.write("replies.jsonl", &[reply("a", YES), reply("b", "{'pred': 'no', 'score': 1.5}")]);
    let spec = |n: usize, judge: &str| {
        let row = format!(
            "{{ model: P, split: test, metric: judge_accuracy, value: 50, judge: {judge}, prompt: video-chatgpt-qa, source: s }}"
        );
        let text = format!(
            "name: x\nsplit: test\nquestions: {n}\nsource: x\n\
             format: {{ zero_shot_qa: {{ questions: q, answers: a, videos: v }} }}\n\
             prompt: {{ text: \"{{question}}\", source: x }}\nmetrics: [exact]\npublished:\n  - {row}\n"
        );
        std::fs::write(work.path("spec.yaml"), text).unwrap();
        let read = ["read", "scored.jsonl", "replies.jsonl", "--judge", "video-chatgpt-qa", "--out", "judged.jsonl"];
        let output = work.run(&[&read[..], &["--benchmark", "spec.yaml"]].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        (String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output))
    };
    let (table, notes) = spec(2, "m-0125");
    assert!(table.contains("published: P judge_accuracy 50.0 % (test, m-0125, s)"), "{table}");
    assert!(
        table.contains("judge video-chatgpt-qa by m-0125, temperature 0, prompt ") && table.contains("2.75"),
        "{table}"
    );
    assert!(notes.contains("1 scores have a fraction"), "{notes}");
    let (table, notes) = spec(2, "gpt-4");
    let left_out = "1 published results are left out: 1 judged by gpt-4";
    assert!(!table.contains("published") && notes.contains(left_out), "{table}{notes}");
    let (_, notes) = spec(2, "unnamed");
    assert!(notes.contains("left out: 1 judged by a model that the source does not name"), "{notes}");
    let (table, notes) = spec(3, "m-0125");
    let words = "no published result compares: 2 questions, the split has 3";
    assert!(!table.contains("published") && notes.contains(words), "{table}{notes}");
    spec(2, "m-0125");
    // The scores of 10 points, a missing video, and a failed request.
    let judge = std::fs::read_to_string(repository("evals/judges/video-chatgpt-qa.yaml")).unwrap();
    assert!(judge.contains("max_score: 5"));
    std::fs::write(work.path("ten.yaml"), judge.replace("max_score: 5", "max_score: 10")).unwrap();
    let text = |scored: &str, replies: &str, judge: &str| {
        let read = ["read", scored, replies, "--judge", judge, "--out", "j.jsonl", "--benchmark", "spec.yaml"];
        let output = work.run(&read);
        assert!(!String::from_utf8_lossy(&output.stdout).contains("published"), "{output:?}");
        stderr(&output)
    };
    let found = text("scored.jsonl", "replies.jsonl", "ten.yaml");
    assert!(
        found.contains("`video-chatgpt-qa` is not a built-in judge with the prompt, scores and sampling"),
        "{found}"
    );
    let mut lines = work.lines("scored.jsonl");
    lines[1]["status"] = json!("missing");
    lines[1]["given"] = Value::Null;
    work.write("missing.jsonl", &lines);
    let found = text("missing.jsonl", "replies.jsonl", "video-chatgpt-qa");
    assert!(found.contains("no published result compares: 1 questions have a missing video"), "{found}");
    work.write("one.jsonl", &[reply("a", YES)]);
    let found = text("scored.jsonl", "one.jsonl", "video-chatgpt-qa");
    assert!(found.contains("no published result compares: 1 questions were sent and have no single reply"), "{found}");
    let spec = json!({
        "name": "other", "split": "test", "source": "x", "metrics": ["exact"],
        "format": { "zero_shot_qa": { "questions": "q", "answers": "a", "videos": "v" } },
        "prompt": { "text": "{question}", "source": "x" },
    });
    let record = json!({
        "format": "vidense-evaluation-1", "version": "0", "description": "d", "spec": spec, "spec_hash": "", "split_hash": "", "scored_hash": "",
        "questions": 2, "coverage": { "videos": 1, "missing": [] }, "notes": [],
        "plan": { "fingerprint": "", "model": "", "yaml": "" }, "seconds": 0.0,
    });
    std::fs::write(work.path("evaluation.json"), record.to_string()).unwrap();
    let found = text("scored.jsonl", "replies.jsonl", "video-chatgpt-qa");
    assert!(found.contains("scored.jsonl: answers of other, test, and --benchmark is x, test"), "{found}");
}

#[test]
fn replies_to_other_answers_join_nothing() {
    let work = Work::of(&["a", "b"]);
    let service = FakeJudge::start(|_, _| Reaction::Says(YES));
    assert_eq!(work.ask(&service, &[]).output().unwrap().status.code(), Some(0));
    let read = |scored: &str, replies: &str| {
        let _ = std::fs::remove_file(work.path("joined.jsonl"));
        work.run(&["read", scored, replies, "--judge", "video-chatgpt-qa", "--out", "joined.jsonl"])
    };
    // Another run gave other answers to the same questions; of the second run one answer is equal.
    let run = |given: [&str; 2]| {
        let lines = ["a", "b"].iter().zip(given).map(|(id, given)| answer(id, "what?", "a dog", Some(given)));
        lines.map(|answer| serde_json::to_value(answer).unwrap()).collect::<Vec<_>>()
    };
    work.write("wrong.jsonl", &run(["x", "y"]));
    work.write("half.jsonl", &run(["a", "y"]));
    let output = read("wrong.jsonl", "out/replies.jsonl");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let words = "no reply is to a request about these answers: 2 are to other answers, 0 to others";
    assert!(stderr(&output).contains(words) && !work.path("joined.jsonl").exists(), "{}", stderr(&output));
    let output = read("half.jsonl", "out/replies.jsonl");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let status: Vec<Value> = work.lines("joined.jsonl").iter().map(|line| line["judge"]["status"].clone()).collect();
    assert_eq!(status, ["judged", "missing"]);
    // A forged hash, and an id without one.
    let mut lines = work.lines("out/replies.jsonl");
    lines.retain(|line| line["custom_id"] == id_of("a"));
    lines[0]["request"] = json!("other");
    work.write("forged.jsonl", &lines);
    assert!(stderr(&read("scored.jsonl", "forged.jsonl")).contains("1 are to other answers"));
    lines[0]["custom_id"] = json!("video-chatgpt-qa/a");
    work.write("old.jsonl", &lines);
    let text = stderr(&read("scored.jsonl", "old.jsonl"));
    assert!(text.contains("line 1: the id `video-chatgpt-qa/a` does not say which answer was judged"), "{text}");
}

#[test]
fn tokens_that_a_service_does_not_say_are_told() {
    let work = Work::of(&["a", "b"]);
    let service = FakeJudge::start(|name, _| {
        let mut body = completion(YES);
        if name == "b" {
            body["usage"]["prompt_tokens"] = json!(-4);
        }
        Reaction::Responds("200 OK", "", body.to_string())
    });
    let prices = ["--price-in", "0.5", "--price-out", "1.5"];
    let text = stderr(&work.ask(&service, &prices).output().unwrap());
    assert!(
        text.contains("tokens: at least 100 of prompts and 10 of replies") && text.contains("; price at least 0.0001"),
        "{text}"
    );
    assert!(text.contains("the service does not say the tokens of 1 replies"), "{text}");
    let output = work.ask(&service, &[&prices[..], &["--json"]].concat()).output().unwrap();
    let cost = &serde_json::from_slice::<Value>(&output.stdout).unwrap()["cost"];
    assert_eq!((&cost["is_lower_bound"], &cost["tokens"]["unknown_replies"]), (&json!(true), &json!(1)));
}

#[test]
fn captions_are_judged_by_a_choice_and_generated_texts_by_several_scores() {
    let options = "What is he doing?\nA. running\nB. sitting";
    let of =
        |id: &str| ScoredAnswer { rubric: Some(options.to_owned()), ..answer(id, "describe", "B. sitting", Some(id)) };
    let work = Work::new(&["right", "other", "none", "prose"].map(of));
    let reply = |judge: &str, id: &str, text: &str| {
        let id = custom_id(judge, &[of(id)]);
        json!({ "custom_id": id, "response": { "status_code": 200, "body": completion(text) } })
    };
    let replies = [
        ("right", "Reasoning: It says so.\nAnswer: B. sitting"),
        ("other", "Reasoning: x\nAnswer: A. running"),
        ("none", "Answer: None of the choices are correct"),
        ("prose", "He may sit."),
    ];
    work.write("replies.jsonl", &replies.map(|(id, text)| reply("tempcompass-captioning", id, text)));
    let read = ["read", "scored.jsonl", "replies.jsonl", "--out", "judged.jsonl", "--json", "--judge"];
    let output = work.run(&[&read[..], &["tempcompass-captioning"]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["metrics"], &report["max_points"]), (&json!(["judge_accuracy", "exact"]), &json!({})));
    assert_eq!((&report["counts"]["judged"], &report["counts"]["unparsed"]), (&json!(3), &json!(1)));
    let accepted: Vec<Value> =
        work.lines("judged.jsonl").iter().map(|line| line["scores"]["judge_accuracy"].clone()).collect();
    assert_eq!(accepted, [1.0, 0.0, 0.0, 0.0]);
    let scores = "Both points are met.\n{'score_accuracy': 3.5, 'score_relevance': 5, 'total_score': 8.5}";
    work.write("replies.jsonl", &[reply("mlvu-sub-scene", "right", scores), reply("mlvu-sub-scene", "other", "4")]);
    let output = work.run(&[&read[..], &["mlvu-sub-scene"]].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let metrics = json!(["judge_score", "judge_score_accuracy", "judge_score_relevance", "exact"]);
    let points = json!({ "judge_score": 10.0, "judge_score_accuracy": 5.0, "judge_score_relevance": 5.0 });
    assert_eq!((&report["metrics"], &report["max_points"]), (&metrics, &points));
    let judged = work.lines("judged.jsonl");
    let expected = json!({
        "exact": 0.0, "judge_score": 0.85, "judge_score_accuracy": 0.7, "judge_score_relevance": 1.0,
    });
    assert_eq!((&judged[0]["scores"], &judged[0]["judge"]["score"]), (&expected, &json!(8.5)));
    assert_eq!((&judged[1]["scores"]["judge_score"], &judged[1]["judge"]["status"]), (&json!(0.0), &json!("unparsed")));
    let without = Work::of(&["a"]);
    let request = ["request", "scored.jsonl", "--model", "m", "--out", "x.jsonl", "--judge"];
    let output = without.run(&[&request[..], &["mlvu-sub-scene"]].concat());
    assert!(stderr(&output).contains("question `a`: has no rubric"), "{}", stderr(&output));
    let work =
        Work::new(&[ScoredAnswer { rubric: Some(options.to_owned()), ..answer("a", "?", "sitting", Some("x")) }]);
    let output = work.run(&[&request[..], &["tempcompass-captioning"]].concat());
    assert!(stderr(&output).contains("question `a`: has a reference that is no option"), "{}", stderr(&output));
}

/// Writes an evaluation of MSVD-QA with two questions, whose published results have one of `m-0125`.
fn write_evaluation(work: &Work, answers: &[ScoredAnswer]) {
    let mut spec = read_benchmark(&repository("evals/msvd-qa-test.yaml")).unwrap();
    spec.questions = Some(2);
    spec.metrics = vec![Measure::Exact];
    spec.published[0].judge = Some("m-0125".to_owned());
    let record = EvaluationRecord {
        format: EvaluationFormat::default(),
        version: "1.0".to_owned(),
        description: "b.yaml".to_owned(),
        spec,
        spec_hash: "aa".to_owned(),
        split_hash: "bb".to_owned(),
        scored_hash: write_scored(work.dir.path(), answers).unwrap(),
        questions: 2,
        coverage: CoverageRecord { videos: 2, missing: Vec::new() },
        notes: Vec::new(),
        plan: PlanRecord::default(),
        seconds: 1.0,
    };
    record.write(work.dir.path()).unwrap();
}

#[test]
fn the_report_of_an_evaluation_has_the_judged_scores_of_its_answers() {
    let answers = ["a", "b"].map(|id| answer(id, "what?", "a dog", Some(id)));
    let work = Work::new(&answers);
    write_evaluation(&work, &answers);
    let service = FakeJudge::start(|name, _| Reaction::Says(if name == "a" { YES } else { NO }));
    let (endpoint, host) = (format!("http://127.0.0.1:{}/v1", service.port), format!("127.0.0.1:{}", service.port));
    let ask = ["ask", "scored.jsonl", "--judge", "video-chatgpt-qa", "--model", "m", "--endpoint", &endpoint];
    let flags = ["--allow-hosts", &host, "--price-in", "0.5", "--price-out", "1.5"];
    let output = work.run(&[&ask[..], &flags].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stderr(&output).contains("report.html: the report has the judged scores"), "{}", stderr(&output));
    let report = || std::fs::read_to_string(work.path("report.md")).unwrap();
    let hash = open_judge("video-chatgpt-qa").unwrap().prompt_hash();
    for part in [
        "| exact | 95 % interval | judge\\_accuracy (1) | 95 % interval | judge\\_score (1) | 95 % interval |",
        "| 50.0 % |",
        "| 2.50 |",
        &format!("| 1 | judges/video-chatgpt-qa/judged.jsonl | video-chatgpt-qa | m-0125 | 0 | {hash} | 2 | 2 | 0 |"),
        // 200 tokens of prompts and 20 of replies.
        "| 200 | 20 | 0.0001 |",
        "| Dense Connector 7B | judge\\_accuracy (1) | 75.0 | m-0125 |",
        "(1): 10 published results are left out: 8 judged by gpt-3.5-turbo-0125; 1 judged by gpt-3.5-turbo-0301",
    ] {
        assert!(report().contains(part), "{part} in\n{}", report());
    }
    let html = std::fs::read_to_string(work.path("report.html")).unwrap();
    assert!(html.contains("Published results by the same judge") && html.contains("judge_score (1)"), "{html}");
    // Another answer of the model: the judgement is not of it.
    let changed = [answers[0].clone(), answer("b", "what?", "a dog", Some("a cat"))];
    write_evaluation(&work, &changed);
    let mut again = Command::new(env!("CARGO_BIN_EXE_vidense"));
    let output = again.current_dir(work.dir.path()).args(["eval", "report", "."]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let note = "judges/video-chatgpt-qa/judged.jsonl: of other answers, 1 of 2 differ: not shown; judge them again";
    assert!(report().contains(note) && !report().contains("| 2.50 |"), "{}", report());
    std::fs::write(work.path("judges/video-chatgpt-qa/judged.jsonl"), "{").unwrap();
    let mut again = Command::new(env!("CARGO_BIN_EXE_vidense"));
    let output = again.current_dir(work.dir.path()).args(["eval", "report", "."]).output().unwrap();
    // Its own scores stand, and the report says why the judge's do not.
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(report().contains("judged.jsonl: not shown: ") && report().contains("line 1"), "{}", report());
}

/// Response of a fake service to one request.
enum Reaction {
    /// The text of a judge.
    Says(&'static str),
    /// A response with a status, headers and a body.
    Responds(&'static str, &'static str, String),
    /// The end of the connection.
    Closes,
    /// Nothing until the client ends the connection.
    Hangs,
}

/// An OpenAI-compatible service on loopback that knows a request by its predicted answer.
struct FakeJudge {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl FakeJudge {
    /// Starts a service; `react` gets the predicted answer and the number of earlier requests about it.
    fn start(react: impl Fn(&str, usize) -> Reaction + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, react) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(react));
        let seen = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, react) = (seen.clone(), react.clone());
                std::thread::spawn(move || serve(stream, &seen, &*react));
            }
        });
        Self { port, asked }
    }

    fn asked(&self) -> Vec<String> {
        let mut asked = self.asked.lock().unwrap().clone();
        asked.sort();
        asked
    }
}

/// Answers one request. A client that goes away is a part of some tests.
fn serve(mut stream: TcpStream, seen: &Mutex<Vec<String>>, react: &dyn Fn(&str, usize) -> Reaction) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut length, mut line) = (0, String::new());
    while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
        let lower = line.to_ascii_lowercase();
        length = lower.strip_prefix("content-length:").map_or(length, |text| text.trim().parse().unwrap());
        line.clear();
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    let user = body["messages"][1]["content"].as_str().unwrap();
    let name = user.split(PREDICTED).nth(1).unwrap().lines().next().unwrap().to_owned();
    let n_earlier = {
        let mut seen = seen.lock().unwrap();
        seen.push(name.clone());
        seen.iter().filter(|other| **other == name).count() - 1
    };
    let (status, headers, body) = match react(&name, n_earlier) {
        Reaction::Says(text) => ("200 OK", "", completion(text).to_string()),
        Reaction::Responds(status, headers, body) => (status, headers, body),
        Reaction::Closes => return,
        Reaction::Hangs => {
            let _ = reader.read(&mut [0]);
            return;
        }
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n", body.len());
    let _ = stream.write_all((head + &body).as_bytes());
}

#[test]
fn a_service_is_asked_again_where_that_helps_and_each_failure_stays_alone() {
    let work = Work::of(&["fine", "limited", "fault", "garbage", "closing", "slow", "refused", "prose"]);
    let service = FakeJudge::start(|name, n_earlier| match (name, n_earlier) {
        ("limited", 0) => Reaction::Responds("429 Too Many Requests", "Retry-After: 1\r\n", "{}".to_owned()),
        ("fault", 0) => Reaction::Responds("500 Oops", "", "no JSON".to_owned()),
        ("garbage", 0) => Reaction::Responds("200 OK", "", "<html>".to_owned()),
        ("closing", 0) => Reaction::Closes,
        ("slow", 0) => Reaction::Hangs,
        ("refused", _) => {
            Reaction::Responds("400 Bad Request", "", json!({ "error": { "message": "too\u{7} long" } }).to_string())
        }
        ("prose", _) => Reaction::Says("Yes, both are dogs."),
        _ => Reaction::Says(YES),
    });
    std::fs::write(work.path("key"), "secret-key\n").unwrap();
    let flags = ["--timeout", "5s", "--api-key-file", "key", "--price-in", "0.5", "--price-out", "1.5", "--json"];
    let output = work.ask(&service, &flags).output().unwrap();
    let (text, report) = (stderr(&output), serde_json::from_slice::<Value>(&output.stdout).unwrap());
    assert_eq!(output.status.code(), Some(1), "{text}");
    let counts = json!({
        "judged": 6, "unanswered": 0, "missing": 0, "failed": 1, "unparsed": 1, "duplicate": 0, "fractional": 0,
    });
    assert_eq!(report["counts"], counts, "{text}");
    assert!(
        text.contains(&format!("{}: status 400: too\\x07 long", id_of("refused"))) && !text.contains("secret-key"),
        "{text}"
    );
    // Seven replies of 100 and 10 tokens: 700 · 0.5 and 70 · 1.5 per million.
    let cost = &report["cost"];
    assert_eq!((&cost["tokens"]["prompt_tokens"], &cost["tokens"]["completion_tokens"]), (&json!(700), &json!(70)));
    assert!((cost["money"].as_f64().unwrap() - 455e-6).abs() < 1e-12);
    let once = ["fine", "prose", "refused"].map(str::to_owned).to_vec();
    let twice = ["closing", "fault", "garbage", "limited", "slow"].map(str::to_owned);
    let mut expected = [once, twice.to_vec(), twice.to_vec()].concat();
    expected.sort();
    assert_eq!(service.asked(), expected);
    // The same command asks again only what failed.
    let output = work.ask(&service, &flags).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(service.asked().len(), expected.len() + 1);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["counts"], &report["cost"]["tokens_of_this_run"]["prompt_tokens"]), (&counts, &json!(0)));
    // Its replies are replies of a batch.
    let read = ["read", "scored.jsonl", "out/replies.jsonl", "--judge", "video-chatgpt-qa", "--out", "read.jsonl"];
    let prices = ["--price-in", "0.5", "--price-out", "1.5"];
    assert_eq!(work.run(&[&read[..], &prices].concat()).status.code(), Some(1));
    let judged = std::fs::read_to_string(work.path("out/judged.jsonl")).unwrap();
    assert_eq!(std::fs::read_to_string(work.path("read.jsonl")).unwrap(), judged);
    let kept = std::fs::read_to_string(work.path("out/replies.jsonl")).unwrap();
    assert!(!kept.contains("secret-key"));
}

/// Waits for a condition, far longer than it takes.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !is_so() {
        assert!(begin.elapsed().as_secs() < 120, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn n_lines(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

#[test]
fn a_killed_run_goes_on_without_asking_twice() {
    let names: Vec<String> = (0..12).map(|i| format!("answer-{i:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let work = Work::of(&names);
    let hanging = FakeJudge::start(|name, _| if name < "answer-05" { Reaction::Says(YES) } else { Reaction::Hangs });
    let mut child = work.ask(&hanging, &["--concurrency", "2"]).stderr(Stdio::null()).spawn().unwrap();
    let log = work.path("out/replies.jsonl");
    wait_until("five replies are logged, and two requests hang", || n_lines(&log) == 5 && hanging.asked().len() == 7);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!work.path("out/judged.jsonl").exists());
    // A kill in the middle of a line.
    std::fs::OpenOptions::new().append(true).open(&log).unwrap().write_all(b"{\"custom_id\": \"video").unwrap();
    let answering = FakeJudge::start(|_, _| Reaction::Says(NO));
    let output = work.ask(&answering, &["--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(answering.asked(), names[5..]);
    let preds: Vec<Value> = work.lines("out/judged.jsonl").iter().map(|line| line["judge"]["pred"].clone()).collect();
    assert_eq!(preds, [vec![json!("yes"); 5], vec![json!("no"); 7]].concat());
    // Another answer of the model is another request.
    let mut answers: Vec<ScoredAnswer> = names.iter().map(|name| answer(name, "what?", "a dog", Some(name))).collect();
    answers[3].given = Some("a new answer".to_owned());
    work.write("scored.jsonl", &answers.iter().map(|answer| serde_json::to_value(answer).unwrap()).collect::<Vec<_>>());
    let output = work.ask(&answering, &[]).output().unwrap();
    assert_eq!((output.status.code(), answering.asked().len()), (Some(0), 8), "{}", stderr(&output));
    assert_eq!(work.lines("out/judged.jsonl")[3]["judge"]["pred"], "no");
    let ask = ["ask", "scored.jsonl", "--judge", "video-chatgpt-qa", "--model", "another", "--out", "out"];
    let output =
        work.run(&[&ask[..], &["--endpoint", "http://127.0.0.1:1/v1", "--allow-hosts", "127.0.0.1:1"]].concat());
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("replies of `video-chatgpt-qa` by `m` at temperature 0"), "{}", stderr(&output));
}

#[cfg(unix)]
#[test]
fn a_signal_lets_requests_under_way_finish() {
    let work = Work::of(&["a", "b", "c", "d", "e", "f"]);
    let (release, gate) = std::sync::mpsc::sync_channel::<()>(0);
    let gate = Mutex::new(gate);
    let service = FakeJudge::start(move |_, _| {
        let _ = gate.lock().unwrap().recv();
        Reaction::Says(YES)
    });
    let mut child: Child = work.ask(&service, &["--concurrency", "1"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    wait_until("a request is under way", || !service.asked().is_empty());
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    assert!(lines.by_ref().any(|line| line.contains("finishing the work in progress")));
    drop(release);
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{rest:?}");
    let n_asked = service.asked().len();
    assert!(
        rest.iter().any(|line| line.contains(&format!("stopped: {n_asked} of 6 requests have a reply"))),
        "{rest:?}"
    );
    assert!((1..=2).contains(&n_asked) && n_lines(&work.path("out/replies.jsonl")) == n_asked);
}

#[test]
fn a_wrong_key_ends_the_run_early_and_a_refused_host_before_it_begins() {
    let names: Vec<String> = (0..60).map(|i| format!("answer-{i:02}")).collect();
    let work = Work::of(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let service = FakeJudge::start(|_, _| {
        Reaction::Responds("401 Unauthorized", "", json!({ "error": { "message": "wrong key" } }).to_string())
    });
    let output = work.ask(&service, &["--concurrency", "1"]).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("20 requests in a row failed: status 401: wrong key"), "{text}");
    assert!(service.asked().len() < 30);
    let endpoint = format!("http://127.0.0.1:{}/v1", service.port);
    let ask = ["ask", "scored.jsonl", "--judge", "video-chatgpt-qa", "--model", "m", "--out", "other"];
    let output = work.run(&[&ask[..], &["--endpoint", &endpoint, "--allow-hosts", "example.org"]].concat());
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("host `127.0.0.1` is not allowed"), "{}", stderr(&output));
}
