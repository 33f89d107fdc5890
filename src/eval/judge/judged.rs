//! Judged answers: the join of answers and replies, their scores, and the recount of kept replies.
//!
//! A line is a [`ScoredAnswer`] with further scores and a [`JudgeRecord`]: `judge_accuracy` is 1 if the judge accepts
//! the answer, `judge_score` is its score over the highest one, so between 0 and 1; a judge of several scores gives the
//! share of their sum, and that of each as `judge_<key>`. Questions without a verdict score 0.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::price::TokenPrices;
use super::replies::{JudgeReplies, RequestReplies, TokenUsage, read_lines};
use super::requests::JudgeRequests;
use super::spec::{JUDGE_ACCURACY, JUDGE_PREFIX, JUDGE_SCORE, JudgeSpec};
use super::verdict::parse_verdict;
use crate::error::{Error, Result};
use crate::eval::benchmark::ScoredAnswer;

/// Outcome of judging a question. All but `Judged` score 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgeStatus {
    /// The reply has a verdict.
    Judged,
    /// Not sent: the model gave no answer.
    Unanswered,
    /// There is no reply.
    Missing,
    /// The request failed.
    Failed,
    /// The reply is not understood.
    Unparsed,
    /// There are several replies of different texts.
    Duplicate,
}

/// Judgement of a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeRecord {
    /// Name of the judge.
    pub name: String,
    /// Model, as the service names it.
    pub model: Option<String>,
    /// Temperature of the requests.
    pub temperature: f64,
    /// Hash of the prompt.
    pub prompt_hash: String,
    /// Highest score of each of the judge's keys; 1 of a judge that only accepts.
    pub max_score: f64,
    /// Hash of the judge's description, [`JudgeSpec::hash`].
    pub judge_hash: String,
    /// Id of the request, which the two questions of a pair share.
    pub custom_id: String,
    /// Tokens of the request's replies.
    pub usage: TokenUsage,
    /// Price of these tokens, if prices were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<f64>,
    /// Replies as the judge gave them: one, or several for a duplicate.
    pub replies: Vec<String>,
    /// Verdict `yes` or `no`, of a judge that gives one.
    pub pred: Option<String>,
    /// Score in points, the sum of several; none of a judge that only accepts.
    pub score: Option<f64>,
    /// Outcome.
    pub status: JudgeStatus,
    /// Failure of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Judge of a record, as far as scores depend on it: those of different judges do not compare.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecordedJudge {
    /// Name of the judge.
    pub name: String,
    /// Model that replied, as the service names it, or `unnamed`; `None` without a reply.
    pub model: Option<String>,
    /// Temperature of the requests.
    pub temperature: f64,
    /// Hash of the prompt.
    pub prompt_hash: String,
    /// Highest score.
    pub max_score: f64,
    /// Hash of the judge's description.
    pub judge_hash: String,
}

/// Model of replies whose service names none.
const UNNAMED: &str = "unnamed";
/// Number of digits of a hash in messages.
pub(super) const SHOWN_DIGITS: usize = 16;

impl JudgeRecord {
    /// Returns the judge.
    pub fn made_by(&self) -> RecordedJudge {
        let model = || self.model.clone().unwrap_or_else(|| UNNAMED.to_owned());
        RecordedJudge {
            name: self.name.clone(),
            model: (!self.replies.is_empty()).then(model),
            temperature: self.temperature,
            prompt_hash: self.prompt_hash.clone(),
            max_score: self.max_score,
            judge_hash: self.judge_hash.clone(),
        }
    }
}

impl RecordedJudge {
    /// Returns whether another record may be of the same judge: it is, or one of both has no reply and so no model.
    pub fn is_compatible(&self, other: &Self) -> bool {
        let has_both = self.model.is_some() && other.model.is_some();
        *self == Self { model: if has_both { other.model.clone() } else { self.model.clone() }, ..other.clone() }
    }

    /// Describes how the judge of a record differs, whatever its model.
    fn difference(&self, record: &JudgeRecord) -> Option<String> {
        let JudgeRecord { name, temperature, max_score, .. } = record;
        let other = &self.name;
        if *name != self.name || record.prompt_hash != self.prompt_hash {
            Some(format!("judged by `{name}` with another prompt than that of `{other}`"))
        } else if *temperature != self.temperature {
            Some(format!("judged at temperature {temperature}, and `{other}` has {}", self.temperature))
        } else if *max_score != self.max_score {
            Some(format!("judged with the highest score {max_score}, and `{other}` has {}", self.max_score))
        } else if record.judge_hash != self.judge_hash {
            Some(format!("judged with other settings than those of `{other}`: verdict, max_tokens or seed"))
        } else {
            None
        }
    }
}

impl fmt::Display for RecordedJudge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, model, temperature, prompt_hash, max_score, judge_hash } = self;
        let model = model.as_deref().unwrap_or("no model");
        let digits = |hash: &str| hash.chars().take(SHOWN_DIGITS).collect::<String>();
        let (prompt, settings) = (digits(prompt_hash), digits(judge_hash));
        write!(f, "`{name}` by {model} at temperature {temperature}, prompt {prompt}, 0 to {max_score} points, ")?;
        write!(f, "settings {settings}")
    }
}

/// A question with its answer, scores and judgement; a line of the file of judged answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgedAnswer {
    /// Answer and scores.
    #[serde(flatten)]
    pub answer: ScoredAnswer,
    /// Judgement.
    pub judge: JudgeRecord,
}

