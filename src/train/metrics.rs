//! Metrics of each step on disk: one JSON object per line, and the curve of the loss as an image.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::curve::{Curve, svg};
use super::recipe::Stage;
use super::stage::StepReport;
use super::state::{Progress, write_file};
use crate::error::Error;
use crate::files::output;

/// Names of the files of metrics and of the curve in a run's directory.
pub(crate) struct Metrics {
    lines: PathBuf,
    picture: PathBuf,
    file: File,
    curves: Vec<Curve>,
}

impl Metrics {
    /// Opens the metrics of a run that resumes at `progress`: lines of steps that will be done again are dropped.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn open(run_dir: &Path, stages: &[Stage], progress: &Progress) -> Result<Self, Error> {
        let (lines, picture) = (run_dir.join("metrics.jsonl"), run_dir.join("loss.svg"));
        let mut curves: Vec<Curve> =
            stages.iter().map(|stage| Curve { name: stage.name.clone(), losses: Vec::new() }).collect();
        let mut kept = String::new();
        for line in std::fs::read_to_string(&lines).unwrap_or_default().lines() {
            let Some((stage, step, loss)) = parse(line, stages) else { continue };
            if (stage, step) < (progress.stage, progress.step) {
                curves[stage].losses.push(loss);
                kept.push_str(line);
                kept.push('\n');
            }
        }
        write_file(&lines, kept.as_bytes())?;
        let file = output::open_to_append(&lines).map_err(Error::io(&lines))?;
        Ok(Self { lines, picture, file, curves })
    }

    /// Adds a step.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn add(&mut self, report: &StepReport) -> Result<(), Error> {
        if let Some(curve) = self.curves.iter_mut().find(|curve| curve.name == report.stage) {
            curve.losses.push(report.loss);
        }
        let line = serde_json::to_string(report).unwrap_or_default();
        writeln!(self.file, "{line}").map_err(Error::io(&self.lines))
    }

    /// Draws the losses so far.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn draw(&self) -> Result<(), Error> {
        write_file(&self.picture, svg(&self.curves).as_bytes())
    }
}

/// Returns the stage, the step and the loss of a line, if it is whole.
fn parse(line: &str, stages: &[Stage]) -> Option<(usize, usize, f64)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let name = line.get("stage")?.as_str()?;
    let stage = stages.iter().position(|stage| stage.name == name)?;
    Some((stage, usize::try_from(line.get("step")?.as_u64()?).ok()?, line.get("loss")?.as_f64()?))
}
