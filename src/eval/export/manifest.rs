//! Manifest of a benchmark for `vidense batch`: a line for each video or clip, with the prompts of its questions.

use std::path::Path;

use serde::Serialize;

use super::{ClipKeys, ExportedBenchmark, add_line, text_of};
use crate::batch::BatchQuestion;
use crate::error::Result;

/// File name of the manifest.
const MANIFEST: &str = "manifest.jsonl";

/// Line of a manifest.
#[derive(Serialize)]
struct ExportedItem<'a> {
    video: &'a str,
    #[serde(flatten)]
    clip: ClipKeys,
    questions: &'a [BatchQuestion],
}

/// Writes `manifest.jsonl`, with paths below the data directory, and `pipeline.yaml`, with the system text and the
/// beginning of answers of the benchmark. Results of `vidense batch` over them, with the data directory as root, are
/// read by [`read_answers`](crate::eval::benchmark::read_answers).
///
/// # Errors
/// Subtitles between frames, the name of a video that is not UTF-8, or a directory that cannot be written.
pub fn write_manifest(benchmark: &ExportedBenchmark<'_>, out: &Path) -> Result<()> {
    benchmark.refuse_subtitles()?;
    let ExportedBenchmark { questions, tasks, data, .. } = benchmark;
    let mut lines = Vec::new();
    for item in tasks.items(questions, data) {
        text_of(&item.path)?;
        let clip = ClipKeys::new(item.window.unwrap_or_default(), item.image_rate);
        add_line(&mut lines, &ExportedItem { video: &item.video, clip, questions: &item.questions })?;
    }
    benchmark.write(out, MANIFEST, &lines)?;
    benchmark.write_pipeline(out)
}
