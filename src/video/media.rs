//! FFmpeg: opening of media files, with interrupts, checked paths and a closed list of protocols. Packets are scanned
//! in `demux`, frames decoded in `decode`.

use std::ffi::{CString, c_int, c_void};
use std::path::Path;
use std::sync::{Arc, Once};

use ffmpeg::format::context::Input;
use ffmpeg::{Dictionary, ffi};
use ffmpeg_next as ffmpeg;

use super::decode::capture_log;
use super::error::{cannot_read, not_found, not_media, out_of_memory};
use super::limits::{LinkedFilePolicy, ReadLimits};
use super::linked::LinkedFiles;
use super::standalone;
use super::timer::ReadTimer;
use super::{streams, stuck};
use crate::error::{Error, Kind};

/// An open media file, and the stream to read. FFmpeg's calls are interrupted once the time is over.
pub(super) struct OpenMedia {
    pub(super) input: Input,
    /// Index of the stream; other streams are discarded.
    pub(super) index: usize,
    /// Files that the container opens itself. FFmpeg keeps the address as long as the input lives, which is dropped
    /// first.
    pub(super) linked: Box<LinkedFiles>,
    timer: Arc<ReadTimer>,
}

impl OpenMedia {
    /// Opens a file, for the stream of an index or its best video stream.
    pub(super) fn open(path: &Path, stream: Option<usize>, timer: &Arc<ReadTimer>) -> Result<Self, Error> {
        let (linked, mut input) = open(path, timer)?;
        let index = streams::choose(path, &input, stream)?;
        streams::discard_others(&mut input, index);
        Ok(Self { input, index, linked, timer: timer.clone() })
    }

    /// Returns the stream to read.
    pub(super) fn stream(&self, path: &Path) -> Result<ffmpeg::Stream<'_>, Error> {
        self.input
            .stream(self.index)
            .ok_or_else(|| not_media(path, Error::invalid(format!("no stream {}", self.index))))
    }

    /// Reads the next packet, of any stream, into a new packet: FFmpeg would leak the bytes of a reused one.
    pub(super) fn read(&mut self) -> Result<ffmpeg::Packet, ffmpeg::Error> {
        let mut packet = ffmpeg::Packet::empty();
        let _inside = self.timer.enter();
        packet.read(&mut self.input)?;
        Ok(packet)
    }

    /// Seeks to the last keyframe packet before a time of the stream; returns whether FFmpeg did.
    pub(super) fn seek(&mut self, ticks: i64) -> bool {
        let Ok(stream) = c_int::try_from(self.index) else { return false };
        let _inside = self.timer.enter();
        // SAFETY: the context is alive and ours, and the stream is one of its own.
        unsafe { ffi::av_seek_frame(self.input.as_mut_ptr(), stream, ticks, ffi::AVSEEK_FLAG_BACKWARD) >= 0 }
    }
}

/// Opens a file with all streams. The input must be dropped before the linked files, as tuples bound in this order are.
pub(super) fn open(path: &Path, timer: &Arc<ReadTimer>) -> Result<(Box<LinkedFiles>, Input), Error> {
    let name = check_file(path)?;
    let is_alone = timer.limits().links == LinkedFilePolicy::Refuse;
    if is_alone {
        standalone::check(path)?;
    }
    let linked = Box::new(match is_alone {
        true => LinkedFiles::standalone(timer.clone(), name.clone()),
        false => LinkedFiles::new(timer.clone()),
    });
    stuck::register(path, timer);
    let inside = timer.enter();
    #[cfg(debug_assertions)]
    super::worker::inject_on_open(path);
    let input = open_input(&name, &linked, timer).map_err(|error| {
        if let Some(refusal) = is_alone.then(|| standalone::refusal(path, &name)).flatten() {
            return timer.check(path).err().unwrap_or(refusal);
        }
        if is_out_of_memory(error) {
            return out_of_memory(path);
        }
        let cause = linked.refusal().or_else(|| linked.first_missing());
        let cause = cause.unwrap_or_else(|| Error::invalid(error.to_string()));
        // FFmpeg reports an interrupted call as an error.
        timer.check(path).err().unwrap_or_else(|| not_media(path, cause))
    })?;
    drop(inside);
    timer.check(path)?;
    if let Some(refusal) = linked.refusal().filter(|_| is_alone) {
        return Err(refusal.about(path));
    }
    if input.format().name() == "tty" {
        return Err(not_media(path, Error::invalid("it holds text")));
    }
    if let (0, Some(missing)) = (input.streams().len(), linked.first_missing()) {
        return Err(not_media(path, missing));
    }
    Ok((linked, input))
}

/// Returns the versions of the libraries that pixel values depend on.
pub(crate) fn library_versions() -> String {
    // SAFETY: the functions return numbers.
    let versions = unsafe { [ffi::avformat_version(), ffi::avcodec_version(), ffi::swscale_version()] };
    versions.map(|version| format!("{}.{}.{}", version >> 16, version >> 8 & 0xff, version & 0xff)).join(" ")
}

