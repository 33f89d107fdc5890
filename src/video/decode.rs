//! FFmpeg: decoding in presentation order, converting to RGB. Files are opened in `demux`.
//!
//! It knows nothing of sampling. Errors of single packets are
//! counted in [`Damage`] and passed over; only what stops everything is an error.

use std::path::Path;
use std::sync::Arc;

use ::image::RgbImage;
use ffmpeg::codec::threading;
use ffmpeg::format::Pixel;
use ffmpeg::software::scaling;
use ffmpeg::{Rational, color, ffi, frame, packet};
use ffmpeg_next as ffmpeg;

use super::VideoError;
use super::demux::{MAX_ERRORS, Media, best_video_stream, decoder_options, may_read_on, seconds};
use super::frame::Orientation;
use super::limits::{ReadLimits, Spent};
use super::reader::{Damage, FrameSource};
use crate::units::Seconds;

/// The best video stream of a media file, decoded front to back.
pub(super) struct VideoFile {
    media: Media,
    stream: usize,
    time_base: Rational,
    decoder: ffmpeg::decoder::Video,
    orientation: Orientation,
    scaler: Option<Scaler>,
    current: frame::Video,
    draining: bool,
    /// Failures in a row: a decoder or demuxer that only fails must not hold us for ever.
    read_errors: usize,
    decode_errors: usize,
    damage: Damage,
}

impl VideoFile {
    pub(super) fn open(path: &Path, limits: &ReadLimits, spent: &Arc<Spent>) -> Result<Self, VideoError> {
        let media = Media::open(path, limits, spent)?;
        let stream = best_video_stream(path, &media.input)?;
        let (index, time_base) = (stream.index(), stream.time_base());
        let orientation = orientation_of(&stream);
        let damage =
            Damage { n_declared: usize::try_from(stream.frames()).ok().filter(|&n| n > 0), ..Damage::default() };
        let decoder = open_decoder(path, &stream, limits)?;
        Ok(Self {
            media,
            stream: index,
            time_base,
            decoder,
            orientation,
            scaler: None,
            current: frame::Video::empty(),
            draining: false,
            read_errors: 0,
            decode_errors: 0,
            damage,
        })
    }

