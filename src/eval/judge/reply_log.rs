//! Log of a judge's replies in a directory: `judge.json` (judge, prompt, model) and `replies.jsonl`, a line for each
//! reply as it comes.
//!
//! A line is synced before the next request counts as answered, so a killed run asks nothing twice that it has been
//! answered. An unfinished last line is cut off. The file is locked while a run writes. Each line has the hash of its
//! request: a reply to another answer of the model joins nothing.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::replies::{JudgeReplies, ReplyLine, RequestReplies, read_lines};
use super::requests::{JudgeOptions, JudgeRequest};
use super::spec::JudgeSpec;
use crate::error::{Error, Kind, Result};
use crate::files::output::open_to_append;
use crate::files::{self, Durability};

const SETUP: &str = "judge.json";
const REPLIES: &str = "replies.jsonl";
/// Number of bytes that are read at a time from the end of a log.
const TAIL: u64 = 64 << 10;

/// Format of a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplyLogFormat {
    /// Ids with the hash of their request.
    #[default]
    #[serde(rename = "vidense-judge-2")]
    Second,
}

/// Judge and model of a log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeSetup {
    /// Format of the log.
    pub format: ReplyLogFormat,
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
    /// Presence penalty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
}

impl JudgeSetup {
    /// Returns the setup of a judge and a model.
    pub fn new(judge: &JudgeSpec, options: &JudgeOptions) -> Self {
        Self {
            format: ReplyLogFormat::default(),
            judge: judge.name.clone(),
            prompt_hash: judge.prompt_hash(),
            model: options.model.clone(),
            temperature: judge.temperature,
            max_tokens: judge.max_tokens,
            seed: judge.seed,
            presence_penalty: judge.presence_penalty,
        }
    }
}

/// Log of replies, open for appending.
#[derive(Debug)]
pub struct ReplyLog {
    path: PathBuf,
    file: File,
    /// Replies by the hash of their request and its id.
    by_request: HashMap<(String, String), RequestReplies>,
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
        let mut log = Self { path: path.clone(), file, by_request: HashMap::new() };
        read_lines(&path, &mut |line: ReplyLine| log.keep(line))?;
        let setup_path = dir.join(SETUP);
        if log.by_request.values().all(|request| request.replies.is_empty()) {
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
        self.keep(line)
    }

    /// Returns whether a request has a reply.
    pub(super) fn has_reply(&self, custom_id: &str, hash: &str) -> bool {
        self.request(custom_id, hash).is_some_and(|request| !request.replies.is_empty())
    }

    /// Returns the replies to requests; replies to other requests are left out.
    pub fn replies<'r>(&self, requests: impl IntoIterator<Item = &'r JudgeRequest>) -> JudgeReplies {
        let mut replies = JudgeReplies::default();
        for request in requests {
            if let Some(received) = self.request(&request.custom_id, &request.hash) {
                replies.insert(&request.custom_id, received.clone());
            }
        }
        replies
    }

    fn request(&self, custom_id: &str, hash: &str) -> Option<&RequestReplies> {
        self.by_request.get(&(custom_id.to_owned(), hash.to_owned()))
    }

    fn keep(&mut self, line: ReplyLine) -> Result<()> {
        let hash = line.request.clone().ok_or_else(|| {
            let hint = "`eval judge read` joins the replies of a batch";
            Error::invalid("a line without the hash of its request").with_hint(hint)
        })?;
        self.by_request.entry((line.custom_id.clone(), hash)).or_default().add(&line)
    }
}

/// Returns whether a directory has a log of replies.
pub(super) fn is_begun(dir: &Path) -> bool {
    dir.join(SETUP).is_file() && dir.join(REPLIES).is_file()
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
    let kept: JudgeSetup = serde_json::from_slice(&bytes).map_err(|error| unknown_format(error).about(path))?;
    if kept == *setup {
        return Ok(());
    }
    let rule = format!(
        "replies of `{}` by `{}` at temperature {}; asked for are others",
        kept.judge, kept.model, kept.temperature
    );
    Err(Error::invalid(rule).with_hint("the same judge and model, or another directory").about(path))
}

fn unknown_format(cause: serde_json::Error) -> Error {
    let hint = "a log of another version of the program: ask into another directory";
    Error::caused_by(Kind::Invalid, cause).with_hint(hint)
}

/// Cuts off what follows the last line break. The file is read backwards as far as that.
fn cut_unfinished_line(file: &mut File) -> io::Result<()> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let whole = end;
    let mut bytes = Vec::new();
    while end > 0 {
        let begin = end.saturating_sub(TAIL);
        bytes.clear();
        file.seek(SeekFrom::Start(begin))?;
        io::Read::by_ref(file).take(end - begin).read_to_end(&mut bytes)?;
        if let Some(at) = bytes.iter().rposition(|&byte| byte == b'\n') {
            end = begin + at as u64 + 1;
            break;
        }
        end = begin;
    }
    if end < whole { file.set_len(end) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn setup(model: &str) -> JudgeSetup {
        let judge = crate::eval::judge::open_judge("video-chatgpt-qa").expect("built in");
        JudgeSetup::new(&judge, &JudgeOptions { model: model.to_owned() })
    }

    /// A line about a request whose hash is `hash`.
    fn line(id: &str, hash: &str, status: u16) -> ReplyLine {
        let message = json!({ "choices": [{ "message": { "content": "x" } }] });
        let response = json!({ "status_code": status, "body": message });
        serde_json::from_value(json!({ "custom_id": id, "request": hash, "response": response })).expect("a line")
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
        let has = |log: &ReplyLog, id, hash| log.has_reply(id, hash);
        assert_eq!((has(&log, "a", "1"), has(&log, "a", "other"), has(&log, "b", "2")), (true, false, false));
        log.append(line("b", "2", 200)).expect("room");
        assert!(has(&log, "b", "2"));
        drop(log);
        let cut = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("room");
            cut_unfinished_line(&mut open_to_append(&path).expect("a log")).expect("a file");
            std::fs::read(&path).expect("a log")
        };
        let long = vec![b'x'; 3 * TAIL as usize];
        assert_eq!(cut(&[b"a\n", &long[..]].concat()), b"a\n");
        assert_eq!((cut(&long), cut(b"a\nb\n"), cut(b"")), (Vec::new(), b"a\nb\n".to_vec(), Vec::new()));
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
        std::fs::write(dir.path().join(SETUP), r#"{"judge": "video-chatgpt-qa", "model": "m"}"#).expect("room");
        let error = ReplyLog::open(dir.path(), &setup("m")).expect_err("another format").to_string();
        assert!(
            error.contains("missing field `format`") && error.contains("hint: a log of another version"),
            "{error}"
        );
    }
}