/// Checks that a path is a readable file or a directory, before anything else is read.
///
/// # Errors
/// [`Error`] naming the path.
pub(crate) fn check_argument(path: &Path) -> Result<(), Error> {
    if path.is_dir() { Ok(()) } else { check_file(path).map(drop) }
}

/// Returns FFmpeg's name of a regular, readable file.
fn check_file(path: &Path) -> Result<CString, Error> {
    static QUIET: Once = Once::new();
    // FFmpeg's messages are reported with the file's name instead: see `Damage`.
    QUIET.call_once(|| {
        // It also fills the table of error texts, and cannot fail.
        let _ = ffmpeg::init();
        capture_log();
    });
    let meta = std::fs::metadata(path).map_err(cannot_read(path))?;
    if !meta.is_file() {
        let error = Error::new(Kind::NotRegular, "neither a regular file nor a directory");
        return Err(error.with_hint("save the stream to a file first").about(path));
    }
    if meta.len() == 0 {
        return Err(Error::new(Kind::Empty, "the file is empty (0 bytes)").about(path));
    }
    std::fs::File::open(path).map_err(Error::io(path))?;
    // With the prefix, a colon in a name is not a protocol. On Unix names are bytes, which FFmpeg takes unchanged.
    let name = [b"file:", path.as_os_str().as_encoded_bytes()].concat();
    CString::new(name).map_err(|_| not_found(path))
}

/// Returns the options of every decoder.
pub(super) fn decoder_options(limits: &ReadLimits) -> Dictionary<'static> {
    let mut options = Dictionary::new();
    options.set("max_pixels", &limits.frame_pixels().to_string());
    options
}

/// FFmpeg's interrupt callback: returns 1 if the call is to be given up.
extern "C" fn is_over(timer: *mut c_void) -> c_int {
    // SAFETY: `open_input` passed the address of a `ReadTimer` that outlives the input, and only shared access is
    // taken.
    let timer = unsafe { &*timer.cast::<ReadTimer>() };
    c_int::from(timer.is_over())
}

/// Opens a file like `ffmpeg::format::input_with_dictionary`, with interrupts and names in any encoding.
fn open_input(name: &CString, linked: &LinkedFiles, timer: &Arc<ReadTimer>) -> Result<Input, ffmpeg::Error> {
    let mut options = Dictionary::new();
    let limits = timer.limits();
    match limits.links {
        // A playlist must not reach the network.
        LinkedFilePolicy::Local => options.set("protocol_whitelist", "file,crypto,data"),
        LinkedFilePolicy::Refuse => {
            options.set("protocol_whitelist", "file,pipe");
            options.set("format_whitelist", &standalone::formats());
        }
    }
    // Names are literal: `%d`, `*` and `?` are no patterns of image files.
    options.set("pattern_type", "none");
    // Segments and keys of HLS may have any name: only local regular files are opened, see `linked`.
    for (option, value) in
        [("allowed_extensions", "ALL"), ("allowed_segment_extensions", "ALL"), ("extension_picky", "0")]
    {
        options.set(option, value);
    }
    // SAFETY: the context is ours until it is wrapped. `avformat_open_input` frees it when it fails; afterwards
    // `avformat_close_input` does. The options are taken out of their owner, and the remaining options go back to an
    // owner.
    unsafe {
        let mut context = ffi::avformat_alloc_context();
        if context.is_null() {
            return Err(ffmpeg::Error::Other { errno: ffmpeg::error::ENOMEM });
        }
        (*context).interrupt_callback =
            ffi::AVIOInterruptCB { callback: Some(is_over), opaque: Arc::as_ptr(timer).cast_mut().cast() };
        linked.attach(context);
        let mut left = options.disown();
        let opened = ffi::avformat_open_input(&mut context, name.as_ptr(), std::ptr::null(), &mut left);
        drop(Dictionary::own(left));
        if opened < 0 {
            return Err(opened.into());
        }
        // The probe decodes some frames of each stream, under the limit of later frames.
        let mut each: Vec<*mut ffi::AVDictionary> =
            (0..(*context).nb_streams).map(|_| decoder_options(&limits).disown()).collect();
        let found = ffi::avformat_find_stream_info(context, each.as_mut_ptr());
        each.into_iter().for_each(|left| drop(Dictionary::own(left)));
        if found < 0 {
            ffi::avformat_close_input(&mut context);
            return Err(found.into());
        }
        Ok(Input::wrap(context))
    }
}

/// Returns whether FFmpeg failed to allocate memory.
pub(super) fn is_out_of_memory(error: ffmpeg::Error) -> bool {
    error == ffmpeg::Error::Other { errno: ffmpeg::error::ENOMEM }
}

/// Returns whether a demuxer may have more packets after an error.
pub(super) fn may_read_on(error: ffmpeg::Error) -> bool {
    error == ffmpeg::Error::InvalidData || error == ffmpeg::Error::Other { errno: ffmpeg::error::EAGAIN }
}
