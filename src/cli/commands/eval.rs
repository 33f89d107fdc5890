//! `vidense eval QUESTIONS`: exact match of answers, by type of question.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytesize::ByteSize;
use clap::Args;
use serde::Serialize;
use vidense::error::About as _;
use vidense::eval::{EvalEvent, EvalQuestion, Evaluation, ExactMatchScore, ExactMatchScores, read_questions};
use vidense::exec::{RunControl, Stop};
use vidense::files::output::{check_not_input, create_growing};

use vidense::pipeline::features::identity;
use vidense::pipeline::{FeatureCache, VideoOptions};

use crate::cli::args::PlanArgs;
use crate::cli::limits::{ItemLimitArgs, Supervision};
use crate::cli::session::Session;
use crate::cli::{SomeFailed, interrupt, output, progress, timings};

/// Ask every question of a file, and count the answers that match exactly
#[derive(Args)]
pub struct Eval {
    /// Questions as JSON objects, one a line or in an array, or as a table (.csv, .tsv): video, question, answer, type,
    /// question_id
    questions: PathBuf,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    items: ItemLimitArgs,
    /// Directory of the cache of visual tokens, for later runs [default: no cache]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Size limit of that directory; the least recently used entries are evicted
    #[arg(long, value_name = "BYTES", default_value = "20GiB", requires = "cache")]
    cache_limit: ByteSize,
    /// Number of questions that are asked [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// File of JSON lines, one for each question with its answer
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
    /// Print one JSON object in place of the table
    #[arg(long)]
    json: bool,
    /// Print the time of each stage, and the bottleneck
    #[arg(long)]
    timings: bool,
}

/// Creates the file of answers.
fn create(path: &Path) -> anyhow::Result<File> {
    Ok(create_growing(path).about(path)?)
}

/// Returns the name of the file of answers for messages.
fn shown(path: &Option<PathBuf>) -> std::path::Display<'_> {
    path.as_deref().unwrap_or(Path::new("answers")).display()
}

/// Line of the file of answers.
#[derive(Serialize)]
struct Answered<'a> {
    #[serde(flatten)]
    asked: &'a EvalQuestion,
    given: &'a str,
}

/// Row of the table.
#[derive(Serialize)]
struct ScoreRow {
    #[serde(rename = "type")]
    kind: String,
    questions: usize,
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
            right: score.right,
            accuracy: score.accuracy(),
            interval_95: score.interval(),
            chance,
        }
    }
}

impl Eval {
    /// Runs the command.
    ///
    /// # Errors
    /// When a file cannot be read, the model cannot be opened, or a question failed.
    pub fn run(self) -> anyhow::Result<()> {
        let mut asked = read_questions(&self.questions)?;
        asked.truncate(self.limit.unwrap_or(usize::MAX));
        let Some(first) = asked.first() else {
            anyhow::bail!("{}: no questions", self.questions.display());
        };
        if let Some(path) = &self.answers {
            let inputs = asked.iter().map(|asked| asked.video.as_path()).chain([self.questions.as_path()]);
            check_not_input(path, inputs)?;
        }
        let session = Session::open_for(self.plan.plan()?, &self.plan.limits(), &first.video, &first.question)?;
        let mut answers = self.answers.as_deref().map(create).transpose()?;
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
                    if let Some(file) = &mut answers {
                        let line = serde_json::to_string(&Answered { asked, given })?;
                        writeln!(file, "{line}")
                            .map_err(|error| anyhow::anyhow!("{}: {error}", shown(&self.answers)))?;
                    }
                }
                EvalEvent::Failed { video, error } => {
                    n_failed += 1;
                    let (video, cause) = (video.to_string_lossy(), error.to_string());
                    let named = if cause.contains(&*video) { cause } else { format!("{video}: {cause}") };
                    bar.suspend(|| output::warning(&format!("{named} (in the stage {})", error.stage)));
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

    fn features(&self, dir: &Path, session: &Session) -> anyhow::Result<FeatureCache> {
        let made_by = identity(&session.model)?;
        Ok(FeatureCache::open(dir, self.cache_limit.as_u64(), made_by).about(dir)?)
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
            "{:<12} {:>9} {:>7} {:>9}  {:<15} {:>7}",
            "type", "questions", "right", "exact", "95 %", "chance"
        ))?;
        for row in rows {
            let percent = |share: f64| format!("{:.1} %", 100.0 * share);
            let interval = format!("{:.1} to {:.1}", 100.0 * row.interval_95.0, 100.0 * row.interval_95.1);
            output::line(&format!(
                "{:<12} {:>9} {:>7} {:>9}  {:<15} {:>7}",
                output::printable(&row.kind),
                row.questions,
                row.right,
                percent(row.accuracy),
                interval,
                percent(row.chance)
            ))?;
        }
        Ok(())
    }
}
