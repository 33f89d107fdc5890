//! A service on loopback that answers, refuses, breaks and hangs.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use serde_json::{Value, json};
use vidense::eval::benchmark::ScoredAnswer;

use super::fake::{FakeJudge, Reaction};
use super::{NO, Work, YES, answer, id_of, n_lines, stderr};

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
