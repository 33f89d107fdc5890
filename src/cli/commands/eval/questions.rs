//! `vidense eval QUESTIONS.jsonl`: exact match of answers, by type of question.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use vidense::eval::{EvalEvent, EvalQuestion, Evaluation, ExactMatchScore, ExactMatchScores, read_questions};
use vidense::exec::{RunControl, Stop};
use vidense::files::output::check_not_input;
use vidense::pipeline::VideoOptions;

use super::Eval;
use crate::cli::limits::Supervision;
use crate::cli::session::Session;
use crate::cli::{SomeFailed, interrupt, output, progress, timings};

/// Line of the file of answers.
#[derive(Serialize)]
struct Answered<'a> {
    #[serde(flatten)]
    asked: &'a EvalQuestion,
    /// Answer of the model; `None` if the question failed.
    given: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Row of the table.
#[derive(Serialize)]
struct ScoreRow {
    #[serde(rename = "type")]
    kind: String,
    questions: usize,
    failed: usize,
    right: usize,
    accuracy: f64,
    interval_95: (f64, f64),
    chance: f64,
}

impl ScoreRow {
    fn new(kind: &str, score: &ExactMatchScore, chance: f64) -> Self {
        Self {
            kind: kind.to_owned(),
            questions: score.total,
            failed: score.failed,
            right: score.right,
            accuracy: score.accuracy(),
            interval_95: score.interval(),
            chance,
        }
    }
}

impl Eval {
    /// Asks the questions of a file.
    ///
    /// # Errors
    /// When a file cannot be read, the model cannot be opened, or a question failed.
    pub(super) fn run_questions(&self, questions: &Path) -> anyhow::Result<()> {
        self.benchmark.refuse()?;
        let mut asked = read_questions(questions)?;
        asked.truncate(self.limit.unwrap_or(usize::MAX));
        let Some(first) = asked.first() else {
            anyhow::bail!("{}: no questions", questions.display());
        };
        if let Some(path) = &self.answers {
            let inputs = asked.iter().map(|asked| asked.video.as_path()).chain([questions]);
            check_not_input(path, inputs)?;
        }
        let session = Session::open_for(self.plan.plan()?, &self.plan.limits(), &first.video, &first.question)?;
        let mut answers = self.answers.as_deref().map(super::create).transpose()?;
        let mut write = |line: &Answered<'_>| -> anyhow::Result<()> {
            let Some(file) = &mut answers else { return Ok(()) };
            let line = serde_json::to_string(line)?;
            writeln!(file, "{line}").map_err(|error| anyhow::anyhow!("{}: {error}", super::shown(&self.answers)))
        };
        let bar = progress::asking(asked.len());
        let mut n_failed = 0;
        let stop = Stop::new();
        interrupt::stop_on(&stop)?;
        let begin = Instant::now();
        let isolation = self.items.isolation(Supervision::Attended, self.plan.read())?;
        let features = self.cache.as_deref().map(|dir| self.features(dir, &session)).transpose()?;
        let options = VideoOptions {
            limits: self.items.limits(Supervision::Attended, self.plan.read())?,
            isolation: isolation.as_ref(),
            features: features.as_ref(),
            ..session.video_options()
        };
        let control = RunControl::until(&stop);
        let evaluation = Evaluation { asking: session.model.asking(), questions: &asked, options, control: &control };
        let evaluated = evaluation.run(&mut |event| {
            match event {
                EvalEvent::Answered { question: asked, answer: given } => {
                    bar.inc(1);
                    write(&Answered { asked, given: Some(given), error: None })?;
                }
                EvalEvent::Failed { video, questions, error } => {
                    n_failed += questions.len();
                    let text = output::item_failure(video, &error);
                    for asked in questions {
                        bar.inc(1);
                        write(&Answered { asked, given: None, error: Some(text.clone()) })?;
                    }
                    bar.suspend(|| output::warning(&text));
                }
            }
            anyhow::Ok(())
        });
        bar.finish_and_clear();
        let (scores, report) = evaluated??;
        if self.timings {
            timings::print(&report, begin.elapsed());
        }
        self.print(&scores)?;
        let n_left = asked.len() - scores.overall().0.total;
        if n_left > 0 {
            output::warning(&format!("stopped: {n_left} of {} questions were not asked", asked.len()));
        }
        if n_failed + n_left > 0 { Err(SomeFailed { n_failed: n_failed + n_left }.into()) } else { Ok(()) }
    }

    fn print(&self, scores: &ExactMatchScores) -> anyhow::Result<()> {
        let mut rows: Vec<ScoreRow> =
            scores.by_type().map(|(kind, score)| ScoreRow::new(kind, score, score.chance())).collect();
        let (all, chance) = scores.overall();
        rows.push(ScoreRow::new("all", &all, chance));
        if self.json {
            return output::json(&rows);
        }
        output::line(&format!(
            "{:<12} {:>9} {:>6} {:>7} {:>9}  {:<15} {:>7}",
            "type", "questions", "failed", "right", "exact", "95 %", "chance"
        ))?;
        for row in rows {
            let percent = |share: f64| format!("{:.1} %", 100.0 * share);
            let interval = format!("{:.1} to {:.1}", 100.0 * row.interval_95.0, 100.0 * row.interval_95.1);
            output::line(&format!(
                "{:<12} {:>9} {:>6} {:>7} {:>9}  {:<15} {:>7}",
                output::printable(&row.kind),
                row.questions,
                row.failed,
                row.right,
                percent(row.accuracy),
                interval,
                percent(row.chance)
            ))?;
        }
        Ok(())
    }
}
