//! Detection of videos by the first bytes of a file. No frame is decoded, no other file is opened.
//!
//! Archives call it for files without a known extension. Text is recognized before FFmpeg sees the file: FFmpeg would
//! read text as terminal art (`tty`), or as a playlist of other files.

use std::ffi::{CString, c_int, c_void};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use ffmpeg_next::ffi;

/// Number of first bytes that are read without FFmpeg.
const FIRST: u64 = 4096;
/// Number of bytes that FFmpeg may read to find the format.
const FORMAT_BYTES: c_int = 64 << 10;
/// Number of bytes that FFmpeg may read to find the streams.
const STREAM_BYTES: i64 = 512 << 10;
/// Number of packets at most, of formats whose header does not list the streams.
const MAX_PACKETS: usize = 256;
/// Time limit of a probe; a file that takes longer is [`FileContent::Unknown`].
const LIMIT: Duration = Duration::from_secs(5);
/// Highest of FFmpeg's scores, 0 to 100, that is a guess: time zone tables get this score as H.263, programs as MPEG.
const GUESS: c_int = 25;
/// Demuxer whose certain matches have the score [`GUESS`]: several JPEG images in one file.
const MOTION_JPEG: &str = "mjpeg";
/// Demuxers of single images, besides the names that end in `_pipe`.
const IMAGES: [&str; 6] = ["image2", "ico", "fits", "alias_pix", "brender_pix", "txd"];

/// Content of a file by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileContent {
    /// A video stream other than a cover image.
    Video,
    /// Audio, with or without a cover image.
    Audio,
    /// A single image.
    Image,
    /// Text of any kind.
    Text,
    /// An empty file.
    Empty,
    /// FileContent that FFmpeg does not recognize.
    Unknown,
}

/// Detects the content of a regular file.
///
/// # Errors
/// Of the operating system; for a path that is not a regular file, which is not opened.
pub(crate) fn content_of(path: &Path) -> io::Result<FileContent> {
    let first = beginning(path)?;
    if first.is_empty() {
        return Ok(FileContent::Empty);
    }
    if is_text(&first) {
        return Ok(FileContent::Text);
    }
    if is_still_brand(&first) {
        return Ok(FileContent::Image);
    }
    Ok(ContentProbe::open(path).map_or(FileContent::Unknown, |mut probe| probe.content()))
}

/// Returns whether the beginning of a file is text.
///
/// # Errors
/// See [`content_of`].
pub(crate) fn begins_as_text(path: &Path) -> io::Result<bool> {
    beginning(path).map(|first| is_text(&first))
}

fn beginning(path: &Path) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut first = Vec::new();
    File::open(path)?.take(FIRST).read_to_end(&mut first)?;
    Ok(first)
}

/// Returns whether bytes are text: UTF-16 by its byte order mark, or UTF-8 without control characters, where the last
/// character may be cut.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    // The header of uncompressed video is a line of text, and the bytes of dark frames may look like text.
    if bytes.is_empty() || bytes.starts_with(b"YUV4MPEG2") {
        return false;
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return true;
    }
    let valid = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or(""),
        Err(_) => return is_latin_text(bytes),
    };
    !valid.is_empty() && !valid.bytes().any(is_binary)
}

/// Returns whether bytes are text in an encoding of one byte a character: no control characters, mostly letters.
fn is_latin_text(bytes: &[u8]) -> bool {
    let n_letters = bytes.iter().filter(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()).count();
    !bytes.iter().copied().any(is_binary) && n_letters * 10 >= bytes.len() * 7
}

/// Returns whether a byte is a control character that does not occur in text.
fn is_binary(byte: u8) -> bool {
    byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | 0x1b)
}

