//! FFmpeg: opening files, their packets and their header facts. What is in the packets is for `decode`.

use std::ffi::{CString, c_int, c_void};
use std::path::Path;
use std::sync::{Arc, Once};

use ffmpeg::format::context::Input;
use ffmpeg::packet::side_data;
use ffmpeg::{Dictionary, Rational, codec, ffi, packet};
use ffmpeg_next as ffmpeg;

use super::clock::FrameClock;
use super::decode::{PictureOrder, container_orientation, listen};
use super::display::Display;
use super::entry::{Coding, Framing};
use super::error::{cannot_read, not_found, not_media};
use super::limits::{ReadLimits, Spent, Watch};
use super::linked::Linked;
use super::packets::{Packet, Packets, Rank};
use super::reader::{Event, Flow, FrameRequest};
use super::sample::{FrameFact, Timeline};
use super::schedule::{FrameSchedule, PacketTimes};
use super::window::Side;
use super::{streams, stuck};
use crate::error::{Error, Kind};
use crate::units::Seconds;

/// What fails this often in a row has nothing more to give.
pub(super) const MAX_ERRORS: usize = 10_000;
/// Packets between two signs of life.
const WAITING_EVERY: usize = 256;

/// What a file's packets tell, without decoding.
pub(super) struct Scan {
    /// The frames inside the window.
    pub(super) timeline: Timeline,
    /// What it takes to fetch single frames, where that can be done exactly.
    pub(super) indexed: Option<Indexed>,
    /// Whether several threads that decode may meet damage without a sign of it.
    pub(super) hides_damage: bool,
    /// Upright width and height of a file that is one still image.
    pub(super) single_image: Option<(u32, u32)>,
}

/// A file whose packets are known.
pub(super) struct Indexed {
    pub(super) media: Media,
    pub(super) packets: Packets,
    time_base: Rational,
    /// Of one picture.
    pub(super) n_pixels: u64,
    /// Whether pictures that no other one needs can be told.
    pub(super) tells_unneeded: bool,
    /// The orientations that its messages tell.
    pub(super) display: Display,
    /// The first frame inside the window, by its index in the whole video.
    pub(super) first_inside: usize,
}

impl Indexed {
    /// When a frame with this presentation time is shown.
    pub(super) fn time(&self, pts: i64) -> Seconds {
        seconds(pts as f64, self.time_base)
    }
}

