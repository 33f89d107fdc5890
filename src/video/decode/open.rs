//! Opening of a stream's decoder: its threads, its limits and its handling of damage.

use std::path::Path;
use std::sync::Arc;

use ffmpeg::codec::threading;
use ffmpeg_next as ffmpeg;

use super::signs::DamageSigns;
use crate::error::{Error, Kind};
use crate::video::demux::size_of;
use crate::video::limits::ReadLimits;
use crate::video::media::decoder_options;

/// Limits of a decoder, and its handling of errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct DecoderSettings {
    pub(super) limits: ReadLimits,
    pub(super) errors: ErrorHandling,
    /// FFmpeg's name of the inverse DCT. Default: FFmpeg's choice, the fastest.
    pub(super) idct: Option<&'static str>,
}

impl DecoderSettings {
    pub(super) fn new(limits: ReadLimits, errors: ErrorHandling) -> Self {
        Self { limits, errors, idct: None }
    }
}

/// Handling of undecodable data by a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorHandling {
    /// The decoder conceals errors: a damaged frame is better than no frame.
    Conceal,
    /// The decoder reports errors, as concealment may depend on earlier frames.
    Report,
}

/// Opens the decoder of a stream; `signs` counts what it reports.
///
/// # Errors
/// When this FFmpeg has no decoder for the stream, or a frame would take more than the limit.
pub(super) fn open_decoder(
    path: &Path,
    stream: &ffmpeg::Stream,
    settings: DecoderSettings,
    signs: &Arc<DamageSigns>,
) -> Result<ffmpeg::decoder::Video, Error> {
    let DecoderSettings { limits, errors, idct } = settings;
    let id = stream.parameters().id();
    let failed =
        |error: ffmpeg::Error| Error::new(Kind::NoDecoder, format!("cannot decode {}: {error}", id.name())).about(path);
    let codec = ffmpeg::decoder::find(id).ok_or_else(|| failed(ffmpeg::Error::DecoderNotFound))?;
    let mut context = ffmpeg::codec::Context::from_parameters(stream.parameters()).map_err(failed)?;
    // Frame threads where the codec supports them, and thread-safe buffer callbacks.
    let (kind, count) = (threading::Type::Frame, limits.threads);
    context.set_threading(threading::Config { kind, count, safe: true });
    DamageSigns::attach(signs, &mut context);
    let mut decoder = context.decoder();
    let (width, height) = size_of(stream);
    limits.check_frame(path, width, height)?;
    decoder.set_packet_time_base(stream.time_base());
    let mut options = decoder_options(&limits);
    if errors == ErrorHandling::Report {
        options.set("err_detect", "explode");
    }
    if let Some(idct) = idct {
        options.set("idct", idct);
    }
    decoder.open_as_with(codec, options).and_then(ffmpeg::codec::decoder::Opened::video).map_err(failed)
}
