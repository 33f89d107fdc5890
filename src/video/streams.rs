//! FFmpeg: choice of the stream to read, and header facts of all streams. Called by `demux` and `probe`.
//!
//! The best video stream is FFmpeg's choice among the videos; a cover image is not a video, whatever its disposition.

use std::path::Path;

use ffmpeg::format::context::Input;
use ffmpeg::{color, ffi, media as media_kind};
use ffmpeg_next as ffmpeg;

use super::decode::container_orientation;
use super::demux::size_of;
use super::error::{no_video_stream, not_media, wrong_stream};
use super::limits::Bounds;
use super::media;
use super::probe::FrameInfo;
use super::timer::ReadTimer;
use super::{StreamInfo, StreamKind, VideoInfo};
use crate::error::{Error, Kind};
use crate::files::diagnose;
use crate::units::Seconds;

/// Returns the index of the stream to read: the requested stream, or the best video stream.
pub(super) fn choose(path: &Path, input: &Input, asked: Option<usize>) -> Result<usize, Error> {
    if let Some(stream) = asked {
        return check(path, input, stream);
    }
    let videos = || input.streams().filter(|stream| kind_of(stream) == StreamKind::Video);
    let best = input.streams().best(media_kind::Type::Video).filter(|stream| !is_cover(stream));
    // FFmpeg prefers a cover with the default disposition to a video without it.
    let size = |stream: &ffmpeg::Stream| {
        let (width, height) = size_of(stream);
        (is_default(stream), u64::from(width) * u64::from(height))
    };
    // The first stream wins ties.
    let real = videos().filter(|stream| !is_cover(stream)).collect::<Vec<_>>();
    let best = best
        .map(|stream| stream.index())
        .or_else(|| real.iter().rev().max_by_key(|stream| size(stream)).map(|stream| stream.index()));
    match (best, videos().next()) {
        (Some(best), _) => Ok(best),
        (None, Some(cover)) => {
            let rule = format!("no video stream: its only image is a cover ({})", in_words(&cover));
            let hint = format!("--stream {} takes the image", cover.index());
            Err(Error::new(Kind::CoverOnly, rule).with_hint(hint).about(path))
        }
        (None, None) => Err(no_video(path, input)),
    }
}

/// Checks that an index is that of a video stream.
fn check(path: &Path, input: &Input, stream: usize) -> Result<usize, Error> {
    let videos: Vec<String> = input
        .streams()
        .filter(|stream| kind_of(stream) == StreamKind::Video)
        .map(|stream| format!("{} ({})", stream.index(), in_words(&stream)))
        .collect();
    if videos.is_empty() {
        return Err(no_video(path, input));
    }
    let refused = |rule: String| wrong_stream(path, stream, rule, &videos.join(", "));
    match input.stream(stream).map(|found| (kind_of(&found), found)) {
        None => Err(refused(format!("not among the {} stream(s) of the file", input.streams().len()))),
        Some((StreamKind::Video, found)) => Ok(found.index()),
        Some((_, found)) => Err(refused(format!("not a video stream but {}", in_words(&found)))),
    }
}

fn no_video(path: &Path, input: &Input) -> Error {
    // FFmpeg reads web pages as subtitles, and unfinished recordings as files without video.
    if let Some(cause) = diagnose(path) {
        return not_media(path, cause);
    }
    let kinds: Vec<String> = input.streams().map(|stream| in_words(&stream)).collect();
    no_video_stream(path, &kinds)
}

/// Describes a stream by kind, codec and, of video, its size.
fn in_words(stream: &ffmpeg::Stream) -> String {
    let codec = stream.parameters().id().name();
    match (kind_of(stream), size_of(stream)) {
        (StreamKind::Video, (width, height)) => format!("{codec} {width} x {height}"),
        (kind, _) => format!("{} {codec}", kind.name()),
    }
}

/// Discards all other streams, which demuxers then need not read.
pub(super) fn discard_others(input: &mut Input, stream: usize) {
    // SAFETY: the context is alive and ours, it has as many streams as it says, and the field is a plain enum.
    unsafe {
        let context = input.as_mut_ptr();
        for i in (0..(*context).nb_streams as usize).filter(|&i| i != stream) {
            (**(*context).streams.add(i)).discard = ffi::AVDiscard::AVDISCARD_ALL;
        }
    }
}

/// Reads the header facts of a media file.
pub(super) fn probe(path: &Path, stream: Option<usize>, bounds: Bounds) -> Result<VideoInfo, Error> {
    let (_linked, mut input) = media::open(path, &ReadTimer::new(bounds))?;
    let best = match choose(path, &input, stream) {
        Err(error) if error.kind() == Kind::CoverOnly => None,
        best => Some(best?),
    };
    let duration = (input.duration() > 0).then(|| Seconds(input.duration() as f64 / f64::from(ffi::AV_TIME_BASE)));
    let pixel_aspects: Vec<_> = (0..input.streams().len()).map(|i| pixel_aspect(&mut input, i)).collect();
    let streams =
        input.streams().zip(pixel_aspects).map(|(stream, aspect)| describe(path, &input, &stream, aspect)).collect();
    let container = input.format().description().to_owned();
    Ok(VideoInfo { path: path.to_owned(), container, duration, streams, best })
}