/// Reads all packets of a file, leaving out the frames that an edit list discards.
pub(super) fn scan(path: &Path, request: &FrameRequest, watch: &mut Watch<'_>) -> Result<Scan, Error> {
    let window = &request.window;
    let mut media = Media::open(path, request.stream, &watch.spent)?;
    let stream = media.stream(path)?;
    let mut display = display_of(&stream);
    let (index, time_base, coding, n_pixels) = facts_of(&stream);
    let (clock, delay) = (FrameClock::new(step_of(&stream)), delay_of(&stream));
    let mut order = coding.and_then(|coding| PictureOrder::new(&stream, coding));
    let image_size =
        is_image(&media.input).then(|| container_orientation(path, &media.input, &stream).size(size_of(&stream)));
    let (mut schedule, mut packets, mut errors) = (FrameSchedule::default(), coding.map(|_| Vec::new()), 0);
    let mut is_sliced = false;
    for n_packets in 1.. {
        watch.check(path)?;
        if n_packets % WAITING_EVERY == 0 && watch.emit(Event::Waiting) == Flow::Stop {
            break;
        }
        match media.read() {
            Ok(packet) if packet.stream() == index => {
                is_sliced = is_sliced || hides_damage(&packet, coding);
                display.take(packet.data().unwrap_or_default(), packet.pts());
                let rank = order.as_mut().and_then(|order| order.rank(packet.data()?));
                if !is_discarded(&packet) {
                    schedule.push(times_of(&packet, rank));
                }
                packets = packets.zip(coding).zip(rank).and_then(|((mut packets, coding), rank)| {
                    packets.push(facts(&packet, coding, rank)?);
                    Some(packets)
                });
            }
            Ok(_) => {}
            Err(ffmpeg::Error::Eof) => break,
            Err(error) => {
                watch.check(path)?;
                // What is damaged is read from front to back.
                packets = None;
                errors += 1;
                if errors >= MAX_ERRORS || !may_read_on(error) {
                    break;
                }
            }
        }
    }
    watch.check(path)?;
    // What is not whole is read from front to back, as is a stream whose orientation in force is not known everywhere.
    if media.linked.n_missing() > 0 || !display.is_certain() {
        packets = None;
    }
    let frames = schedule.frames(clock, delay);
    let single_image = image_size.filter(|_| frames.len() == 1);
    let last = frames.last().filter(|frame| frame.duration > 0);
    let last_duration = last.map(|frame| seconds(frame.duration as f64, time_base));
    let fact = |ticks: f64, is_key| FrameFact { time: Some(seconds(ticks, time_base)), is_key };
    let frames = frames.into_iter().map(|frame| fact(frame.ticks, frame.is_key));
    let is_inside = |frame: &FrameFact| frame.time.is_some_and(|time| window.side(time) == Side::Inside);
    let frames = frames.filter(is_inside).collect();
    let indexed = packets.and_then(|packets| Packets::new(packets, delay)).map(|packets| Indexed {
        first_inside: packets.first_frame(|pts| window.side(seconds(pts as f64, time_base)) == Side::Inside),
        time_base,
        n_pixels,
        tells_unneeded: coding.is_some_and(Coding::tells_unneeded),
        display,
        media,
        packets,
    });
    let timeline = Timeline { frames, last_duration, ..Timeline::default() };
    Ok(Scan { timeline, indexed, hides_damage: is_sliced, single_image })
}

/// Whether a file is read by one of FFmpeg's demuxers of still images.
pub(super) fn is_image(input: &Input) -> bool {
    let format = input.format();
    format.name() == "image2" || format.name().ends_with("_pipe")
}

/// Whether several threads that decode a packet may meet damage without any sign of it: of slices of HEVC that are lost
/// or out of place FFmpeg says nothing, and what other frames take from them depends on how far they are.
fn hides_damage(packet: &ffmpeg::Packet, coding: Option<Coding>) -> bool {
    let Some(coding @ Coding::Hevc(_)) = coding else { return false };
    packet.data().is_some_and(|data| coding.is_sliced(data))
}

/// The times of a packet whose picture has this place.
fn times_of(packet: &ffmpeg::Packet, rank: Option<Rank>) -> PacketTimes {
    let (pts, dts, duration) = (packet.pts(), packet.dts(), packet.duration());
    PacketTimes { pts, dts, duration, rank, is_key: packet.is_key() }
}

/// Ticks of a frame by the rate that a stream declares, 0 where it declares none.
pub(super) fn step_of(stream: &ffmpeg::Stream) -> f64 {
    let is_rate = |rate: &Rational| rate.numerator() > 0 && rate.denominator() > 0;
    let rate = Some(stream.avg_frame_rate()).filter(is_rate).or(Some(stream.rate()).filter(is_rate));
    rate.map_or(0.0, |rate| 1.0 / (f64::from(rate) * f64::from(stream.time_base())))
}

/// Frames that the decoder of a stream holds back to bring them into order.
fn delay_of(stream: &ffmpeg::Stream) -> usize {
    // SAFETY: the parameters live as long as the stream, and the field is a plain number.
    let delay = unsafe { (*stream.parameters().as_ptr()).video_delay };
    usize::try_from(delay).unwrap_or(0)
}

/// Index, time base, coding, and pixels of a picture of a stream.
fn facts_of(stream: &ffmpeg::Stream) -> (usize, Rational, Option<Coding>, u64) {
    let (width, height) = size_of(stream);
    (stream.index(), stream.time_base(), coding_of(stream), u64::from(width) * u64::from(height))
}

