//! Replies of a judge: lines of a batch's output, or of the log of [`ask_judge`](super::ask_judge), by `custom_id`.
//!
//! A reply joins the request whose id it has, and whose hash, where the line has one. Others are counted and named, and
//! none of them is kept: memory holds the replies to the requests, whatever the files hold.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::requests::JudgeRequest;
use crate::error::{Error, Kind, Result};
use crate::records;

/// Maximum number of different replies to one request.
const MAX_REPLIES: usize = 100;
/// Maximum number of named replies that join nothing.
const MAX_NAMED: usize = 5;
/// Maximum number of characters of a service's words in a message.
const MAX_WORDS: usize = 200;

/// Tokens of replies, as the service counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUsage {
    /// Tokens of the prompts.
    pub prompt_tokens: u64,
    /// Tokens of the replies.
    pub completion_tokens: u64,
    /// Number of replies whose tokens the service does not say: the tokens are then a lower bound.
    #[serde(default)]
    pub unknown_replies: u64,
}

/// Tokens of a reply, as a response has them.
#[derive(Deserialize)]
struct ResponseUsage {
    prompt_tokens: u64,
    completion_tokens: u64,
}

impl TokenUsage {
    /// Reads the tokens of one reply; unknown unless both are there and none is negative.
    fn of_response(body: &Value) -> Self {
        match body.get("usage").and_then(|usage| ResponseUsage::deserialize(usage).ok()) {
            Some(ResponseUsage { prompt_tokens, completion_tokens }) => {
                Self { prompt_tokens, completion_tokens, unknown_replies: 0 }
            }
            None => Self { unknown_replies: 1, ..Self::default() },
        }
    }
}

impl std::ops::AddAssign for TokenUsage {
    fn add_assign(&mut self, other: Self) {
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(other.completion_tokens);
        self.unknown_replies = self.unknown_replies.saturating_add(other.unknown_replies);
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
    /// Replies of different texts or models; more than one is a contradiction.
    pub(super) replies: Vec<ReceivedReply>,
    /// Last failure; a reply makes up for it.
    pub(super) failure: Option<String>,
}

/// Replies by the id of their request, and the number of those that join no request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JudgeReplies {
    by_id: BTreeMap<String, RequestReplies>,
    /// Lines about the questions of these requests, but about other answers or by other settings of the judge.
    pub to_other_answers: UnjoinedReplies,
    /// Lines about other questions, or of another judge.
    pub to_other_questions: UnjoinedReplies,
}

/// Lines of replies that join no request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnjoinedReplies {
    /// Number of lines.
    pub n: usize,
    /// Ids of the first ones.
    pub named: Vec<String>,
}

impl UnjoinedReplies {
    fn add(&mut self, custom_id: String) {
        self.n += 1;
        if self.named.len() < MAX_NAMED && !self.named.contains(&custom_id) {
            self.named.push(custom_id);
        }
    }
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
    Ok(ReceivedReply { text, model, usage: TokenUsage::of_response(body) })
}

/// Returns the message of an error object, cut where it is long.
fn words_of_error(error: &Value) -> String {
    let message = error.get("message").unwrap_or(error);
    let words = message.as_str().map_or_else(|| message.to_string(), str::to_owned);
    words.chars().take(MAX_WORDS).collect()
}

impl RequestReplies {
    /// Returns the tokens of the replies.
    pub(super) fn usage(&self) -> TokenUsage {
        let mut usage = TokenUsage::default();
        self.replies.iter().for_each(|reply| usage += reply.usage);
        usage
    }

    /// Adds the outcome of a line. Equal texts of one model are one reply, and a reply makes up for failures.
    ///
    /// # Errors
    /// A line over the number of different replies that are kept.
    pub(super) fn add(&mut self, line: &ReplyLine) -> Result<()> {
        match line.outcome() {
            Ok(reply) if self.replies.iter().any(|known| known.is_same(&reply)) => {}
            Ok(_) if self.replies.len() >= MAX_REPLIES => {
                let rule = format!("over {MAX_REPLIES} different replies to `{}`", line.custom_id);
                return Err(Error::invalid(rule));
            }
            Ok(reply) => self.replies.push(reply),
            Err(failure) => self.failure = Some(failure),
        }
        Ok(())
    }
}

impl ReceivedReply {
    fn is_same(&self, other: &Self) -> bool {
        self.text == other.text && self.model == other.model
    }
}

impl JudgeRequest {
    /// Returns whether a line is a reply to this request. A batch's lines have no hash but that in the id.
    fn is_replied_by(&self, line: &ReplyLine) -> bool {
        let has_hash = line.request.as_ref().is_none_or(|hash| *hash == self.hash);
        self.is_sent() && line.custom_id == self.custom_id && has_hash
    }
}

