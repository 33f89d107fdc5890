//! FFmpeg: opening of files, scan of their packets, and header facts of the stream to read. Frames are decoded in
//! `decode`.

use std::ffi::{CString, c_int, c_void};
use std::path::Path;
use std::sync::{Arc, Once};

use ffmpeg::format::context::Input;
use ffmpeg::packet::side_data;
use ffmpeg::{Dictionary, Rational, codec, ffi, packet};
use ffmpeg_next as ffmpeg;

use super::clock::FrameClock;
use super::decode::{PictureOrder, capture_log, container_orientation};
use super::display::DisplayOrientations;
use super::entry::{Coding, Framing};
use super::error::{cannot_read, not_found, not_media};
use super::limits::ReadLimits;
use super::linked::LinkedFiles;
use super::packets::{OutputRank, PacketFacts, PacketIndex};
use super::request::{Flow, FrameRequest, ReadEvent};
use super::sample::{FrameFact, Timeline};
use super::schedule::{FrameSchedule, PacketTimes};
use super::timer::{ReadTimer, ReadWatch};
use super::window::WindowSide;
use super::{streams, stuck};
use crate::error::{Error, Kind};
use crate::units::Seconds;

/// Number of consecutive failures after which a demuxer or decoder is given up.
pub(super) const MAX_ERRORS: usize = 10_000;
/// Number of packets between two [`ReadEvent::Waiting`].
const WAITING_EVERY: usize = 256;

/// Facts from the packets of a file, without decoding.
pub(super) struct PacketScan {
    /// Expected frames inside the window.
    pub(super) timeline: Timeline,
    /// Packet index for seeking, where seeking is exact.
    pub(super) indexed: Option<IndexedFile>,
    /// Whether damage may go unnoticed with several decoding threads.
    pub(super) hides_damage: bool,
    /// Upright width and height of a file that is one still image.
    pub(super) single_image: Option<(u32, u32)>,
}

/// A scanned file with its packet index.
pub(super) struct IndexedFile {
    pub(super) media: Media,
    pub(super) packets: PacketIndex,
    time_base: Rational,
    /// Number of pixels of a frame.
    pub(super) n_pixels: u64,
    /// Whether non-reference frames are flagged.
    pub(super) flags_unreferenced: bool,
    /// Orientations by the messages of the stream.
    pub(super) display: DisplayOrientations,
    /// Index of the first frame inside the window.
    pub(super) first_inside: usize,
}

impl IndexedFile {
    /// Converts a presentation time to seconds.
    pub(super) fn time(&self, pts: i64) -> Seconds {
        seconds(pts as f64, self.time_base)
    }
}

/// Reads all packets of a file, without the frames that an edit list discards.
pub(super) fn scan(path: &Path, request: &FrameRequest, watch: &mut ReadWatch<'_>) -> Result<PacketScan, Error> {
    let window = &request.window;
    let mut media = Media::open(path, request.stream, &watch.timer)?;
    let stream = media.stream(path)?;
    let mut display = display_of(&stream);
    let (index, time_base, coding, n_pixels) = facts_of(&stream);
    let (clock, delay) = (FrameClock::new(step_of(&stream)), delay_of(&stream));
    let mut order = coding.and_then(|coding| PictureOrder::new(&stream, coding));
    let (width, height) = size_of(&stream);
    let image_size =
        is_image(&media.input).then(|| container_orientation(path, &media.input, &stream).upright_size(width, height));
    let (mut schedule, mut packets, mut errors) = (FrameSchedule::default(), coding.map(|_| Vec::new()), 0);
    let mut is_sliced = false;
    for n_packets in 1.. {
        watch.check(path)?;
        if n_packets % WAITING_EVERY == 0 && watch.emit(ReadEvent::Waiting) == Flow::Stop {
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
                // A damaged file is decoded from front to back.
                packets = None;
                errors += 1;
                if errors >= MAX_ERRORS || !may_read_on(error) {
                    break;
                }
            }
        }
    }
    watch.check(path)?;
    // An incomplete file is decoded from front to back, and a stream whose orientation is not known everywhere.
    if media.linked.n_missing() > 0 || !display.is_certain() {
        packets = None;
    }
    let frames = schedule.frames(clock, delay);
    let single_image = image_size.filter(|_| frames.len() == 1);
    let last = frames.last().filter(|frame| frame.duration > 0);
    let last_duration = last.map(|frame| seconds(frame.duration as f64, time_base));
    let fact = |ticks: f64, is_key| FrameFact { time: Some(seconds(ticks, time_base)), is_key };
    let frames = frames.into_iter().map(|frame| fact(frame.ticks, frame.is_key));
    let is_inside = |frame: &FrameFact| frame.time.is_some_and(|time| window.side(time) == WindowSide::Inside);
    let frames = frames.filter(is_inside).collect();
    let indexed = packets.and_then(|packets| PacketIndex::new(packets, delay)).map(|packets| IndexedFile {
        first_inside: packets.first_frame(|pts| window.side(seconds(pts as f64, time_base)) == WindowSide::Inside),
        time_base,
        n_pixels,
        flags_unreferenced: coding.is_some_and(Coding::flags_unreferenced),
        display,
        media,
        packets,
    });
    let timeline = Timeline { frames, last_duration, ..Timeline::default() };
    Ok(PacketScan { timeline, indexed, hides_damage: is_sliced, single_image })
}

