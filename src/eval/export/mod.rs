//! Exports of a benchmark's questions for other programs: [`write_manifest`] for `vidense batch`, [`write_lmms_task`]
//! for lmms-eval, [`write_dataset`] in the layout of Hugging Face; and of an evaluation, [`write_lmms_samples`] as
//! lmms-eval logs its own. Called by `eval export`.

mod hugging_face;
mod lmms_eval;
mod manifest;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

pub use hugging_face::write_dataset;
pub use lmms_eval::{DocumentScore, ExportedEvaluation, score_document, write_lmms_samples, write_lmms_task};
pub use manifest::write_manifest;

use super::benchmark::{BenchmarkSpec, BenchmarkTasks};
use super::dataset::BenchmarkQuestion;
use crate::error::{About as _, Error, Result};
use crate::files::Durability;
use crate::files::output::{check_not_input, create_directory, replace};
use crate::units::Seconds;
use crate::video::{ImageRate, Window};

/// File name of the pipeline.
const PIPELINE: &str = "pipeline.yaml";

/// Benchmark to be exported.
#[derive(Debug, Clone, Copy)]
pub struct ExportedBenchmark<'a> {
    /// Description.
    pub spec: &'a BenchmarkSpec,
    /// Questions.
    pub questions: &'a [BenchmarkQuestion],
    /// Videos and prompts of the questions.
    pub tasks: &'a BenchmarkTasks,
    /// Data directory.
    pub data: &'a Path,
    /// Files that were read, over which nothing is written.
    pub inputs: &'a [PathBuf],
}

/// Refuses a directory that has files: an export replaces none.
///
/// # Errors
/// The first of its files, or a directory that cannot be read.
pub fn check_new_directory(out: &Path) -> Result<()> {
    let mut entries = match std::fs::read_dir(out) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io(out)(error)),
    };
    let Some(entry) = entries.next() else { return Ok(()) };
    let name = entry.map_err(Error::io(out))?.file_name();
    let rule = format!("not an empty directory: it has `{}`", name.to_string_lossy());
    Err(Error::invalid(rule).with_hint("a new directory").about(out))
}

impl ExportedBenchmark<'_> {
    /// Refuses subtitles between frames, which no export has.
    fn refuse_subtitles(&self) -> Result<()> {
        match self.tasks.videos.iter().find(|video| !video.subtitles.is_empty()) {
            Some(video) => {
                Err(Error::invalid("an export has no subtitles between the frames of a video").about(&video.path))
            }
            None => Ok(()),
        }
    }

    /// Writes a pipeline with the system text and the beginning of answers of the benchmark: they are of a pipeline,
    /// not of a question.
    fn write_pipeline(&self, out: &Path) -> Result<()> {
        let prompt = &self.spec.prompt;
        let mut keys = Map::new();
        if let Some(system) = &prompt.system {
            keys.insert("system".to_owned(), json!(system));
        }
        if !prompt.answer.is_empty() {
            keys.insert("answer".to_owned(), json!(prompt.answer));
        }
        // JSON is YAML.
        let pipeline = format!("{:#}\n", json!({ "prompt": Value::Object(keys) }));
        self.write(out, PIPELINE, pipeline.as_bytes())
    }

    /// Writes a file of an export, and creates its directory.
    fn write(&self, out: &Path, name: &str, bytes: &[u8]) -> Result<()> {
        let path = out.join(name);
        let videos = self.tasks.videos.iter().map(|video| video.path.as_path());
        check_not_input(&path, videos.chain(self.inputs.iter().map(PathBuf::as_path)))?;
        create_directory(out).about(out)?;
        replace(&path, bytes, Durability::Synced).about(&path)
    }
}

/// Part of a video, as keys of a row; absent ones are those of a whole video.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct ClipKeys {
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<Seconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<Seconds>,
    /// Images per second of a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    image_rate: Option<ImageRate>,
}

impl ClipKeys {
    fn new(Window { start, end }: Window, image_rate: Option<ImageRate>) -> Self {
        Self { start, end, image_rate }
    }
}

/// Appends a value as a line of JSON.
fn add_line(lines: &mut Vec<u8>, value: &impl Serialize) -> Result<()> {
    serde_json::to_writer(&mut *lines, value).map_err(|error| Error::invalid(error.to_string()))?;
    lines.push(b'\n');
    Ok(())
}

/// Returns a path as text.
fn text_of(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::invalid("a name that is not UTF-8 cannot be exported").about(path))
}
