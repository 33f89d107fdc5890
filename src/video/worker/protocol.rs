//! Protocol between a reader and its decoding process: JSON messages, each after its length (u32, little endian); the
//! pixels of a frame follow its message.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use ::image::RgbImage;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::units::{FrameIndex, Seconds};
use crate::video::{Frame, FrameRequest, ReadEvent, ReadLimits, ReadReport, ReadingForecast};

/// Bytes of a message at most.
const MAX_MESSAGE: u32 = 16 << 20;

/// Task of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum DecodeTask {
    /// The sampled frames, and a report.
    Read,
    /// A forecast by the packets.
    Probe,
}

/// Request to read or probe a video.
#[derive(Debug, Serialize, Deserialize)]
pub struct DecodeRequest {
    pub(super) task: DecodeTask,
    /// Video argument as bytes: names need not be UTF-8.
    path: Vec<u8>,
    pub(super) frames: FrameRequest,
    pub(super) limits: ReadLimits,
}

impl DecodeRequest {
    /// Requests the sampled frames of a video.
    pub(super) fn read_frames(path: &Path, frames: &FrameRequest, limits: &ReadLimits) -> Self {
        let path = path.as_os_str().as_encoded_bytes().to_vec();
        Self { task: DecodeTask::Read, path, frames: frames.clone(), limits: *limits }
    }

    /// Requests the forecast of a reading.
    pub(super) fn probe(path: &Path, frames: &FrameRequest, limits: &ReadLimits) -> Self {
        Self { task: DecodeTask::Probe, ..Self::read_frames(path, frames, limits) }
    }

    /// Path of the video argument.
    pub(super) fn path(&self) -> PathBuf {
        #[cfg(unix)]
        let name: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(self.path.clone());
        #[cfg(not(unix))]
        let name = String::from_utf8_lossy(&self.path).into_owned();
        name.into()
    }

    /// Number of frames that the reply has at most: none of a probe, else those of the sampling rule, or of the limit
    /// of frames for a rule without a number.
    pub(super) fn max_frames(&self) -> u64 {
        match self.task {
            DecodeTask::Probe => 0,
            DecodeTask::Read => {
                let sampled = self.frames.sample.max_frames().map(|n| n as u64);
                sampled.or(self.limits.max_frames).unwrap_or(u64::MAX)
            }
        }
    }

    /// Reads a request; `None` at the end.
    ///
    /// # Errors
    /// For a truncated or unknown message.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        read_message(from)
    }

    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        write_message(to, self)?;
        to.flush()
    }
}

/// Message of a reply: an event, or the report or error at the end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ReplyMessage {
    Expected { n_frames: usize, n_sampled: usize, is_single_image: bool },
    Waiting,
    Frame { index: FrameIndex, time: Option<Seconds>, width: u32, height: u32 },
    Progress { n_decoded: usize },
    Restart,
    End(Result<DecodeOutcome, Error>),
}

/// Outcome of a task.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum DecodeOutcome {
    Report(ReadReport),
    Forecast(ReadingForecast),
}

/// Reply with its payload.
pub(super) enum DecodeReply {
    Event(ReadEvent),
    End(Result<DecodeOutcome, Error>),
}

impl DecodeReply {
    /// Reads a reply; `None` at the end. A frame may have as many bytes as `frame_bytes` returns then: a decoder that
    /// was taken over may declare any size.
    pub(super) fn read(from: &mut impl Read, frame_bytes: impl Fn() -> u64) -> io::Result<Option<Self>> {
        let Some(reply) = read_message(from)? else { return Ok(None) };
        Ok(Some(match reply {
            ReplyMessage::Expected { n_frames, n_sampled, is_single_image } => {
                Self::Event(ReadEvent::Expected { n_frames, n_sampled, is_single_image })
            }
            ReplyMessage::Waiting => Self::Event(ReadEvent::Waiting),
            ReplyMessage::Progress { n_decoded } => Self::Event(ReadEvent::Progress { n_decoded }),
            ReplyMessage::Restart => Self::Event(ReadEvent::Restart),
            ReplyMessage::End(end) => Self::End(end),
            ReplyMessage::Frame { index, time, width, height } => {
                let length = (u64::from(width) * u64::from(height)).checked_mul(3);
                let length = length.filter(|length| *length <= frame_bytes());
                let length = length.ok_or_else(|| io::Error::other(format!("a frame of {width} x {height}")))?;
                let mut pixels = Vec::new();
                from.take(length).read_to_end(&mut pixels)?;
                let image = RgbImage::from_raw(width, height, pixels).ok_or(io::ErrorKind::UnexpectedEof)?;
                Self::Event(ReadEvent::Frame(Frame { index, time, image }))
            }
        }))
    }
}

