//! Header of a video as text: container and streams.

use std::fmt::Write;

use vidense::error::Error;
use vidense::units::Seconds;
use vidense::video::{StreamInfo, VideoInfo};

use crate::cli::output;

/// Prints the header of an audio file with a cover, which has no frame to count.
pub(super) fn print_audio(info: &VideoInfo) -> anyhow::Result<()> {
    let mut text = String::new();
    describe_container(&mut text, info)?;
    output::part(&text)?;
    let is_cover = |stream: &StreamInfo| stream.frame.as_ref().is_some_and(|frame| frame.is_cover);
    if let Some(cover) = info.streams.iter().position(is_cover) {
        let error = Error::invalid("no video: its only image is a cover");
        let error = error.with_hint(format!("--stream {cover} takes the image")).about(&info.path);
        output::warning(&error.to_string());
    }
    Ok(())
}

pub(super) fn describe_container(text: &mut String, info: &VideoInfo) -> std::fmt::Result {
    writeln!(text, "video       {}", output::printable(&info.path.to_string_lossy()))?;
    writeln!(text, "container   {}", info.container)?;
    if let Some(Seconds(seconds)) = info.duration {
        writeln!(text, "duration    {} (as the header claims)", Seconds(seconds))?;
    }
    for (i, stream) in info.streams.iter().enumerate() {
        let used = if Some(i) == info.best { " <- decoded" } else { "" };
        writeln!(text, "stream {i:<4} {}{used}", describe_stream(stream))?;
    }
    Ok(())
}

fn describe_stream(stream: &StreamInfo) -> String {
    let mut parts = vec![format!("{} {}", stream.kind.name(), stream.codec)];
    if let Some(picture) = &stream.frame {
        parts.push(format!("{} x {}", picture.width, picture.height));
        parts.extend(picture.pixel_aspect.map(|(width, height)| format!("pixel aspect {width}:{height}")));
        parts.push(picture.pixel_format.clone());
        parts.push(picture.colour.clone());
        parts.extend(picture.dynamic_range.clone());
        parts.extend(picture.fields.map(str::to_owned));
        parts.extend(picture.frame_rate.map(|rate| format!("{rate:.3} frames/s")));
        parts.extend(picture.rotation.map(|rotation| format!("to be turned {rotation}")));
        parts.extend(picture.is_cover.then(|| "a cover picture".to_owned()));
    }
    parts.extend(stream.declared_frames.map(|n| format!("{n} frames declared")));
    parts.join(", ")
}