fn kind_of(stream: &ffmpeg::Stream) -> StreamKind {
    match stream.parameters().medium() {
        media_kind::Type::Video => StreamKind::Video,
        media_kind::Type::Audio => StreamKind::Audio,
        media_kind::Type::Subtitle => StreamKind::Subtitle,
        _ => StreamKind::Other,
    }
}

/// Returns whether a stream is an attached image, such as an album's cover.
fn is_cover(stream: &ffmpeg::Stream) -> bool {
    stream.disposition().contains(ffmpeg::format::stream::Disposition::ATTACHED_PIC)
}

fn is_default(stream: &ffmpeg::Stream) -> bool {
    stream.disposition().contains(ffmpeg::format::stream::Disposition::DEFAULT)
}

/// Returns the aspect ratio of a pixel, unless it is square.
fn pixel_aspect(input: &mut Input, stream: usize) -> Option<(i32, i32)> {
    // SAFETY: the context is alive and ours and has a stream of this index; the frame may be null.
    let ratio = unsafe {
        let context = input.as_mut_ptr();
        ffi::av_guess_sample_aspect_ratio(context, *(*context).streams.add(stream), std::ptr::null_mut())
    };
    (ratio.num > 0 && ratio.den > 0 && ratio.num != ratio.den).then_some((ratio.num, ratio.den))
}

fn describe(path: &Path, input: &Input, stream: &ffmpeg::Stream, pixel_aspect: Option<(i32, i32)>) -> StreamInfo {
    let kind = kind_of(stream);
    let frame = (kind == StreamKind::Video).then(|| frame_info(stream)).flatten();
    let rotation = || container_orientation(path, input, stream).describe();
    StreamInfo {
        kind,
        codec: stream.parameters().id().name().to_owned(),
        frame: frame.map(|frame| FrameInfo { pixel_aspect, rotation: rotation(), ..frame }),
        declared_frames: usize::try_from(stream.frames()).ok().filter(|&n| n > 0),
    }
}

fn frame_info(stream: &ffmpeg::Stream) -> Option<FrameInfo> {
    let context = ffmpeg::codec::Context::from_parameters(stream.parameters()).ok()?;
    let video = context.decoder().video().ok()?;
    let rate = stream.avg_frame_rate();
    Some(FrameInfo {
        width: video.width(),
        height: video.height(),
        pixel_aspect: None,
        pixel_format: video.format().descriptor().map_or("unknown", |descriptor| descriptor.name()).to_owned(),
        colour: format!(
            "{}, {}",
            video.color_space().name().unwrap_or("matrix unspecified"),
            match video.color_range() {
                color::Range::JPEG => "full range",
                color::Range::MPEG => "limited range",
                color::Range::Unspecified => "range unspecified",
            }
        ),
        dynamic_range: dynamic_range(&video),
        fields: fields(stream),
        frame_rate: (rate.denominator() != 0 && rate.numerator() != 0).then(|| f64::from(rate)),
        rotation: None,
        is_cover: is_cover(stream),
    })
}

/// Returns transfer and primaries of a video of high dynamic range (ITU-R BT.2100).
fn dynamic_range(video: &ffmpeg::decoder::Video) -> Option<String> {
    let transfer = match video.color_transfer_characteristic() {
        color::TransferCharacteristic::SMPTE2084 => "PQ (smpte2084)",
        color::TransferCharacteristic::ARIB_STD_B67 => "HLG (arib-std-b67)",
        _ => return None,
    };
    let primaries = video.color_primaries().name().unwrap_or("unspecified");
    Some(format!("HDR {transfer}, primaries {primaries}"))
}

/// Returns the field order of an interlaced stream.
fn fields(stream: &ffmpeg::Stream) -> Option<&'static str> {
    use ffi::AVFieldOrder::{AV_FIELD_BB, AV_FIELD_BT, AV_FIELD_TB, AV_FIELD_TT};
    // SAFETY: the parameters live as long as the stream, and the field is a plain enum.
    match unsafe { (*stream.parameters().as_ptr()).field_order } {
        AV_FIELD_TT => Some("interlaced, top field first"),
        AV_FIELD_BB => Some("interlaced, bottom field first"),
        AV_FIELD_TB => Some("interlaced, top field coded first, bottom field shown first"),
        AV_FIELD_BT => Some("interlaced, bottom field coded first, top field shown first"),
        _ => None,
    }
}
