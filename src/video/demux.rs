//! FFmpeg: scan of a file's packets, and header facts of the stream to read. Files are opened in `media`, frames
//! decoded in `decode`.

use std::path::Path;

use ffmpeg::format::context::Input;
use ffmpeg::packet::side_data;
use ffmpeg::{Rational, codec, ffi, packet};
use ffmpeg_next as ffmpeg;

use super::clock::FrameClock;
use super::decode::{PictureOrder, container_orientation};
use super::display::DisplayOrientations;
use super::entry::Coding;
use super::error::out_of_memory;
use super::framing::Framing;
use super::media::{OpenMedia, is_out_of_memory, may_read_on};
use super::packets::{OutputRank, PacketFacts, PacketIndex};
use super::request::{Flow, FrameRequest, ReadEvent};
use super::sample::{FrameFact, Timeline};
use super::schedule::{FrameSchedule, PacketTimes};
use super::timer::ReadWatch;
use super::window::WindowSide;
use crate::error::Error;
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
    pub(super) media: OpenMedia,
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
    let mut media = OpenMedia::open(path, request.stream, &watch.timer)?;
    let stream = media.stream(path)?;
    let mut display = display_of(&stream);
    let (index, time_base, coding, n_pixels) = facts_of(&stream);
    let (clock, delay) = (FrameClock::new(step_of(&stream)), delay_of(&stream));
    let mut order = coding.and_then(|coding| PictureOrder::new(&stream, coding));
    let (width, height) = size_of(&stream);
    let image_size =
        is_image(&media.input).then(|| container_orientation(path, &media.input, &stream).upright_size(width, height));
    let (mut schedule, mut packets, mut errors) = (FrameSchedule::default(), coding.map(|_| Vec::new()), 0);
    let (mut is_sliced, mut n_own) = (false, 0);
    for n_packets in 1.. {
        watch.check(path)?;
        if n_packets % WAITING_EVERY == 0 && watch.emit(ReadEvent::Waiting) == Flow::Stop {
            break;
        }
        match media.read() {
            Ok(packet) if packet.stream() == index => {
                n_own += 1;
                watch.limits.check_count(path, n_own)?;
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
            Err(error) if is_out_of_memory(error) => return Err(out_of_memory(path)),
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
