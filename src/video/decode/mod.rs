//! FFmpeg: decoding in presentation order, from front to back or by seeking. Files are opened in `demux`.
//!
//! It knows nothing of sampling. Errors of single packets are
//! counted in [`Damage`] and passed over; only what stops everything is an error.

mod scaler;
mod seek;

use std::path::Path;
use std::sync::Arc;

use ::image::RgbImage;
use ffmpeg::codec::threading;
use ffmpeg::{Rational, frame, packet};
use ffmpeg_next as ffmpeg;

use self::scaler::{Layout, Scaler};
pub(super) use self::seek::{Fetched, fetch};
use crate::units::Seconds;
use crate::video::VideoError;
use crate::video::demux::{MAX_ERRORS, Media, best_video_stream, decoder_options, may_read_on, seconds, size_of};
use crate::video::frame::Orientation;
use crate::video::limits::{ReadLimits, Spent};
use crate::video::reader::{Damage, FrameSource};

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
        Self::of(path, Media::open(path, limits, spent)?, limits, Errors::Hidden)
    }

    fn of(path: &Path, media: Media, limits: &ReadLimits, errors: Errors) -> Result<Self, VideoError> {
        let stream = best_video_stream(path, &media.input)?;
        let (index, time_base) = (stream.index(), stream.time_base());
        let orientation = orientation_of(&stream);
        let damage =
            Damage { n_declared: usize::try_from(stream.frames()).ok().filter(|&n| n > 0), ..Damage::default() };
        let decoder = open_decoder(path, &stream, limits, errors)?;
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
        if self.scaler.as_ref().is_none_or(|scaler| scaler.layout() != layout) {
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

/// What a decoder does with what it cannot make sense of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Errors {
    /// It makes the best of it: of a damaged picture that is better than nothing.
    Hidden,
    /// It refuses. What errors are hidden with may depend on what was decoded before.
    Told,
}

fn open_decoder(
    path: &Path,
    stream: &ffmpeg::Stream,
    limits: &ReadLimits,
    errors: Errors,
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
    let mut options = decoder_options(limits);
    if errors == Errors::Told {
        options.set("err_detect", "explode");
    }
    decoder.open_as_with(codec, options).and_then(ffmpeg::codec::decoder::Opened::video).map_err(failed)
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