/// Where the orientations are collected that the messages of a stream tell.
pub(super) fn display_of(stream: &ffmpeg::Stream) -> Display {
    let (extradata, _) = description(stream);
    Display::new(match stream.parameters().id() {
        codec::Id::H264 => Some(Coding::H264(Framing::of(extradata, 4))),
        codec::Id::HEVC => Some(Coding::Hevc(Framing::of(extradata, 21))),
        _ => None,
    })
}

/// Width and height that the header claims.
pub(super) fn size_of(stream: &ffmpeg::Stream) -> (u32, u32) {
    // SAFETY: the parameters live as long as the stream, and the fields are plain numbers.
    let (width, height) = unsafe {
        let parameters = stream.parameters();
        ((*parameters.as_ptr()).width, (*parameters.as_ptr()).height)
    };
    (u32::try_from(width).unwrap_or(0), u32::try_from(height).unwrap_or(0))
}

/// How a stream is coded, if it is known where its decoding may begin.
fn coding_of(stream: &ffmpeg::Stream) -> Option<Coding> {
    let (id, (extradata, order)) = (stream.parameters().id(), description(stream));
    // Where fields are coded apart, a frame may be two packets.
    let is_progressive = order == ffi::AVFieldOrder::AV_FIELD_PROGRESSIVE;
    let is_unknown = order == ffi::AVFieldOrder::AV_FIELD_UNKNOWN;
    match id {
        codec::Id::H264 if is_progressive => Some(Coding::H264(Framing::of(extradata, 4))),
        codec::Id::HEVC if is_progressive || is_unknown => Some(Coding::Hevc(Framing::of(extradata, 21))),
        codec::Id::VP9 | codec::Id::AV1 => Some(Coding::MarkedKeys),
        codec::Id::H264 | codec::Id::HEVC => None,
        _ if is_intra_only(id) && (is_progressive || is_unknown) => Some(Coding::IntraOnly),
        _ => None,
    }
}

/// A stream's extradata, and the order of its fields.
fn description<'s>(stream: &'s ffmpeg::Stream) -> (&'s [u8], ffi::AVFieldOrder) {
    let parameters = stream.parameters();
    // SAFETY: the parameters live as long as the stream; the fields are plain numbers and a buffer with its length.
    unsafe {
        let parameters = &*parameters.as_ptr();
        let length = usize::try_from(parameters.extradata_size).unwrap_or(0);
        let extradata = match parameters.extradata.is_null() {
            true => &[][..],
            false => std::slice::from_raw_parts(parameters.extradata, length),
        };
        (extradata, parameters.field_order)
    }
}

fn is_intra_only(id: codec::Id) -> bool {
    // SAFETY: descriptors are static; there is none for some numbers.
    let descriptor = unsafe { ffi::avcodec_descriptor_get(id.into()).as_ref() };
    descriptor.is_some_and(|descriptor| descriptor.props & ffi::AV_CODEC_PROP_INTRA_ONLY != 0)
}

/// What is known of a packet; nothing where it has no time, is damaged, or brings another description of the stream.
fn facts(packet: &ffmpeg::Packet, coding: Coding, rank: Rank) -> Option<Packet> {
    let brings_description = || packet.side_data().any(|data| data.kind() == side_data::Type::NewExtraData);
    if packet.is_corrupt() || brings_description() {
        return None;
    }
    // A packet without a byte repeats a frame, or gives none.
    let data = packet.data().filter(|data| !data.is_empty())?;
    Some(Packet {
        pts: packet.pts()?,
        dts: packet.dts(),
        rank,
        bytes: u32::try_from(data.len()).ok()?,
        role: coding.role(data, packet.is_key()),
        is_marked: packet.is_key(),
        is_discarded: is_discarded(packet),
    })
}

/// An open media file, and the stream of it that is read. FFmpeg gives up what it does with it once the time is over.
pub(super) struct Media {
    pub(super) input: Input,
    /// Of the stream; all others are discarded.
    pub(super) index: usize,
    /// Files that the container opens itself. FFmpeg holds their addresses as long as the input lives, which goes
    /// first.
    pub(super) linked: Box<Linked>,
    spent: Arc<Spent>,
}