/// Returns whether a file is read by one of FFmpeg's demuxers of still images.
pub(super) fn is_image(input: &Input) -> bool {
    let format = input.format();
    format.name() == "image2" || format.name().ends_with("_pipe")
}

/// Returns whether damage of a packet may go unnoticed with several decoding threads: FFmpeg does not report lost or
/// misplaced slices of HEVC, and dependent frames vary with the timing of threads.
fn hides_damage(packet: &ffmpeg::Packet, coding: Option<Coding>) -> bool {
    let Some(coding @ Coding::Hevc(_)) = coding else { return false };
    packet.data().is_some_and(|data| coding.is_sliced(data))
}

/// Returns the time stamps of a packet whose picture has a rank.
fn times_of(packet: &ffmpeg::Packet, rank: Option<OutputRank>) -> PacketTimes {
    let (pts, dts, duration) = (packet.pts(), packet.dts(), packet.duration());
    PacketTimes { pts, dts, duration, rank, is_key: packet.is_key() }
}

/// Returns the duration of a frame in ticks by the declared rate, 0 without a declared rate.
pub(super) fn step_of(stream: &ffmpeg::Stream) -> f64 {
    let is_rate = |rate: &Rational| rate.numerator() > 0 && rate.denominator() > 0;
    let rate = Some(stream.avg_frame_rate()).filter(is_rate).or(Some(stream.rate()).filter(is_rate));
    rate.map_or(0.0, |rate| 1.0 / (f64::from(rate) * f64::from(stream.time_base())))
}

/// Returns the reordering delay of the decoder of a stream, in frames.
fn delay_of(stream: &ffmpeg::Stream) -> usize {
    // SAFETY: the parameters live as long as the stream, and the field is a plain number.
    let delay = unsafe { (*stream.parameters().as_ptr()).video_delay };
    usize::try_from(delay).unwrap_or(0)
}

/// Returns index, time base, coding, and pixels of a frame of a stream.
fn facts_of(stream: &ffmpeg::Stream) -> (usize, Rational, Option<Coding>, u64) {
    let (width, height) = size_of(stream);
    (stream.index(), stream.time_base(), coding_of(stream), u64::from(width) * u64::from(height))
}

/// Makes the collection of orientation messages of a stream.
pub(super) fn display_of(stream: &ffmpeg::Stream) -> DisplayOrientations {
    let (extradata, _) = description(stream);
    DisplayOrientations::new(match stream.parameters().id() {
        codec::Id::H264 => Some(Coding::H264(Framing::of(extradata, 4))),
        codec::Id::HEVC => Some(Coding::Hevc(Framing::of(extradata, 21))),
        _ => None,
    })
}

/// Returns width and height by the header.
pub(super) fn size_of(stream: &ffmpeg::Stream) -> (u32, u32) {
    // SAFETY: the parameters live as long as the stream, and the fields are plain numbers.
    let (width, height) = unsafe {
        let parameters = stream.parameters();
        ((*parameters.as_ptr()).width, (*parameters.as_ptr()).height)
    };
    (u32::try_from(width).unwrap_or(0), u32::try_from(height).unwrap_or(0))
}

/// Returns the coding of a stream, if its entry points can be found.
fn coding_of(stream: &ffmpeg::Stream) -> Option<Coding> {
    let (id, (extradata, order)) = (stream.parameters().id(), description(stream));
    // With separately coded fields, a frame may have two packets.
    let is_progressive = order == ffi::AVFieldOrder::AV_FIELD_PROGRESSIVE;
    let is_unknown = order == ffi::AVFieldOrder::AV_FIELD_UNKNOWN;
    match id {
        codec::Id::H264 if is_progressive => Some(Coding::H264(Framing::of(extradata, 4))),
        codec::Id::HEVC if is_progressive || is_unknown => Some(Coding::Hevc(Framing::of(extradata, 21))),
        codec::Id::VP9 | codec::Id::AV1 => Some(Coding::FlaggedKeys),
        codec::Id::H264 | codec::Id::HEVC => None,
        _ if is_intra_only(id) && (is_progressive || is_unknown) => Some(Coding::IntraOnly),
        _ => None,
    }
}

