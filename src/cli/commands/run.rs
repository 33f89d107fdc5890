//! `vidense run PIPELINE VIDEO...`: questions about videos, as a pipeline file says.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use vidense::exec::{RunControl, Stop};
use vidense::files::output::check_not_input;
use vidense::pipeline::{Answer, AnsweredVideo, ItemError, Job, StageClock, VideoOptions, VideoOutcome};
use vidense::spec::read_plan;

use crate::cli::SomeFailed;
use crate::cli::args::{MemoryArgs, UnusedArgs, with_stream};
use crate::cli::limits::{Care, LimitArgs};
use crate::cli::session::{Seen, Session, warn_of_full_context, warn_of_reading};
use crate::cli::{interrupt, output, progress, timings, trace};

/// Answer questions about videos as a pipeline file says
///
/// Every question is asked about every video; videos are decoded side by side while earlier ones are encoded and answered, and
/// answers come in the order of the videos. A video that fails is told and counted, and stops no other. Ctrl-C finishes what is
/// under way; a second one ends at once.
#[derive(Args)]
pub struct Run {
    /// A pipeline file (YAML); pipelines/ has one for each released model and strategy
    pipeline: PathBuf,
    /// Media files, or directories of image frames
    #[arg(required = true)]
    videos: Vec<PathBuf>,
    /// A question; may be given several times
    #[arg(long = "question", short, value_name = "TEXT", required = true)]
    questions: Vec<String>,
    /// A value over that of the file, such as temporal.max_pool.stride=4; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    #[command(flatten)]
    unused: UnusedArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    /// The video stream of each video, by its index as `inspect` prints it; over that of the file [default: the best one]
    #[arg(long, value_name = "N")]
    stream: Option<usize>,
    /// Print one JSON object an answer in place of the text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    limits: LimitArgs,
    /// Tell, stage by stage, what the time went into, and where the bottleneck is
    #[arg(long)]
    timings: bool,
    /// Write what every thread did when, for chrome://tracing or ui.perfetto.dev
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

/// `--json` of a question that got no answer.
#[derive(Serialize)]
struct FailureObject<'a> {
    video: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    question: Option<&'a str>,
    error: String,
    stage: &'a str,
}

impl Run {
    /// Runs the command.
    ///
    /// # Errors
    /// Whatever stops it, or that some videos failed.
    pub fn run(self) -> anyhow::Result<()> {
        if self.questions.iter().any(|question| question.trim().is_empty()) {
            anyhow::bail!("a question is empty");
        }
        if let Some(trace) = &self.trace {
            let inputs = self.videos.iter().chain([&self.pipeline]).map(PathBuf::as_path);
            check_not_input(trace, inputs)?;
        }
        let (mut plan, document) = read_plan(&self.pipeline, &with_stream(&self.sets, self.stream))?;
        plan.unused = self.unused.rule(plan.unused);
        plan.exec.kv_memory = self.memory.kv_memory.or(plan.exec.kv_memory);
        let session = Session::open(plan, &document)?;
        let trace = self.trace.as_deref().map(trace::Trace::create).transpose()?;
        let stop = Stop::new();
        interrupt::stop_on(&stop)?;

        let bar = progress::answering(self.videos.len());
        let begin = Instant::now();
        let (mut n_failed, mut n_told, mut printed) = (0, 0, Ok(()));
        let on_span = trace.as_ref().map(trace::Trace::listener);
        let questions: Arc<[String]> = self.questions.clone().into();
        let jobs = self.videos.iter().map(|path| Job {
            path: path.clone(),
            window: None,
            questions: questions.clone(),
            all_questions: questions.clone(),
        });
        let (limits, isolation) = (self.limits.limits(Care::Attended)?, self.limits.isolation(Care::Attended)?);
        let wants_times = self.timings || self.json || self.trace.is_some() || limits.has_times();
        let clock = if wants_times { StageClock::Completion } else { StageClock::Issue };
        let options = VideoOptions { limits, isolation: isolation.as_ref(), clock, ..VideoOptions::default() };
        let control = RunControl::until(&stop).with_spans(on_span);
        let report = session.model.asking().run_in_order(jobs, options, &control, &mut |answered| {
            n_told += 1;
            bar.inc(1);
            if printed.is_ok() {
                printed = bar.suspend(|| self.tell(&session, answered, &mut n_failed));
            }
            if printed.is_err() {
                // Nobody reads any more: nothing more needs to be made.
                stop.abort();
            }
        })?;
        bar.finish_and_clear();
        if let Some(trace) = trace {
            trace.finish()?;
        }
        report.warnings.iter().for_each(|warning| output::warning(warning));
        if self.timings {
            timings::tell(&report, begin.elapsed());
        }
        printed?;
        let n_left = self.videos.len() - n_told;
        if n_left > 0 {
            output::warning(&format!("stopped: {n_left} of {} videos were not looked at", self.videos.len()));
        }
        if n_failed + n_left > 0 { Err(SomeFailed { n_failed: n_failed + n_left }.into()) } else { Ok(()) }
    }

    fn tell(&self, session: &Session, answered: VideoOutcome, n_failed: &mut usize) -> anyhow::Result<()> {
        let video = answered.video.path().to_string_lossy().into_owned();
        match answered.outcome {
            Err(error) => {
                *n_failed += 1;
                self.tell_failure(&video, None, &error)
            }
            Ok(AnsweredVideo { frames, report, timings, answers }) => {
                warn_of_reading(answered.video.path(), &report);
                *n_failed += usize::from(answers.iter().any(Result::is_err));
                for (question, answer) in self.questions.iter().zip(answers) {
                    match answer {
                        Err(error) => self.tell_failure(&video, Some(question), &error)?,
                        Ok(answer) if self.json => {
                            let seen = Seen { path: &video, frames: &frames, timings };
                            output::json(&session.object(seen, question, &answer))?;
                            warn_of_full_context(&answer);
                        }
                        Ok(answer) => self.tell_text(&video, question, &answer)?,
                    }
                }
                Ok(())
            }
        }
    }

    /// The answer alone where there is one of each, else with the video and the question that it belongs to.
    fn tell_text(&self, video: &str, question: &str, answer: &Answer) -> anyhow::Result<()> {
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

    fn tell_failure(&self, video: &str, question: Option<&String>, error: &ItemError) -> anyhow::Result<()> {
        let cause = error.to_string();
        let named = if cause.contains(video) { cause.clone() } else { format!("{video}: {cause}") };
        output::error(&anyhow::anyhow!("{named} (in the stage {})", error.stage));
        if self.json {
            let question = question.map(String::as_str);
            output::json(&FailureObject { video, question, error: cause, stage: error.stage })?;
        }
        Ok(())
    }
}