impl JudgeReplies {
    /// Reads the replies to requests from files.
    ///
    /// # Errors
    /// An unreadable file, a line that is not a line of replies, a reply whose id has no hash, or files without a reply
    /// to any of the requests.
    pub fn read(paths: &[impl AsRef<Path>], requests: &[JudgeRequest]) -> Result<Self> {
        let by_subject: HashMap<&str, &JudgeRequest> =
            requests.iter().map(|request| (request.subject.as_str(), request)).collect();
        let mut replies = Self::default();
        for path in paths {
            read_lines(path.as_ref(), &mut |line: ReplyLine| replies.join(line, &by_subject))?;
        }
        let n_unjoined = replies.to_other_answers.n + replies.to_other_questions.n;
        if replies.by_id.is_empty() && n_unjoined > 0 {
            let (n, m) = (replies.to_other_answers.n, replies.to_other_questions.n);
            let rule = format!("no reply is to a request about these answers: {n} are to other answers, {m} to others");
            let hint = "replies join the answers and the judge that their requests were made of";
            return Err(Error::invalid(rule).with_hint(hint));
        }
        Ok(replies)
    }

    /// Adds a line to its request, or to the lines that join none.
    fn join(&mut self, line: ReplyLine, by_subject: &HashMap<&str, &JudgeRequest>) -> Result<()> {
        if by_subject.contains_key(line.custom_id.as_str()) {
            let rule = format!("the id `{}` does not say which answer was judged", line.custom_id);
            let hint = "ids of requests end in a hash of what is asked: make the requests again";
            return Err(Error::invalid(rule).with_hint(hint));
        }
        let subject = line.custom_id.rsplit_once('/').map_or("", |(subject, _)| subject);
        match by_subject.get(subject) {
            Some(request) if request.is_replied_by(&line) => {
                return self.by_id.entry(line.custom_id.clone()).or_default().add(&line);
            }
            Some(_) => self.to_other_answers.add(line.custom_id),
            None => self.to_other_questions.add(line.custom_id),
        }
        Ok(())
    }

    /// Adds the replies to a request.
    pub(super) fn insert(&mut self, custom_id: &str, replies: RequestReplies) {
        self.by_id.insert(custom_id.to_owned(), replies);
    }

    pub(super) fn get(&self, custom_id: &str) -> Option<&RequestReplies> {
        self.by_id.get(custom_id)
    }
}

/// Reads the lines of a file of JSON objects.
///
/// # Errors
/// An unreadable file; with its number, a line of another type or over 16 MiB, or the error of `add`.
pub(super) fn read_lines<T: for<'de> Deserialize<'de>>(
    path: &Path,
    add: &mut dyn FnMut(T) -> Result<()>,
) -> Result<()> {
    records::read_lines(path, &mut |_, line| {
        add(serde_json::from_str(line).map_err(|error| Error::caused_by(Kind::Invalid, error))?)
    })
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
        let mut request = RequestReplies::default();
        let mut n_after = |line: &ReplyLine| {
            request.add(line).expect("few");
            request.replies.len()
        };
        assert_eq!([line("a", "x"), line("a", "x"), line("a", "y")].map(|line| n_after(&line)), [1, 1, 2]);
        let mut other = line("a", "x");
        other.response.as_mut().expect("a response").body["model"] = json!("n");
        assert_eq!(n_after(&other), 3);
        let more = (0..MAX_REPLIES).map(|i| line("a", &i.to_string())).try_for_each(|line| request.add(&line));
        assert_eq!(more.expect_err("many").to_string(), "over 100 different replies to `a`");
    }

    #[test]
    fn a_reply_makes_up_for_a_failure() {
        let mut request = RequestReplies::default();
        let limited = json!({ "status_code": 429, "body": { "error": { "message": "slow down" } } });
        request.add(&failure("a", limited)).expect("few");
        assert_eq!((request.replies.len(), request.failure.as_deref()), (0, Some("status 429: slow down")));
        request.add(&line("a", "x")).expect("few");
        assert_eq!(request.replies.len(), 1);
    }

    #[test]
    fn tokens_are_those_that_the_service_says_and_else_unknown() {
        let usage = |usage: Value| TokenUsage::of_response(&json!({ "usage": usage }));
        let known = TokenUsage { prompt_tokens: 4, completion_tokens: 5, unknown_replies: 0 };
        assert_eq!(usage(json!({ "prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9 })), known);
        let unknown = TokenUsage { unknown_replies: 1, ..TokenUsage::default() };
        for value in [
            Value::Null,
            json!({ "prompt_tokens": 4 }),
            json!({ "prompt_tokens": null, "completion_tokens": 5 }),
            json!({ "prompt_tokens": -4, "completion_tokens": 5 }),
        ] {
            assert_eq!(usage(value), unknown);
        }
        assert_eq!(TokenUsage::of_response(&json!({})), unknown);
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
