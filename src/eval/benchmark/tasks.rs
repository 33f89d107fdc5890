//! Tasks of a benchmark: videos are looked up and counted before a model is loaded; each video or clip is an item of a
//! batch, encoded once for all its questions.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::prompt::BenchmarkPrompt;
use crate::batch::{ArchiveItem, BatchQuestion};
use crate::error::{Error, Kind, Result};
use crate::eval::dataset::{BenchmarkQuestion, TimedSubtitles, VideoCoverage, read_subtitles};
use crate::text::Subtitle;
use crate::video::{ImageRate, Window};

/// Questions about one video or clip.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchmarkVideo {
    /// Path of the video.
    pub path: PathBuf,
    /// Part of the video.
    pub clip: Window,
    /// Rate of the images of a directory.
    pub image_rate: Option<ImageRate>,
    /// Subtitles that stand between the frames; none for a video without.
    pub subtitles: Arc<[Subtitle]>,
    /// Indices of the questions.
    pub questions: Vec<usize>,
    /// Prompt of each question.
    prompts: Vec<String>,
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

/// Key of an item, equal for all questions about it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct ClipKey {
    path: PathBuf,
    clip: String,
    /// Bits of the image rate.
    rate: Option<u64>,
    subtitles: Option<TimedKey>,
}

/// A file of timed subtitles, with the bits of its times.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct TimedKey {
    file: PathBuf,
    starts_at: u64,
    duration: u64,
}

impl TimedKey {
    fn of(subtitles: &TimedSubtitles) -> Self {
        let TimedSubtitles { file, starts_at, duration } = subtitles;
        Self { file: file.clone(), starts_at: starts_at.0.to_bits(), duration: duration.0.to_bits() }
    }
}

/// Timed subtitles that were read, each file once.
#[derive(Default)]
struct TimedFiles(BTreeMap<TimedKey, Arc<[Subtitle]>>);

impl TimedFiles {
    fn read(&mut self, subtitles: &TimedSubtitles, data: &Path) -> Result<Arc<[Subtitle]>> {
        let key = TimedKey::of(subtitles);
        if let Some(known) = self.0.get(&key) {
            return Ok(known.clone());
        }
        let found: Arc<[Subtitle]> = subtitles.read(data)?.into();
        self.0.insert(key, found.clone());
        Ok(found)
    }
}

impl BenchmarkTasks {
    /// Returns whether a video has subtitles between its frames.
    pub fn have_timed_subtitles(&self) -> bool {
        self.videos.iter().any(|video| !video.subtitles.is_empty())
    }

    /// Looks up the videos below the data directory, and makes the prompts.
    ///
    /// # Errors
    /// Subtitles that cannot be read.
    pub fn plan(questions: &[BenchmarkQuestion], prompt: &BenchmarkPrompt, data: &Path) -> Result<Self> {
        let mut tasks = Self::default();
        let mut paths = HashMap::new();
        let mut subtitles: HashMap<&Path, Vec<String>> = HashMap::new();
        let mut timed = TimedFiles::default();
        let mut by_clip: BTreeMap<ClipKey, usize> = BTreeMap::new();
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
            let between = question.timed_subtitles.as_ref();
            let key = ClipKey {
                path: path.clone(),
                clip: question.clip.to_string(),
                rate: question.image_rate.map(|rate| rate.per_second().to_bits()),
                subtitles: between.map(TimedKey::of),
            };
            let subtitles = between.map(|file| timed.read(file, data)).transpose()?.unwrap_or_default();
            let at = *by_clip.entry(key).or_insert_with(|| {
                let (path, clip, image_rate) = (path.clone(), question.clip, question.image_rate);
                let (questions, prompts) = (Vec::new(), Vec::new());
                tasks.videos.push(BenchmarkVideo { path, clip, image_rate, subtitles, questions, prompts });
                tasks.videos.len() - 1
            });
            tasks.videos[at].questions.push(index);
            tasks.videos[at].prompts.push(text);
        }
        tasks.coverage.n_videos = paths.len();
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
        let hint = match self.videos.is_empty() {
            true => "--data DIR, to which the paths of the description are relative",
            false => "--min-coverage PERCENT goes on, and counts their questions as wrong",
        };
        Err(Error::new(Kind::NotFound, rule).with_hint(hint))
    }

    /// Returns the items of a batch, named by their paths below the data directory, so that their identities are the
    /// same on every machine. Questions with the same prompt about one item are asked once, under the id of the first.
    pub fn items(&self, questions: &[BenchmarkQuestion], data: &Path) -> Vec<ArchiveItem> {
        self.videos.iter().map(|video| video.item(questions, data)).collect()
    }
}

impl BenchmarkVideo {
    fn item(&self, questions: &[BenchmarkQuestion], data: &Path) -> ArchiveItem {
        let name = self.path.strip_prefix(data).unwrap_or(&self.path).as_os_str().as_encoded_bytes();
        let window = (self.clip != Window::default()).then_some(self.clip);
        let mut seen = HashSet::new();
        let first = self.asked().filter(|(_, prompt)| seen.insert(*prompt));
        let asked = first.map(|(question, prompt)| BatchQuestion {
            id: Some(questions[question].id.clone()),
            question: prompt.to_owned(),
        });
        let item = ArchiveItem::new(name, self.path.clone(), window)
            .with_image_rate(self.image_rate)
            .with_subtitles(&self.subtitles);
        ArchiveItem { questions: asked.collect(), ..item }
    }

    /// Lists the index and the prompt of each question.
    pub(in crate::eval) fn asked(&self) -> impl Iterator<Item = (usize, &str)> {
        self.questions.iter().copied().zip(self.prompts.iter().map(String::as_str))
    }
}
