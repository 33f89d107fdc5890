//! Replies of a judge: lines of a batch's output, or of the log of [`ask_judge`](super::ask_judge), by `custom_id`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{About as _, Error, Kind, Result};
use crate::files;
use crate::records::decode;

/// Maximum number of bytes of a file of replies.
const MAX_BYTES: u64 = 4 << 30;
/// Maximum number of characters of a service's words in a message.
const MAX_WORDS: usize = 200;

/// Tokens of a reply, as the service counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUsage {
    /// Tokens of the prompt.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Tokens of the reply.
    #[serde(default)]
    pub completion_tokens: u64,
}

impl std::ops::AddAssign for TokenUsage {
    fn add_assign(&mut self, other: Self) {
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(other.completion_tokens);
    }
}

/// Text of a judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedReply {
    /// Text as the judge gave it.
    pub text: String,
    /// Model, as the service names it.
    pub model: Option<String>,
    /// Tokens.
    pub usage: TokenUsage,
}

/// Replies and failures of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RequestReplies {
    /// Replies of different texts; more than one is a contradiction.
    pub(super) replies: Vec<ReceivedReply>,
    /// Last failure; a reply makes up for it.
    pub(super) failure: Option<String>,
}

/// Replies by the id of their request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JudgeReplies {
    by_id: BTreeMap<String, RequestReplies>,
}

/// Line of a file of replies. A batch has further keys, which do not matter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ReplyLine {
    pub(super) custom_id: String,
    /// Hash of the request, in a log of this program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) request: Option<String>,
    #[serde(default)]
    pub(super) response: Option<ReplyResponse>,
    #[serde(default)]
    pub(super) error: Option<Value>,
}

/// Response of a line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ReplyResponse {
    pub(super) status_code: u16,
    #[serde(default)]
    pub(super) body: Value,
}

impl ReplyLine {
    /// Returns the reply, or the words of its failure.
    pub(super) fn outcome(&self) -> Result<ReceivedReply, String> {
        match (&self.error, &self.response) {
            (Some(error), _) if !error.is_null() => Err(words_of_error(error)),
            (_, Some(response)) => reply_of(response.status_code, &response.body),
            (_, None) => Err("no response".to_owned()),
        }
    }
}

/// Returns the reply of a response, or the words of its failure.
pub(super) fn reply_of(status: u16, body: &Value) -> Result<ReceivedReply, String> {
    if status != 200 {
        let words = body.get("error").map(words_of_error).filter(|words| !words.is_empty());
        return Err(words.map_or_else(|| format!("status {status}"), |words| format!("status {status}: {words}")));
    }
    let text = body.pointer("/choices/0/message/content").and_then(Value::as_str);
    let text = text.ok_or("a response without the text of a reply")?.to_owned();
    let model = body.get("model").and_then(Value::as_str).map(str::to_owned);
    let usage = body.get("usage").cloned().and_then(|usage| serde_json::from_value(usage).ok()).unwrap_or_default();
    Ok(ReceivedReply { text, model, usage })
}

/// Returns the message of an error object, cut where it is long.
fn words_of_error(error: &Value) -> String {
    let message = error.get("message").unwrap_or(error);
    let words = message.as_str().map_or_else(|| message.to_string(), str::to_owned);
    words.chars().take(MAX_WORDS).collect()
}

impl JudgeReplies {
    /// Reads files of replies.
    ///
    /// # Errors
    /// An unreadable file, or a line that is not a line of replies.
    pub fn read(paths: &[impl AsRef<Path>]) -> Result<Self> {
        let mut replies = Self::default();
        for path in paths {
            read_lines(path.as_ref(), &mut |line: ReplyLine| replies.add(&line))?;
        }
        Ok(replies)
    }

    /// Adds a line. Equal texts are one reply, and a reply makes up for failures.
    pub(super) fn add(&mut self, line: &ReplyLine) {
        let request = self.by_id.entry(line.custom_id.clone()).or_default();
        match line.outcome() {
            Ok(reply) if request.replies.iter().any(|known| known.text == reply.text) => {}
            Ok(reply) => request.replies.push(reply),
            Err(failure) => request.failure = Some(failure),
        }
    }

