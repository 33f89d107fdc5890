//! FFmpeg: decoding of single frames of a scanned file, by seeking to the entry points before them.
//!
//! Every packet is compared with the facts of the scan, and every wanted frame must be output; any difference makes the
//! file doubtful, and the reader then decodes from front to back.

use std::path::Path;
use std::time::Instant;

use ::image::RgbImage;
use ffmpeg_next as ffmpeg;

use super::{DecoderSettings, ErrorHandling, VideoFile};
use crate::error::{About, Error};
use crate::units::{FrameIndex, Seconds};
use crate::video::demux::{IndexedFile, is_discarded, seconds};
use crate::video::entry::PacketRole;
use crate::video::limits::ReadLimits;
use crate::video::packets::{PacketIndex, PacketRun};
use crate::video::pass::{FrameSource, is_due};
use crate::video::request::{Flow, ReadEvent};
use crate::video::timer::ReadWatch;
use crate::video::{Damage, Frame};

/// Outcome of [`fetch`].
pub(in crate::video) enum Fetched {
    /// All wanted frames were output.
    All {
        /// Number of decoded packets.
        n_decoded: usize,
        /// Damage of the decoded part.
        damage: Damage,
    },
    /// The consumer stopped the reading.
    Stopped,
    /// The file differs from its scan.
    Doubtful,
}

/// Decodes runs of packets, and emits their wanted frames.
///
/// # Errors
/// When the time is over, or the decoder cannot be opened.
pub(in crate::video) fn fetch(
    path: &Path,
    indexed: IndexedFile,
    runs: &[PacketRun],
    watch: &mut ReadWatch<'_>,
) -> Result<Fetched, Error> {
    let IndexedFile { media, packets, flags_unreferenced, display, .. } = indexed;
    // After a recovery point there may be pictures that are shown before it, and that depend on earlier packets.
    let leads = runs.iter().any(|run| packets.get(run.first).role == PacketRole::Recovery);
    // They cause errors, and only with one thread the frame of an error is certain.
    let (errors, threads) =
        if leads { (ErrorHandling::Conceal, 1) } else { (ErrorHandling::Report, watch.limits.threads) };
    let settings = DecoderSettings::new(ReadLimits { threads, ..watch.limits }, errors);
    let file = VideoFile::from_media(path, media, display, settings)?;
    let mut fetcher = RunDecoder {
        path,
        file,
        packets: &packets,
        flags_unreferenced,
        leads,
        n_decoded: 0,
        last_event: Instant::now(),
    };
    for run in runs {
        match fetcher.run(run, watch) {
            Ok(()) => {}
            Err(FetchEnd::Stopped) => return Ok(Fetched::Stopped),
            Err(FetchEnd::Doubtful) => {
                watch.check(path)?;
                return Ok(Fetched::Doubtful);
            }
            Err(FetchEnd::Failed(error)) => return Err(error),
        }
    }
    Ok(Fetched::All { n_decoded: fetcher.n_decoded, damage: fetcher.file.damage.clone() })
}

/// Reason why fetching ends early.
enum FetchEnd {
    Stopped,
    Doubtful,
    Failed(Error),
}

/// Frames of a run that are not output yet.
struct WantedFrames<'r> {
    frames: &'r [usize],
    /// Presentation time of the last output frame.
    last: i64,
}

/// Decoder of the runs.
struct RunDecoder<'a> {
    path: &'a Path,
    file: VideoFile,
    packets: &'a PacketIndex,
    flags_unreferenced: bool,
    /// Whether pictures are decoded whose references are missing.
    leads: bool,
    n_decoded: usize,
    /// Time of the last progress event.
    last_event: Instant,
}