/// Writes and flushes an event.
pub(super) fn write_event(to: &mut impl Write, event: ReadEvent) -> io::Result<()> {
    let reply = match &event {
        &ReadEvent::Expected { n_frames, n_sampled, is_single_image } => {
            ReplyMessage::Expected { n_frames, n_sampled, is_single_image }
        }
        ReadEvent::Waiting => ReplyMessage::Waiting,
        ReadEvent::Progress { n_decoded } => ReplyMessage::Progress { n_decoded: *n_decoded },
        ReadEvent::Restart => ReplyMessage::Restart,
        ReadEvent::Frame(Frame { index, time, image }) => {
            ReplyMessage::Frame { index: *index, time: *time, width: image.width(), height: image.height() }
        }
    };
    write_message(to, &reply)?;
    if let ReadEvent::Frame(Frame { image, .. }) = &event {
        to.write_all(image.as_raw())?;
    }
    to.flush()
}

/// Writes and flushes the end of a reading.
pub(super) fn write_end(to: &mut impl Write, end: Result<DecodeOutcome, Error>) -> io::Result<()> {
    write_message(to, &ReplyMessage::End(end))?;
    to.flush()
}

fn write_message(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&text)
}

fn read_message<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    if from.read(&mut length[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut length[1..])?;
    let length = u32::from_le_bytes(length);
    if length > MAX_MESSAGE {
        return Err(io::Error::other(format!("a message of {length} bytes")));
    }
    let mut text = vec![0; length as usize];
    from.read_exact(&mut text)?;
    Ok(Some(serde_json::from_slice(&text)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::video::{Sample, Window};
    use ::image::Rgb;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let window = Window { start: Some(Seconds(0.1)), end: None };
        let frames = FrameRequest { stream: Some(2), ..FrameRequest::new(Sample::All, window) };
        let limits = ReadLimits { time: Some(std::time::Duration::from_millis(1500)), ..ReadLimits::default() };
        let mut bytes = Vec::new();
        DecodeRequest::probe(Path::new("a b.mp4"), &frames, &limits).write(&mut bytes).expect("memory");
        let mut from = &bytes[..];
        let read = DecodeRequest::read(&mut from).expect("whole").expect("one");
        assert_eq!((read.path(), read.frames, read.limits), ("a b.mp4".into(), frames, limits));
        assert_eq!(read.task, DecodeTask::Probe);
        assert!(DecodeRequest::read(&mut from).expect("the end").is_none());
        assert!(DecodeRequest::read(&mut &bytes[..9]).is_err(), "cut off");
    }

    #[test]
    fn a_reply_has_as_many_frames_as_were_asked_for() {
        let request = |sample, max_frames| {
            let frames = FrameRequest::new(sample, Window::default());
            DecodeRequest::read_frames(Path::new("a"), &frames, &ReadLimits { max_frames, ..ReadLimits::default() })
        };
        assert_eq!(request(Sample::uniform(5), Some(9)).max_frames(), 5);
        assert_eq!(request(Sample::All, Some(9)).max_frames(), 9);
        assert_eq!(request(Sample::All, None).max_frames(), u64::MAX);
        let probe = DecodeRequest { task: DecodeTask::Probe, ..request(Sample::uniform(5), None) };
        assert_eq!(probe.max_frames(), 0);
    }

    #[test]
    fn a_frame_brings_its_pixels_and_its_exact_time() {
        let image = RgbImage::from_fn(3, 2, |x, y| Rgb([x as u8, y as u8, 7]));
        let time = Some(Seconds(0.1 + 0.2));
        let mut bytes = Vec::new();
        write_event(&mut bytes, ReadEvent::Frame(Frame { index: FrameIndex(5), time, image: image.clone() }))
            .expect("memory");
        write_end(&mut bytes, Err(Error::new(Kind::Empty, "the file is empty (0 bytes)").about(Path::new("x"))))
            .expect("memory");
        let mut from = &bytes[..];
        let read = |from: &mut &[u8]| DecodeReply::read(from, || 18);
        let Some(DecodeReply::Event(ReadEvent::Frame(frame))) = read(&mut from).expect("whole") else {
            panic!("no frame")
        };
        assert_eq!((frame.index, frame.time, frame.image), (FrameIndex(5), time, image));
        let Some(DecodeReply::End(Err(error))) = read(&mut from).expect("whole") else { panic!("no end") };
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Empty, "x: the file is empty (0 bytes)"));
        assert!(read(&mut &bytes[..60]).is_err(), "cut off within the pixels");
        assert!(DecodeReply::read(&mut &bytes[..], || 17).is_err(), "over the limit");
        let mut declared = Vec::new();
        let frame = ReplyMessage::Frame { index: FrameIndex(0), time: None, width: u32::MAX, height: u32::MAX };
        write_message(&mut declared, &frame).expect("memory");
        assert!(DecodeReply::read(&mut &declared[..], || u64::MAX).is_err(), "more than memory has");
    }
}
