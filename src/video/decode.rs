//! FFmpeg: opening, counting packets, decoding in presentation order, converting to RGB.
//!
//! The only file that names `ffmpeg_next`. It knows nothing of sampling. Errors of single packets are
//! counted in [`Damage`] and passed over; only what stops everything is an error.

use std::path::Path;
use std::sync::Once;

use ::image::RgbImage;
use ffmpeg::codec::threading;
use ffmpeg::format::Pixel;
use ffmpeg::format::context::Input;
use ffmpeg::software::scaling;
use ffmpeg::{Dictionary, Rational, color, ffi, frame, media, packet};
use ffmpeg_next as ffmpeg;

use super::frame::Orientation;
use super::probe::PictureInfo;
use super::reader::{Damage, FrameSource};
use super::sample::{FrameFact, Timeline};
use super::window::Side;
use super::{StreamInfo, StreamKind, VideoError, VideoInfo, Window};
use crate::units::Seconds;

/// A frame beyond this is refused by the decoder: no real picture is, and its memory would be gigabytes.
const MAX_PIXELS: &str = "268435456";
/// What fails this often in a row has nothing more to give.
const MAX_ERRORS: usize = 10_000;

/// The best video stream of a media file, decoded front to back.
pub(super) struct VideoFile {
    input: Input,
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
    pub(super) fn open(path: &Path) -> Result<Self, VideoError> {
        let input = open_input(path)?;
        let stream = best_video_stream(path, &input)?;
        let (index, time_base) = (stream.index(), stream.time_base());
        let orientation = orientation_of(&stream);
        let damage =
            Damage { n_declared: usize::try_from(stream.frames()).ok().filter(|&n| n > 0), ..Damage::default() };
        let decoder = open_decoder(path, &stream)?;
        Ok(Self {
            input,
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
            match packet.read(&mut self.input) {
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

/// The frames inside `window` by their packets, leaving out those that an edit list discards.
pub(super) fn packet_timeline(path: &Path, window: &Window) -> Result<Timeline, VideoError> {
    let mut input = open_input(path)?;
    let stream = best_video_stream(path, &input)?;
    let (index, time_base) = (stream.index(), stream.time_base());
    let (mut frames, mut errors) = (Vec::new(), 0);
    loop {
        let mut packet = ffmpeg::Packet::empty();
        match packet.read(&mut input) {
            Ok(()) if packet.stream() == index && !is_discarded(&packet) => {
                let time = packet.pts().or(packet.dts()).map(|ticks| seconds(ticks, time_base));
                if time.is_none_or(|time| window.side(time) == Side::Inside) {
                    frames.push(FrameFact { time, is_key: packet.is_key() });
                }
            }
            Ok(()) => {}
            Err(error) => {
                errors += 1;
                if error == ffmpeg::Error::Eof || errors >= MAX_ERRORS || !may_read_on(error) {
                    // Packets come in decoding order. Where some have no time, nothing better is known.
                    if frames.iter().all(|frame| frame.time.is_some()) {
                        frames.sort_by(|a, b| a.time.partial_cmp(&b.time).unwrap_or(std::cmp::Ordering::Equal));
                    }
                    return Ok(Timeline { frames, distances: Vec::new() });
                }
            }
        }
    }
}

/// The header facts of a media file.
pub(super) fn probe(path: &Path) -> Result<VideoInfo, VideoError> {
    let input = open_input(path)?;
    let best = best_video_stream(path, &input)?.index();
    let duration = (input.duration() > 0).then(|| Seconds(input.duration() as f64 / f64::from(ffi::AV_TIME_BASE)));
    Ok(VideoInfo {
        path: path.to_owned(),
        container: input.format().description().to_owned(),
        duration,
        streams: input.streams().map(|stream| describe(&stream)).collect(),
        best,
    })
}

/// The first frame of a file: an image that FFmpeg reads as a video of one frame.
pub(super) fn first_picture(path: &Path) -> Result<RgbImage, VideoError> {
    let mut file = VideoFile::open(path)?;
    let nothing = |cause: String| VideoError::NoFrames { path: path.to_owned(), cause };
    match file.advance()? {
        Some(_) => file.picture().map_err(nothing),
        None => Err(nothing(file.damage.first.clone().unwrap_or_else(|| "the stream is empty".to_owned()))),
    }
}

fn open_input(path: &Path) -> Result<Input, VideoError> {
    static QUIET: Once = Once::new();
    // What FFmpeg would print is told by this program, with the file's name: see `Damage`.
    QUIET.call_once(|| {
        // It also fills the table of error texts; it cannot fail.
        let _ = ffmpeg::init();
        ffmpeg::log::set_level(ffmpeg::log::Level::Quiet);
    });
    let owned = || path.to_owned();
    let meta = std::fs::metadata(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => VideoError::NotFound { path: owned() },
        _ => VideoError::Io { path: owned(), source },
    })?;
    if !meta.is_file() {
        return Err(VideoError::NotRegular { path: owned() });
    }
    if meta.len() == 0 {
        return Err(VideoError::Empty { path: owned() });
    }
    std::fs::File::open(path).map_err(|source| VideoError::Io { path: owned(), source })?;
    let name = path.to_str().filter(|name| !name.contains('\0')).ok_or_else(|| VideoError::Name { path: owned() })?;
    let mut options = Dictionary::new();
    // A playlist must not reach the network, and a name with a colon is no protocol.
    options.set("protocol_whitelist", "file,crypto,data");
    let input = ffmpeg::format::input_with_dictionary(&format!("file:{name}"), options)
        .map_err(|error| VideoError::NotMedia { path: owned(), cause: error.to_string() })?;
    if input.format().name() == "tty" {
        return Err(VideoError::NotMedia { path: owned(), cause: "it holds text".to_owned() });
    }
    Ok(input)
}

fn best_video_stream<'a>(path: &Path, input: &'a Input) -> Result<ffmpeg::Stream<'a>, VideoError> {
    input.streams().best(media::Type::Video).ok_or_else(|| {
        let kinds: Vec<String> = input
            .streams()
            .map(|stream| format!("{} {}", kind_of(&stream).name(), stream.parameters().id().name()))
            .collect();
        VideoError::NoVideoStream { path: path.to_owned(), n_streams: kinds.len(), kinds: kinds.join(", ") }
    })
}

fn open_decoder(path: &Path, stream: &ffmpeg::Stream) -> Result<ffmpeg::decoder::Video, VideoError> {
    let id = stream.parameters().id();
    let failed = |error: ffmpeg::Error| VideoError::Decoder {
        path: path.to_owned(),
        codec: id.name().to_owned(),
        cause: error.to_string(),
    };
    let codec = ffmpeg::decoder::find(id).ok_or_else(|| failed(ffmpeg::Error::DecoderNotFound))?;
    let mut context = ffmpeg::codec::Context::from_parameters(stream.parameters()).map_err(failed)?;
    // Zero threads: as many as the machine has cores; frame threads where the codec can, else slices.
    context.set_threading(threading::Config { kind: threading::Type::Frame, count: 0, ..threading::Config::default() });
    let mut decoder = context.decoder();
    decoder.set_packet_time_base(stream.time_base());
    let mut options = Dictionary::new();
    options.set("max_pixels", MAX_PIXELS);
    decoder.open_as_with(codec, options).and_then(ffmpeg::codec::decoder::Opened::video).map_err(failed)
}

/// Whether a demuxer may have more packets after this error.
fn may_read_on(error: ffmpeg::Error) -> bool {
    error == ffmpeg::Error::InvalidData || error == ffmpeg::Error::Other { errno: ffmpeg::error::EAGAIN }
}

/// Whether an edit list cuts this packet's frame out of the presentation.
fn is_discarded(packet: &ffmpeg::Packet) -> bool {
    use packet::Ref;
    // SAFETY: the packet is alive, and `flags` is a plain field. ffmpeg-next's own flags leave this bit out.
    unsafe { (*packet.as_ptr()).flags & ffi::AV_PKT_FLAG_DISCARD != 0 }
}

fn seconds(ticks: i64, time_base: Rational) -> Seconds {
    Seconds(ticks as f64 * f64::from(time_base.numerator()) / f64::from(time_base.denominator()))
}

fn kind_of(stream: &ffmpeg::Stream) -> StreamKind {
    match stream.parameters().medium() {
        media::Type::Video => StreamKind::Video,
        media::Type::Audio => StreamKind::Audio,
        media::Type::Subtitle => StreamKind::Subtitle,
        _ => StreamKind::Other,
    }
}

fn describe(stream: &ffmpeg::Stream) -> StreamInfo {
    let kind = kind_of(stream);
    StreamInfo {
        kind,
        codec: stream.parameters().id().name().to_owned(),
        picture: (kind == StreamKind::Video).then(|| describe_picture(stream)).flatten(),
        declared_frames: usize::try_from(stream.frames()).ok().filter(|&n| n > 0),
    }
}

fn describe_picture(stream: &ffmpeg::Stream) -> Option<PictureInfo> {
    let context = ffmpeg::codec::Context::from_parameters(stream.parameters()).ok()?;
    let video = context.decoder().video().ok()?;
    let rate = stream.avg_frame_rate();
    Some(PictureInfo {
        width: video.width(),
        height: video.height(),
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
        frame_rate: (rate.denominator() != 0 && rate.numerator() != 0).then(|| f64::from(rate)),
        rotation: orientation_of(stream).describe(),
    })
}

fn orientation_of(stream: &ffmpeg::Stream) -> Orientation {
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