/// Returns a stream's extradata and field order.
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

/// Returns the facts about a packet; `None` without a presentation time, for a damaged packet, and for new extradata.
fn facts(packet: &ffmpeg::Packet, coding: Coding, rank: OutputRank) -> Option<PacketFacts> {
    let has_extradata = || packet.side_data().any(|data| data.kind() == side_data::Type::NewExtraData);
    if packet.is_corrupt() || has_extradata() {
        return None;
    }
    // An empty packet repeats a frame, or has no frame.
    let data = packet.data().filter(|data| !data.is_empty())?;
    Some(PacketFacts {
        pts: packet.pts()?,
        dts: packet.dts(),
        rank,
        bytes: u32::try_from(data.len()).ok()?,
        role: coding.role(data, packet.is_key()),
        is_flagged_key: packet.is_key(),
        is_discarded: is_discarded(packet),
    })
}

/// An open media file, and the stream to read. FFmpeg's calls are interrupted once the time is over.
pub(super) struct Media {
    pub(super) input: Input,
    /// Index of the stream; other streams are discarded.
    pub(super) index: usize,
    /// Files that the container opens itself. FFmpeg keeps the address as long as the input lives, which is dropped
    /// first.
    pub(super) linked: Box<LinkedFiles>,
    timer: Arc<ReadTimer>,
}

impl Media {
    /// Opens a file, for the stream of an index or its best video stream.
    pub(super) fn open(path: &Path, stream: Option<usize>, timer: &Arc<ReadTimer>) -> Result<Self, Error> {
        let (linked, mut input) = open(path, timer)?;
        let index = streams::choose(path, &input, stream)?;
        streams::discard_others(&mut input, index);
        Ok(Self { input, index, linked, timer: timer.clone() })
    }

    /// Returns the stream to read.
    pub(super) fn stream(&self, path: &Path) -> Result<ffmpeg::Stream<'_>, Error> {
        self.input.stream(self.index).ok_or_else(|| not_media(path, format!("no stream {}", self.index)))
    }

    /// Reads the next packet, of any stream, into a new packet: FFmpeg would leak the bytes of a reused one.
    pub(super) fn read(&mut self) -> Result<ffmpeg::Packet, ffmpeg::Error> {
        let mut packet = ffmpeg::Packet::empty();
        let _inside = self.timer.enter();
        packet.read(&mut self.input)?;
        Ok(packet)
    }

    /// Seeks to the last keyframe packet before a time of the stream; returns whether FFmpeg did.
    pub(super) fn seek(&mut self, ticks: i64) -> bool {
        let Ok(stream) = c_int::try_from(self.index) else { return false };
        let _inside = self.timer.enter();
        // SAFETY: the context is alive and ours, and the stream is one of its own.
        unsafe { ffi::av_seek_frame(self.input.as_mut_ptr(), stream, ticks, ffi::AVSEEK_FLAG_BACKWARD) >= 0 }
    }
}

/// Opens a file with all streams. The input must be dropped before the linked files, as tuples bound in this order are.
pub(super) fn open(path: &Path, timer: &Arc<ReadTimer>) -> Result<(Box<LinkedFiles>, Input), Error> {
    let name = check_file(path)?;
    let linked = Box::new(LinkedFiles::new(timer.clone()));
    stuck::register(path, timer);
    let inside = timer.enter();
    #[cfg(debug_assertions)]
    super::worker::inject_on_open(path);
    let input = open_input(&name, &linked, timer).map_err(|error| {
        let refusal = linked.refusal().map(|refusal| refusal.to_string());
        let cause = refusal.or_else(|| linked.first_missing()).unwrap_or_else(|| error.to_string());
        // FFmpeg reports an interrupted call as an error.
        timer.check(path).err().unwrap_or_else(|| not_media(path, cause))
    })?;
    drop(inside);
    timer.check(path)?;
    if input.format().name() == "tty" {
        return Err(not_media(path, "it holds text"));
    }
    if let (0, Some(missing)) = (input.streams().len(), linked.first_missing()) {
        return Err(not_media(path, missing));
    }
    Ok((linked, input))
}

