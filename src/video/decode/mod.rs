//! FFmpeg: decoding of a video stream in presentation order, from front to back (here) or by seeking (`seek`).
//!
//! Files are opened in `media`; sampling is the reader's. Errors of single packets are counted in [`Damage`] and
//! skipped; only a failure of the whole reading is an error.

mod jpeg;
mod open;
mod order;
mod orientation;
mod scaler;
mod seek;
mod signs;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::image::RgbImage;
use ffmpeg::{Rational, frame};
use ffmpeg_next as ffmpeg;

use self::open::{DecoderSettings, ErrorHandling, open_decoder};
pub(super) use self::order::PictureOrder;
pub(super) use self::orientation::container_orientation;
use self::orientation::frame_orientation;
use self::scaler::{PixelLayout, Scaler};
pub(super) use self::seek::{Fetched, fetch};
use self::signs::DamageSigns;
pub(super) use self::signs::capture_log;
use crate::error::{Error, Kind};
use crate::units::{FrameIndex, Seconds};
use crate::video::clock::{ClockFall, ClockStamp, FrameClock};
use crate::video::demux::{MAX_ERRORS, display_of, seconds, step_of};
use crate::video::display::DisplayOrientations;
use crate::video::error::{TimeFall, out_of_memory};
use crate::video::frame::Orientation;
use crate::video::limits::ReadLimits;
use crate::video::media::{OpenMedia, is_out_of_memory, may_read_on};
use crate::video::pass::FrameSource;
use crate::video::report::Damage;
use crate::video::timer::ReadTimer;

/// Decoder of a video stream, from front to back.
pub(super) struct VideoFile {
    path: PathBuf,
    media: OpenMedia,
    time_base: Rational,
    decoder: ffmpeg::decoder::Video,
    /// Orientation by the container.
    orientation: Orientation,
    /// Orientations by the stream's own messages.
    display: DisplayOrientations,
    /// Orientation of the last frame, where messages have no times.
    last_orientation: Option<Orientation>,
    /// Whether the file is a JPEG image.
    is_jpeg_image: bool,
    scaler: Option<Scaler>,
    current: frame::Video,
    draining: bool,
    /// Consecutive failures of the demuxer, which are limited.
    read_errors: usize,
    /// Consecutive failures of the decoder, which are limited.
    decode_errors: usize,
    damage: Damage,
    clock: FrameClock,
    /// Whether several threads decode, so that concealment of errors depends on timing.
    is_threaded: bool,
    /// Signs of damage; the decoder keeps the address, and is dropped first.
    signs: Arc<DamageSigns>,
}

impl VideoFile {
    pub(super) fn open(
        path: &Path,
        stream: Option<usize>,
        limits: &ReadLimits,
        timer: &Arc<ReadTimer>,
    ) -> Result<Self, Error> {
        let media = OpenMedia::open(path, stream, timer)?;
        let display = display_of(&media.stream(path)?);
        Self::from_media(path, media, display, DecoderSettings::new(*limits, ErrorHandling::Conceal))
    }

    fn from_media(
        path: &Path,
        media: OpenMedia,
        display: DisplayOrientations,
        mut settings: DecoderSettings,
    ) -> Result<Self, Error> {
        let stream = media.stream(path)?;
        let is_jpeg_image = jpeg::is_jpeg_image(&media.input, &stream);
        if is_jpeg_image {
            settings.idct = Some(jpeg::IDCT);
        }
        let (time_base, orientation) = (stream.time_base(), container_orientation(path, &media.input, &stream));
        let damage =
            Damage { n_declared: usize::try_from(stream.frames()).ok().filter(|&n| n > 0), ..Damage::default() };
        let (clock, signs) = (FrameClock::new(step_of(&stream)), Arc::default());
        let decoder = open_decoder(path, &stream, settings, &signs)?;
        // SAFETY: the decoder is open and ours.
        let is_threaded = unsafe { signs::is_threaded(decoder.as_ptr()) };
        Ok(Self {
            path: path.to_owned(),
            media,
            time_base,
            decoder,
            orientation,
            display,
            last_orientation: None,
            is_jpeg_image,
            scaler: None,
            current: frame::Video::empty(),
            draining: false,
            read_errors: 0,
            decode_errors: 0,
            damage,
            clock,
            is_threaded,
            signs,
        })
    }

    /// Returns whether the current frame shows errors that the decoder concealed.
    fn shows_damage(&self) -> bool {
        has_errors(&self.current) || self.is_threaded && signs::is_unwritten(&self.current)
    }

    /// Returns the time of the current frame, and advances the clock.
    fn time(&mut self) -> Seconds {
        let facts = self.current.packet();
        let stamp = ClockStamp {
            ticks: self.current.timestamp().or(self.current.pts()),
            is_backed: facts.dts != ffmpeg::ffi::AV_NOPTS_VALUE,
            duration: facts.duration,
        };
        seconds(self.clock.next(stamp), self.time_base)
    }

