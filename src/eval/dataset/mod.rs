//! Data sets of video question answering in the formats in which they are distributed, one format a file.
//!
//! Every format is read into [`BenchmarkQuestion`]s. The keys are those of the data sets' own files and scripts; a row
//! that is not understood is an error with file and position, never skipped. Videos are found by [`VideoLookup`]. No
//! model is known here, and no answer is scored. Called by [`benchmark`](super::benchmark).

mod ego_schema;
mod format;
mod long_video_bench;
mod mlvu;
mod mlvu_generation;
mod mvbench;
mod next_gqa;
mod next_qa;
mod options;
mod parquet_rows;
mod perception_test;
mod questions;
mod rextime;
mod rows;
mod subtitles;
mod temp_compass;
mod timed_subtitles;
mod vcg_bench;
mod video_mme;
mod videos;
mod zero_shot_qa;

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::video::{ImageRate, Window};

pub use ego_schema::EgoSchemaFiles;
pub use format::DatasetFormat;
pub use long_video_bench::LongVideoBenchFiles;
pub use mlvu::{MlvuFiles, MlvuTask};
pub use mlvu_generation::MlvuGenerationFiles;
pub use mvbench::{MvBenchFiles, MvBenchTask};
pub use next_gqa::NextGqaFiles;
pub use next_qa::{NextQaFiles, NextQaOpenFiles};
pub use options::ChoiceOptions;
pub use perception_test::PerceptionTestFiles;
pub use questions::QuestionFiles;
pub use rextime::RexTimeFiles;
pub use subtitles::read_subtitles;
pub use temp_compass::{TempCompassFiles, TempCompassTask};
pub use timed_subtitles::TimedSubtitles;
pub use vcg_bench::VcgBenchFiles;
pub use video_mme::VideoMmeFiles;
pub use videos::{VideoCoverage, VideoLookup};
pub use zero_shot_qa::ZeroShotQaFiles;

/// Reference of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuestionReference {
    /// Reference answers in words; any of them is right.
    Texts(Vec<String>),
    /// Index of the right option.
    Choice(usize),
    /// Not published: answers are written as a submission, and not scored.
    Hidden,
}

/// A question of a benchmark.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchmarkQuestion {
    /// Identifier, unique in the data set.
    pub id: String,
    /// Look-up key of the video.
    pub video: VideoLookup,
    /// Part of the video that the question is about.
    pub clip: Window,
    /// Rate of the images of a video that is a directory.
    pub image_rate: Option<ImageRate>,
    /// Text of the question, without its options.
    pub question: String,
    /// Options; empty for an open question.
    pub options: ChoiceOptions,
    /// Reference.
    pub reference: QuestionReference,
    /// Text that a judge scores by, beside the reference: scoring points, or a question with options.
    pub rubric: Option<String>,
    /// Type of the question, by which scores are grouped.
    pub kind: String,
    /// Task, over which scores are averaged.
    pub task: String,
    /// Spans of the video that are evidence for the answer, where the data set has them.
    pub spans: Vec<Window>,
    /// File of the subtitles that the prompt has as a whole, relative to the data directory.
    pub subtitles: Option<PathBuf>,
    /// Subtitles that stand between the frames of the video.
    pub timed_subtitles: Option<TimedSubtitles>,
    /// Weight in averages.
    pub weight: f64,
    /// Fields of the row that a submission repeats.
    pub extra: Map<String, Value>,
}

impl BenchmarkQuestion {
    /// Makes an open question with one reference.
    pub(in crate::eval) fn open(id: impl Into<String>, video: VideoLookup, question: &str, reference: &str) -> Self {
        Self {
            id: id.into(),
            video,
            clip: Window::default(),
            image_rate: None,
            question: question.to_owned(),
            options: ChoiceOptions::default(),
            reference: QuestionReference::Texts(vec![reference.to_owned()]),
            rubric: None,
            kind: String::new(),
            task: String::new(),
            spans: Vec::new(),
            subtitles: None,
            timed_subtitles: None,
            weight: 1.0,
            extra: Map::new(),
        }
    }

    /// Makes a multiple-choice question.
    fn choice(id: impl Into<String>, video: VideoLookup, question: &str, options: ChoiceOptions) -> Self {
        Self { options, reference: QuestionReference::Hidden, ..Self::open(id, video, question, "") }
    }
}

/// Questions of a data set, and what was noticed about its files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DatasetQuestions {
    /// Questions in the order of the files.
    pub questions: Vec<BenchmarkQuestion>,
    /// Remarks for the reader of the scores.
    pub notes: Vec<String>,
    /// Files that were read, subtitles included.
    pub files: Vec<PathBuf>,
}
