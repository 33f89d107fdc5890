//! `serve --stdio`: requests and answers as lines, ids echoed, garbage refused, nothing lost.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::repository;

const VIDEO: &str = "samples/three_shapes.mp4";
/// Time within which a server must end.
const SECONDS: Duration = Duration::from_secs(60);
/// Questions about the sample.
const QUESTIONS: [&str; 4] =
    ["What color is the circle?", "How many objects are in the video?", "What shape is red?", "Describe the video."];

fn vidense(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vidense"));
    command
        .current_dir(repository(""))
        .env_remove("VIDENSE_MODELS")
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", "/nonexistent")
        .args(arguments);
    command
}

/// A server on pipes, with a scratch of its own.
struct StdioClient {
    child: Child,
    scratch: tempfile::TempDir,
}

impl StdioClient {
    fn start(flags: &[&str]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().to_str().unwrap();
        let own = ["serve", "--stdio", "--model", "samples/mini", "--no-cache", "--scratch", directory];
        let mut command = vidense(&[&own[..], flags].concat());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child, scratch }
    }

    /// Sends lines from a thread, then ends the input.
    fn send(&mut self, lines: Vec<Vec<u8>>) -> std::thread::JoinHandle<()> {
        let mut input = self.child.stdin.take().unwrap();
        std::thread::spawn(move || {
            for line in lines {
                // A server that has ended reads no more.
                if input.write_all(&line).and_then(|()| input.write_all(b"\n")).is_err() {
                    return;
                }
            }
        })
    }

    /// Sends lines and returns all answers.
    fn answers(&mut self, lines: Vec<Vec<u8>>) -> Vec<Value> {
        let sender = self.send(lines);
        let output = BufReader::new(self.child.stdout.take().unwrap());
        let answers = output.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        sender.join().unwrap();
        answers
    }

    /// Waits for the end; returns the exit code.
    fn end(mut self) -> i32 {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert_eq!(std::fs::read_dir(self.scratch.path()).unwrap().count(), 0, "files are left");
                return status.code().unwrap();
            }
            assert!(start.elapsed() < SECONDS, "the server does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for StdioClient {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn data() -> String {
    format!("data:video/mp4;base64,{}", STANDARD.encode(std::fs::read(repository(VIDEO)).unwrap()))
}

fn body(url: &str, question: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": [
        { "type": "video_url", "video_url": { "url": url } },
        { "type": "text", "text": question },
    ] }] })
}

/// A request with an id beside its members.
fn request(id: &Value, url: &str, question: &str) -> Vec<u8> {
    let mut line = body(url, question);
    line["id"] = id.clone();
    line.to_string().into_bytes()
}

