//! FFmpeg: the output order of pictures, read from their headers by FFmpeg's parsers without decoding them.
//!
//! Containers may store decoding times in place of presentation times; H.264 and HEVC pictures know their own order.

use ffmpeg::ffi;
use ffmpeg_next as ffmpeg;

use crate::video::entry::{Coding, Start};
use crate::video::packets::Rank;

/// Bytes of a picture that are parsed: its parameters and its first slice header.
const HEAD: usize = 1024;

/// The pictures of a stream, in decoding order.
pub(in crate::video) enum PictureOrder {
    /// They leave a decoder as they come.
    AsCoded(u32),
    /// Their headers number them.
    Numbered(Numbered),
}

impl PictureOrder {
    /// The order of a stream; nothing where FFmpeg has no parser for it.
    pub(in crate::video) fn new(stream: &ffmpeg::Stream, coding: Coding) -> Option<Self> {
        match coding {
            Coding::H264(_) | Coding::Hevc(_) => Numbered::new(stream, coding).map(Self::Numbered),
            Coding::MarkedKeys | Coding::IntraOnly => Some(Self::AsCoded(0)),
        }
    }

    /// The place of the next picture; nothing where its header is not understood, it is one field of a frame, or a
    /// decoder drops it.
    pub(in crate::video) fn rank(&mut self, packet: &[u8]) -> Option<Rank> {
        match self {
            Self::AsCoded(n) => {
                *n += 1;
                Some(Rank { sequence: *n, number: 0 })
            }
            Self::Numbered(numbered) => numbered.rank(packet),
        }
    }
}

/// A parser of H.264 or HEVC.
pub(in crate::video) struct Numbered {
    parser: *mut ffi::AVCodecParserContext,
    context: ffmpeg::codec::Context,
    coding: Coding,
    sequence: u32,
    /// Whether pictures that lead the last random access point are dropped: nothing came before it.
    drops_leading: bool,
}

impl Numbered {
    fn new(stream: &ffmpeg::Stream, coding: Coding) -> Option<Self> {
        let context = ffmpeg::codec::Context::from_parameters(stream.parameters()).ok()?;
        // SAFETY: it gives a parser or null. Each packet is one access unit, so the parser need not look for its end.
        let parser = unsafe {
            let parser = ffi::av_parser_init(ffi::AVCodecID::from(stream.parameters().id()) as i32);
            parser.as_mut()?.flags |= ffi::PARSER_FLAG_COMPLETE_FRAMES;
            parser
        };
        Some(Self { parser, context, coding, sequence: 0, drops_leading: true })
    }

    fn rank(&mut self, packet: &[u8]) -> Option<Rank> {
        match self.coding.start(packet) {
            Start::Sequence => {
                self.sequence += 1;
                self.drops_leading = false;
            }
            Start::BrokenLink => {
                self.sequence += 1;
                self.drops_leading = true;
            }
            Start::RandomAccess => self.drops_leading = self.sequence == 0,
            Start::Leading if self.drops_leading => return None,
            Start::Leading | Start::None => {}
        }
        // Numbers begin anew at each sequence; the first one may begin with a picture of random access.
        self.sequence = self.sequence.max(1);
        let number = self.number(packet)?;
        Some(Rank { sequence: self.sequence, number })
    }

    /// The picture order count of a frame.
    fn number(&mut self, packet: &[u8]) -> Option<i32> {
        const UNKNOWN: i32 = i32::MIN;
        let mut head = self.coding.head(packet, HEAD);
        let length = i32::try_from(head.len()).ok()?;
        head.extend_from_slice(&[0; ffi::AV_INPUT_BUFFER_PADDING_SIZE as usize]);
        let (mut unit, mut unit_length) = (std::ptr::null_mut(), 0);
        // SAFETY: parser and context are ours and alive; the bytes are padded as FFmpeg wants it, and outlive the call.
        // What it gives back points into them and is not used.
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

impl Drop for Numbered {
    fn drop(&mut self) {
        // SAFETY: the parser is ours, and nobody uses it afterwards.
        unsafe { ffi::av_parser_close(self.parser) };
    }
}