/// Returns the versions of the libraries that pixel values depend on.
pub fn library_versions() -> String {
    // SAFETY: the functions return numbers.
    let versions = unsafe { [ffi::avformat_version(), ffi::avcodec_version(), ffi::swscale_version()] };
    versions.map(|version| format!("{}.{}.{}", version >> 16, version >> 8 & 0xff, version & 0xff)).join(" ")
}

/// Checks that a path is a readable file or a directory, before anything else is read.
///
/// # Errors
/// [`Error`] naming the path.
pub fn check_argument(path: &Path) -> Result<(), Error> {
    if path.is_dir() { Ok(()) } else { check_file(path).map(drop) }
}

/// Returns FFmpeg's name of a regular, readable file.
fn check_file(path: &Path) -> Result<CString, Error> {
    static QUIET: Once = Once::new();
    // FFmpeg's messages are reported with the file's name instead: see `Damage`.
    QUIET.call_once(|| {
        // It also fills the table of error texts, and cannot fail.
        let _ = ffmpeg::init();
        capture_log();
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
    // With the prefix, a colon in a name is not a protocol. On Unix names are bytes, which FFmpeg takes unchanged.
    let name = [b"file:", path.as_os_str().as_encoded_bytes()].concat();
    CString::new(name).map_err(|_| not_found(path))
}

/// Returns the options of every decoder.
pub(super) fn decoder_options(limits: &ReadLimits) -> Dictionary<'static> {
    let mut options = Dictionary::new();
    options.set("max_pixels", &limits.frame_pixels().to_string());
    options
}

/// FFmpeg's interrupt callback: returns 1 if the call is to be given up.
extern "C" fn is_over(timer: *mut c_void) -> c_int {
    // SAFETY: `open_input` passed the address of a `ReadTimer` that outlives the input, and only shared access is
    // taken.
    let timer = unsafe { &*timer.cast::<ReadTimer>() };
    c_int::from(timer.is_over())
}

/// Opens a file like `ffmpeg::format::input_with_dictionary`, with interrupts and names in any encoding.
fn open_input(name: &CString, linked: &LinkedFiles, timer: &Arc<ReadTimer>) -> Result<Input, ffmpeg::Error> {
    let mut options = Dictionary::new();
    // A playlist must not reach the network.
    options.set("protocol_whitelist", "file,crypto,data");
    // Names are literal: `%d`, `*` and `?` are no patterns of image files.
    options.set("pattern_type", "none");
    // Segments and keys of HLS may have any name: only local regular files are opened, see `linked`.
    for (option, value) in
        [("allowed_extensions", "ALL"), ("allowed_segment_extensions", "ALL"), ("extension_picky", "0")]
    {
        options.set(option, value);
    }
    let limits = timer.limits();
    // SAFETY: the context is ours until it is wrapped. `avformat_open_input` frees it when it fails; afterwards
    // `avformat_close_input` does. The options are taken out of their owner, and the remaining options go back to an
    // owner.
    unsafe {
        let mut context = ffi::avformat_alloc_context();
        if context.is_null() {
            return Err(ffmpeg::Error::Other { errno: ffmpeg::error::ENOMEM });
        }
        (*context).interrupt_callback =
            ffi::AVIOInterruptCB { callback: Some(is_over), opaque: Arc::as_ptr(timer).cast_mut().cast() };
        linked.attach(context);
        let mut left = options.disown();
        let opened = ffi::avformat_open_input(&mut context, name.as_ptr(), std::ptr::null(), &mut left);
        drop(Dictionary::own(left));
        if opened < 0 {
            return Err(opened.into());
        }
        // The probe decodes some frames of each stream, under the limit of later frames.
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

/// Returns whether a demuxer may have more packets after an error.
pub(super) fn may_read_on(error: ffmpeg::Error) -> bool {
    error == ffmpeg::Error::InvalidData || error == ffmpeg::Error::Other { errno: ffmpeg::error::EAGAIN }
}

/// Returns whether an edit list discards the frame of a packet.
pub(super) fn is_discarded(packet: &ffmpeg::Packet) -> bool {
    use packet::Ref;
    // SAFETY: the packet is alive, and `flags` is a plain field. ffmpeg-next's own flags leave this bit out.
    unsafe { (*packet.as_ptr()).flags & ffi::AV_PKT_FLAG_DISCARD != 0 }
}

/// Converts ticks to seconds.
pub(super) fn seconds(ticks: f64, time_base: Rational) -> Seconds {
    Seconds(ticks * f64::from(time_base.numerator()) / f64::from(time_base.denominator()))
}
