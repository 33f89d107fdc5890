//! Choice of a format with its files, as a benchmark's description writes it.

use std::collections::HashMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rows::DatasetDirectory;
use super::{
    DatasetQuestions, EgoSchemaFiles, LongVideoBenchFiles, MlvuFiles, MlvuGenerationFiles, MvBenchFiles, NextGqaFiles,
    NextQaFiles, NextQaOpenFiles, PerceptionTestFiles, QuestionFiles, QuestionReference, RexTimeFiles,
    TempCompassFiles, VcgBenchFiles, VideoMmeFiles, ZeroShotQaFiles,
};
use crate::error::{Error, Result};

/// Format of a data set, with its files. Paths are relative to the data directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DatasetFormat {
    /// Open questions of Video-ChatGPT's zero-shot evaluation: MSVD, MSRVTT, TGIF, ActivityNet.
    ZeroShotQa(ZeroShotQaFiles),
    /// Video-ChatGPT's benchmark of generated text: generic, temporal, consistency.
    VcgBench(VcgBenchFiles),
    /// NExT-QA, multiple choice.
    NextQa(NextQaFiles),
    /// NExT-QA, open answers.
    NextQaOpen(NextQaOpenFiles),
    /// EgoSchema.
    EgoSchema(EgoSchemaFiles),
    /// IntentQA, in the layouts of NExT-QA.
    IntentQa(NextQaFiles),
    /// MVBench.
    Mvbench(MvBenchFiles),
    /// Video-MME.
    VideoMme(VideoMmeFiles),
    /// MLVU, multiple choice.
    Mlvu(MlvuFiles),
    /// MLVU, sub-scene captioning and video summary.
    MlvuGeneration(MlvuGenerationFiles),
    /// LongVideoBench.
    LongVideoBench(LongVideoBenchFiles),
    /// TempCompass: multiple choice, yes or no, caption matching, captioning.
    TempCompass(TempCompassFiles),
    /// Perception Test, multiple choice.
    PerceptionTest(PerceptionTestFiles),
    /// NExT-GQA: multiple choice with grounded answers.
    NextGqa(NextGqaFiles),
    /// ReXTime.
    Rextime(RexTimeFiles),
    /// Questions with reference answers, as `vidense world` writes them.
    Questions(QuestionFiles),
}

/// Maximum number of files that a message about several of them names.
const MAX_NAMED: usize = 3;

impl DatasetFormat {
    /// Reads the questions below a data directory.
    ///
    /// # Errors
    /// An unreadable file, a row that is not of the format, an id that comes twice, a video name that leaves its
    /// directory, or no question.
    pub fn read(&self, data: &Path) -> Result<DatasetQuestions> {
        let directory = DatasetDirectory::new(data);
        let mut found = match self {
            Self::ZeroShotQa(files) => files.read(&directory)?,
            Self::VcgBench(files) => files.read(&directory)?,
            Self::NextQa(files) | Self::IntentQa(files) => files.read(&directory)?,
            Self::NextQaOpen(files) => files.read(&directory)?,
            Self::EgoSchema(files) => files.read(&directory)?,
            Self::Mvbench(files) => files.read(&directory)?,
            Self::VideoMme(files) => files.read(&directory)?,
            Self::Mlvu(files) => files.read(&directory)?,
            Self::MlvuGeneration(files) => files.read(&directory)?,
            Self::LongVideoBench(files) => files.read(&directory)?,
            Self::TempCompass(files) => files.read(&directory)?,
            Self::PerceptionTest(files) => files.read(&directory)?,
            Self::NextGqa(files) => files.read(&directory)?,
            Self::Rextime(files) => files.read(&directory)?,
            Self::Questions(files) => files.read(&directory)?,
        };
        found.files = directory.into_files();
        check_ids(&found)?;
        if found.questions.is_empty() {
            return Err(Error::invalid("no questions").about(data));
        }
        if let Some(outside) = found.questions.iter().find(|question| !question.video.is_below()) {
            let rule = format!("the video name `{}` is empty or leaves its directory", outside.video.name);
            return Err(Error::invalid(rule).about(format!("question `{}`", outside.id)).about(data));
        }
        let n_hidden =
            found.questions.iter().filter(|question| question.reference == QuestionReference::Hidden).count();
        if n_hidden > 0 {
            let n = found.questions.len();
            found.notes.push(format!("{n_hidden} of {n} questions have no published answer, and are not scored"));
        }
        Ok(found)
    }

    /// Returns whether the questions have options.
    pub fn has_options(&self) -> bool {
        match self {
            Self::ZeroShotQa(_)
            | Self::VcgBench(_)
            | Self::NextQaOpen(_)
            | Self::MlvuGeneration(_)
            | Self::Questions(_) => false,
            Self::TempCompass(files) => files.has_options(),
            _ => true,
        }
    }

    /// Returns the rule between its keys that the format breaks, if it does.
    pub(in crate::eval) fn broken_rule(&self) -> Option<&'static str> {
        match self {
            Self::TempCompass(files) => files.broken_rule(),
            _ => None,
        }
    }
}

/// Refuses an id that comes twice, with the positions of both questions.
fn check_ids(found: &DatasetQuestions) -> Result<()> {
    let mut seen = HashMap::new();
    for (number, question) in (1..).zip(&found.questions) {
        if let Some(first) = seen.insert(question.id.as_str(), number) {
            // Subtitles, which are read after the questions, are not named.
            let named = found.files.iter().take(MAX_NAMED).map(|file| file.display().to_string());
            let files = named.collect::<Vec<_>>().join(", ");
            let rule = format!("the id `{}` comes twice", question.id);
            return Err(Error::invalid(rule).about(format!("questions {first} and {number}")).about(files));
        }
    }
    Ok(())
}