impl Media {
    /// Opens a file, for its stream of this index or its best video stream.
    pub(super) fn open(path: &Path, stream: Option<usize>, spent: &Arc<Spent>) -> Result<Self, Error> {
        let (linked, mut input) = open(path, spent)?;
        let index = streams::choose(path, &input, stream)?;
        streams::discard_others(&mut input, index);
        Ok(Self { input, index, linked, spent: spent.clone() })
    }

    /// The stream that is read.
    pub(super) fn stream(&self, path: &Path) -> Result<ffmpeg::Stream<'_>, Error> {
        self.input.stream(self.index).ok_or_else(|| not_media(path, format!("no stream {}", self.index)))
    }

    /// Reads the next packet, of whichever stream. One packet must not be read into twice: FFmpeg would forget the
    /// bytes of the first time, not free them.
    pub(super) fn read(&mut self) -> Result<ffmpeg::Packet, ffmpeg::Error> {
        let mut packet = ffmpeg::Packet::empty();
        let _inside = self.spent.enter();
        packet.read(&mut self.input)?;
        Ok(packet)
    }

    /// Goes to the last packet before a time of the stream where decoding may begin.
    pub(super) fn seek(&mut self, ticks: i64) -> bool {
        let Ok(stream) = c_int::try_from(self.index) else { return false };
        let _inside = self.spent.enter();
        // SAFETY: the context is alive and ours, and the stream is one of its own.
        unsafe { ffi::av_seek_frame(self.input.as_mut_ptr(), stream, ticks, ffi::AVSEEK_FLAG_BACKWARD) >= 0 }
    }
}

/// Opens a file, with all of its streams. The input is to go first: variables do in the order in which it stands here.
pub(super) fn open(path: &Path, spent: &Arc<Spent>) -> Result<(Box<Linked>, Input), Error> {
    let name = check_file(path)?;
    let linked = Box::new(Linked::new(spent.clone()));
    stuck::register(path, spent);
    let inside = spent.enter();
    #[cfg(debug_assertions)]
    super::worker::strike_inside(path);
    let input = open_input(&name, &linked, spent).map_err(|error| {
        let cause = linked.refusal().or_else(|| linked.first_missing()).unwrap_or_else(|| error.to_string());
        // What FFmpeg gave up for lack of time it calls an error as well.
        spent.check(path).err().unwrap_or_else(|| not_media(path, cause))
    })?;
    drop(inside);
    spent.check(path)?;
    if input.format().name() == "tty" {
        return Err(not_media(path, "it holds text"));
    }
    if let (0, Some(missing)) = (input.streams().len(), linked.first_missing()) {
        return Err(not_media(path, missing));
    }
    Ok((linked, input))
}

/// The versions of the libraries that a frame's numbers depend on.
pub fn library_versions() -> String {
    // SAFETY: they give numbers.
    let versions = unsafe { [ffi::avformat_version(), ffi::avcodec_version(), ffi::swscale_version()] };
    versions.map(|version| format!("{}.{}.{}", version >> 16, version >> 8 & 0xff, version & 0xff)).join(" ")
}

/// Checks that a path leads to a file that may be read, or to a directory, before anything else is read for it.
///
/// # Errors
/// [`Error`] naming the path.
pub fn check_argument(path: &Path) -> Result<(), Error> {
    if path.is_dir() { Ok(()) } else { check_file(path).map(drop) }
}

/// What FFmpeg is to open for a path, if it is a regular file that may be read.
fn check_file(path: &Path) -> Result<CString, Error> {
    static QUIET: Once = Once::new();
    // What FFmpeg would print is told by this program, with the file's name: see `Damage`.
    QUIET.call_once(|| {
        // It also fills the table of error texts; it cannot fail.
        let _ = ffmpeg::init();
        listen();
    });
    let meta = std::fs::metadata(path).map_err(cannot_read(path))?;
    if !meta.is_file() {
        let error = Error::new(Kind::NotRegular, "neither a regular file nor a directory");
        return Err(error.with_hint("save the stream to a file first").about(path));
    }
    if meta.len() == 0 {
        return Err(Error::new(Kind::Empty, "the file is empty (0 bytes)").about(path));
    }
    std::fs::File::open(path).map_err(Error::io(path))?;
    // A name with a colon is no protocol. On Unix a name is any bytes, and FFmpeg takes them as they are.
    let name = [b"file:", path.as_os_str().as_encoded_bytes()].concat();
    CString::new(name).map_err(|_| not_found(path))
}

