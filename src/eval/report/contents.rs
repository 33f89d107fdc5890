//! Contents of a report, read from the directory of an evaluation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::examples::{ExampleGroup, FailedVideo, failed_videos, wrong_answers};
use super::thumbnails::{Thumbnail, read_thumbnails};
use crate::error::Result;
use crate::eval::benchmark::{
    AnswerStatus, AverageOver, BenchmarkRow, BenchmarkSpec, EvaluationRecord, PublishedResult, SCORED, ScoreGroup,
    score_table,
};
use crate::eval::judge::{ComparableResults, Judgement, Judgements, read_scored};

/// Everything that a report says.
#[derive(Debug)]
pub(super) struct ReportContents {
    /// Record of the evaluation.
    pub(super) record: EvaluationRecord,
    /// Number of answers by outcome.
    pub(super) by_status: Vec<(&'static str, usize)>,
    /// Number of questions without a published answer.
    pub(super) n_hidden: usize,
    /// Scores by type and task, and averages.
    pub(super) rows: Vec<BenchmarkRow>,
    /// Published results that compare.
    pub(super) published: Vec<PublishedResult>,
    /// Judged scores of these answers.
    pub(super) judgements: Judgements,
    /// Published results that compare with each of them.
    pub(super) compared: Vec<ComparableResults>,
    /// Wrong answers by type.
    pub(super) examples: Vec<ExampleGroup>,
    /// Failures.
    pub(super) failures: Vec<FailedVideo>,
    /// Thumbnails of the wrong answers' videos, by the id of a question.
    pub(super) thumbnails: BTreeMap<String, Thumbnail>,
}

impl ReportContents {
    /// Reads the record, the scored answers and, where it is there, the run.
    ///
    /// # Errors
    /// A missing or unreadable file.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let record = EvaluationRecord::read(dir)?;
        record.check_scored(dir)?;
        let answers = read_scored(&dir.join(SCORED))?;
        let n = |status: AnswerStatus| answers.iter().filter(|answer| answer.status == status).count();
        let examples = wrong_answers(&answers, record.spec.metrics.first().map_or("", |metric| metric.name()));
        let shown: BTreeSet<&str> =
            examples.iter().flat_map(|group| &group.examples).map(|answer| answer.question_id.as_str()).collect();
        let thumbnails = read_thumbnails(dir, &answers, &shown)?;
        let judgements = Judgements::read(dir, &answers)?;
        Ok(Self {
            by_status: vec![
                ("answered", n(AnswerStatus::Answered)),
                ("unparsed", n(AnswerStatus::Unparsed)),
                ("failed", n(AnswerStatus::Failed)),
                ("missing", n(AnswerStatus::Missing)),
            ],
            n_hidden: answers.iter().filter(|answer| answer.scores.is_empty()).count(),
            rows: score_table(&answers, &record.spec.metrics),
            published: record.spec.comparable(&answers).into_iter().cloned().collect(),
            examples,
            compared: compared(&judgements, &record.spec),
            judgements,
            failures: failed_videos(&answers),
            thumbnails,
            record,
        })
    }

    /// Returns the group of the average that papers report.
    pub(super) fn reported(&self) -> ScoreGroup {
        match self.record.spec.average {
            AverageOver::Questions => ScoreGroup::All,
            AverageOver::Tasks => ScoreGroup::Macro,
        }
    }
}

/// Chooses the published results that compare with each judgement.
fn compared(judgements: &Judgements, spec: &BenchmarkSpec) -> Vec<ComparableResults> {
    let of = |judgement: &Judgement| judgement.table.comparable(spec, &judgement.answers);
    judgements.all.iter().map(of).collect()
}
