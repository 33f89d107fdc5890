//! Prompts and replies against the scripts of Video-ChatGPT, TempCompass and MLVU, and answers that are refused.

use serde_json::{Value, json};
use vidense::eval::benchmark::ScoredAnswer;
use vidense::eval::judge::{JudgeOptions, JudgeRequests, JudgeVerdict, open_judge, parse_verdict};

use super::{Work, answer, completion, custom_id, stderr};
use crate::harness::{json as read_json, repository};

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
    assert!(
        stderr(&output).contains("question `a`: has a reference without the label of an option"),
        "{}",
        stderr(&output)
    );
}
