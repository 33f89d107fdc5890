//! Log of a judge's replies in a directory: `judge.json` (judge, prompt, model) and `replies.jsonl`, a line for each
//! reply as it comes.
//!
//! A line is synced before the next request counts as answered, so a killed run asks nothing twice that it has been
//! answered. An unfinished last line is cut off. The file is locked while a run writes. Each line has the hash of its
//! request: a reply to another answer of the model joins nothing.

use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::replies::{JudgeReplies, ReplyLine, read_lines};
use super::requests::JudgeOptions;
use super::spec::JudgeSpec;
use crate::error::{About as _, Error, Kind, Result};
use crate::files::output::open_to_append;
use crate::files::{self, Durability};

const SETUP: &str = "judge.json";
const REPLIES: &str = "replies.jsonl";

/// Judge and model of a log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeSetup {
    /// Name of the judge.
    pub judge: String,
    /// Hash of the prompt.
    pub prompt_hash: String,
    /// Name of the model in requests.
    pub model: String,
    /// Temperature.
    pub temperature: f64,
    /// Maximum number of tokens of a reply.
    pub max_tokens: usize,
    /// Seed.
    pub seed: Option<u64>,
}

impl JudgeSetup {
    /// Returns the setup of a judge and a model.
    pub fn new(judge: &JudgeSpec, options: &JudgeOptions) -> Self {
        Self {
            judge: judge.name.clone(),
            prompt_hash: judge.prompt_hash(),
            model: options.model.clone(),
            temperature: judge.temperature,
            max_tokens: judge.max_tokens,
            seed: judge.seed,
        }
    }
}

/// Log of replies, open for appending.
#[derive(Debug)]
pub struct ReplyLog {
    path: PathBuf,
    file: File,
    lines: Vec<ReplyLine>,
    /// Id and hash of the requests that have a reply.
    answered: HashSet<(String, String)>,
}

impl ReplyLog {
    /// Opens the log of a directory, and creates both if they do not exist.
    ///
    /// # Errors
    /// A directory that cannot be written to, a log that another process writes, replies of another judge or model (a
    /// log of failures alone is taken over), or a damaged line.
    pub fn open(dir: &Path, setup: &JudgeSetup) -> Result<Self> {
        files::output::create_directory(dir).map_err(Error::io(dir))?;
        let path = dir.join(REPLIES);
        let mut file = open_to_append(&path).map_err(Error::io(&path))?;
        lock_file(&file, &path)?;
        cut_unfinished_line(&mut file).map_err(Error::io(&path))?;
        let mut log = Self { path: path.clone(), file, lines: Vec::new(), answered: HashSet::new() };
        read_lines(&path, &mut |line: ReplyLine| log.keep(line))?;
        let setup_path = dir.join(SETUP);
        if log.answered.is_empty() {
            // Failures alone, such as those of a wrong model's name, bind nobody.
            write_setup(&setup_path, setup)?;
        } else {
            check_setup(&setup_path, setup)?;
        }
        Ok(log)
    }

    /// Appends a line, and syncs it.
    ///
    /// # Errors
    /// The operating system's error.
    pub(super) fn append(&mut self, line: ReplyLine) -> Result<()> {
        let mut bytes = serde_json::to_vec(&line).map_err(|error| Error::caused_by(Kind::Invalid, error))?;
        bytes.push(b'\n');
        self.file.write_all(&bytes).and_then(|()| self.file.sync_data()).map_err(Error::io(&self.path))?;
        self.keep(line);
        Ok(())
    }

    /// Returns whether a request has a reply.
    pub(super) fn has_reply(&self, custom_id: &str, request: &str) -> bool {
        self.answered.contains(&(custom_id.to_owned(), request.to_owned()))
    }

    /// Returns the replies to requests, given as bodies by their ids; replies to other requests are left out.
    pub fn replies<'r>(&self, requests: impl IntoIterator<Item = (&'r str, &'r str)>) -> JudgeReplies {
        let known: HashSet<(String, String)> =
            requests.into_iter().map(|(custom_id, body)| (custom_id.to_owned(), request_hash(body))).collect();
        let mut replies = JudgeReplies::default();
        let is_known = |line: &&ReplyLine| {
            line.request.as_ref().is_some_and(|hash| known.contains(&(line.custom_id.clone(), hash.clone())))
        };
        self.lines.iter().filter(is_known).for_each(|line| replies.add(line));
        replies
    }

    fn keep(&mut self, line: ReplyLine) {
        if let (Some(request), Ok(_)) = (&line.request, line.outcome()) {
            self.answered.insert((line.custom_id.clone(), request.clone()));
        }
        self.lines.push(line);
    }
}

