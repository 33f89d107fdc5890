//! FFmpeg: single frames of a file whose packets are known, by jumping to where their decoding may begin.
//!
//! Every packet is compared with what was found of it before, and every wanted frame must come; whatever is otherwise makes the file
//! doubtful, which is then read from front to back.

use std::path::Path;
use std::time::Instant;

use ::image::RgbImage;
use ffmpeg::ffi;
use ffmpeg_next as ffmpeg;

use super::VideoFile;
use crate::units::{FrameIndex, Seconds};
use crate::video::demux::{Indexed, is_discarded, seconds};
use crate::video::limits::Watch;
use crate::video::packets::{Packets, Run};
use crate::video::reader::{Event, Flow, FrameSource, is_due};
use crate::video::{Damage, Frame, VideoError};

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
) -> Result<Fetched, VideoError> {
    let Indexed { media, packets, tells_unneeded, .. } = indexed;
    let file = VideoFile::of(path, media, &watch.limits)?;
    let mut fetcher = Fetcher { path, file, packets: &packets, tells_unneeded, n_decoded: 0, told: Instant::now() };
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
    Failed(VideoError),
}

struct Fetcher<'a> {
    path: &'a Path,
    file: VideoFile,
    packets: &'a Packets,
    tells_unneeded: bool,
    n_decoded: usize,
    /// When the consumer heard of it last.
    told: Instant,
}

impl Fetcher<'_> {
    fn run(&mut self, run: &Run, watch: &mut Watch<'_>) -> Result<(), End> {
        let mut packet = self.jump(run.first, watch)?;
        let mut wanted = run.frames.as_slice();
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
        if wanted.is_empty() { Ok(()) } else { Err(End::Doubtful) }
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
    fn jump(&mut self, place: usize, watch: &mut Watch<'_>) -> Result<Option<ffmpeg::Packet>, End> {
        let target = *self.packets.get(place);
        // Some demuxers seek by presentation times, some by decoding times; who lands too late tries the earlier one.
        let mut times = vec![target.pts];
        times.extend(target.dts.filter(|&dts| dts != target.pts));
        for ticks in times {
            if !self.seek(ticks) {
                continue;
            }
            // What lies before it is passed over.
            for _ in 0..=self.packets.len() {
                let packet = self.next(watch)?;
                match packet.pts().and_then(|pts| self.packets.place_of(pts)) {
                    Some(found) if found == place => return Ok(Some(packet)),
                    Some(found) if found > place => break,
                    _ => {}
                }
            }
        }
        Err(End::Doubtful)
    }

    fn seek(&mut self, ticks: i64) -> bool {
        let Ok(stream) = i32::try_from(self.file.stream) else { return false };
        // SAFETY: the context is alive and ours, and the stream is one of its own.
        unsafe {
            let context = self.file.media.input.as_mut_ptr();
            ffi::av_seek_frame(context, stream, ticks, ffi::AVSEEK_FLAG_BACKWARD) >= 0
        }
    }

    /// The next packet of the stream.
    fn next(&mut self, watch: &mut Watch<'_>) -> Result<ffmpeg::Packet, End> {
        loop {
            watch.check(self.path).map_err(End::Failed)?;
            let mut packet = ffmpeg::Packet::empty();
            packet.read(&mut self.file.media.input).map_err(|_| End::Doubtful)?;
            if packet.stream() == self.file.stream {
                return Ok(packet);
            }
        }
    }

    /// Hands a packet to the decoder, which may pass over what neither is kept nor needed.
    fn feed(&mut self, packet: &ffmpeg::Packet, place: usize, wanted: &[usize]) -> Result<(), End> {
        let expected = self.packets.get(place);
        let is_same = packet.pts() == Some(expected.pts)
            && packet.size() == expected.bytes as usize
            && is_discarded(packet) == expected.is_discarded
            && !packet.is_corrupt();
        if !is_same {
            return Err(End::Doubtful);
        }
        let is_wanted = wanted.iter().any(|&frame| self.packets.of_frame(frame).pts == expected.pts);
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
    fn receive(&mut self, wanted: &mut &[usize], watch: &mut Watch<'_>) -> Result<(), End> {
        loop {
            match self.file.decoder.receive_frame(&mut self.file.current) {
                Ok(()) => self.take(wanted, watch)?,
                Err(ffmpeg::Error::Eof) => return Ok(()),
                Err(ffmpeg::Error::Other { errno }) if errno == ffmpeg::error::EAGAIN => return Ok(()),
                Err(_) => return Err(End::Doubtful),
            }
        }
    }

    fn take(&mut self, wanted: &mut &[usize], watch: &mut Watch<'_>) -> Result<(), End> {
        let Some((&frame, _)) = wanted.split_first() else { return Ok(()) };
        let expected = self.packets.of_frame(frame).pts;
        let Some(pts) = self.file.current.pts() else { return Err(End::Doubtful) };
        if pts < expected {
            return Ok(());
        }
        // One that is later means that this one does not come.
        if pts > expected || self.file.current.is_corrupt() {
            return Err(End::Doubtful);
        }
        let image = self
            .file
            .picture()
            .map_err(|cause| End::Failed(VideoError::Convert { path: self.path.to_owned(), index: frame, cause }))?;
        let time = Some(seconds(pts, self.file.time_base));
        let n = wanted.iter().take_while(|&&other| other == frame).count();
        *wanted = &wanted[n..];
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