    /// Sends the next packet of the stream to the decoder, or the end of the stream.
    ///
    /// # Errors
    /// When no memory is left.
    fn feed(&mut self) -> Result<(), Error> {
        let packet = loop {
            match self.media.read() {
                Ok(packet) if packet.stream() == self.media.index => {
                    self.read_errors = 0;
                    break packet;
                }
                Ok(_) => {}
                Err(ffmpeg::Error::Eof) => {
                    self.drain();
                    return Ok(());
                }
                Err(error) if is_out_of_memory(error) => return Err(out_of_memory(&self.path)),
                Err(error) => {
                    self.damage.note(format!("reading: {error}"));
                    self.read_errors += 1;
                    if self.read_errors >= MAX_ERRORS || !may_read_on(error) {
                        self.drain();
                        return Ok(());
                    }
                }
            }
        };
        if packet.is_corrupt() {
            self.damage.note("the container marks a packet as corrupt".to_owned());
        }
        self.display.take(packet.data().unwrap_or_default(), packet.pts());
        // EAGAIN does not occur: every frame was received before this packet was sent.
        match self.decoder.send_packet(&packet) {
            Ok(()) => {}
            Err(error) if is_out_of_memory(error) => return Err(out_of_memory(&self.path)),
            Err(error) => self.damage.note(format!("decoding: {error}")),
        }
        Ok(())
    }

    /// Sends the end of the stream to the decoder.
    fn drain(&mut self) {
        self.draining = true;
        self.note_missing();
        if let Err(error) = self.decoder.send_eof() {
            self.damage.note(format!("decoding: {error}"));
        }
    }

    /// Counts the files of a playlist that could not be opened.
    fn note_missing(&mut self) {
        self.damage.note_missing(
            self.media.linked.n_missing(),
            self.media.linked.first_missing().map(|error| error.to_string()),
        );
    }

    /// Returns the orientation of the current frame.
    fn current_orientation(&self) -> Orientation {
        let own = frame_orientation(&self.current);
        let by_messages = match self.current.pts() {
            _ if !self.display.has_messages() => own,
            Some(pts) if self.display.is_certain() => self.display.at(pts).or(own),
            _ => self.last_orientation,
        };
        by_messages.unwrap_or(self.orientation)
    }

    /// Updates the orientation frame by frame, for streams whose messages have no times.
    fn follow_orientation(&mut self) {
        if self.display.has_messages() {
            let own = frame_orientation(&self.current);
            self.last_orientation = self.display.following(self.last_orientation, self.current.pts(), own);
        }
    }
}

impl FrameSource for VideoFile {
    fn advance(&mut self) -> Result<Option<Option<Seconds>>, Error> {
        loop {
            match self.decoder.receive_frame(&mut self.current) {
                Ok(()) => {
                    self.decode_errors = 0;
                    self.follow_orientation();
                    if self.shows_damage() {
                        self.damage.note_concealed();
                    }
                    return Ok(Some(Some(self.time())));
                }
                Err(ffmpeg::Error::Eof) => return Ok(None),
                Err(ffmpeg::Error::Other { errno }) if errno == ffmpeg::error::EAGAIN => {
                    if self.draining {
                        return Ok(None);
                    }
                    self.feed()?;
                }
                Err(error) if is_out_of_memory(error) => return Err(out_of_memory(&self.path)),
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

    fn image(&mut self) -> Result<RgbImage, Error> {
        let orientation = self.current_orientation();
        if self.is_jpeg_image
            && let Some(image) = jpeg::to_rgb(&self.current)
        {
            return Ok(orientation.apply(image));
        }
        let layout = PixelLayout::of(&self.current);
        let scaler = match self.scaler.take() {
            Some(scaler) if scaler.layout() == layout => scaler,
            _ => Scaler::new(layout)?,
        };
        let scaler = self.scaler.insert(scaler);
        Ok(orientation.apply(scaler.convert(&self.current)?))
    }

    fn damage(&self) -> &Damage {
        &self.damage
    }

    fn is_doubtful(&self) -> bool {
        let Damage { n_lost, n_concealed, .. } = self.damage;
        self.is_threaded && (n_lost + n_concealed > 0 || self.signs.n_logged() > 0)
    }

    fn fall(&self) -> Option<TimeFall> {
        let ClockFall { index, before, after } = self.clock.first_fall()?;
        let [before, after] = [before, after].map(|ticks| seconds(ticks, self.time_base));
        Some(TimeFall { index: FrameIndex(index), before, after })
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(step) = self.clock.derived_step() {
            let rate = 1.0 / seconds(step, self.time_base).0;
            let rate = (rate * 1e3).round() / 1e3;
            warnings.push(match rate.is_finite() {
                true => format!("its frames carry no times; taken by the rate of the stream, {rate} frames/s"),
                false => "its frames carry no times, and the stream declares no rate; all are taken at 0 s".to_owned(),
            });
        }
        if let Some(fall) = self.fall() {
            let n = self.clock.n_falls();
            let error = Error::new(Kind::TimesFall, format!("times run backwards {n} time(s), first {fall}"));
            warnings.push(error.with_hint(TimeFall::HINT).to_string());
        }
        let n_logged = self.signs.n_logged();
        if n_logged > 0 && self.damage.is_none() {
            warnings.push(format!("the decoder reports {n_logged} error(s); frames may be missing or wrong"));
        }
        warnings
    }
}

/// Returns whether a decoder concealed errors in a frame. Concealment may depend on earlier frames.
fn has_errors(frame: &frame::Video) -> bool {
    // SAFETY: the frame is alive, and the field is a plain number.
    frame.is_corrupt() || unsafe { (*frame.as_ptr()).decode_error_flags != 0 }
}
