//! Files that are read alone: the formats whose demuxers open nothing but the file itself, and the refusal of others.
//!
//! A video of a stranger is such a file ([`LinkedFilePolicy::Refuse`]). FFmpeg's own list of allowed formats enforces
//! the choice before a demuxer reads; the name of a file does not decide it, only the content does. `linked` refuses
//! what an allowed demuxer opens nevertheless. Called by `media`, `linked` and `images`.
//!
//! [`LinkedFilePolicy::Refuse`]: super::LinkedFilePolicy::Refuse

use std::ffi::{CStr, CString, c_int};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use ffmpeg_next::ffi;

use super::playlist::Playlist;
use crate::error::{Error, Kind};

/// FFmpeg's demuxers that read alone: containers, coded streams, images. Archives of game videos are left out: their
/// decoders are the least tested.
const FORMATS: [&str; 54] = [
    // Containers.
    "3gp",
    "asf",
    "avi",
    "dv",
    "flv",
    "gxf",
    "live_flv",
    "matroska",
    "mov",
    "mp4",
    "mpeg",
    "mpegts",
    "mxf",
    "nut",
    "ogg",
    "rm",
    "webm",
    "wtv", // Coded streams.
    "av1",
    "avs2",
    "cavsvideo",
    "dirac",
    "dnxhd",
    "evc",
    "h261",
    "h263",
    "h264",
    "hevc",
    "ivf",
    "m4v",
    "mjpeg",
    "mpegvideo",
    "obu",
    "vc1",
    "vc1test",
    "vvc",
    "yuv4mpegpipe", // Images.
    "apng",
    "bmp_pipe",
    "gif",
    "gif_pipe",
    "image2",
    "j2k_pipe",
    "jpeg_pipe",
    "jpegls_pipe",
    "jpegxl_anim",
    "jpegxl_pipe",
    "pbm_pipe",
    "pgm_pipe",
    "png_pipe",
    "ppm_pipe",
    "qoi_pipe",
    "tiff_pipe",
    "webp_pipe",
];
/// FFmpeg's demuxers that open other files or addresses, or run scripts.
const OPENERS: [&str; 13] = [
    "applehttp",
    "avisynth",
    "concat",
    "dash",
    "hls",
    "imf",
    "mlv",
    "rtp",
    "rtsp",
    "sdp",
    "vapoursynth",
    "vobsub",
    "webm_dash_manifest",
];
/// Number of first bytes by which the format of a refused file is found.
const FIRST: usize = 64 << 10;
/// Bytes after the end of the bytes that FFmpeg probes, which it may read.
const PADDING: usize = 64;

/// Returns the names of the allowed formats, as FFmpeg's option `format_whitelist` takes them.
pub(super) fn formats() -> String {
    FORMATS.join(",")
}

/// Returns the refusal of a file that leads to others.
pub(super) fn leads_elsewhere() -> Error {
    Error::new(Kind::Refused, "a playlist opens other files, which is not allowed here")
        .with_hint("send the media file itself")
}

/// Returns the refusal of a symbolic link inside a directory.
pub(super) fn link() -> Error {
    Error::new(Kind::Refused, "a symbolic link, which is not followed here")
}

/// Returns the refusal of a file that FFmpeg did not open under the list of formats: a playlist, or a format outside of
/// the list. `None` where the format is allowed or unknown. `name` is FFmpeg's name of the file.
pub(super) fn refusal(path: &Path, name: &CStr) -> Option<Error> {
    let mut first = Vec::with_capacity(FIRST + PADDING);
    File::open(path).ok()?.take(FIRST as u64).read_to_end(&mut first).ok()?;
    let is_playlist = Playlist::begins(&first);
    let format = format_of(first, name).unwrap_or_default();
    let is_one_of = |formats: &[&str]| format.split(',').any(|name| formats.contains(&name));
    if is_playlist || is_one_of(&OPENERS) {
        return Some(leads_elsewhere().about(path));
    }
    // Text is the cause that is told of text.
    if format.is_empty() || format == "tty" || is_one_of(&FORMATS) {
        return None;
    }
    Some(Error::new(Kind::Refused, format!("files of the format `{format}` are not read here")).about(path))
}

/// Returns FFmpeg's name of the format of a file by its first bytes, without reading more.
fn format_of(mut first: Vec<u8>, name: &CStr) -> Option<String> {
    let n_bytes = c_int::try_from(first.len()).ok()?;
    first.resize(first.len() + PADDING, 0);
    let name: CString = name.to_owned();
    let probe = ffi::AVProbeData {
        filename: name.as_ptr(),
        buf: first.as_mut_ptr(),
        buf_size: n_bytes,
        mime_type: std::ptr::null(),
    };
    let mut score = 0;
    // SAFETY: the probe's name is a C string and its buffer has the padding that FFmpeg asks for; both outlive the call.
    // A format is a static, and its name a static C string.
    unsafe {
        let format = ffi::av_probe_input_format3(&probe, 1, &mut score);
        let format = format.as_ref()?;
        Some(CStr::from_ptr(format.name).to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_format_is_allowed_that_opens_others() {
        assert!(OPENERS.iter().all(|name| !FORMATS.contains(name)));
        for name in ["tty", "lavfi", "image2pipe", "concat", "hls", "sdp"] {
            assert!(!FORMATS.contains(&name), "{name}");
        }
        // The separator of the option.
        assert!(FORMATS.iter().all(|name| !name.contains(',')));
    }

    #[test]
    fn formats_are_known_by_their_content_and_not_by_their_name() {
        let format = |bytes: &[u8]| format_of(bytes.to_vec(), c"file:video.mp4").unwrap_or_default();
        assert_eq!(format(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n"), "hls");
        assert_eq!(format(b"ffconcat version 1.0\nfile a.mp4\n"), "concat");
        assert_eq!(format(b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nc=IN IP4 127.0.0.1\r\nm=video 9 RTP/AVP 96\r\n"), "sdp");
    }
}
