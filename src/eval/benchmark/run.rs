//! Running a benchmark: videos are looked up and counted before a model is loaded; each video or clip is then encoded
//! once for all its questions.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::prompt::BenchmarkPrompt;
use crate::error::{Error, Kind, Result};
use crate::eval::dataset::{BenchmarkQuestion, VideoCoverage, read_subtitles};
use crate::exec::{RunControl, Stop};
use crate::pipeline::{AnsweredVideo, Asking, ItemError, Job, RunReport, VideoOptions, VideoOutcome};
use crate::video::Window;

/// Questions about one video or clip.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchmarkVideo {
    /// Path of the video.
    pub path: PathBuf,
    /// Part of the video.
    pub clip: Window,
    /// Indices of the questions.
    pub questions: Vec<usize>,
    /// Prompt of each question.
    prompts: Arc<[String]>,
}

/// Questions of a benchmark with their videos.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BenchmarkTasks {
    /// Videos that are there.
    pub videos: Vec<BenchmarkVideo>,
    /// Indices of the questions whose video is missing.
    pub missing: Vec<usize>,
    /// Share of the videos that are there.
    pub coverage: VideoCoverage,
}

impl BenchmarkTasks {
    /// Looks up the videos below the data directory, and makes the prompts.
    ///
    /// # Errors
    /// Subtitles that cannot be read.
    pub fn plan(questions: &[BenchmarkQuestion], prompt: &BenchmarkPrompt, data: &Path) -> Result<Self> {
        let mut tasks = Self::default();
        let mut paths = HashMap::new();
        let mut subtitles: HashMap<&Path, Vec<String>> = HashMap::new();
        let mut prompts: Vec<Vec<String>> = Vec::new();
        let mut by_clip: BTreeMap<(PathBuf, String), usize> = BTreeMap::new();
        for (index, question) in questions.iter().enumerate() {
            let path = paths.entry(&question.video).or_insert_with(|| question.video.find(data));
            let Some(path) = path else {
                tasks.coverage.missing.insert(question.video.clone());
                tasks.missing.push(index);
                continue;
            };
            if let Some(file) = question.subtitles.as_deref()
                && !subtitles.contains_key(file)
            {
                subtitles.insert(file, read_subtitles(&data.join(file))?);
            }
            let lines = question.subtitles.as_deref().and_then(|file| subtitles.get(file));
            let lines = lines.map_or(&[][..], Vec::as_slice);
            let text = prompt.text_of(question, lines);
            let at = *by_clip.entry((path.clone(), question.clip.to_string())).or_insert_with(|| {
                let (path, clip) = (path.clone(), question.clip);
                tasks.videos.push(BenchmarkVideo { path, clip, questions: Vec::new(), prompts: Arc::default() });
                prompts.push(Vec::new());
                prompts.len() - 1
            });
            tasks.videos[at].questions.push(index);
            prompts[at].push(text);
        }
        tasks.coverage.n_videos = paths.len();
        for (video, prompts) in tasks.videos.iter_mut().zip(prompts) {
            video.prompts = prompts.into();
        }
        Ok(tasks)
    }

    /// Refuses a share of videos below a threshold, in percent.
    ///
    /// # Errors
    /// The first missing videos and their number.
    pub fn check_coverage(&self, min_percent: f64) -> Result<()> {
        let coverage = &self.coverage;
        if coverage.percent() >= min_percent && !self.videos.is_empty() {
            return Ok(());
        }
        let (n_missing, n_videos, names) = (coverage.missing.len(), coverage.n_videos, coverage.missing_names());
        let share = match self.videos.is_empty() {
            true => "none is there".to_owned(),
            false => format!("{:.1} % are there, below {min_percent} %", coverage.percent()),
        };
        let rule = format!("{n_missing} of {n_videos} videos are missing ({share}): {names}");
        Err(Error::new(Kind::NotFound, rule)
            .with_hint("--min-coverage PERCENT goes on, and counts their questions as wrong"))
    }
}

/// Run of a model over the videos of a benchmark.
#[derive(Clone, Copy)]
pub struct BenchmarkRun<'a> {
    /// Model, template and plan.
    pub asking: Asking<'a>,
    /// Videos with their questions.
    pub videos: &'a [BenchmarkVideo],
    /// Options of the videos.
    pub options: VideoOptions<'a>,
    /// Control of the run.
    pub control: &'a RunControl,
}

/// Callback of an answer: index of the question, and the answer or the failure.
pub type OnAnswer<'f, E> = dyn FnMut(usize, std::result::Result<&str, &ItemError>) -> std::result::Result<(), E> + 'f;

impl BenchmarkRun<'_> {
    /// Asks all questions. `on_answer` is called in the order of the videos.
    ///
    /// # Errors
    /// When a stage panics. Failures of a video or a question are passed on. An error of `on_answer` ends the run, and
    /// is the inner result.
    pub fn run<E>(&self, on_answer: &mut OnAnswer<'_, E>) -> Result<std::result::Result<RunReport, E>> {
        let jobs: Vec<Job> = self.videos.iter().map(job).collect();
        let mut listener = AnswerListener { observed: Ok(()), stop: &self.control.stop, on_answer };
        let report = self.asking.run_in_order(jobs.into_iter(), self.options, self.control, &mut |outcome| {
            listener.add(&self.videos[outcome.video.number].questions, outcome);
        })?;
        Ok(listener.observed.map(|()| report))
    }
}

fn job(video: &BenchmarkVideo) -> Job {
    Job {
        path: video.path.clone(),
        frames: None,
        window: (video.clip != Window::default()).then_some(video.clip),
        questions: video.prompts.clone(),
        all_questions: video.prompts.clone(),
    }
}

/// The callback until its first error.
struct AnswerListener<'t, 'f, E> {
    observed: std::result::Result<(), E>,
    stop: &'t Stop,
    on_answer: &'t mut OnAnswer<'f, E>,
}

impl<E> AnswerListener<'_, '_, E> {
    /// Passes on the answers about one video.
    fn add(&mut self, questions: &[usize], VideoOutcome { outcome, .. }: VideoOutcome) {
        match outcome {
            Ok(AnsweredVideo { answers, .. }) => {
                for (question, answer) in questions.iter().zip(answers) {
                    self.emit(*question, answer.as_ref().map(|answer| answer.text.as_str()));
                }
            }
            Err(error) => questions.iter().for_each(|question| self.emit(*question, Err(&error))),
        }
    }

    fn emit(&mut self, question: usize, answer: std::result::Result<&str, &ItemError>) {
        if self.observed.is_ok() {
            self.observed = (self.on_answer)(question, answer);
            if self.observed.is_err() {
                self.stop.abort();
            }
        }
    }
}
