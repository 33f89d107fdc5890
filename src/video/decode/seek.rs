//! FFmpeg: single frames of a file whose packets are known, by jumping to where their decoding may begin.
//!
//! Every packet is compared with what was found of it before, and every wanted frame must come; whatever is otherwise
//! makes the file doubtful, which is then read from front to back.

use std::path::Path;
use std::time::Instant;

use ::image::RgbImage;
use ffmpeg_next as ffmpeg;

use super::{Errors, VideoFile};
use crate::error::Error;
use crate::units::{FrameIndex, Seconds};
use crate::video::demux::{Indexed, is_discarded, seconds};
use crate::video::entry::Role;
use crate::video::error::no_conversion;
use crate::video::limits::{ReadLimits, Watch};
use crate::video::packets::{Packets, Run};
use crate::video::reader::{Event, Flow, FrameSource, is_due};
use crate::video::{Damage, Frame};

/// What came of it.
pub(in crate::video) enum Fetched {
    /// All frames that were wanted.
    All {
        /// Packets that were decoded.
        n_decoded: usize,
        damage: Damage,
    },
    /// The consumer wants no more.
    Stopped,
    /// The file is not as its packets said.
    Doubtful,
}

/// Decodes some runs, and hands out their frames.
///
/// # Errors
/// When the time is over, or the decoder cannot be opened.
pub(in crate::video) fn fetch(
    path: &Path,
    indexed: Indexed,
    runs: &[Run],
    watch: &mut Watch<'_>,
) -> Result<Fetched, Error> {
    let Indexed { media, packets, tells_unneeded, display, .. } = indexed;
    // After a recovery point pictures may come that are shown before it, and cannot be decoded without what came before
    // it.
    let leads = runs.iter().any(|run| packets.get(run.first).role == Role::Recovery);
    // Those are errors too, and only on one thread it is certain which frame they are in.
    let (errors, threads) = if leads { (Errors::Hidden, 1) } else { (Errors::Told, watch.limits.threads) };
    let file = VideoFile::of(path, (media, display), &ReadLimits { threads, ..watch.limits }, errors)?;
    let mut fetcher =
        Fetcher { path, file, packets: &packets, tells_unneeded, leads, n_decoded: 0, told: Instant::now() };
    for run in runs {
        match fetcher.run(run, watch) {
            Ok(()) => {}
            Err(End::Stopped) => return Ok(Fetched::Stopped),
            Err(End::Doubtful) => {
                watch.check(path)?;
                return Ok(Fetched::Doubtful);
            }
            Err(End::Failed(error)) => return Err(error),
        }
    }
    Ok(Fetched::All { n_decoded: fetcher.n_decoded, damage: fetcher.file.damage.clone() })
}

/// Why fetching ends early.
enum End {
    Stopped,
    Doubtful,
    Failed(Error),
}

/// The frames of a run that have not come yet, and the time of the last frame that came.
struct Wanted<'r> {
    frames: &'r [usize],
    last: i64,
}

struct Fetcher<'a> {
    path: &'a Path,
    file: VideoFile,
    packets: &'a Packets,
    tells_unneeded: bool,
    /// Whether pictures are decoded that miss others.
    leads: bool,
    n_decoded: usize,
    /// When the consumer heard of it last.
    told: Instant,
}

