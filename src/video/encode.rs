//! Writing clips: H.264, VP9 and GIF. For sample videos, not for archives: pictures in memory, one stream, no sound.

use std::path::{Path, PathBuf};

use ::image::codecs::gif::{GifEncoder, Repeat};
use ::image::{Delay, RgbImage};
use ffmpeg_next as ffmpeg;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::software::scaling;
use ffmpeg_next::util::frame;

use crate::files::{Durability, OutputFile};

/// How a clip is stored.
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
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mp4, Self::Webm, Self::Gif];

    /// What its files' names end in, without the dot.
    pub fn extension(self) -> &'static str {
        self.into()
    }

    /// FFmpeg's encoder and its options; one thread, so that the same pictures give the same file.
    fn encoder(self) -> (&'static str, &'static [(&'static str, &'static str)]) {
        match self {
            Self::Webm => ("libvpx-vp9", &[("crf", "24"), ("b", "0"), ("threads", "1"), ("row-mt", "0")]),
            Self::Mp4 | Self::Gif => ("libx264", &[("crf", "18"), ("preset", "medium"), ("threads", "1")]),
        }
    }
}

/// Why a clip could not be written.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// There is nothing to write.
    #[error("{path}: a clip needs at least one picture, and all of the size of the first")]
    Pictures {
        /// The file.
        path: PathBuf,
    },
    /// This FFmpeg has no such encoder.
    #[error("{path}: this FFmpeg has no encoder {encoder}; hint: another format, or a full build of FFmpeg")]
    NoEncoder {
        /// The file.
        path: PathBuf,
        /// FFmpeg's name for it.
        encoder: &'static str,
    },
    /// FFmpeg, the GIF encoder or the system refuses.
    #[error("{path}: {cause}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// Their words.
        cause: String,
    },
}

/// Writes pictures as a clip of `rate` frames a second.
///
/// # Errors
/// [`EncodeError`] naming the file; what was there before then stands.
pub fn write_clip(
    path: &Path,
    format: ClipFormat,
    rate: u32,
    pictures: &mut dyn Iterator<Item = RgbImage>,
) -> Result<(), EncodeError> {
    let refused = |cause: String| EncodeError::Refused { path: path.to_owned(), cause };
    let mut output = OutputFile::create(path).map_err(|error| refused(error.to_string()))?;
    if format == ClipFormat::Gif {
        write_gif(&mut output, rate, pictures).map_err(|error| refused(error.to_string()))?;
        return output.finish(Durability::Renamed).map_err(|error| refused(error.to_string()));
    }
    // FFmpeg writes by name, and goes back to the beginning for the index.
    let unfinished = output.path().ok_or_else(|| refused("a clip is written to a file".to_owned()))?.to_owned();
    let wrong_pictures = || EncodeError::Pictures { path: path.to_owned() };
    let first = pictures.next().ok_or_else(wrong_pictures)?;
    let size = first.dimensions();
    let mut writer = Writer::open((path, &unfinished), format, rate, size)?;
    for picture in std::iter::once(first).chain(pictures) {
        if picture.dimensions() != size {
            return Err(wrong_pictures());
        }
        writer.push(&picture).map_err(|error| refused(error.to_string()))?;
    }
    writer.finish().map_err(|error| refused(error.to_string()))?;
    output.finish(Durability::Renamed).map_err(|error| refused(error.to_string()))
}

fn write_gif(
    file: &mut OutputFile,
    rate: u32,
    pictures: &mut dyn Iterator<Item = RgbImage>,
) -> ::image::ImageResult<()> {
    // Speed 1 is the best palette.
    let mut encoder = GifEncoder::new_with_speed(file, 1);
    encoder.set_repeat(Repeat::Infinite)?;
    for picture in pictures {
        let picture = ::image::DynamicImage::ImageRgb8(picture).into_rgba8();
        let delay = Delay::from_numer_denom_ms(1000, rate);
        encoder.encode_frame(::image::Frame::from_parts(picture, 0, 0, delay))?;
    }
    Ok(())
}

/// An open file with its encoder.
struct Writer {
    output: ffmpeg::format::context::Output,
    encoder: ffmpeg::encoder::Video,
    scaler: scaling::Context,
    time_base: ffmpeg::Rational,
    n_frames: i64,
}

impl Writer {
    /// Opens `unfinished`, which errors call `path`.
    fn open(
        (path, unfinished): (&Path, &Path),
        format: ClipFormat,
        rate: u32,
        (width, height): (u32, u32),
    ) -> Result<Self, EncodeError> {
        let refused = |error: ffmpeg::Error| EncodeError::Refused { path: path.to_owned(), cause: error.to_string() };
        ffmpeg::init().map_err(refused)?;
        // x264 tells its life story at every file.
        ffmpeg::log::set_level(ffmpeg::log::Level::Quiet);
        let (name, options) = format.encoder();
        let codec = ffmpeg::encoder::find_by_name(name);
        let codec = codec.ok_or_else(|| EncodeError::NoEncoder { path: path.to_owned(), encoder: name })?;
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
            // What the scaler below makes of RGB, said plainly, so that no player has to guess.
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
            // No random ids and dates in the file.
            let mut header = ffmpeg::Dictionary::new();
            header.set("fflags", "+bitexact");
            output.write_header_with(header)?;
            let flags = scaling::Flags::BICUBIC | scaling::Flags::ACCURATE_RND | scaling::Flags::FULL_CHR_H_INP;
            let scaler = scaling::Context::get(Pixel::RGB24, width, height, Pixel::YUV420P, width, height, flags)?;
            Ok(Self { output, encoder, scaler, time_base, n_frames: 0 })
        };
        open().map_err(refused)
    }

    fn push(&mut self, picture: &RgbImage) -> Result<(), ffmpeg::Error> {
        let mut rgb = frame::Video::new(Pixel::RGB24, picture.width(), picture.height());
        let stride = rgb.stride(0);
        let row = 3 * picture.width() as usize;
        for (to, from) in rgb.data_mut(0).chunks_mut(stride).zip(picture.as_raw().chunks_exact(row)) {
            to[..row].copy_from_slice(from);
        }
        let mut yuv = frame::Video::empty();
        self.scaler.run(&rgb, &mut yuv)?;
        yuv.set_pts(Some(self.n_frames));
        self.n_frames += 1;
        self.encoder.send_frame(&yuv)?;
        self.drain()
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
            // Without it the last frame lasts no time at all, and MP4's edit list cuts it.
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
