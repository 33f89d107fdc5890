//! Encoding of clips: H.264, VP9 and GIF. For sample videos, not for archives: frames in memory, one stream, no audio.

use std::path::Path;

use ::image::codecs::gif::{GifEncoder, Repeat};
use ::image::{Delay, RgbImage};
use ffmpeg_next as ffmpeg;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::software::scaling;
use ffmpeg_next::util::frame;

use super::scale::scale_into;
use crate::error::{About as _, Error, Kind};
use crate::files::{Durability, OutputFile};

/// Container and codec of a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum ClipFormat {
    /// H.264 in MP4.
    Mp4,
    /// VP9 in WebM.
    Webm,
    /// An animated GIF.
    Gif,
}

impl ClipFormat {
    /// All formats.
    pub const ALL: [Self; 3] = [Self::Mp4, Self::Webm, Self::Gif];

    /// Extension of file names, without the dot.
    pub fn extension(self) -> &'static str {
        self.into()
    }

    /// Returns FFmpeg's encoder and its options; one thread, so that equal frames give equal files.
    fn encoder(self) -> (&'static str, &'static [(&'static str, &'static str)]) {
        match self {
            Self::Webm => ("libvpx-vp9", &[("crf", "24"), ("b", "0"), ("threads", "1"), ("row-mt", "0")]),
            Self::Mp4 | Self::Gif => ("libx264", &[("crf", "18"), ("preset", "medium"), ("threads", "1")]),
        }
    }
}

/// Writes frames as a clip of `rate` frames a second.
///
/// # Errors
/// [`Error`] naming the file; what was there before then stands.
pub fn write_clip(
    path: &Path,
    format: ClipFormat,
    rate: u32,
    frames: &mut dyn Iterator<Item = RgbImage>,
) -> Result<(), Error> {
    let refused = |cause: String| Error::new(Kind::Unreadable, cause).about(path);
    let mut output = OutputFile::create(path).about(path)?;
    if format == ClipFormat::Gif {
        write_gif(&mut output, rate, frames).map_err(|error| refused(error.to_string()))?;
        return output.finish(Durability::Renamed).about(path);
    }
    // FFmpeg writes by name, and goes back to the beginning for the index.
    let unfinished = output.path().ok_or_else(|| refused("a clip is written to a file".to_owned()))?.to_owned();
    let wrong_frames =
        || Error::invalid("a clip needs at least one frame, and all of the size of the first").about(path);
    let first = frames.next().ok_or_else(wrong_frames)?;
    let size = first.dimensions();
    let stream = ClipStream { format, rate, width: size.0, height: size.1 };
    let mut writer = ClipWriter::open(path, &unfinished, &stream)?;
    for frame in std::iter::once(first).chain(frames) {
        if frame.dimensions() != size {
            return Err(wrong_frames());
        }
        writer.push(&frame).map_err(|error| refused(error.to_string()))?;
    }
    writer.finish().map_err(|error| refused(error.to_string()))?;
    output.finish(Durability::Renamed).about(path)
}

fn write_gif(file: &mut OutputFile, rate: u32, frames: &mut dyn Iterator<Item = RgbImage>) -> ::image::ImageResult<()> {
    // Speed 1 is the best palette.
    let mut encoder = GifEncoder::new_with_speed(file, 1);
    encoder.set_repeat(Repeat::Infinite)?;
    for frame in frames {
        let image = ::image::DynamicImage::ImageRgb8(frame).into_rgba8();
        let delay = Delay::from_numer_denom_ms(1000, rate);
        encoder.encode_frame(::image::Frame::from_parts(image, 0, 0, delay))?;
    }
    Ok(())
}

/// Format, rate and size of the video stream of a clip.
struct ClipStream {
    format: ClipFormat,
    /// Frames a second.
    rate: u32,
    width: u32,
    height: u32,
}

/// An open file with its encoder.
struct ClipWriter {
    output: ffmpeg::format::context::Output,
    encoder: ffmpeg::encoder::Video,
    scaler: scaling::Context,
    time_base: ffmpeg::Rational,
    n_frames: i64,
}

