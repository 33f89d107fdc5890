//! Progress bars on standard error; none where that is no terminal.

use std::sync::{Arc, OnceLock};

use indicatif::{ProgressBar, ProgressStyle};
use vidense::pipeline::{OnOpen, OpenEvent, VideoProgress, smaller_batch};

use super::output;

/// The bar of a model that is opened: none before its weights are read.
pub struct OpeningBar(Arc<OnceLock<ProgressBar>>);

impl OpeningBar {
    /// Takes the bar from the terminal.
    pub fn clear(&self) {
        self.0.get().inspect(|bar| bar.finish_and_clear());
    }
}

/// A bar that counts the parameters of a model as they are read, and the listener that moves it and prints warnings.
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

/// A bar that counts decoded frames.
pub fn decoding() -> ProgressBar {
    bar("decoding", 0, "{msg} {wide_bar} {pos}/{len} frames ({eta})")
}

/// A bar that counts training steps.
pub fn training() -> ProgressBar {
    bar("starting", 0, "{msg} {wide_bar} {pos}/{len} ({eta})")
}

/// A bar that counts files as they are written.
pub fn writing(n_files: usize) -> ProgressBar {
    bar("writing", n_files, "{msg} {wide_bar} {pos}/{len} ({eta})")
}

/// A bar that counts questions as they are answered.
pub fn asking(n_questions: usize) -> ProgressBar {
    bar("asking", n_questions, "{msg} {wide_bar} {pos}/{len} ({eta})")
}

/// A bar that counts videos as they are answered.
pub fn answering(n_videos: usize) -> ProgressBar {
    bar("answering", n_videos, "{msg} {wide_bar} {pos}/{len} videos ({eta})")
}

/// A bar that counts the videos of an archive; its message says the rest.
pub fn batch() -> ProgressBar {
    bar("", 0, "{pos}/{len} videos {wide_bar} {msg}")
}

/// Moves a decoding bar.
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
