//! Row of an exported table.

use serde::Serialize;

use crate::batch::store::{FailureRecord, Header, RecordOutcome, ResultRecord, StepTimes};

/// A record with its times and its header as flat columns; fields that do not apply are empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names are those of the record's fields")]
pub(crate) struct ResultRow {
    pub item: String,
    pub video: String,
    pub start_seconds: Option<f64>,
    pub end_seconds: Option<f64>,
    pub question_id: Option<String>,
    pub question: Option<String>,
    pub answer: Option<String>,
    pub finish_reason: Option<String>,
    pub token_ids: Option<Vec<u32>>,
    pub n_tokens: Option<u32>,
    pub prompt_tokens: Option<u32>,
    pub visual_tokens: Option<u32>,
    pub frame_indices: Option<Vec<u64>>,
    pub frame_seconds: Option<Vec<Option<f64>>>,
    pub lost_packets: Option<u64>,
    pub decode_ms: Option<f64>,
    pub preprocess_ms: Option<f64>,
    pub encode_ms: Option<f64>,
    pub connect_ms: Option<f64>,
    pub prefill_ms: Option<f64>,
    pub generate_ms: Option<f64>,
    pub error_stage: Option<String>,
    pub error_kind: Option<String>,
    pub error_cause: Option<String>,
    pub error_hint: Option<String>,
    pub model: String,
    pub plan: String,
    pub version: String,
}

impl ResultRow {
    /// Returns the row of a record.
    pub(super) fn of(record: ResultRecord, times: Option<StepTimes>, header: &Header) -> Self {
        let row = Self {
            item: record.item.to_string(),
            video: record.video,
            start_seconds: record.start.map(|time| time.0),
            end_seconds: record.end.map(|time| time.0),
            question_id: record.question_id,
            question: record.question,
            decode_ms: times.map(|times| times.decode),
            preprocess_ms: times.map(|times| times.preprocess),
            encode_ms: times.map(|times| times.encode),
            connect_ms: times.map(|times| times.connect),
            prefill_ms: times.map(|times| times.prefill),
            generate_ms: times.map(|times| times.generate),
            model: header.model.clone(),
            plan: header.plan.clone(),
            version: header.version.clone(),
            ..Self::default()
        };
        let count = |n: usize| u32::try_from(n).ok();
        match record.outcome {
            RecordOutcome::Answered(answered) => Self {
                finish_reason: serde_json::to_value(answered.finish_reason)
                    .ok()
                    .and_then(|reason| reason.as_str().map(str::to_owned)),
                n_tokens: count(answered.token_ids.len()),
                prompt_tokens: count(answered.prompt_tokens.0),
                visual_tokens: count(answered.visual_tokens.0),
                frame_indices: Some(answered.frames.iter().map(|frame| frame.index.0 as u64).collect()),
                frame_seconds: Some(
                    answered.frames.iter().map(|frame| frame.time_seconds.map(|time| time.0)).collect(),
                ),
                lost_packets: Some(answered.damage.map_or(0, |lost| lost.packets as u64)),
                answer: Some(answered.answer),
                token_ids: Some(answered.token_ids),
                ..row
            },
            RecordOutcome::Failed { error: FailureRecord { stage, kind, cause, hint } } => Self {
                error_stage: Some(stage),
                error_kind: Some(kind),
                error_cause: Some(cause),
                error_hint: hint,
                ..row
            },
            RecordOutcome::Resolved { .. } => row,
        }
    }
}