/// What every decoder is told.
pub(super) fn decoder_options(limits: &ReadLimits) -> Dictionary<'static> {
    let mut options = Dictionary::new();
    options.set("max_pixels", &limits.frame_pixels().to_string());
    options
}

/// FFmpeg's interrupt callback: whether a call should be given up.
extern "C" fn is_over(spent: *mut c_void) -> c_int {
    // SAFETY: `open_input` gave the address of a `Spent` that outlives the input, and only shared access is taken.
    let spent = unsafe { &*spent.cast::<Spent>() };
    c_int::from(spent.is_over())
}

/// Opens a file as `ffmpeg::format::input_with_dictionary` does, which knows neither interrupts nor names that are no
/// UTF-8.
fn open_input(name: &CString, linked: &Linked, spent: &Arc<Spent>) -> Result<Input, ffmpeg::Error> {
    let mut options = Dictionary::new();
    // A playlist must not reach the network.
    options.set("protocol_whitelist", "file,crypto,data");
    // A name is a name: `%d`, `*` and `?` in it are no patterns of image files.
    options.set("pattern_type", "none");
    // A segment or a key of HLS may have any name: what is opened is a local regular file, see `linked`.
    for (option, value) in
        [("allowed_extensions", "ALL"), ("allowed_segment_extensions", "ALL"), ("extension_picky", "0")]
    {
        options.set(option, value);
    }
    let limits = spent.limits();
    // SAFETY: the context is ours until it is wrapped. `avformat_open_input` frees it when it fails; afterwards
    // `avformat_close_input` does. The options are taken out of their owner, and what FFmpeg leaves of them goes back
    // to one.
    unsafe {
        let mut context = ffi::avformat_alloc_context();
        if context.is_null() {
            return Err(ffmpeg::Error::Other { errno: ffmpeg::error::ENOMEM });
        }
        (*context).interrupt_callback =
            ffi::AVIOInterruptCB { callback: Some(is_over), opaque: Arc::as_ptr(spent).cast_mut().cast() };
        linked.attach(context);
        let mut left = options.disown();
        let opened = ffi::avformat_open_input(&mut context, name.as_ptr(), std::ptr::null(), &mut left);
        drop(Dictionary::own(left));
        if opened < 0 {
            return Err(opened.into());
        }
        // It decodes some frames of each stream, which are not to be larger than those that are decoded later.
        let mut each: Vec<*mut ffi::AVDictionary> =
            (0..(*context).nb_streams).map(|_| decoder_options(&limits).disown()).collect();
        let found = ffi::avformat_find_stream_info(context, each.as_mut_ptr());
        each.into_iter().for_each(|left| drop(Dictionary::own(left)));
        if found < 0 {
            ffi::avformat_close_input(&mut context);
            return Err(found.into());
        }
        Ok(Input::wrap(context))
    }
}

/// Whether a demuxer may have more packets after this error.
pub(super) fn may_read_on(error: ffmpeg::Error) -> bool {
    error == ffmpeg::Error::InvalidData || error == ffmpeg::Error::Other { errno: ffmpeg::error::EAGAIN }
}

/// Whether an edit list cuts this packet's frame out of the presentation.
pub(super) fn is_discarded(packet: &ffmpeg::Packet) -> bool {
    use packet::Ref;
    // SAFETY: the packet is alive, and `flags` is a plain field. ffmpeg-next's own flags leave this bit out.
    unsafe { (*packet.as_ptr()).flags & ffi::AV_PKT_FLAG_DISCARD != 0 }
}

pub(super) fn seconds(ticks: f64, time_base: Rational) -> Seconds {
    Seconds(ticks * f64::from(time_base.numerator()) / f64::from(time_base.denominator()))
}
