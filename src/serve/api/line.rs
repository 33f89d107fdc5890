//! Requests on lines: a body with an `id` of the client's, or a line of OpenAI's batch files, whose body is a member.
//! Answers carry the id back, so they may come in any order.

use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::{ApiError, ChatCall, CompletionObject, json};
use crate::error::Error;
use crate::spec::Plan;

/// Path of chat completions, which a batch line may name.
const URL: &str = "/v1/chat/completions";

/// Id of a line, under the name that the client gave it.
#[derive(Debug, Clone, PartialEq)]
pub struct LineId {
    /// `id`, or `custom_id` of a batch line.
    name: &'static str,
    value: Value,
}

/// Request of a line.
#[derive(Debug, Clone, PartialEq)]
pub struct LineCall {
    /// Id.
    pub id: LineId,
    /// Chat completion, or the error of its body.
    pub call: Result<ChatCall, ApiError>,
}

impl LineCall {
    /// Parses a line: `{"id": ..., "messages": ...}`, or `{"custom_id": ..., "body": {"messages": ...}}`.
    ///
    /// # Errors
    /// [`super::ErrorStatus::BadRequest`] for a line without an id. The error of a body is in [`Self::call`].
    pub fn parse(line: &[u8], defaults: &Plan) -> Result<Self, ApiError> {
        let Value::Object(mut members) = json::parse(line)? else {
            return Err(Error::invalid("the line is not an object").into());
        };
        let id = LineId::take(&mut members)?;
        let call = if members.contains_key("body") { body(members) } else { Ok(Value::Object(members)) };
        let call = call.and_then(|body| ChatCall::of_value(body, defaults)).and_then(|call| match call.stream {
            true => {
                Err(ApiError::of_value("stream", Error::invalid("an answer is one line").with_hint("leave it out")))
            }
            false => Ok(call),
        });
        Ok(Self { id, call })
    }
}

/// Takes the body of a batch line.
fn body(members: Map<String, Value>) -> Result<Value, ApiError> {
    let mut fields = Fields::of(Value::Object(members), "")?;
    for (name, only) in [("method", "POST"), ("url", URL)] {
        match fields.text(name)? {
            Some(value) if value != only => {
                let error = Error::invalid(format!("unknown {name} `{}`", json::shown(&value))).with_hint(only);
                return Err(ApiError::of_value(name, error));
            }
            _ => {}
        }
    }
    let body = fields.value("body").ok_or_else(|| fields.missing("body"))?;
    fields.finish()?;
    Ok(body)
}

impl LineId {
    fn take(members: &mut Map<String, Value>) -> Result<Self, ApiError> {
        // `remove` would put the last member in the place of the id.
        let (id, custom) = (members.shift_remove("id"), members.shift_remove("custom_id"));
        match (id, custom) {
            (Some(value), None) => Ok(Self { name: "id", value }),
            (None, Some(value)) => Ok(Self { name: "custom_id", value }),
            (Some(_), Some(_)) => Err(Error::invalid("both `id` and `custom_id`").with_hint("one of them").into()),
            (None, None) => Err(Error::invalid("no `id`").with_hint("\"id\": 1").into()),
        }
    }

    /// Returns the line of an answer.
    pub fn answer(&self, completion: &CompletionObject) -> Value {
        json!({ (self.name): self.value, "response": completion })
    }

    /// Returns the line of a failure, with the number of the request's line, from 1.
    pub fn failure(&self, n_line: u64, error: &ApiError) -> Value {
        failure(self.name, &self.value, n_line, error)
    }
}

/// Returns the line of a failure of a line without an id.
pub fn failure_without_id(n_line: u64, error: &ApiError) -> Value {
    failure("id", &Value::Null, n_line, error)
}

fn failure(name: &str, id: &Value, n_line: u64, error: &ApiError) -> Value {
    let mut line = json!({ (name): id, "line": n_line });
    if let (Value::Object(line), Value::Object(error)) = (&mut line, error.body()) {
        line.extend(error);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::api::ErrorStatus;

    const BODY: &str = r#""messages": [{"role": "user", "content": "Hi"}]"#;

    fn parse(line: &str) -> Result<LineCall, ApiError> {
        LineCall::parse(line.as_bytes(), &Plan::default())
    }

    #[test]
    fn a_line_is_a_body_with_an_id_or_a_batch_line() {
        for (line, name, value) in [
            (format!(r#"{{"id": 7, {BODY}}}"#), "id", json!(7)),
            (format!(r#"{{{BODY}, "id": {{"a": [null]}}}}"#), "id", json!({"a": [null]})),
            (format!(r#"{{"id": null, "body": {{{BODY}}}}}"#), "id", json!(null)),
            (
                format!(r#"{{"custom_id": "r-1", "method": "POST", "url": "{URL}", "body": {{{BODY}}}}}"#),
                "custom_id",
                json!("r-1"),
            ),
        ] {
            let LineCall { id, call } = parse(&line).expect(&line);
            assert_eq!(id, LineId { name, value });
            assert_eq!(call.expect(&line).turns.len(), 1);
        }
    }

    #[test]
    fn the_id_of_a_bad_body_is_known() {
        for (line, expected) in [
            (format!(r#"{{"id": 7, {BODY}, "stream": true}}"#), "stream: an answer is one line; hint: leave it out"),
            (
                format!(r#"{{"id": 7, "body": {{{BODY}}}, "method": "GET"}}"#),
                "method: unknown method `GET`; hint: POST",
            ),
            (
                format!(r#"{{"id": 7, "url": "/v1/models", "body": {{{BODY}}}}}"#),
                "url: unknown url `/v1/models`; hint: ",
            ),
            (format!(r#"{{"id": 7, "body": {{{BODY}}}, "mesages": 1}}"#), "unknown key `mesages`"),
            (r#"{"id": 7}"#.to_owned(), ""),
            (r#"{"id": 7, "body": []}"#.to_owned(), ""),
        ] {
            let LineCall { id, call } = parse(&line).expect(&line);
            let error = call.expect_err(&line);
            assert!(error.message.contains(expected), "{}, not {expected}", error.message);
            assert_eq!((id.value, error.status), (json!(7), ErrorStatus::BadRequest));
        }
    }

    #[test]
    fn a_line_without_an_id_is_an_error_with_its_number() {
        for line in ["", "{", "7", "{}", r#"{"messages": []}"#, r#"{"id": 1, "custom_id": 2}"#, r#"{"id": 1, "id": 1}"#]
        {
            assert!(parse(line).is_err(), "{line}");
        }
        let error = parse("{}").expect_err("no id");
        let line = failure_without_id(3, &error);
        assert_eq!((&line["id"], &line["line"], &line["error"]["code"]), (&json!(null), &json!(3), &json!(400)));
    }
}