    pub(super) fn get(&self, custom_id: &str) -> Option<&RequestReplies> {
        self.by_id.get(custom_id)
    }

    /// Returns the ids of replies that none of some requests has.
    pub fn unknown<'a>(&'a self, known: &BTreeSet<&str>) -> Vec<&'a str> {
        self.by_id.keys().map(String::as_str).filter(|id| !known.contains(id)).collect()
    }

    /// Returns the models that replied.
    pub fn models(&self) -> BTreeSet<&str> {
        self.by_id.values().flat_map(|request| &request.replies).filter_map(|reply| reply.model.as_deref()).collect()
    }

    /// Returns the tokens of all replies.
    pub fn usage(&self) -> TokenUsage {
        let mut usage = TokenUsage::default();
        self.by_id.values().flat_map(|request| &request.replies).for_each(|reply| usage += reply.usage);
        usage
    }
}

/// Reads the lines of a file of JSON objects.
///
/// # Errors
/// An unreadable file, or a line of another type, with its number.
pub(super) fn read_lines<T: for<'de> Deserialize<'de>>(path: &Path, add: &mut dyn FnMut(T)) -> Result<()> {
    let bytes = files::read_bounded(path, MAX_BYTES).map_err(Error::io(path))?;
    let text = decode(&bytes).about(path)?;
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let parsed = serde_json::from_str(line).map_err(|error| Error::caused_by(Kind::Invalid, error));
        add(parsed.about(format!("line {number}")).about(path)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(id: &str, text: &str) -> ReplyLine {
        let body =
            json!({ "model": "m", "choices": [{ "message": { "content": text } }], "usage": { "prompt_tokens": 3 } });
        serde_json::from_value(json!({ "id": "x", "custom_id": id, "response": { "status_code": 200, "body": body } }))
            .expect("a line")
    }

    fn failure(id: &str, response: Value) -> ReplyLine {
        serde_json::from_value(json!({ "custom_id": id, "response": response, "error": null })).expect("a line")
    }

    #[test]
    fn equal_texts_are_one_reply_and_different_ones_a_contradiction() {
        let mut replies = JudgeReplies::default();
        for line in [line("a", "x"), line("a", "x"), line("b", "x"), line("b", "y")] {
            replies.add(&line);
        }
        let n = |id| replies.get(id).map(|request| request.replies.len());
        assert_eq!((n("a"), n("b"), n("c")), (Some(1), Some(2), None));
        assert_eq!((replies.models(), replies.usage().prompt_tokens), (BTreeSet::from(["m"]), 9));
        assert_eq!(replies.unknown(&BTreeSet::from(["a"])), ["b"]);
    }

    #[test]
    fn a_reply_makes_up_for_a_failure() {
        let mut replies = JudgeReplies::default();
        replies.add(&failure("a", json!({ "status_code": 429, "body": { "error": { "message": "slow down" } } })));
        let failed = replies.get("a").cloned().expect("a request");
        assert_eq!((failed.replies.len(), failed.failure.as_deref()), (0, Some("status 429: slow down")));
        replies.add(&line("a", "x"));
        assert_eq!(replies.get("a").map(|request| request.replies.len()), Some(1));
    }

    #[test]
    fn failures_are_named() {
        let words = |response: Value| failure("a", response).outcome().expect_err("a failure");
        assert_eq!(words(Value::Null), "no response");
        assert_eq!(words(json!({ "status_code": 500 })), "status 500");
        let body = json!({ "choices": [{ "message": { "content": null } }] });
        assert_eq!(words(json!({ "status_code": 200, "body": body })), "a response without the text of a reply");
        let expired = json!({ "custom_id": "a", "error": { "code": "batch_expired", "message": "too late" } });
        let line: ReplyLine = serde_json::from_value(expired).expect("a line");
        assert_eq!(line.outcome().expect_err("expired"), "too late");
    }
}