impl ClipWriter {
    /// Opens `unfinished`, which errors name `path`.
    fn open(path: &Path, unfinished: &Path, stream: &ClipStream) -> Result<Self, Error> {
        let &ClipStream { format, rate, width, height } = stream;
        let refused = |error: ffmpeg::Error| Error::caused_by(Kind::Unreadable, error).about(path);
        ffmpeg::init().map_err(refused)?;
        // x264 logs statistics of every file.
        ffmpeg::log::set_level(ffmpeg::log::Level::Quiet);
        let (name, options) = format.encoder();
        let codec = ffmpeg::encoder::find_by_name(name);
        let codec = codec.ok_or_else(|| {
            let error = Error::invalid(format!("this FFmpeg has no encoder {name}"));
            error.with_hint("another format, or a full build of FFmpeg").about(path)
        })?;
        let time_base = ffmpeg::Rational(1, rate.max(1) as i32);
        let open = || {
            let mut output = ffmpeg::format::output_as(&unfinished, format.extension())?;
            let global_header = output.format().flags().contains(ffmpeg::format::Flags::GLOBAL_HEADER);
            let mut stream = output.add_stream(codec)?;
            let mut encoder = ffmpeg::codec::context::Context::new_with_codec(codec).encoder().video()?;
            encoder.set_width(width);
            encoder.set_height(height);
            encoder.set_format(Pixel::YUV420P);
            encoder.set_time_base(time_base);
            encoder.set_frame_rate(Some(time_base.invert()));
            // The matrix and range that the scaler below produces, written into the file for players.
            encoder.set_colorspace(ffmpeg::color::Space::SMPTE170M);
            encoder.set_color_range(ffmpeg::color::Range::MPEG);
            if global_header {
                encoder.set_flags(ffmpeg::codec::Flags::GLOBAL_HEADER);
            }
            let mut dictionary = ffmpeg::Dictionary::new();
            options.iter().for_each(|(key, value)| dictionary.set(key, value));
            let encoder = encoder.open_with(dictionary)?;
            stream.set_parameters(&encoder);
            stream.set_time_base(time_base);
            // No random identifiers and dates in the file.
            let mut header = ffmpeg::Dictionary::new();
            header.set("fflags", "+bitexact");
            output.write_header_with(header)?;
            let flags = scaling::Flags::BICUBIC | scaling::Flags::ACCURATE_RND | scaling::Flags::FULL_CHR_H_INP;
            let scaler = scaling::Context::get(Pixel::RGB24, width, height, Pixel::YUV420P, width, height, flags)?;
            Ok(Self { output, encoder, scaler, time_base, n_frames: 0 })
        };
        open().map_err(refused)
    }

    fn push(&mut self, image: &RgbImage) -> Result<(), Error> {
        let mut rgb = frame::Video::new(Pixel::RGB24, image.width(), image.height());
        let stride = rgb.stride(0);
        let row = 3 * image.width() as usize;
        for (to, from) in rgb.data_mut(0).chunks_mut(stride).zip(image.as_raw().chunks_exact(row)) {
            to[..row].copy_from_slice(from);
        }
        let mut yuv = frame::Video::new(Pixel::YUV420P, image.width(), image.height());
        // SAFETY: the context converts RGB to YUV420P of the size of all frames, and `yuv` has planes of that size.
        unsafe {
            let target = yuv.as_mut_ptr();
            scale_into(&mut self.scaler, &rgb, &(*target).data, &(*target).linesize)?;
        }
        yuv.set_pts(Some(self.n_frames));
        self.n_frames += 1;
        let sent = self.encoder.send_frame(&yuv).and_then(|()| self.drain());
        sent.map_err(|error| Error::caused_by(Kind::NoConversion, error))
    }

    /// Writes the packets that are ready.
    fn drain(&mut self) -> Result<(), ffmpeg::Error> {
        let stream_base = self.output.stream(0).map_or(self.time_base, |stream| stream.time_base());
        loop {
            let mut packet = ffmpeg::Packet::empty();
            if self.encoder.receive_packet(&mut packet).is_err() {
                return Ok(());
            }
            packet.set_stream(0);
            // Without a duration the last frame lasts no time at all, and MP4's edit list discards it.
            packet.set_duration(1);
            packet.rescale_ts(self.time_base, stream_base);
            packet.write_interleaved(&mut self.output)?;
        }
    }

    fn finish(mut self) -> Result<(), ffmpeg::Error> {
        self.encoder.send_eof()?;
        self.drain()?;
        self.output.write_trailer()
    }
}