/// Returns the hash of a request's body.
pub(super) fn request_hash(body: &str) -> String {
    blake3::hash(body.as_bytes()).to_hex().to_string()
}

fn lock_file(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        // A disk without locks.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(error)) => Err(Error::io(path)(error)),
        Err(TryLockError::WouldBlock) => {
            let error = Error::invalid("another process writes there").with_hint("wait for it, or write elsewhere");
            Err(error.about(path))
        }
    }
}

fn write_setup(path: &Path, setup: &JudgeSetup) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(setup).map_err(|error| Error::caused_by(Kind::Invalid, error))?;
    files::output::replace(path, &bytes, Durability::Synced).map_err(Error::io(path))
}

/// Compares the setup of a log with replies.
fn check_setup(path: &Path, setup: &JudgeSetup) -> Result<()> {
    let bytes = files::read(path).map_err(Error::io(path))?;
    let kept: JudgeSetup =
        serde_json::from_slice(&bytes).map_err(|error| Error::caused_by(Kind::Invalid, error)).about(path)?;
    if kept == *setup {
        return Ok(());
    }
    let rule = format!(
        "replies of `{}` by `{}` at temperature {}; asked for are others",
        kept.judge, kept.model, kept.temperature
    );
    Err(Error::invalid(rule).with_hint("the same judge and model, or another directory").about(path))
}

fn cut_unfinished_line(file: &mut File) -> io::Result<()> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    if end < bytes.len() { file.set_len(end as u64) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn setup(model: &str) -> JudgeSetup {
        let judge = crate::eval::judge::open_judge("video-chatgpt-qa").expect("built in");
        JudgeSetup::new(&judge, &JudgeOptions { model: model.to_owned() })
    }

    fn line(id: &str, body: &str, status: u16) -> ReplyLine {
        let message = json!({ "choices": [{ "message": { "content": "x" } }] });
        let response = json!({ "status_code": status, "body": message });
        serde_json::from_value(json!({ "custom_id": id, "request": request_hash(body), "response": response }))
            .expect("a line")
    }

    #[test]
    fn replies_survive_a_kill_in_the_middle_of_a_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = ReplyLog::open(dir.path(), &setup("m")).expect("a new log");
        for line in [line("a", "1", 200), line("b", "2", 429)] {
            log.append(line).expect("room");
        }
        let busy = ReplyLog::open(dir.path(), &setup("m")).expect_err("locked").to_string();
        assert!(busy.contains("another process writes there"), "{busy}");
        drop(log);
        let path = dir.path().join(REPLIES);
        let whole = std::fs::read(&path).expect("a log");
        std::fs::write(&path, [&whole[..], b"{\"custom_id\": \"c\""].concat()).expect("room");
        let mut log = ReplyLog::open(dir.path(), &setup("m")).expect("the same log");
        assert_eq!(std::fs::read(&path).expect("a log"), whole);
        let has = |log: &ReplyLog, id, body| log.has_reply(id, &request_hash(body));
        assert_eq!((has(&log, "a", "1"), has(&log, "a", "other"), has(&log, "b", "2")), (true, false, false));
        log.append(line("b", "2", 200)).expect("room");
        assert!(has(&log, "b", "2"));
        let replies = log.replies([("a", "other"), ("b", "2")]);
        assert_eq!((replies.get("a"), replies.get("b").map(|request| request.replies.len())), (None, Some(1)));
    }

    #[test]
    fn replies_of_another_model_are_not_mixed() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = ReplyLog::open(dir.path(), &setup("n")).expect("a new log");
        log.append(line("a", "1", 404)).expect("room");
        drop(log);
        let mut log = ReplyLog::open(dir.path(), &setup("m")).expect("a log without replies");
        log.append(line("a", "1", 200)).expect("room");
        drop(log);
        let error = ReplyLog::open(dir.path(), &setup("n")).expect_err("another model").to_string();
        assert!(error.contains("replies of `video-chatgpt-qa` by `m` at temperature 0"), "{error}");
    }
}