impl RunDecoder<'_> {
    fn run(&mut self, run: &PacketRun, watch: &mut ReadWatch<'_>) -> Result<(), FetchEnd> {
        let mut packet = Some(self.jump(run.first, watch)?);
        let mut wanted = WantedFrames { frames: &run.frames, last: i64::MIN };
        for index in run.first..=run.last {
            let packet = match packet.take() {
                Some(packet) => packet,
                None => self.next(watch)?,
            };
            self.feed(&packet, index, &run.frames)?;
            self.report_progress(watch)?;
            self.receive(&mut wanted, watch)?;
        }
        self.file.decoder.send_eof().map_err(|_| FetchEnd::Doubtful)?;
        self.receive(&mut wanted, watch)?;
        self.file.decoder.flush();
        let has_signs = !self.leads && self.file.signs.n_logged() > 0;
        if wanted.frames.is_empty() && !has_signs { Ok(()) } else { Err(FetchEnd::Doubtful) }
    }

    /// Emits a progress event, if one is due.
    fn report_progress(&mut self, watch: &mut ReadWatch<'_>) -> Result<(), FetchEnd> {
        if !is_due(self.n_decoded, &mut self.last_event) {
            return Ok(());
        }
        match watch.emit(ReadEvent::Progress { n_decoded: self.n_decoded }) {
            Flow::Continue => Ok(()),
            Flow::Stop => Err(FetchEnd::Stopped),
        }
    }

    /// Seeks to a packet, and returns it.
    fn jump(&mut self, index: usize, watch: &mut ReadWatch<'_>) -> Result<ffmpeg::Packet, FetchEnd> {
        // Some demuxers seek by presentation times, some by decoding times, and some land a little late: then the entry
        // before is tried.
        let (target, before) = (*self.packets.get(index), *self.packets.get(self.packets.entry_before(index)));
        let times = [Some(target.pts), target.dts, Some(before.pts), before.dts];
        for ticks in times.into_iter().flatten() {
            if self.file.media.seek(ticks)
                && let Some(packet) = self.skip_to(index, watch)?
            {
                return Ok(packet);
            }
        }
        Err(FetchEnd::Doubtful)
    }

    /// Reads on to a packet; `None` if the packet is not found.
    fn skip_to(&mut self, index: usize, watch: &mut ReadWatch<'_>) -> Result<Option<ffmpeg::Packet>, FetchEnd> {
        for _ in 0..=self.packets.len() {
            let packet = match self.next(watch) {
                Ok(packet) => packet,
                Err(FetchEnd::Doubtful) => return Ok(None),
                Err(end) => return Err(end),
            };
            match packet.pts().and_then(|pts| self.packets.index_of(pts)) {
                // Where a parser cuts packets out of a stream, the first packet after a jump may be shorter.
                Some(found) if found == index => return Ok(self.is_same(&packet, index).then_some(packet)),
                Some(found) if found > index => return Ok(None),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Reads the next packet of the stream.
    fn next(&mut self, watch: &mut ReadWatch<'_>) -> Result<ffmpeg::Packet, FetchEnd> {
        loop {
            watch.check(self.path).map_err(FetchEnd::Failed)?;
            let packet = self.file.media.read().map_err(|_| FetchEnd::Doubtful)?;
            if packet.stream() == self.file.media.index {
                return Ok(packet);
            }
        }
    }

    /// Returns whether a packet is the packet that the scan found at this index.
    fn is_same(&self, packet: &ffmpeg::Packet, index: usize) -> bool {
        let expected = self.packets.get(index);
        packet.pts() == Some(expected.pts)
            && packet.size() == expected.bytes as usize
            && is_discarded(packet) == expected.is_discarded
            && !packet.is_corrupt()
    }

    /// Sends a packet to the decoder, which may skip a frame that is neither wanted nor referenced.
    fn feed(&mut self, packet: &ffmpeg::Packet, index: usize, wanted: &[usize]) -> Result<(), FetchEnd> {
        if !self.is_same(packet, index) {
            return Err(FetchEnd::Doubtful);
        }
        let pts = self.packets.get(index).pts;
        let is_wanted = wanted.iter().any(|&frame| self.packets.of_frame(frame).pts == pts);
        let is_skipped = self.flags_unreferenced && !is_wanted;
        self.file.decoder.skip_frame(if is_skipped { ffmpeg::Discard::NonReference } else { ffmpeg::Discard::Default });
        self.n_decoded += 1;
        self.file.decoder.send_packet(packet).map_err(|_| FetchEnd::Doubtful)
    }

    /// Receives the decoded frames, and emits the wanted frames among them.
    fn receive(&mut self, wanted: &mut WantedFrames<'_>, watch: &mut ReadWatch<'_>) -> Result<(), FetchEnd> {
        loop {
            match self.file.decoder.receive_frame(&mut self.file.current) {
                Ok(()) => self.take(wanted, watch)?,
                Err(ffmpeg::Error::Eof) => return Ok(()),
                Err(ffmpeg::Error::Other { errno }) if errno == ffmpeg::error::EAGAIN => return Ok(()),
                Err(_) => return Err(FetchEnd::Doubtful),
            }
        }
    }

    fn take(&mut self, wanted: &mut WantedFrames<'_>, watch: &mut ReadWatch<'_>) -> Result<(), FetchEnd> {
        if self.file.shows_damage() {
            return Err(FetchEnd::Doubtful);
        }
        let Some(pts) = self.file.current.pts() else { return Err(FetchEnd::Doubtful) };
        // Frames that are output in another order than that of their times are numbered by decoding them all.
        if pts <= std::mem::replace(&mut wanted.last, pts) {
            return Err(FetchEnd::Doubtful);
        }
        let Some((&frame, _)) = wanted.frames.split_first() else { return Ok(()) };
        let expected = self.packets.of_frame(frame).pts;
        if pts < expected {
            return Ok(());
        }
        // A later frame means that the expected frame is missing.
        if pts > expected {
            return Err(FetchEnd::Doubtful);
        }
        let image = self.file.image().about(format!("frame {frame}")).about(self.path).map_err(FetchEnd::Failed)?;
        let time = Some(seconds(pts as f64, self.file.time_base));
        let n = wanted.frames.iter().take_while(|&&other| other == frame).count();
        wanted.frames = &wanted.frames[n..];
        for _ in 1..n {
            self.emit(frame, time, image.clone(), watch)?;
        }
        self.emit(frame, time, image, watch)
    }

    fn emit(
        &self,
        frame: usize,
        time: Option<Seconds>,
        image: RgbImage,
        watch: &mut ReadWatch<'_>,
    ) -> Result<(), FetchEnd> {
        match watch.emit(ReadEvent::Frame(Frame { index: FrameIndex(frame), time, image })) {
            Flow::Continue => Ok(()),
            Flow::Stop => Err(FetchEnd::Stopped),
        }
    }
}
