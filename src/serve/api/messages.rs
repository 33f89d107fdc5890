//! Messages of a conversation: system texts first, then questions and answers in turn, the last of them to be answered.

use serde_json::Value;

use super::ApiError;
use super::content::MessageContentReader;
use super::fields::Fields;
use super::json::{element, shown};
use crate::choice::unknown_name;
use crate::error::Error;
use crate::pipeline::ChatTurn;

/// Key of the messages in the body.
const MESSAGES: &str = "messages";
/// Known roles.
const ROLES: [&str; 4] = ["system", "developer", "user", "assistant"];

/// End of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConversationEnd {
    /// The user's question.
    Question,
    /// The beginning of the answer, which is continued.
    Answer,
}

/// System text and turns of a conversation.
#[derive(Debug, Default)]
pub(super) struct Messages {
    pub(super) system: Option<String>,
    pub(super) turns: Vec<ChatTurn>,
}

/// Reads the messages of a body.
///
/// # Errors
/// Roles that are unknown or out of turn, an end other than `end`, and errors of each content.
pub(super) fn read(
    messages: Vec<Value>,
    end: ConversationEnd,
    contents: &mut MessageContentReader<'_>,
) -> Result<Messages, ApiError> {
    let mut read = Messages::default();
    let last = messages.len().checked_sub(1);
    let last = element(MESSAGES, last.ok_or_else(|| ApiError::of_value(MESSAGES, Error::invalid("empty")))?);
    for (i, message) in messages.into_iter().enumerate() {
        read.add(message, &element(MESSAGES, i), contents)?;
    }
    let is_answered = read.turns.last().map(|turn| turn.answer.is_some());
    let wrong = |rule, hint| Err(ApiError::of_value(last, Error::invalid(rule).with_hint(hint)));
    match (is_answered, end) {
        (None, _) => wrong("no question", "a message of the role `user`"),
        (Some(false), ConversationEnd::Answer) => {
            wrong("continue_final_message, but the last message is the user's", "leave it out")
        }
        (Some(true), ConversationEnd::Question) => {
            wrong("the last message is the assistant's", "continue_final_message: true continues it")
        }
        _ => Ok(read),
    }
}

impl Messages {
    fn add(&mut self, message: Value, path: &str, contents: &mut MessageContentReader<'_>) -> Result<(), ApiError> {
        let mut fields = Fields::of(message, path)?;
        let role = fields.required_text("role")?;
        let out_of_turn = |rule, hint| Err(ApiError::of_value(path, Error::invalid(rule).with_hint(hint)));
        let content = fields.value("content");
        let at = fields.path_of("content");
        let content = content.ok_or_else(|| fields.missing("content"));
        match (role.as_str(), self.turns.last_mut()) {
            ("system" | "developer", None) => {
                let text = contents.text(content?, &at)?;
                self.system = Some(match self.system.take() {
                    Some(earlier) => format!("{earlier}\n\n{text}"),
                    None => text,
                });
            }
            ("system" | "developer", Some(_)) => {
                return out_of_turn("a system text after a question", "system texts come first");
            }
            ("user", Some(ChatTurn { answer: None, .. })) => {
                return out_of_turn("a question after a question without an answer", "one message with both");
            }
            ("user", _) => {
                let question = contents.question(content?, &at)?;
                self.turns.push(ChatTurn { question, answer: None });
            }
            ("assistant", Some(ChatTurn { answer: answer @ None, .. })) => {
                *answer = Some(contents.text(content?, &at)?);
                // Members of OpenAI's own answers, sent back.
                for key in ["refusal", "audio", "function_call", "reasoning", "reasoning_content"] {
                    fields.neutral(key, |_| false)?;
                }
                for key in ["annotations", "tool_calls"] {
                    fields.neutral(key, |value| value.as_array().is_some_and(Vec::is_empty))?;
                }
            }
            ("assistant", _) => return out_of_turn("an answer without a question", "a message of the user before it"),
            ("tool" | "function", _) => {
                let error = Error::invalid(format!("the role `{role}` is not supported")).with_hint(ROLES.join(", "));
                return Err(fields.invalid("role", error));
            }
            (other, _) => return Err(fields.invalid("role", unknown_name("role", &shown(other), &ROLES))),
        }
        fields.neutral("name", |_| false)?;
        fields.finish()
    }
}