/// Reads a file of scored answers. Scores of an earlier judge are left out.
///
/// # Errors
/// An unreadable or empty file, or a line that is not a scored answer.
pub fn read_scored(path: &Path) -> Result<Vec<ScoredAnswer>> {
    let mut answers = Vec::new();
    read_lines(path, &mut |mut answer: ScoredAnswer| {
        answer.scores.retain(|name, _| !name.starts_with(JUDGE_PREFIX));
        answers.push(answer);
        Ok(())
    })?;
    if answers.is_empty() { Err(Error::invalid("no answers").about(path)) } else { Ok(answers) }
}

/// Reads a file of judged answers.
///
/// # Errors
/// As [`read_scored`]; a question that comes twice.
pub fn read_judged(path: &Path) -> Result<Vec<JudgedAnswer>> {
    let (mut answers, mut ids) = (Vec::new(), HashSet::new());
    read_lines(path, &mut |answer: JudgedAnswer| {
        if !ids.insert(answer.answer.question_id.clone()) {
            return Err(Error::invalid(format!("the question `{}` comes twice", answer.answer.question_id)));
        }
        answers.push(answer);
        Ok(())
    })?;
    if answers.is_empty() { Err(Error::invalid("no judged answers").about(path)) } else { Ok(answers) }
}

/// Sets the prices of the replies to answers.
pub fn price_replies(answers: &mut [JudgedAnswer], prices: TokenPrices) {
    for answer in answers {
        answer.judge.price = Some(prices.of(answer.judge.usage));
    }
}

/// Joins answers with the replies to their requests, and scores. Every answer is in the result, in the given order.
pub fn judge_answers(
    judge: &JudgeSpec,
    answers: &[ScoredAnswer],
    requests: &JudgeRequests<'_>,
    replies: &JudgeReplies,
) -> Vec<JudgedAnswer> {
    let nothing = RequestReplies::default();
    let (prompt_hash, judge_hash) = (judge.prompt_hash(), judge.hash());
    let mut judged: Vec<(usize, JudgedAnswer)> = Vec::new();
    for request in &requests.all {
        let received = replies.get(&request.custom_id).filter(|_| request.is_sent()).unwrap_or(&nothing);
        let status = match received {
            _ if !request.is_sent() => JudgeStatus::Unanswered,
            RequestReplies { failure: Some(_), .. } => JudgeStatus::Failed,
            _ => JudgeStatus::Missing,
        };
        let record = JudgeRecord {
            name: judge.name.clone(),
            model: received.replies.first().and_then(|reply| reply.model.clone()),
            temperature: judge.temperature,
            prompt_hash: prompt_hash.clone(),
            max_score: judge.highest(),
            judge_hash: judge_hash.clone(),
            custom_id: request.custom_id.clone(),
            usage: received.usage(),
            price: None,
            replies: received.replies.iter().map(|reply| reply.text.clone()).collect(),
            pred: None,
            score: None,
            status,
            error: received.failure.clone().filter(|_| received.replies.is_empty()),
        };
        for &index in &request.questions {
            let mut answer = JudgedAnswer { answer: answers[index].clone(), judge: record.clone() };
            answer.settle(judge);
            judged.push((index, answer));
        }
    }
    judged.sort_by_key(|(index, _)| *index);
    judged.into_iter().map(|(_, answer)| answer).collect()
}

/// Scores judged answers again by the replies that they keep. Returns the number of answers that changed.
///
/// # Errors
/// An answer of another judge, another prompt or other settings.
pub fn recount(judge: &JudgeSpec, answers: &mut [JudgedAnswer]) -> Result<usize> {
    let asked = RecordedJudge {
        name: judge.name.clone(),
        model: None,
        temperature: judge.temperature,
        prompt_hash: judge.prompt_hash(),
        max_score: judge.highest(),
        judge_hash: judge.hash(),
    };
    let mut n_changed = 0;
    for answer in answers {
        if let Some(rule) = asked.difference(&answer.judge) {
            return Err(Error::invalid(rule).about(format!("question `{}`", answer.answer.question_id)));
        }
        let before = answer.clone();
        answer.settle(judge);
        n_changed += usize::from(*answer != before);
    }
    Ok(n_changed)
}

impl JudgedAnswer {
    /// Sets verdict and scores by the kept replies. Without a reply the status stays as it is.
    fn settle(&mut self, judge: &JudgeSpec) {
        let record = &mut self.judge;
        let reference = self.answer.answer.first().map_or("", String::as_str);
        let verdict = match &record.replies[..] {
            [] => None,
            [reply] => {
                let verdict = parse_verdict(judge, reply, reference);
                record.status = if verdict.is_some() { JudgeStatus::Judged } else { JudgeStatus::Unparsed };
                verdict
            }
            _ => {
                record.status = JudgeStatus::Duplicate;
                None
            }
        };
        let accepted = verdict.as_ref().and_then(|verdict| verdict.is_accepted);
        record.pred = accepted.map(|is_accepted| if is_accepted { "yes" } else { "no" }.to_owned());
        record.score = verdict.as_ref().and_then(|verdict| verdict.score());
        let scores = &mut self.answer.scores;
        if judge.accepts() {
            scores.insert(JUDGE_ACCURACY.to_owned(), f64::from(u8::from(accepted == Some(true))));
        }
        let keys = judge.score_keys();
        if !keys.is_empty() {
            let highest = judge.highest() * keys.len() as f64;
            scores.insert(JUDGE_SCORE.to_owned(), record.score.unwrap_or(0.0) / highest);
        }
        for (index, key) in keys.iter().enumerate().filter(|_| keys.len() > 1) {
            let score = verdict.as_ref().and_then(|verdict| verdict.scores.get(index)).copied().unwrap_or(0.0);
            scores.insert(format!("{JUDGE_PREFIX}{key}"), score / judge.highest());
        }
    }
}
