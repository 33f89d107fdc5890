//! Records: lines of `answers.jsonl`, each an answer or a failure. A record has reproducible fields only; its times are
//! a line of `timings.jsonl`.

use std::borrow::Cow;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::batch::archive::FailedEntry;
use crate::batch::item::{ArchiveItem, Id};
use crate::batch::questions::BatchQuestion;
use crate::engine::FinishReason;
use crate::fetch::{is_web_url, shown_url};
use crate::pipeline::{Answer, EncodedVideo, FrameStamp, ItemError, Timings};
use crate::units::{Seconds, Tokens};
use crate::video::{Damage, ImageRate};

/// Stage of failures to list an entry of the archive.
pub(crate) const LIST: &str = "list";
/// Kind of failure of an item without questions.
pub(crate) const NO_QUESTION: &str = "no_question";

/// A line of results. A video that failed as a whole has one line, without a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultRecord {
    /// Identity of the item.
    pub item: Id,
    /// Name of the item in the archive.
    pub video: String,
    /// Start of the window.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub start: Option<Seconds>,
    /// End of the window.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub end: Option<Seconds>,
    /// Rate of the images of a directory.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub image_rate: Option<ImageRate>,
    /// Id of the question.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub question_id: Option<String>,
    /// Text of the question.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub question: Option<String>,
    /// Answer or failure.
    #[serde(flatten)]
    pub outcome: RecordOutcome,
}

/// Outcome of a question or an item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RecordOutcome {
    /// An answer.
    Answered(AnswerRecord),
    /// A failure.
    Failed {
        /// Stage, kind, cause and hint.
        error: FailureRecord,
    },
    /// End of an earlier failure to list an entry: the entry is absent, or can be listed.
    Resolved {
        /// Always true.
        resolved: bool,
    },
}

/// An answer with its frames and token counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerRecord {
    /// Text of the answer.
    pub answer: String,
    /// All token ids, including the stop token.
    pub token_ids: Vec<u32>,
    /// Reason of the end.
    pub finish_reason: FinishReason,
    /// Sampled frames.
    pub frames: Vec<FrameStamp>,
    /// Number of text tokens of the prompt.
    pub prompt_tokens: Tokens,
    /// Number of visual tokens of the prompt.
    pub visual_tokens: Tokens,
    /// Damage of the video.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub damage: Option<PacketLoss>,
    /// Warnings of the reader, as in [`crate::video::ReadReport::warnings`].
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub warnings: Vec<String>,
}

/// Damage of a video that nevertheless has frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketLoss {
    /// Number of lost packets.
    pub packets: usize,
    /// Number of frames with errors that the decoder concealed.
    #[serde(default)]
    pub concealed: usize,
    /// Number of missing files of a playlist.
    #[serde(default, skip_serializing_if = "PacketLoss::is_zero")]
    pub files: usize,
    /// First error, as FFmpeg's message.
    pub first: String,
}

impl PacketLoss {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
    fn is_zero(n: &usize) -> bool {
        *n == 0
    }
}

/// Failure of an item or a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureRecord {
    /// `list`, or a stage of the pipeline.
    pub stage: String,
    /// Kind of the failure in one word.
    pub kind: String,
    /// Message without the hint, which names the item first.
    pub cause: String,
    /// Hint for the user.
    pub hint: Option<String>,
}

impl FailureRecord {
    /// Returns the failure of an item in a stage. The message names the item as in the archive, on every machine.
    fn of(item: &ArchiveItem, error: &ItemError) -> Self {
        let ItemError { stage, error } = error;
        let shown =
            if is_web_url(&item.video) { Cow::Owned(shown_url(&item.video)) } else { Cow::Borrowed(&*item.video) };
        let error = error.clone().with_path_as(&item.path, &item.video).about_item(Path::new(&*shown));
        Self::new(stage, error.kind().word(), &error.statement(), error.hint())
    }

    fn new(stage: &str, kind: &str, cause: &str, hint: Option<&str>) -> Self {
        let hint = hint.or_else(|| hint_of_kind(kind)).map(str::to_owned);
        Self { stage: stage.to_owned(), kind: kind.to_owned(), cause: cause.to_owned(), hint }
    }

    /// Returns stage and kind, by which failures are counted.
    pub(crate) fn category(&self) -> String {
        format!("{}/{}", self.stage, self.kind)
    }
}