/// Returns whether an ISO base media file has the brand of a still image (HEIF, AVIF), which FFmpeg's demuxer reads as
/// a video.
fn is_still_brand(bytes: &[u8]) -> bool {
    const STILLS: [&[u8]; 6] = [b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif"];
    bytes.get(4..8) == Some(b"ftyp") && bytes.get(8..12).is_some_and(|brand| STILLS.contains(&brand))
}

/// A file opened by FFmpeg for detection.
struct ContentProbe {
    context: *mut ffi::AVFormatContext,
    /// Start of the probe; FFmpeg keeps the address as long as the context lives.
    _begin: Box<Instant>,
}

impl ContentProbe {
    fn open(path: &Path) -> Option<Self> {
        // FFmpeg would log errors of every file that is not a video.
        ffmpeg_next::log::set_level(ffmpeg_next::log::Level::Quiet);
        let name = CString::new([b"file:", path.as_os_str().as_encoded_bytes()].concat()).ok()?;
        let begin = Box::new(Instant::now());
        let mut options = ffmpeg_next::Dictionary::new();
        options.set("protocol_whitelist", "file");
        // SAFETY: the context is ours; `avformat_open_input` frees it when it fails, and `drop` closes it otherwise.
        // The options are taken out of their owner, and what FFmpeg leaves of them goes back to one.
        let context = unsafe {
            let mut context = ffi::avformat_alloc_context();
            if context.is_null() {
                return None;
            }
            let opaque: *const Instant = &*begin;
            (*context).interrupt_callback =
                ffi::AVIOInterruptCB { callback: Some(is_over), opaque: opaque.cast_mut().cast() };
            (*context).format_probesize = FORMAT_BYTES;
            (*context).probesize = STREAM_BYTES;
            let mut left = options.disown();
            let opened = ffi::avformat_open_input(&mut context, name.as_ptr(), std::ptr::null(), &mut left);
            drop(ffmpeg_next::Dictionary::own(left));
            if opened < 0 {
                return None;
            }
            context
        };
        Some(Self { context, _begin: begin })
    }

    fn content(&mut self) -> FileContent {
        let name = self.format();
        let is_guess = self.score() < GUESS || (self.score() == GUESS && name != MOTION_JPEG);
        if is_guess || name == "tty" {
            return FileContent::Unknown;
        }
        if name.ends_with("_pipe") || IMAGES.contains(&name.as_str()) {
            return FileContent::Image;
        }
        let mut found = self.streams();
        // Some formats announce a stream with its first packet.
        for _ in 0..MAX_PACKETS {
            if found == FileContent::Video || !self.may_have_more_streams() || !self.read_packet() {
                break;
            }
            found = self.streams();
        }
        found
    }

    /// Classifies the file by the streams that are known so far.
    fn streams(&self) -> FileContent {
        let mut found = FileContent::Unknown;
        // SAFETY: the context is open and has as many streams as it says; the fields are plain numbers.
        unsafe {
            for i in 0..(*self.context).nb_streams as usize {
                let stream = *(*self.context).streams.add(i);
                let is_cover = (*stream).disposition & ffi::AV_DISPOSITION_ATTACHED_PIC != 0;
                let parameters = &*(*stream).codecpar;
                // Some formats announce the codec after some packets.
                let is_decodable = !ffi::avcodec_find_decoder(parameters.codec_id).is_null();
                match parameters.codec_type {
                    ffi::AVMediaType::AVMEDIA_TYPE_VIDEO if !is_cover && is_decodable => return FileContent::Video,
                    ffi::AVMediaType::AVMEDIA_TYPE_AUDIO => found = FileContent::Audio,
                    _ => {}
                }
            }
        }
        found
    }

    fn format(&self) -> String {
        // SAFETY: the context is open, so it has a format, whose name is a static string.
        let name = unsafe { std::ffi::CStr::from_ptr((*(*self.context).iformat).name) };
        name.to_string_lossy().into_owned()
    }

    fn score(&self) -> c_int {
        // SAFETY: the context is open, and the field is a plain number.
        unsafe { (*self.context).probe_score }
    }

    fn may_have_more_streams(&self) -> bool {
        // SAFETY: the context is open, and the fields are plain numbers; a format that reads for itself has no reader
        // to ask.
        unsafe {
            let reader = (*self.context).pb;
            let is_near = reader.is_null() || (*reader).pos <= STREAM_BYTES;
            (*self.context).ctx_flags & ffi::AVFMTCTX_NOHEADER != 0 && is_near
        }
    }

    fn read_packet(&mut self) -> bool {
        let mut packet = ffmpeg_next::Packet::empty();
        // SAFETY: both are ours and alive; the packet frees what it gets.
        unsafe { ffi::av_read_frame(self.context, ffmpeg_next::packet::Mut::as_mut_ptr(&mut packet)) >= 0 }
    }
}

impl Drop for ContentProbe {
    fn drop(&mut self) {
        // SAFETY: the context is ours and open, and nothing holds it after this.
        unsafe { ffi::avformat_close_input(&mut self.context) };
    }
}

/// FFmpeg's interrupt callback: returns 1 once the time is over.
extern "C" fn is_over(begin: *mut c_void) -> c_int {
    // SAFETY: `ContentProbe::open` gave the address of an `Instant` that outlives the context.
    let begin = unsafe { &*begin.cast::<Instant>() };
    c_int::from(begin.elapsed() > LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_told_from_files_that_only_begin_like_it() {
        for (bytes, expected) in [
            (&b"{\"a\": 1}\n"[..], true),
            ("käse\n".as_bytes(), true),
            (&"käse".as_bytes()[..2], true),
            (b"caf\xe9 au lait, deux\n", true),
            (b"\xff\xfea\0", true),
            (b"\x1b[31mred\n", true),
            (b"YUV4MPEG2 W64 H48\nFRAME\n", false),
            (b"\0\0\0\x18ftypisom", false),
            (b"\x1aE\xdf\xa3", false),
            (b"GIF89a\x40\0", false),
            (b"", false),
        ] {
            assert_eq!(is_text(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn nothing_but_a_regular_file_is_opened() {
        assert!(content_of(Path::new("/dev/zero")).is_err());
        assert!(content_of(Path::new(env!("CARGO_MANIFEST_DIR"))).is_err());
        assert!(content_of(Path::new("nowhere")).is_err());
    }
}