    /// Feeds the decoder one packet of our stream, or the end of the stream.
    fn feed(&mut self) {
        let packet = loop {
            // A packet must not be read into twice: FFmpeg would forget the bytes of the first time, not free them.
            let mut packet = ffmpeg::Packet::empty();
            match packet.read(&mut self.media.input) {
                Ok(()) if packet.stream() == self.stream => {
                    self.read_errors = 0;
                    break packet;
                }
                Ok(()) => {}
                Err(ffmpeg::Error::Eof) => return self.drain(),
                Err(error) => {
                    self.damage.note(format!("reading: {error}"));
                    self.read_errors += 1;
                    if self.read_errors >= MAX_ERRORS || !may_read_on(error) {
                        return self.drain();
                    }
                }
            }
        };
        if packet.is_corrupt() {
            self.damage.note("the container marks a packet as corrupt".to_owned());
        }
        // EAGAIN cannot come: every frame was received before this packet was sent.
        if let Err(error) = self.decoder.send_packet(&packet) {
            self.damage.note(format!("decoding: {error}"));
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        if let Err(error) = self.decoder.send_eof() {
            self.damage.note(format!("decoding: {error}"));
        }
    }
}

impl FrameSource for VideoFile {
    fn advance(&mut self) -> Result<Option<Option<Seconds>>, VideoError> {
        loop {
            match self.decoder.receive_frame(&mut self.current) {
                Ok(()) => {
                    self.decode_errors = 0;
                    let ticks = self.current.timestamp().or(self.current.pts());
                    return Ok(Some(ticks.map(|ticks| seconds(ticks, self.time_base))));
                }
                Err(ffmpeg::Error::Eof) => return Ok(None),
                Err(ffmpeg::Error::Other { errno }) if errno == ffmpeg::error::EAGAIN => {
                    if self.draining {
                        return Ok(None);
                    }
                    self.feed();
                }
                Err(error) => {
                    self.damage.note(format!("decoding: {error}"));
                    self.decode_errors += 1;
                    if self.decode_errors >= MAX_ERRORS {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn is_key(&self) -> bool {
        self.current.is_key()
    }

    fn picture(&mut self) -> Result<RgbImage, String> {
        let orientation = frame_orientation(&self.current).unwrap_or(self.orientation);
        let layout = Layout::of(&self.current);
        if self.scaler.as_ref().is_none_or(|scaler| scaler.layout != layout) {
            self.scaler = Some(Scaler::new(layout)?);
        }
        let scaler = self.scaler.as_mut().ok_or("no scaler")?;
        Ok(orientation.apply(scaler.convert(&self.current)?))
    }

    fn damage(&self) -> &Damage {
        &self.damage
    }
}

/// The first frame of a file: an image that FFmpeg reads as a video of one frame.
pub(super) fn first_picture(path: &Path, limits: &ReadLimits, spent: &Arc<Spent>) -> Result<RgbImage, VideoError> {
    let mut file = VideoFile::open(path, limits, spent)?;
    let nothing = |cause: String| VideoError::NoFrames { path: path.to_owned(), cause };
    match file.advance()? {
        Some(_) => file.picture().map_err(nothing),
        None => Err(nothing(file.damage.first.clone().unwrap_or_else(|| "the stream is empty".to_owned()))),
    }
}

fn open_decoder(
    path: &Path,
    stream: &ffmpeg::Stream,
    limits: &ReadLimits,
) -> Result<ffmpeg::decoder::Video, VideoError> {
    let id = stream.parameters().id();
    let failed = |error: ffmpeg::Error| VideoError::Decoder {
        path: path.to_owned(),
        codec: id.name().to_owned(),
        cause: error.to_string(),
    };
    let codec = ffmpeg::decoder::find(id).ok_or_else(|| failed(ffmpeg::Error::DecoderNotFound))?;
    let mut context = ffmpeg::codec::Context::from_parameters(stream.parameters()).map_err(failed)?;
    // Frame threads where the codec can, else slices.
    let (kind, count) = (threading::Type::Frame, limits.threads);
    context.set_threading(threading::Config { kind, count, ..threading::Config::default() });
    let mut decoder = context.decoder();
    let (width, height) = size_of(stream);
    limits.check_frame(path, width, height)?;
    decoder.set_packet_time_base(stream.time_base());
    decoder.open_as_with(codec, decoder_options(limits)).and_then(ffmpeg::codec::decoder::Opened::video).map_err(failed)
}

/// Width and height that the header claims.
fn size_of(stream: &ffmpeg::Stream) -> (u32, u32) {
    // SAFETY: the parameters live as long as the stream, and the fields are plain numbers.
    let (width, height) = unsafe {
        let parameters = stream.parameters();
        ((*parameters.as_ptr()).width, (*parameters.as_ptr()).height)
    };
    (u32::try_from(width).unwrap_or(0), u32::try_from(height).unwrap_or(0))
}

pub(super) fn orientation_of(stream: &ffmpeg::Stream) -> Orientation {
    stream
        .side_data()
        .find(|data| data.kind() == packet::side_data::Type::DisplayMatrix)
        .and_then(|data| parse_matrix(data.data()))
        .map_or(Orientation::Upright, |matrix| Orientation::from_display_matrix(&matrix))
}

/// The rotation that a frame carries itself, as H.264 and HEVC may tell in their own messages.
fn frame_orientation(frame: &frame::Video) -> Option<Orientation> {
    let data = frame.side_data(frame::side_data::Type::DisplayMatrix)?;
    parse_matrix(data.data()).map(|matrix| Orientation::from_display_matrix(&matrix))
}

fn parse_matrix(bytes: &[u8]) -> Option<[i32; 9]> {
    let mut matrix = [0; 9];
    for (cell, bytes) in matrix.iter_mut().zip(bytes.get(..36)?.chunks_exact(4)) {
        *cell = i32::from_ne_bytes(bytes.try_into().ok()?);
    }
    Some(matrix)
}

/// Everything about a decoded frame that its conversion to RGB depends on.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Layout {
    format: Pixel,
    width: u32,
    height: u32,
    space: color::Space,
    range: color::Range,
}

impl Layout {
    fn of(frame: &frame::Video) -> Self {
        Self {
            format: frame.format(),
            width: frame.width(),
            height: frame.height(),
            space: frame.color_space(),
            range: frame.color_range(),
        }
    }
}

/// Conversion of frames of one layout to RGB.
struct Scaler {
    layout: Layout,
    context: scaling::Context,
    rgb: frame::Video,
}

impl Scaler {
    fn new(layout: Layout) -> Result<Self, String> {
        let Layout { format, width, height, .. } = layout;
        // The size stays; the flags concern chroma: interpolated to full resolution, rounded, not truncated.
        let flags = scaling::Flags::BICUBIC | scaling::Flags::ACCURATE_RND | scaling::Flags::FULL_CHR_H_INT;
        let context = scaling::Context::get(format, width, height, Pixel::RGB24, width, height, flags)
            .map_err(|error| format!("{format:?} {width}x{height}: {error}"))?;
        let mut scaler = Self { layout, context, rgb: frame::Video::empty() };
        scaler.set_colours();
        Ok(scaler)
    }

    /// Tells the scaler the stream's own matrix and range. A stream that names no matrix is read as BT.601,
    /// as FFmpeg does and as the reference's frames were.
    fn set_colours(&mut self) {
        let full_range = match self.layout.range {
            color::Range::JPEG => 1,
            color::Range::MPEG => 0,
            color::Range::Unspecified => i32::from(is_full_range_format(self.layout.format)),
        };
        let space = ffi::AVColorSpace::from(self.layout.space) as i32;
        // SAFETY: the context is alive and ours, and `sws_getCoefficients` gives static tables, for any number.
        // Formats without a matrix (RGB, gray) are refused with a code, and there is nothing to set for them.
        unsafe {
            let source = ffi::sws_getCoefficients(space);
            let target = ffi::sws_getCoefficients(ffi::SWS_CS_DEFAULT);
            ffi::sws_setColorspaceDetails(
                self.context.as_mut_ptr(),
                source,
                full_range,
                target,
                1,
                0,
                1 << 16,
                1 << 16,
            );
        }
    }

    fn convert(&mut self, frame: &frame::Video) -> Result<RgbImage, String> {
        let Layout { format, width, height, .. } = self.layout;
        self.context.run(frame, &mut self.rgb).map_err(|error| format!("{format:?} {width}x{height}: {error}"))?;
        let (row, stride) = (width as usize * 3, self.rgb.stride(0));
        let mut pixels = Vec::with_capacity(row * height as usize);
        for line in self.rgb.data(0).chunks(stride).take(height as usize) {
            pixels.extend_from_slice(&line[..row]);
        }
        RgbImage::from_raw(width, height, pixels).ok_or_else(|| format!("{format:?} {width}x{height}: short picture"))
    }
}

/// The formats whose name alone says full range.
fn is_full_range_format(format: Pixel) -> bool {
    matches!(format, Pixel::YUVJ420P | Pixel::YUVJ422P | Pixel::YUVJ444P | Pixel::YUVJ440P | Pixel::YUVJ411P)
}
