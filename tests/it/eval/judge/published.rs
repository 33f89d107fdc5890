//! Published results beside judged scores, and judged scores in the report of an evaluation.

use std::process::Command;

use serde_json::{Value, json};
use vidense::eval::benchmark::{
    CoverageRecord, EvaluationFormat, EvaluationRecord, Measure, PlanRecord, ScoredAnswer, read_benchmark, write_scored,
};
use vidense::eval::judge::open_judge;

use super::fake::{FakeJudge, Reaction};
use super::{NO, Work, YES, answer, reply, stderr};
use crate::harness::repository;

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
