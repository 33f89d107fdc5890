//! One line of results: an answer, or why there is none. It says nothing that would differ if it were made again.

use serde::{Deserialize, Serialize};

use crate::batch::archive::FailedEntry;
use crate::batch::item::{ArchiveItem, Id};
use crate::batch::questions::BatchQuestion;
use crate::engine::FinishReason;
use crate::pipeline::{Answer, EncodedVideo, FrameStamp, ItemError, Timings};
use crate::units::{Seconds, Tokens};
use crate::video::Damage;

/// What separates a cause from what may help.
const HINT: &str = "; hint: ";
/// The stage of what could not be listed.
pub const LIST: &str = "list";
/// The kind of failure of an item that nothing is asked about.
pub const NO_QUESTION: &str = "no_question";

/// A line of results. Of a video of which nothing could be seen there is one line, without a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultRecord {
    /// The item's identity.
    pub item: Id,
    /// Its name in the archive.
    pub video: String,
    /// The part of it that was looked at.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub start: Option<Seconds>,
    /// As `start`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub end: Option<Seconds>,
    /// The question's name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub question_id: Option<String>,
    /// The question.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub question: Option<String>,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: RecordOutcome,
}

/// What came of a question, or of an item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RecordOutcome {
    /// An answer.
    Answered(AnswerRecord),
    /// None.
    Failed {
        /// Why.
        error: FailureRecord,
    },
    /// What could not be listed before is not there any more, or can be listed now: its failure does not count any more.
    Resolved {
        /// Always true.
        resolved: bool,
    },
}

/// An answer, and what it was made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerRecord {
    /// Its text.
    pub answer: String,
    /// All ids, the stop token included.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// The frames that were looked at.
    pub frames: Vec<FrameStamp>,
    /// Tokens of the prompt's text.
    pub prompt_tokens: Tokens,
    /// Tokens of the video.
    pub visual_tokens: Tokens,
    /// What could not be read of the video.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub damage: Option<Lost>,
    /// Warnings of the reading, as in [`crate::video::ReadReport::warnings`].
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub warnings: Vec<String>,
}

/// What could not be read of a video that gave frames all the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Packets.
    pub packets: usize,
    /// Frames with errors that the decoder hid.
    #[serde(default)]
    pub concealed: usize,
    /// Files that a playlist names and that are missing.
    #[serde(default, skip_serializing_if = "Lost::is_zero")]
    pub files: usize,
    /// The first refusal or hidden error, in FFmpeg's words.
    pub first: String,
}

impl Lost {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
    fn is_zero(n: &usize) -> bool {
        *n == 0
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureRecord {
    /// Where: `list`, or a stage of the pipeline.
    pub stage: String,
    /// In one word.
    pub kind: String,
    /// What happened.
    pub cause: String,
    /// What may help.
    pub hint: Option<String>,
}

impl FailureRecord {
    /// The failure of an item in a stage. It names the item as the archive does, wherever that is.
    fn of(item: &ArchiveItem, error: &ItemError) -> Self {
        let message = error.to_string().replace(&item.path.display().to_string(), &item.video);
        Self::new(error.stage, error.source.kind(), &message)
    }

    fn new(stage: &str, kind: &str, message: &str) -> Self {
        let (cause, hint) = match message.split_once(HINT) {
            Some((cause, hint)) => (cause, Some(hint.to_owned())),
            None => (message, hint(kind).map(str::to_owned)),
        };
        Self { stage: stage.to_owned(), kind: kind.to_owned(), cause: cause.to_owned(), hint }
    }

    /// Stage and kind, by which failures are counted.
    pub fn category(&self) -> String {
        format!("{}/{}", self.stage, self.kind)
    }
}

/// What may help where the message does not say so.
fn hint(kind: &str) -> Option<&'static str> {
    match kind {
        "not_found" => Some("it is not there any more, or the manifest's paths begin elsewhere (--root)"),
        "unreadable" => Some("look at the permissions, and at the disk"),
        "empty" => Some("copy it again"),
        "not_media" | "no_frames" => Some("`ffprobe` tells more; copy it again, if it is damaged"),
        _ => None,
    }
}

impl ResultRecord {
    fn of_item(item: &ArchiveItem, question: Option<&BatchQuestion>, outcome: RecordOutcome) -> Self {
        let window = item.window.unwrap_or_default();
        Self {
            item: item.id,
            video: item.video.clone(),
            start: window.start,
            end: window.end,
            question_id: question.and_then(|question| question.id.clone()),
            question: question.map(|question| question.question.clone()),
            outcome,
        }
    }

