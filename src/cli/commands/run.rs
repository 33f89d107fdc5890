//! `vidense run PIPELINE VIDEO...`: questions about videos, with the choices of a pipeline file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use vidense::exec::{RunControl, Stop};
use vidense::files::output::check_not_input;
use vidense::pipeline::{Answer, AnsweredVideo, ItemError, Job, StageClock, VideoOptions, VideoOutcome};

use crate::cli::SomeFailed;
use crate::cli::args::PipelineArgs;
use crate::cli::limits::{LimitArgs, Supervision};
use crate::cli::session::{AnswerContext, Session, warn_of_full_context, warn_of_reading};
use crate::cli::{interrupt, output, progress, timings, trace};

/// Answer questions about videos with the choices of a pipeline file
///
/// Every question is asked about every video. Videos are decoded in parallel while earlier ones are encoded and
/// answered, and answers are printed in the order of the videos. A video that fails is reported and counted, and does
/// not stop others. Ctrl-C finishes the work in progress; a second one ends at once.
#[derive(Args)]
pub struct RunCommand {
    /// Pipeline file (YAML); pipelines/ has one for each released model and strategy
    pipeline: PathBuf,
    /// Media files, or directories of image frames
    #[arg(required = true)]
    videos: Vec<PathBuf>,
    /// Question; may be given several times
    #[arg(long = "question", short, value_name = "TEXT", required = true)]
    questions: Vec<String>,
    #[command(flatten)]
    overrides: PipelineArgs,
    /// Print one JSON object for each answer in place of the text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    limits: LimitArgs,
    /// Print the time of each stage, and the bottleneck
    #[arg(long)]
    timings: bool,
    /// Write the spans of work of every thread, for chrome://tracing or ui.perfetto.dev
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

/// Object of `--json` for a question without an answer.
#[derive(Serialize)]
struct FailureObject<'a> {
    video: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    question: Option<&'a str>,
    error: String,
    stage: &'a str,
}

impl RunCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// Any error that stops the command, or the number of failed videos.
    pub fn run(self) -> anyhow::Result<()> {
        if self.questions.iter().any(|question| question.trim().is_empty()) {
            anyhow::bail!("a question is empty");
        }
        if let Some(trace) = &self.trace {
            let inputs = self.videos.iter().chain([&self.pipeline]).map(PathBuf::as_path);
            check_not_input(trace, inputs)?;
        }
        let (plan, document) = self.overrides.read_plan(&self.pipeline)?;
        let session = Session::open(plan, &document)?;
        let trace = self.trace.as_deref().map(trace::Trace::create).transpose()?;
        let stop = Stop::new();
        interrupt::stop_on(&stop)?;

        let bar = progress::answering(self.videos.len());
        let begin = Instant::now();
        let (mut n_failed, mut n_done, mut printed) = (0, 0, Ok(()));
        let on_span = trace.as_ref().map(trace::Trace::listener);
        let questions: Arc<[String]> = self.questions.clone().into();
        let jobs = self.videos.iter().map(|path| Job::new(path.clone(), questions.clone()));
        let (limits, isolation) =
            (self.limits.limits(Supervision::Attended)?, self.limits.isolation(Supervision::Attended)?);
        let wants_times = self.timings || self.json || self.trace.is_some() || limits.has_times();
        let clock = if wants_times { StageClock::Completion } else { StageClock::Issue };
        let options = VideoOptions { limits, isolation: isolation.as_ref(), clock, ..VideoOptions::default() };
        let control = RunControl::until(&stop).with_spans(on_span);
        let report = session.model.asking().run_in_order(jobs, options, &control, &mut |answered| {
            n_done += 1;
            bar.inc(1);
            if printed.is_ok() {
                printed = bar.suspend(|| self.print(&session, answered, &mut n_failed));
            }
            if printed.is_err() {
                // Standard output is closed: further answers have no reader.
                stop.abort();
            }
        })?;
        bar.finish_and_clear();
        if let Some(trace) = trace {
            trace.finish()?;
        }
        report.warnings.iter().for_each(|warning| output::warning(warning));
        if self.timings {
            timings::print(&report, begin.elapsed());
        }
        printed?;
        let n_left = self.videos.len() - n_done;
        if n_left > 0 {
            output::warning(&format!("stopped: {n_left} of {} videos were not processed", self.videos.len()));
        }
        if n_failed + n_left > 0 { Err(SomeFailed { n_failed: n_failed + n_left }.into()) } else { Ok(()) }
    }

    fn print(&self, session: &Session, answered: VideoOutcome, n_failed: &mut usize) -> anyhow::Result<()> {
        let path = answered.video.path();
        let video = path.to_string_lossy().into_owned();
        match answered.outcome {
            Err(error) => {
                *n_failed += 1;
                self.print_failure(path, None, &error)
            }
            Ok(AnsweredVideo { frames, report, timings, answers }) => {
                warn_of_reading(path, &report);
                *n_failed += usize::from(answers.iter().any(Result::is_err));
                for (question, answer) in self.questions.iter().zip(answers) {
                    match answer {
                        Err(error) => self.print_failure(path, Some(question), &error)?,
                        Ok(answer) if self.json => {
                            let context = AnswerContext { path: &video, frames: &frames, timings };
                            output::json(&session.object(context, question, &answer))?;
                            warn_of_full_context(&answer);
                        }
                        Ok(answer) => self.print_text(&video, question, &answer)?,
                    }
                }
                Ok(())
            }
        }
    }

    /// Prints an answer, prefixed with its video and its question where there are several.
    fn print_text(&self, video: &str, question: &str, answer: &Answer) -> anyhow::Result<()> {
        let mut line = String::new();
        if self.videos.len() > 1 {
            line += &format!("{}: ", output::printable(video));
        }
        if self.questions.len() > 1 {
            line += &format!("{question} ");
        }
        output::line(&(line + &answer.text))?;
        warn_of_full_context(answer);
        Ok(())
    }

    fn print_failure(&self, video: &Path, question: Option<&String>, error: &ItemError) -> anyhow::Result<()> {
        output::error(&anyhow::anyhow!(output::item_failure(video, error)));
        if self.json {
            let (video, question) = (&*video.to_string_lossy(), question.map(String::as_str));
            output::json(&FailureObject { video, question, error: error.to_string(), stage: error.stage })?;
        }
        Ok(())
    }
}
