//! Requests to a judge: one for each answered question, or for each pair of questions with one reference.
//!
//! A request is a body of OpenAI's chat completions; a line of a batch wraps it with its id (`custom_id`): the name of
//! the judge, the id of the question, and the first digits of the hash of the body, so that replies of another judge or
//! about another answer join nothing. The model is no part of the hash: replies name theirs. Questions without an
//! answer are not sent. The two questions of a pair have the ids `key/1` and `key/2`, as
//! [`dataset`](crate::eval::dataset) makes them of VCG-Bench's consistency.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;

use super::option::label_of;
use super::spec::{ANSWER, JudgeSpec, PAIR, RUBRIC, SINGLE, VerdictKind};
use crate::error::{Error, Result};
use crate::eval::benchmark::{ScoredAnswer, fill};

/// Address of chat completions in a batch.
const BATCH_URL: &str = "/v1/chat/completions";
/// Number of digits of the hash in an id.
const ID_DIGITS: usize = 16;

/// Options of requests that a judge's description does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgeOptions {
    /// Name of the judging model.
    pub model: String,
}

/// Body of a request.
#[derive(Serialize)]
struct ChatBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    messages: Vec<ChatMessage<'a>>,
    temperature: f64,
    max_tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

#[derive(Serialize)]
struct ChatMessage<'a> {
    role: &'static str,
    content: &'a str,
}

/// Line of a batch.
#[derive(Serialize)]
struct BatchLine<'a> {
    custom_id: &'a str,
    method: &'static str,
    url: &'static str,
    body: Value,
}

/// A request to a judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgeRequest {
    /// Id, unique among the requests: `judge/question/digits of the hash`; without the digits where it is not sent.
    pub custom_id: String,
    /// Indices of the questions: one, or the two of a pair.
    pub questions: Vec<usize>,
    /// Text of the turn; `None` if a question has no answer, which is not sent.
    user: Option<String>,
    /// Name of the judge and id of the question or pair: the id without the digits.
    pub(super) subject: String,
    /// Hash (BLAKE3) of the body without its model; empty where it is not sent.
    pub(super) hash: String,
}

/// Requests about the answers of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgeRequests<'j> {
    judge: &'j JudgeSpec,
    /// Requests in the order of the questions, those that are not sent among them.
    pub all: Vec<JudgeRequest>,
}

/// Questions of a request, and the text of its turn.
struct Asked {
    questions: Vec<usize>,
    user: Option<String>,
}

impl JudgeRequest {
    fn new(judge: &JudgeSpec, subject: String, Asked { questions, user }: Asked) -> Result<Self> {
        let hash = match &user {
            Some(user) => blake3::hash(body_of(judge, user, None)?.as_bytes()).to_hex().to_string(),
            None => String::new(),
        };
        let custom_id = match hash.get(..ID_DIGITS) {
            Some(digits) => format!("{subject}/{digits}"),
            None => subject.clone(),
        };
        Ok(Self { custom_id, questions, user, subject, hash })
    }

    /// Returns whether every question has an answer to be judged.
    pub fn is_sent(&self) -> bool {
        self.user.is_some()
    }
}

impl<'j> JudgeRequests<'j> {
    /// Makes the requests of a judge about answers.
    ///
    /// # Errors
    /// A question with options, without a reference or with several; an id that comes twice; for a judge of pairs, a
    /// question without the other one of its pair; a question without the rubric or the option that the judge needs.
    pub fn new(judge: &'j JudgeSpec, answers: &[ScoredAnswer]) -> Result<Self> {
        let mut indices: HashMap<&str, usize> = HashMap::new();
        for (index, answer) in answers.iter().enumerate() {
            check(judge, answer)?;
            if let Some(first) = indices.insert(&answer.question_id, index) {
                return Err(about(answer, format!("comes twice, in the answers {} and {}", first + 1, index + 1)));
            }
        }
        let mut all = Vec::new();
        for (index, answer) in answers.iter().enumerate() {
            let (key, questions) = match judge.is_of_pairs() {
                false => (answer.question_id.as_str(), vec![index]),
                true => match pair_of(answer, answers, &indices)? {
                    Some((key, second)) => (key, vec![index, second]),
                    None => continue,
                },
            };
            let subject = format!("{}/{key}", judge.name);
            let chosen: Vec<&ScoredAnswer> = questions.iter().map(|&index| &answers[index]).collect();
            let user = user_text(judge, &chosen);
            all.push(JudgeRequest::new(judge, subject, Asked { questions, user })?);
        }
        Ok(Self { judge, all })
    }