    /// The line of an answer.
    pub fn answered(item: &ArchiveItem, question: &BatchQuestion, seen: &EncodedVideo, answer: &Answer) -> Self {
        let Damage { n_lost, n_concealed, n_missing, first, .. } = &seen.report.damage;
        let answered = AnswerRecord {
            answer: answer.text.clone(),
            token_ids: answer.token_ids.clone(),
            finish_reason: answer.finish_reason,
            frames: seen.frames.clone(),
            prompt_tokens: answer.prompt_tokens,
            visual_tokens: answer.visual_tokens,
            damage: first.clone().map(|first| Lost {
                packets: *n_lost,
                concealed: *n_concealed,
                files: *n_missing,
                first,
            }),
            warnings: seen.report.warnings.clone(),
        };
        Self::of_item(item, Some(question), RecordOutcome::Answered(answered))
    }

    /// The line of an item, or of one question about it, that failed.
    pub fn failed(item: &ArchiveItem, question: Option<&BatchQuestion>, error: &ItemError) -> Self {
        Self::of_item(item, question, RecordOutcome::Failed { error: FailureRecord::of(item, error) })
    }

    /// The line of an item without a question.
    pub fn unasked(item: &ArchiveItem) -> Self {
        let message = "nothing is asked about it; hint: --questions, or questions in the manifest";
        let error = FailureRecord::new(LIST, NO_QUESTION, message);
        Self::of_item(item, None, RecordOutcome::Failed { error })
    }

    /// The line of something that could not be listed before.
    pub fn resolved(id: Id) -> Self {
        let (start, end, question_id, question) = (None, None, None, None);
        let outcome = RecordOutcome::Resolved { resolved: true };
        Self { item: id, video: String::new(), start, end, question_id, question, outcome }
    }

    /// The line of something that could not be listed.
    pub fn unlisted(unlisted: &FailedEntry) -> Self {
        let FailedEntry { id, video, kind, cause } = unlisted;
        let error = FailureRecord::new(LIST, kind, cause);
        let (start, end, question_id, question) = (None, None, None, None);
        let outcome = RecordOutcome::Failed { error };
        Self { item: *id, video: video.clone(), start, end, question_id, question, outcome }
    }

    /// What tells it from all other lines but those of another attempt: the question about the item, or the item.
    pub fn key(&self) -> Id {
        self.question.as_ref().map_or(self.item, |question| self.item.with_question(question))
    }

    /// Why there is no answer, if there is none.
    pub fn failure(&self) -> Option<&FailureRecord> {
        match &self.outcome {
            RecordOutcome::Failed { error } => Some(error),
            RecordOutcome::Answered(_) | RecordOutcome::Resolved { .. } => None,
        }
    }
}

/// Where the time of an answer went: kept apart from it, since it would differ if it were made again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    /// [`ResultRecord::key`].
    pub key: Id,
    /// Busy time by step.
    pub timings_ms: StepTimes,
}

/// Busy milliseconds of each step; those before `prefill` are the video's, which its questions share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as the stages")]
pub struct StepTimes {
    pub decode: f64,
    pub preprocess: f64,
    pub encode: f64,
    pub connect: f64,
    pub prefill: f64,
    pub generate: f64,
}

impl StepTimes {
    /// The times of an answer.
    pub fn of(seen: &Timings, answer: &Answer) -> Self {
        let milliseconds = |time: std::time::Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        Self {
            decode: milliseconds(seen.decode),
            preprocess: milliseconds(seen.preprocess),
            encode: milliseconds(seen.encode),
            connect: milliseconds(seen.connect),
            prefill: milliseconds(answer.prefill),
            generate: milliseconds(answer.generate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        let answered = r#"{"item":"00000000000000000000000000000001","video":"a.mp4","start":0.1,"question":"Why?","answer":"so","token_ids":[1,2],"finish_reason":"stop","frames":[{"index":3,"time_seconds":0.30000000000000004}],"prompt_tokens":9,"visual_tokens":64}"#;
        let failed = r#"{"item":"000000000000000000000000000000ff","video":"b.mp4","error":{"stage":"decode","kind":"empty","cause":"b.mp4: the file is empty (0 bytes)","hint":"copy it again"}}"#;
        for line in [answered, failed] {
            let record: ResultRecord = serde_json::from_str(line).expect("a record");
            assert_eq!(serde_json::to_string(&record).expect("a line"), line);
        }
        let record: ResultRecord = serde_json::from_str(answered).expect("a record");
        assert_eq!(record.key(), Id(1).with_question("Why?"));
        let record: ResultRecord = serde_json::from_str(failed).expect("a record");
        assert_eq!(
            (record.key(), record.failure().map(FailureRecord::category)),
            (Id(255), Some("decode/empty".to_owned()))
        );
    }

    #[test]
    fn a_hint_is_kept_apart_from_the_cause() {
        let failure = FailureRecord::new("decode", "time_limit", "too long; hint: wait");
        assert_eq!((failure.cause.as_str(), failure.hint.as_deref()), ("too long", Some("wait")));
        assert_eq!(FailureRecord::new("decode", "crash", "gone").hint, None);
    }
}