impl Fetcher<'_> {
    fn run(&mut self, run: &Run, watch: &mut Watch<'_>) -> Result<(), End> {
        let mut packet = Some(self.jump(run.first, watch)?);
        let mut wanted = Wanted { frames: &run.frames, last: i64::MIN };
        for place in run.first..=run.last {
            let found = match packet.take() {
                Some(packet) => packet,
                None => self.next(watch)?,
            };
            self.feed(&found, place, &run.frames)?;
            self.tell(watch)?;
            self.receive(&mut wanted, watch)?;
        }
        self.file.decoder.send_eof().map_err(|_| End::Doubtful)?;
        self.receive(&mut wanted, watch)?;
        self.file.decoder.flush();
        let has_signs = !self.leads && self.file.signs.n_logged() > 0;
        if wanted.frames.is_empty() && !has_signs { Ok(()) } else { Err(End::Doubtful) }
    }

    /// A sign of life now and then.
    fn tell(&mut self, watch: &mut Watch<'_>) -> Result<(), End> {
        if !is_due(self.n_decoded, &mut self.told) {
            return Ok(());
        }
        match watch.emit(Event::Progress { n_decoded: self.n_decoded }) {
            Flow::Continue => Ok(()),
            Flow::Stop => Err(End::Stopped),
        }
    }

    /// Goes to a packet, and gives it.
    fn jump(&mut self, place: usize, watch: &mut Watch<'_>) -> Result<ffmpeg::Packet, End> {
        // Some demuxers seek by presentation times, some by decoding times, and some land a little late: then further
        // ahead.
        let (target, before) = (*self.packets.get(place), *self.packets.get(self.packets.entry_before(place)));
        let times = [Some(target.pts), target.dts, Some(before.pts), before.dts];
        for ticks in times.into_iter().flatten() {
            if self.file.media.seek(ticks)
                && let Some(packet) = self.pass_over(place, watch)?
            {
                return Ok(packet);
            }
        }
        Err(End::Doubtful)
    }

    /// Reads on to a packet; nothing if it does not come.
    fn pass_over(&mut self, place: usize, watch: &mut Watch<'_>) -> Result<Option<ffmpeg::Packet>, End> {
        for _ in 0..=self.packets.len() {
            let packet = match self.next(watch) {
                Ok(packet) => packet,
                Err(End::Doubtful) => return Ok(None),
                Err(end) => return Err(end),
            };
            match packet.pts().and_then(|pts| self.packets.place_of(pts)) {
                // The first packet after a jump may be less than it was, where a parser cuts packets out of a stream.
                Some(found) if found == place => return Ok(self.is_same(&packet, place).then_some(packet)),
                Some(found) if found > place => return Ok(None),
                _ => {}
            }
        }
        Ok(None)
    }

    /// The next packet of the stream.
    fn next(&mut self, watch: &mut Watch<'_>) -> Result<ffmpeg::Packet, End> {
        loop {
            watch.check(self.path).map_err(End::Failed)?;
            let packet = self.file.media.read().map_err(|_| End::Doubtful)?;
            if packet.stream() == self.file.media.index {
                return Ok(packet);
            }
        }
    }

    /// Whether a packet is the one that was found at this place.
    fn is_same(&self, packet: &ffmpeg::Packet, place: usize) -> bool {
        let expected = self.packets.get(place);
        packet.pts() == Some(expected.pts)
            && packet.size() == expected.bytes as usize
            && is_discarded(packet) == expected.is_discarded
            && !packet.is_corrupt()
    }

    /// Hands a packet to the decoder, which may pass over what neither is kept nor needed.
    fn feed(&mut self, packet: &ffmpeg::Packet, place: usize, wanted: &[usize]) -> Result<(), End> {
        if !self.is_same(packet, place) {
            return Err(End::Doubtful);
        }
        let pts = self.packets.get(place).pts;
        let is_wanted = wanted.iter().any(|&frame| self.packets.of_frame(frame).pts == pts);
        let passes_over = self.tells_unneeded && !is_wanted;
        self.file.decoder.skip_frame(if passes_over {
            ffmpeg::Discard::NonReference
        } else {
            ffmpeg::Discard::Default
        });
        self.n_decoded += 1;
        self.file.decoder.send_packet(packet).map_err(|_| End::Doubtful)
    }

    /// Hands out the wanted ones of the frames that are decoded by now.
    fn receive(&mut self, wanted: &mut Wanted<'_>, watch: &mut Watch<'_>) -> Result<(), End> {
        loop {
            match self.file.decoder.receive_frame(&mut self.file.current) {
                Ok(()) => self.take(wanted, watch)?,
                Err(ffmpeg::Error::Eof) => return Ok(()),
                Err(ffmpeg::Error::Other { errno }) if errno == ffmpeg::error::EAGAIN => return Ok(()),
                Err(_) => return Err(End::Doubtful),
            }
        }
    }

    fn take(&mut self, wanted: &mut Wanted<'_>, watch: &mut Watch<'_>) -> Result<(), End> {
        if self.file.shows_damage() {
            return Err(End::Doubtful);
        }
        let Some(pts) = self.file.current.pts() else { return Err(End::Doubtful) };
        // Frames that leave the decoder in another order than that of their times are numbered by decoding them all.
        if pts <= std::mem::replace(&mut wanted.last, pts) {
            return Err(End::Doubtful);
        }
        let Some((&frame, _)) = wanted.frames.split_first() else { return Ok(()) };
        let expected = self.packets.of_frame(frame).pts;
        if pts < expected {
            return Ok(());
        }
        // One that is later means that this one does not come.
        if pts > expected {
            return Err(End::Doubtful);
        }
        let image =
            self.file.picture().map_err(|cause| End::Failed(no_conversion(self.path, FrameIndex(frame), &cause)))?;
        let time = Some(seconds(pts as f64, self.file.time_base));
        let n = wanted.frames.iter().take_while(|&&other| other == frame).count();
        wanted.frames = &wanted.frames[n..];
        for _ in 1..n {
            self.hand_out(frame, time, image.clone(), watch)?;
        }
        self.hand_out(frame, time, image, watch)
    }

    fn hand_out(&self, frame: usize, time: Option<Seconds>, image: RgbImage, watch: &mut Watch<'_>) -> Result<(), End> {
        match watch.emit(Event::Frame(Frame { index: FrameIndex(frame), time, image })) {
            Flow::Continue => Ok(()),
            Flow::Stop => Err(End::Stopped),
        }
    }
}