    /// Returns the requests that are sent, each with its body as JSON.
    ///
    /// # Errors
    /// A body that is not serialized.
    pub fn bodies(&self, options: &JudgeOptions) -> Result<Vec<(&JudgeRequest, String)>> {
        let mut bodies = Vec::new();
        for request in &self.all {
            if let Some(user) = &request.user {
                bodies.push((request, body_of(self.judge, user, Some(&options.model))?));
            }
        }
        Ok(bodies)
    }

    /// Returns the lines of a batch (JSON Lines), one for each request that is sent.
    ///
    /// # Errors
    /// As [`Self::bodies`].
    pub fn batch_lines(&self, options: &JudgeOptions) -> Result<Vec<String>> {
        let line = |(request, body): (&JudgeRequest, String)| {
            let body = serde_json::from_str(&body).map_err(of_json)?;
            let line = BatchLine { custom_id: &request.custom_id, method: "POST", url: BATCH_URL, body };
            serde_json::to_string(&line).map_err(of_json)
        };
        self.bodies(options)?.into_iter().map(line).collect()
    }
}

/// Returns the body of a request as JSON.
fn body_of(judge: &JudgeSpec, user: &str, model: Option<&str>) -> Result<String> {
    let system = judge.system.as_deref().map(|content| ChatMessage { role: "system", content });
    let body = ChatBody {
        model,
        messages: system.into_iter().chain([ChatMessage { role: "user", content: user }]).collect(),
        temperature: judge.temperature,
        max_tokens: judge.max_tokens,
        presence_penalty: judge.presence_penalty,
        seed: judge.seed,
    };
    serde_json::to_string(&body).map_err(of_json)
}

fn of_json(cause: serde_json::Error) -> Error {
    Error::invalid(cause.to_string())
}

fn about(answer: &ScoredAnswer, rule: impl Into<String>) -> Error {
    Error::invalid(rule.into()).about(format!("question `{}`", answer.question_id))
}

fn check(judge: &JudgeSpec, answer: &ScoredAnswer) -> Result<()> {
    let open = "judges score open answers with one published reference";
    match &answer.answer[..] {
        _ if !answer.options.is_empty() => Err(about(answer, "has options").with_hint(open)),
        [] => Err(about(answer, "has no reference").with_hint(open)),
        [_] if judge.user.contains(RUBRIC) && answer.rubric.is_none() => {
            let hint = "a judge of TempCompass's captions or MLVU's sub-scenes scores answers of that benchmark";
            Err(about(answer, "has no rubric").with_hint(hint))
        }
        [reference] if judge.verdict == VerdictKind::Choice && label_of(reference).is_none() => {
            Err(about(answer, "has a reference without the label of an option")
                .with_hint("a reference such as `B. text`"))
        }
        [_] => Ok(()),
        _ => Err(about(answer, "has several references").with_hint(open)),
    }
}

/// Returns the key of a pair and the index of its second question; `None` for the second question.
fn pair_of<'a>(
    answer: &'a ScoredAnswer,
    answers: &[ScoredAnswer],
    indices: &HashMap<&str, usize>,
) -> Result<Option<(&'a str, usize)>> {
    let other = |key: &str, number: &str| {
        let index = *indices.get(format!("{key}/{number}").as_str())?;
        let is_pair = answers[index].video == answer.video && answers[index].answer == answer.answer;
        is_pair.then_some(index)
    };
    let unpaired = || about(answer, "is not one of a pair").with_hint("the ids `key/1` and `key/2`, one reference");
    match answer.question_id.rsplit_once('/') {
        Some((key, "1")) => other(key, "2").map(|second| Some((key, second))).ok_or_else(unpaired),
        Some((key, "2")) => other(key, "1").map(|_| None).ok_or_else(unpaired),
        _ => Err(unpaired()),
    }
}

/// Returns the text of the turn, unless an answer is missing.
fn user_text(judge: &JudgeSpec, answers: &[&ScoredAnswer]) -> Option<String> {
    let given = |answer: &&ScoredAnswer| {
        answer.given.as_deref().map(str::trim).filter(|given| !given.is_empty()).map(str::to_owned)
    };
    let predictions: Vec<String> = answers.iter().map(given).collect::<Option<_>>()?;
    let questions = answers.iter().map(|answer| answer.question.trim().to_owned());
    let (of_questions, of_predictions) = match judge.is_of_pairs() {
        true => PAIR.split_at(2),
        false => SINGLE.split_at(1),
    };
    let mut values: Vec<(&str, String)> = of_questions.iter().copied().zip(questions).collect();
    values.extend(of_predictions.iter().copied().zip(predictions));
    let first = answers.first()?;
    values.push((ANSWER, first.answer.first()?.trim().to_owned()));
    values.extend(first.rubric.clone().map(|rubric| (RUBRIC, rubric)));
    Some(fill(&judge.user, &values))
}
