//! Progress bars on standard error, hidden where it is not a terminal.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use vidense::pipeline::{OnOpen, OpenEvent, VideoProgress, smaller_batch};

use super::output;

/// Interval of a spinner's steps.
const SPINNER_TICK: Duration = Duration::from_millis(200);

/// Bar of a model that is loaded, which appears once weights are read.
pub struct OpeningBar(Arc<OnceLock<ProgressBar>>);

impl OpeningBar {
    /// Removes the bar from the terminal.
    pub fn clear(&self) {
        self.0.get().inspect(|bar| bar.finish_and_clear());
    }
}

/// Makes a bar of a model's parameters, and the callback that advances it and prints warnings.
pub fn opening() -> (OpeningBar, OnOpen) {
    let bar = Arc::new(OnceLock::new());
    let shown = OpeningBar(bar.clone());
    let on_open = move |event: OpenEvent<'_>| match event {
        OpenEvent::Warning(text) => output::warning(text),
        OpenEvent::Note(text) => output::note(text),
        OpenEvent::Loading { n_parameters } => {
            bar.get_or_init(|| self::bar("loading model", n_parameters, "{msg} {wide_bar} {percent}% ({eta})"));
        }
        OpenEvent::Read { n_parameters } => {
            bar.get().inspect(|bar| bar.inc(n_parameters as u64));
        }
        OpenEvent::Loaded => {
            bar.get().inspect(|bar| bar.finish_and_clear());
        }
    };
    (shown, Arc::new(on_open))
}

/// Makes a sign of life for a download.
pub fn downloading() -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message("downloading");
    spinner.enable_steady_tick(SPINNER_TICK);
    spinner
}

/// Makes a bar of decoded frames.
pub fn decoding() -> ProgressBar {
    bar("decoding", 0, "{msg} {wide_bar} {pos}/{len} frames ({eta})")
}

/// Makes a bar of training steps.
pub fn training() -> ProgressBar {
    bar("starting", 0, "{msg} {wide_bar} {pos}/{len} ({eta})")
}

/// Makes a bar of written files.
pub fn writing(n_files: usize) -> ProgressBar {
    bar("writing", n_files, "{msg} {wide_bar} {pos}/{len} ({eta})")
}

/// Makes a bar of answered questions.
pub fn asking(n_questions: usize) -> ProgressBar {
    bar("asking", n_questions, "{msg} {wide_bar} {pos}/{len} ({eta})")
}

/// Makes a bar of answered videos.
pub fn answering(n_videos: usize) -> ProgressBar {
    bar("answering", n_videos, "{msg} {wide_bar} {pos}/{len} videos ({eta})")
}

/// Makes a bar of an archive's videos, whose message has the rates.
pub fn batch() -> ProgressBar {
    bar("", 0, "{pos}/{len} videos {wide_bar} {msg}")
}

/// Advances a decoding bar.
pub fn listen(bar: &ProgressBar, progress: VideoProgress) {
    match progress {
        VideoProgress::Expected { n_frames } => bar.set_length(n_frames as u64),
        VideoProgress::Decoded { n_frames } => bar.set_position(n_frames as u64),
        VideoProgress::SmallerBatch { n_images } => bar.suspend(|| output::warning(&smaller_batch(n_images))),
        VideoProgress::Encoded { n_frames } => bar.set_message(format!("decoding, {n_frames} encoded")),
    }
}

fn bar(message: &'static str, length: usize, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(length as u64).with_style(style.progress_chars("=> "));
    bar.set_message(message);
    bar
}
