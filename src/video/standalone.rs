//! Files that are read alone: the formats whose demuxers open nothing but the file itself, and the refusal of others.
//!
//! A video of a stranger is such a file ([`LinkedFilePolicy::Refuse`]). FFmpeg's own list of allowed formats enforces
//! the choice before a demuxer reads; the name of a file does not decide it, only the content does. `linked` refuses
//! what an allowed demuxer opens nevertheless. Called by `media`, `linked` and `images`.
//!
//! [`LinkedFilePolicy::Refuse`]: super::LinkedFilePolicy::Refuse

use std::ffi::{CStr, c_int};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use ffmpeg_next::ffi;

use super::detect::is_text;
use super::playlist::Playlist;
use crate::error::{Error, Kind};

/// FFmpeg's demuxers of containers that read alone. Those of game videos are left out: they are the least tested.
const CONTAINERS: &str = "asf,avi,dv,flv,gxf,live_flv,matroska,mov,mp4,mpeg,mpegts,mxf,nut,ogg,rm,webm,wtv";
/// FFmpeg's demuxers of coded streams.
const STREAMS: &str = "av1,avs2,cavsvideo,dirac,dnxhd,evc,h261,h263,h264,hevc,ivf,m4v,mjpeg,mpegvideo,obu,vc1,vc1test,\
                       vvc,yuv4mpegpipe";
/// FFmpeg's demuxers of images.
const IMAGES: &str = "apng,bmp_pipe,gif,gif_pipe,image2,j2k_pipe,jpeg_pipe,jpegls_pipe,jpegxl_anim,jpegxl_pipe,\
                      pbm_pipe,pgm_pipe,png_pipe,ppm_pipe,qoi_pipe,tiff_pipe,webp_pipe";
/// FFmpeg's demuxers that open other files or addresses, or run scripts.
const OPENERS: &str = "applehttp,avisynth,concat,dash,hls,imf,mlv,rtp,rtsp,sdp,vapoursynth,vobsub,webm_dash_manifest";
/// Number of first bytes by which the format of a refused file is found.
const FIRST: usize = 64 << 10;
/// Bytes after the end of the bytes that FFmpeg probes, which it may read.
const PADDING: usize = 64;

/// Returns the names of the allowed formats, as FFmpeg's option `format_whitelist` takes them.
pub(super) fn formats() -> String {
    [CONTAINERS, STREAMS, IMAGES].join(",")
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

/// Refuses a playlist, and any other file whose format opens files, before FFmpeg sees it.
///
/// # Errors
/// The refusal, or that of the operating system.
pub(super) fn check(path: &Path) -> Result<(), Error> {
    let first = beginning(path)?;
    let is_playlist = is_text(&first) && Playlist::begins(&first);
    match is_playlist || is_one_of(OPENERS, &format_of(first, c"")) {
        true => Err(leads_elsewhere().about(path)),
        false => Ok(()),
    }
}

/// Returns the refusal of a file that FFmpeg did not open because its format is not allowed. `None` where the format is
/// allowed or unknown. `name` is FFmpeg's name of the file.
pub(super) fn refusal(path: &Path, name: &CStr) -> Option<Error> {
    let format = format_of(beginning(path).ok()?, name);
    if is_one_of(OPENERS, &format) {
        return Some(leads_elsewhere().about(path));
    }
    // Of text, it is told that it is text.
    if format.is_empty() || format == "tty" || is_one_of(&formats(), &format) {
        return None;
    }
    Some(Error::new(Kind::Refused, format!("files of the format `{format}` are not read here")).about(path))
}

/// Returns whether a list of names has one of the names of a format.
fn is_one_of(names: &str, format: &str) -> bool {
    format.split(',').any(|own| names.split(',').any(|name| name == own))
}

/// Reads the first bytes of a file.
fn beginning(path: &Path) -> Result<Vec<u8>, Error> {
    let mut first = Vec::with_capacity(FIRST + PADDING);
    let read = File::open(path).and_then(|file| file.take(FIRST as u64).read_to_end(&mut first));
    read.map_err(Error::io(path)).map(|_| first)
}

/// Returns FFmpeg's name of the format of a file by its first bytes and its name, without reading more; an empty name
/// for an unknown format.
fn format_of(mut first: Vec<u8>, name: &CStr) -> String {
    let n_bytes = c_int::try_from(first.len()).unwrap_or(0);
    first.resize(first.len() + PADDING, 0);
    let probe = ffi::AVProbeData {
        filename: name.as_ptr(),
        buf: first.as_mut_ptr(),
        buf_size: n_bytes,
        mime_type: std::ptr::null(),
    };
    let mut score = 0;
    // SAFETY: the probe's name is a C string and its buffer has the padding that FFmpeg asks for; both outlive the
    // call. A format is a static, and its name a static C string.
    unsafe {
        let format = ffi::av_probe_input_format3(&probe, 1, &mut score);
        let name = format.as_ref().map(|format| CStr::from_ptr(format.name));
        name.map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_format_is_allowed_that_opens_others() {
        for name in OPENERS.split(',').chain(["tty", "lavfi", "image2pipe", "svg_pipe"]) {
            assert!(!is_one_of(&formats(), name), "{name}");
        }
        assert!(is_one_of(&formats(), "mov,mp4,m4a,3gp,3g2,mj2") && is_one_of(&formats(), "matroska,webm"));
    }

    #[test]
    fn formats_are_known_by_their_content_and_not_by_their_name() {
        let format = |bytes: &[u8]| format_of(bytes.to_vec(), c"file:video.mp4");
        assert_eq!(format(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n"), "hls");
        assert_eq!(format(b"ffconcat version 1.0\nfile a.mp4\n"), "concat");
        assert_eq!(format(b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nc=IN IP4 127.0.0.1\r\nm=video 9 RTP/AVP 96\r\n"), "sdp");
    }
}
