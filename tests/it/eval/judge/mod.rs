//! Judges: prompts, replies of batches and of a service, published results.

mod fake;
mod prompts;
mod published;
mod replies;
mod service;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use vidense::eval::benchmark::{AnswerStatus, ScoredAnswer};
use vidense::eval::judge::{JudgeRequests, open_judge};

use self::fake::FakeJudge;

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

/// Number of lines of a file, 0 of one that is not there.
fn n_lines(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}
