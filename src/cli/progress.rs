//! Progress bars on standard error; none where that is no terminal.

use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use vidense::pipeline::Progress;
use vidense::weights::OnLoad;

/// A bar that counts the numbers of a model as they are read, and the listener that moves it.
pub fn loading(n_parameters: usize) -> (ProgressBar, OnLoad) {
    let bar = bar("loading model", n_parameters, "{msg} {wide_bar} {percent}% ({eta})");
    let moved = bar.clone();
    (bar, Arc::new(move |n| moved.inc(n as u64)))
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
pub fn listen(bar: &ProgressBar, progress: Progress) {
    match progress {
        Progress::Expected { n_frames } => bar.set_length(n_frames as u64),
        Progress::Decoded { n_frames } => bar.set_position(n_frames as u64),
        Progress::Encoded { n_frames } => bar.set_message(format!("decoding, {n_frames} encoded")),
    }
}

fn bar(message: &'static str, length: usize, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(length as u64).with_style(style.progress_chars("=> "));
    bar.set_message(message);
    bar
}
