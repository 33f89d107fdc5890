//! Batches: joined replies, counts of verdicts, tokens.

use std::process::Command;

use serde_json::{Value, json};
use vidense::eval::benchmark::ScoredAnswer;
use vidense::eval::judge::{JudgeRequests, open_judge};

use super::fake::{FakeJudge, Reaction};
use super::{NO, Work, YES, answer, completion, custom_id, id_of, n_lines, reply, stderr};

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
