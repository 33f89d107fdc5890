//! FFmpeg: output order of pictures by their picture order counts, read by FFmpeg's parsers without decoding.
//!
//! Containers may store decoding times in place of presentation times; headers of H.264 and HEVC pictures have the
//! order. Called by `demux` for each packet of a scan.

use ffmpeg::ffi;
use ffmpeg_next as ffmpeg;

use crate::video::entry::{Coding, PictureKind};
use crate::video::packets::OutputRank;

/// Number of parsed bytes of a picture: its parameter sets and its first slice header.
const HEAD: usize = 1024;

/// Output order of the pictures of a stream, which come in decoding order.
pub(in crate::video) enum PictureOrder {
    /// Output order equals decoding order; the field counts the pictures.
    AsCoded(u32),
    /// Headers have picture order counts.
    Numbered(NumberedOrder),
}

impl PictureOrder {
    /// Makes the order of a stream; `None` where FFmpeg has no parser for its coding.
    pub(in crate::video) fn new(stream: &ffmpeg::Stream, coding: Coding) -> Option<Self> {
        match coding {
            Coding::H264(_) | Coding::Hevc(_) => NumberedOrder::new(stream, coding).map(Self::Numbered),
            Coding::FlaggedKeys | Coding::IntraOnly => Some(Self::AsCoded(0)),
        }
    }

    /// Returns the rank of the next picture; `None` for an unreadable header, for a single field of a frame, and for a
    /// picture that decoders drop.
    pub(in crate::video) fn rank(&mut self, packet: &[u8]) -> Option<OutputRank> {
        match self {
            Self::AsCoded(n) => {
                *n += 1;
                Some(OutputRank { sequence: *n, number: 0 })
            }
            Self::Numbered(numbered) => numbered.rank(packet),
        }
    }
}

/// Order by the picture order counts of H.264 or HEVC.
pub(in crate::video) struct NumberedOrder {
    parser: *mut ffi::AVCodecParserContext,
    context: ffmpeg::codec::Context,
    coding: Coding,
    sequence: u32,
    /// Whether leading pictures of the last random access point are dropped, as no picture comes before it.
    drops_leading: bool,
}

impl NumberedOrder {
    fn new(stream: &ffmpeg::Stream, coding: Coding) -> Option<Self> {
        let context = ffmpeg::codec::Context::from_parameters(stream.parameters()).ok()?;
        // SAFETY: it returns a parser or null. Each packet is one access unit, so the parser need not look for its end.
        let parser = unsafe {
            let parser = ffi::av_parser_init(ffi::AVCodecID::from(stream.parameters().id()) as i32);
            parser.as_mut()?.flags |= ffi::PARSER_FLAG_COMPLETE_FRAMES;
            parser
        };
        Some(Self { parser, context, coding, sequence: 0, drops_leading: true })
    }

    fn rank(&mut self, packet: &[u8]) -> Option<OutputRank> {
        match self.coding.picture_kind(packet) {
            PictureKind::Sequence => {
                self.sequence += 1;
                self.drops_leading = false;
            }
            PictureKind::BrokenLink => {
                self.sequence += 1;
                self.drops_leading = true;
            }
            PictureKind::RandomAccess => self.drops_leading = self.sequence == 0,
            PictureKind::Leading if self.drops_leading => return None,
            PictureKind::Leading | PictureKind::None => {}
        }
        // Counts restart with each sequence; the first sequence may begin with a random access picture.
        self.sequence = self.sequence.max(1);
        let number = self.number(packet)?;
        Some(OutputRank { sequence: self.sequence, number })
    }

    /// Returns the picture order count of a frame.
    fn number(&mut self, packet: &[u8]) -> Option<i32> {
        const UNKNOWN: i32 = i32::MIN;
        let mut head = self.coding.head(packet, HEAD);
        let length = i32::try_from(head.len()).ok()?;
        head.extend_from_slice(&[0; ffi::AV_INPUT_BUFFER_PADDING_SIZE as usize]);
        let (mut unit, mut unit_length) = (std::ptr::null_mut(), 0);
        // SAFETY: parser and context are ours and alive; the bytes are padded as FFmpeg requires, and outlive the call.
        // The returned pointer leads into them and is not used.
        let (number, structure) = unsafe {
            (*self.parser).output_picture_number = UNKNOWN;
            let none = ffi::AV_NOPTS_VALUE;
            ffi::av_parser_parse2(
                self.parser,
                self.context.as_mut_ptr(),
                &mut unit,
                &mut unit_length,
                head.as_ptr(),
                length,
                none,
                none,
                -1,
            );
            ((*self.parser).output_picture_number, (*self.parser).picture_structure)
        };
        use ffi::AVPictureStructure::{AV_PICTURE_STRUCTURE_BOTTOM_FIELD, AV_PICTURE_STRUCTURE_TOP_FIELD};
        let is_field = matches!(structure, AV_PICTURE_STRUCTURE_TOP_FIELD | AV_PICTURE_STRUCTURE_BOTTOM_FIELD);
        Some(number).filter(|&number| number != UNKNOWN && !is_field)
    }
}

impl Drop for NumberedOrder {
    fn drop(&mut self) {
        // SAFETY: the parser is ours, and is not used afterwards.
        unsafe { ffi::av_parser_close(self.parser) };
    }
}