/// Returns the hint for a kind of failure whose message has none.
fn hint_of_kind(kind: &str) -> Option<&'static str> {
    match kind {
        "not_found" => Some("the file is gone, or the manifest's paths are relative to another directory (--root)"),
        "unreadable" => Some("check the permissions and the disk"),
        "empty" => Some("copy it again"),
        "not_media" | "no_frames" => Some("`ffprobe` shows more; copy it again, if it is damaged"),
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
            image_rate: item.image_rate,
            question_id: question.and_then(|question| question.id.clone()),
            question: question.map(|question| question.question.clone()),
            outcome,
        }
    }

    /// Returns the record of an answer.
    pub(crate) fn answered(
        item: &ArchiveItem,
        question: &BatchQuestion,
        encoded: &EncodedVideo,
        answer: &Answer,
    ) -> Self {
        let Damage { n_lost, n_concealed, n_missing, first, .. } = &encoded.report.damage;
        let answered = AnswerRecord {
            answer: answer.text.clone(),
            token_ids: answer.token_ids.clone(),
            finish_reason: answer.finish_reason,
            frames: encoded.frames.clone(),
            prompt_tokens: answer.prompt_tokens,
            visual_tokens: answer.visual_tokens,
            damage: first.clone().map(|first| PacketLoss {
                packets: *n_lost,
                concealed: *n_concealed,
                files: *n_missing,
                first,
            }),
            warnings: encoded.report.warnings.clone(),
        };
        Self::of_item(item, Some(question), RecordOutcome::Answered(answered))
    }

    /// Returns the record of a failed item, or of a failed question about it.
    pub(crate) fn failed(item: &ArchiveItem, question: Option<&BatchQuestion>, error: &ItemError) -> Self {
        Self::of_item(item, question, RecordOutcome::Failed { error: FailureRecord::of(item, error) })
    }

    /// Returns the record of an item without questions.
    pub(crate) fn without_question(item: &ArchiveItem) -> Self {
        let hint = "--questions, or questions in the manifest";
        let cause = format!("{}: no question about the item", item.video);
        let error = FailureRecord::new(LIST, NO_QUESTION, &cause, Some(hint));
        Self::of_item(item, None, RecordOutcome::Failed { error })
    }

    /// Returns the record that ends an earlier failure to list an entry.
    pub(crate) fn resolved(id: Id) -> Self {
        Self::of_entry(id, String::new(), RecordOutcome::Resolved { resolved: true })
    }

    /// Returns the record of an entry that could not be listed.
    pub(crate) fn not_listed(failed: &FailedEntry) -> Self {
        let FailedEntry { id, video, kind, cause, hint } = failed;
        let error = FailureRecord::new(LIST, kind, &format!("{video}: {cause}"), hint.as_deref());
        Self::of_entry(*id, video.clone(), RecordOutcome::Failed { error })
    }

    fn of_entry(item: Id, video: String, outcome: RecordOutcome) -> Self {
        let (start, end, image_rate) = (None, None, None);
        Self { item, video, start, end, image_rate, question_id: None, question: None, outcome }
    }

    /// Returns the key, equal for all attempts: the identity of the question about the item, or of the item.
    pub(crate) fn key(&self) -> Id {
        self.question.as_ref().map_or(self.item, |question| self.item.with_question(question))
    }

    /// Failure, if the record is one.
    pub fn failure(&self) -> Option<&FailureRecord> {
        match &self.outcome {
            RecordOutcome::Failed { error } => Some(error),
            RecordOutcome::Answered(_) | RecordOutcome::Resolved { .. } => None,
        }
    }
}

/// Times of an answer, in a file of their own because they are not reproducible.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Timed {
    /// [`ResultRecord::key`].
    pub key: Id,
    /// Busy time by step.
    pub timings_ms: StepTimes,
}

/// Busy milliseconds of each step; the steps before `prefill` are of the video, shared by its questions.
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
    /// Returns the times of an answer about a video.
    pub(crate) fn of(video: &Timings, answer: &Answer) -> Self {
        let milliseconds = |time: std::time::Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        Self {
            decode: milliseconds(video.decode),
            preprocess: milliseconds(video.preprocess),
            encode: milliseconds(video.encode),
            connect: milliseconds(video.connect),
            prefill: milliseconds(answer.prefill),
            generate: milliseconds(answer.generate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};

    #[test]
    fn lines_are_read_as_they_were_written() {
        let answered = r#"{"item":"00000000000000000000000000000001","video":"a.mp4","start":0.1,"image_rate":2.5,"question":"Why?","answer":"so","token_ids":[1,2],"finish_reason":"stop","frames":[{"index":3,"time_seconds":0.30000000000000004}],"prompt_tokens":9,"visual_tokens":64}"#;
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
    fn a_failure_names_its_item_as_in_the_archive_and_keeps_the_hint_apart() {
        let root = std::path::Path::new("/mnt/archive/a");
        let (video, path) = ("a".to_owned(), root.to_owned());
        let item = ArchiveItem { id: Id(1), video, ..ArchiveItem::new(b"a", path, None) };
        let rule = "/mnt/archive/a says `bad; hint: none`";
        let error = Error::new(Kind::NotMedia, rule).with_hint("copy it").about(root.join("1.png"));
        let failure = FailureRecord::of(&item, &ItemError { stage: "decode", error });
        assert_eq!((failure.kind.as_str(), failure.hint.as_deref()), ("not_media", Some("copy it")));
        assert_eq!(failure.cause, format!("a/1.png: {rule}"));
        let failure = FailureRecord::of(&item, &ItemError { stage: "generate", error: Error::invalid("a is long") });
        assert_eq!(failure.cause, "a: a is long");
    }

    #[test]
    fn a_failure_to_list_names_its_entry_as_in_the_archive() {
        let error = Error::invalid("a question is empty").about("line");
        let record = ResultRecord::not_listed(&FailedEntry::new(b"m.csv:7", "manifest", &error));
        assert_eq!(record.failure().map(|failure| &*failure.cause), Some("m.csv:7: line: a question is empty"));
    }

    #[test]
    fn a_failure_without_a_hint_gets_that_of_its_kind() {
        let failure = FailureRecord::new("decode", "empty", "too short", Some("wait"));
        assert_eq!((failure.cause.as_str(), failure.hint.as_deref()), ("too short", Some("wait")));
        assert_eq!(FailureRecord::new("decode", "empty", "too short", None).hint.as_deref(), Some("copy it again"));
        assert_eq!(FailureRecord::new("decode", "crash", "gone", None).hint, None);
    }
}