fn content(answer: &Value) -> &str {
    answer["response"]["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("no answer: {answer}"))
}

/// What `ask` says.
fn asked(question: &str) -> String {
    let output = vidense(&["ask", "--model", "samples/mini", VIDEO, question]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim_end_matches('\n').to_owned()
}

#[test]
fn forty_lines_with_garbage_among_them_are_answered_each_by_its_id() {
    const N: usize = 40;
    let expected: Vec<String> = QUESTIONS.iter().map(|question| asked(question)).collect();
    let file = format!("file://{}", repository(VIDEO).display());
    let uris = [data(), file.clone()];
    let garbage: [&[u8]; 6] = [
        b"{",
        b"\xff\xfe",
        b"[1, 2]",
        br#"{"messages": []}"#,
        br#"{"id": "bad", "messages": [{"role": "user", "content": "Hi"}], "tempreature": 1}"#,
        br#"{"id": "bad", "messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}]}]}"#,
    ];
    let mut lines = Vec::new();
    for i in 0..N {
        if i % 5 == 4 {
            lines.push(garbage[i / 5 % garbage.len()].to_vec());
        } else if i % 7 == 0 {
            let body = body(&uris[i % 2], QUESTIONS[i % 4]);
            let batch = json!({ "custom_id": i, "method": "POST", "url": "/v1/chat/completions", "body": body });
            lines.push(batch.to_string().into_bytes());
        } else {
            lines.push(request(&json!({ "n": [i] }), &uris[i % 2], QUESTIONS[i % 4]));
        }
    }
    let mut client = StdioClient::start(&["--allow-files", repository("samples").to_str().unwrap()]);
    let answers = client.answers(lines);
    assert_eq!(answers.len(), N);
    let mut found = BTreeMap::new();
    for answer in &answers {
        if !answer["response"].is_null() {
            let custom = answer["custom_id"].as_u64();
            let i = custom.or_else(|| answer["id"]["n"][0].as_u64()).unwrap() as usize;
            assert_eq!(custom.is_some(), i.is_multiple_of(7));
            assert_eq!(found.insert(i, content(answer)), None, "{i} twice");
            continue;
        }
        let line = answer["line"].as_u64().unwrap() as usize;
        assert!((line - 1) % 5 == 4 && answer["error"]["code"].as_u64().unwrap() >= 400, "{answer}");
        let has_id = (line - 1) / 5 % garbage.len() >= 4;
        assert_eq!(answer["id"], if has_id { json!("bad") } else { json!(null) }, "{answer}");
    }
    assert_eq!(found.len(), N - N / 5);
    for (i, text) in found {
        assert_eq!(text, expected[i % 4], "{i}");
    }
    assert_eq!(client.end(), 0);
}

#[test]
fn local_files_are_closed_by_default() {
    let file = format!("file://{}", repository(VIDEO).display());
    let mut client = StdioClient::start(&[]);
    let answers = client.answers(vec![
        request(&json!(1), &file, QUESTIONS[0]),
        request(&json!(2), "file:///etc/passwd", QUESTIONS[0]),
        request(&json!(3), "https://example.org/a.mp4", QUESTIONS[0]),
        request(&json!(4), "/etc/passwd", QUESTIONS[0]),
    ]);
    let mut codes: Vec<(u64, u64)> = answers
        .iter()
        .map(|answer| (answer["id"].as_u64().unwrap(), answer["error"]["code"].as_u64().unwrap()))
        .collect();
    codes.sort_unstable();
    assert_eq!(codes, [(1, 403), (2, 403), (3, 403), (4, 400)]);
    assert_eq!(client.end(), 0);
}

#[test]
fn a_reader_that_goes_away_ends_the_server() {
    let mut client = StdioClient::start(&[]);
    let lines = (0..200).map(|i| request(&json!(i), &data(), QUESTIONS[i % 4])).collect();
    let sender = client.send(lines);
    let mut output = BufReader::new(client.child.stdout.take().unwrap());
    let mut line = String::new();
    assert!(output.read_line(&mut line).unwrap() > 0);
    drop(output);
    assert_eq!(client.end(), 0, "a broken pipe is success");
    sender.join().unwrap();
}

#[test]
fn a_line_of_100_mb_is_one_error() {
    let mut long = br#"{"id": 1, "messages": [{"role": "user", "content": ""#.to_vec();
    long.resize(100_000_000, b'a');
    let mut client = StdioClient::start(&["--max-body", "1MiB"]);
    let answers = client.answers(vec![long, request(&json!(2), &data(), QUESTIONS[0])]);
    assert_eq!(answers.len(), 2);
    let error = answers.iter().find(|answer| answer["line"] == 1).unwrap();
    assert_eq!(error["error"]["code"], 413, "{error}");
    let answer = answers.iter().find(|answer| answer["id"] == 2).unwrap();
    assert_eq!(content(answer), asked(QUESTIONS[0]));
    assert_eq!(client.end(), 0);
}

#[cfg(unix)]
#[test]
fn a_signal_lets_the_open_requests_finish() {
    let mut client = StdioClient::start(&[]);
    let mut input = client.child.stdin.take().unwrap();
    let mut output = BufReader::new(client.child.stdout.take().unwrap());
    let mut line = String::new();
    input.write_all(&request(&json!(1), &data(), QUESTIONS[0])).unwrap();
    input.write_all(b"\n").unwrap();
    assert!(output.read_line(&mut line).unwrap() > 0);
    // The server works, and waits for a line that does not come.
    let killed = Command::new("kill").args(["-TERM", &client.child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(client.end(), 0);
    drop(input);
}

#[cfg(unix)]
#[test]
fn a_signal_ends_a_server_whose_answers_nobody_reads() {
    // The answers are more than a pipe holds.
    let mut client = StdioClient::start(&["--grace", "1ms"]);
    let mut error = BufReader::new(client.child.stderr.take().unwrap());
    let sender = client.send((0..2000).map(|i| request(&json!(i), &data(), QUESTIONS[i % 4])).collect());
    let output = client.child.stdout.take().unwrap();
    let start = Instant::now();
    // A pipe of 64 KiB has no room for another answer.
    while rustix::io::ioctl_fionread(&output).unwrap() < 60_000 {
        assert!(start.elapsed() < SECONDS, "the pipe is not full");
        std::thread::sleep(Duration::from_millis(20));
    }
    let killed = Command::new("kill").args(["-TERM", &client.child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(client.end(), 2);
    let mut message = String::new();
    error.read_to_string(&mut message).unwrap();
    assert!(message.contains("standard output is not read"), "{message}");
    drop(output);
    sender.join().unwrap();
}

/// A request whose answer is as long as 700 tokens.
fn long_request(id: &Value) -> Vec<u8> {
    let mut line = body(&data(), "Describe the video.");
    let members = json!({ "id": id, "temperature": 50.0, "seed": 24, "max_tokens": 700 });
    line.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    line.to_string().into_bytes()
}

#[test]
fn flags_of_connections_are_refused() {
    for flag in ["--listen", "--api-key-file", "--request-timeout", "--read-timeout"] {
        let output = vidense(&["serve", "--stdio", flag, "1s"]).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flag}");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains("--stdio") && message.contains(flag), "{message}");
    }
}

#[test]
fn a_grace_holds_after_the_end_of_the_input_too() {
    let mut client = StdioClient::start(&["--grace", "1ms"]);
    let answers = client.answers((0..200).map(|i| long_request(&json!(i))).collect());
    let mut ids: Vec<u64> = answers.iter().map(|answer| answer["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..200).collect::<Vec<_>>(), "each line has an answer");
    let given_up = answers.iter().filter(|answer| answer["error"]["code"] == 503).count();
    assert!(given_up > 0 && answers.iter().all(|answer| !answer["response"].is_null() || answer["error"].is_object()));
    assert_eq!(client.end(), 0);
}

#[cfg(unix)]
#[test]
fn requests_beyond_the_grace_and_after_a_signal_are_refused_by_line() {
    let mut client = StdioClient::start(&["--grace", "1ms"]);
    let mut input = client.child.stdin.take().unwrap();
    let mut output = BufReader::new(client.child.stdout.take().unwrap());
    input.write_all(&[request(&json!("first"), &data(), QUESTIONS[0]), b"\n".to_vec()].concat()).unwrap();
    let mut line = String::new();
    assert!(output.read_line(&mut line).unwrap() > 0);
    for i in 0..100 {
        input.write_all(&[long_request(&json!(i)), b"\n".to_vec()].concat()).unwrap();
    }
    let killed = Command::new("kill").args(["-TERM", &client.child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let answers: Vec<Value> = output.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    let refused = answers.iter().filter(|answer| answer["error"]["code"] == 503).count();
    let answered = answers.iter().filter(|answer| !answer["response"].is_null()).count();
    assert_eq!(refused + answered, answers.len(), "{answers:?}");
    assert!(refused > 0);
    assert_eq!(client.end(), 0);
    drop(input);
}
