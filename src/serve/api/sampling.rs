//! Conditions of the answer: sampling, length, stop strings; and the keys of OpenAI's and vLLM's that this server
//! carries out at one value only.

use serde_json::Value;

use super::ApiError;
use super::fields::{Fields, mismatch};
use super::json::element;
use crate::error::Error;
use crate::pipeline::AnswerOptions;
use crate::spec::Plan;

/// Stop strings of a request at most.
const MAX_STOPS: usize = 16;
/// Characters of a stop string at most.
const MAX_STOP_LEN: usize = 256;

/// Takes the conditions of the answer. What is absent is the plan's.
///
/// # Errors
/// A value outside of its range.
pub(super) fn answer_options(fields: &mut Fields, defaults: &Plan) -> Result<AnswerOptions, ApiError> {
    let mut options = AnswerOptions::of(defaults);
    options.max_new_tokens = max_tokens(fields)?.unwrap_or(options.max_new_tokens);
    let sampling = &mut options.sampling;
    if let Some(temperature) = ranged(fields, "temperature", "a number from 0", |x| x >= 0.0)? {
        sampling.temperature = Some(temperature);
    }
    if let Some(top_p) = ranged(fields, "top_p", "a number above 0, at most 1", |x| x > 0.0 && x <= 1.0)? {
        sampling.top_p = Some(top_p);
    }
    sampling.top_k = top_k(fields)?.or(sampling.top_k);
    let penalty = ranged(fields, "repetition_penalty", "a number from 0.01 to 100", |x| (0.01..=100.0).contains(&x))?;
    sampling.repetition_penalty = penalty.map(|x| x as f32).or(sampling.repetition_penalty);
    if let Some(seed) = seed(fields)? {
        sampling.seed = seed;
    }
    options.stop = stop_strings(fields)?;
    Ok(options)
}

/// Takes `max_tokens`, or its newer name.
fn max_tokens(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let (old, new) = (fields.count("max_tokens")?, fields.count("max_completion_tokens")?);
    match (old, new) {
        (Some(old), Some(new)) if old != new => {
            let error = Error::invalid(format!("{new}, but max_tokens is {old}"));
            Err(fields.invalid("max_completion_tokens", error.with_hint("one of them")))
        }
        _ => Ok(new.or(old)),
    }
}

fn ranged(
    fields: &mut Fields,
    key: &'static str,
    hint: &'static str,
    is_valid: fn(f64) -> bool,
) -> Result<Option<f64>, ApiError> {
    match fields.number(key)? {
        Some(x) if !is_valid(x) => {
            Err(fields.invalid(key, Error::invalid(format!("invalid number {x}")).with_hint(hint)))
        }
        number => Ok(number),
    }
}

/// Takes `top_k`; -1 and 0 are all tokens, as in vLLM.
fn top_k(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    match fields.whole("top_k")? {
        Some(-1 | 0) => Ok(Some(usize::MAX)),
        Some(k) => usize::try_from(k).map(Some).map_err(|_| {
            let error = Error::invalid(format!("invalid number {k}"));
            fields.invalid("top_k", error.with_hint("a whole number from 1, or -1 for all tokens"))
        }),
        None => Ok(None),
    }
}

/// Takes the seed, of which a negative one is another positive one.
fn seed(fields: &mut Fields) -> Result<Option<u64>, ApiError> {
    let Some(seed) = fields.whole("seed")? else { return Ok(None) };
    let seed = i64::try_from(seed).map(i64::cast_unsigned).or_else(|_| u64::try_from(seed));
    seed.map(Some).map_err(|_| fields.invalid("seed", Error::invalid("a whole number over 64 bits")))
}

fn stop_strings(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let path = fields.path_of("stop");
    let strings = match fields.value("stop") {
        None => return Ok(Vec::new()),
        Some(Value::String(stop)) => vec![checked_stop(&path, stop)?],
        Some(Value::Array(stops)) if stops.len() > MAX_STOPS => {
            let rule = format!("{} strings, over the limit of {MAX_STOPS}", stops.len());
            return Err(ApiError::of_value(path, Error::invalid(rule)));
        }
        Some(Value::Array(stops)) => {
            let checked = |(i, stop)| match (element(&path, i), stop) {
                (path, Value::String(stop)) => checked_stop(&path, stop),
                (path, other) => Err(mismatch(&path, &other, "a string")),
            };
            stops.into_iter().enumerate().map(checked).collect::<Result<_, _>>()?
        }
        Some(other) => return Err(mismatch(&path, &other, "a string or a list of strings")),
    };
    Ok(strings)
}

fn checked_stop(path: &str, stop: String) -> Result<String, ApiError> {
    match stop.chars().count() {
        1..=MAX_STOP_LEN => Ok(stop),
        0 => Err(ApiError::of_value(path, Error::invalid("empty"))),
        n => {
            let rule = format!("{n} characters, over the limit of {MAX_STOP_LEN}");
            Err(ApiError::of_value(path, Error::invalid(rule)))
        }
    }
}

/// Keys, and the rule of the values by which they change nothing.
type NeutralRule = (&'static [&'static str], fn(&Value) -> bool);

/// Takes the keys that change nothing at one value, and are not supported at another; and labels, which never change
/// an answer.
///
/// # Errors
/// Another value.
pub(super) fn take_neutral(fields: &mut Fields) -> Result<(), ApiError> {
    let is_no = |value: &Value| *value == Value::Bool(false);
    let is_yes = |value: &Value| *value == Value::Bool(true);
    let is_zero = |value: &Value| value.as_f64() == Some(0.0);
    let is_one = |value: &Value| value.as_f64() == Some(1.0);
    let is_empty = |value: &Value| match value {
        Value::Array(values) => values.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    let is_null = |_: &Value| false;
    let is_text =
        |value: &Value| value.as_object().is_some_and(|x| x.len() == 1 && x.get("type") == Some(&"text".into()));
    let is_none_or_auto = |value: &Value| matches!(value.as_str(), Some("none" | "auto"));
    let is_auto = |value: &Value| matches!(value.as_str(), Some("auto" | "default"));
    let is_text_only = |value: &Value| value.as_array().is_some_and(|x| x.as_slice() == [Value::from("text")]);
    let rules: [NeutralRule; 11] = [
        (&["n", "best_of", "length_penalty"], is_one),
        (&["logprobs", "echo", "ignore_eos", "use_beam_search", "include_stop_str_in_output"], is_no),
        (&["skip_special_tokens", "spaces_between_special_tokens"], is_yes),
        (&["frequency_penalty", "presence_penalty", "min_p", "min_tokens", "top_logprobs", "priority"], is_zero),
        (&["tools", "functions", "logit_bias", "stop_token_ids", "documents", "chat_template_kwargs"], is_empty),
        (&["response_format"], is_text),
        (&["tool_choice", "function_call"], is_none_or_auto),
        (&["service_tier"], is_auto),
        (&["modalities"], is_text_only),
        (&["audio", "prediction", "web_search_options", "reasoning_effort", "verbosity", "chat_template"], is_null),
        (&["prompt_logprobs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"], is_null),
    ];
    for (keys, is_neutral) in rules {
        keys.iter().try_for_each(|key| fields.neutral(key, is_neutral))?;
    }
    fields.labels(&["user", "metadata", "store", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"]);
    Ok(())
}
