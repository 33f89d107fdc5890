//! FFmpeg: callback for the files that a container opens itself, above all segments of playlists (HLS, DASH).
//!
//! Only regular files are opened: a pipe or a device would block. Files that cannot be opened are counted, since FFmpeg
//! skips them silently. A live playlist is read as if it ended at its last segment: FFmpeg would wait for more. No
//! segment is read here. A file that is read alone (`standalone`) opens nothing but itself.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ffmpeg::ffi;
use ffmpeg_next as ffmpeg;

use super::playlist::{Playlist, find};
use super::standalone;
use super::timer::ReadTimer;
use crate::error::Error;

/// Signature of FFmpeg's callback that opens a file for a container.
type OpenFile = unsafe extern "C" fn(
    *mut ffi::AVFormatContext,
    *mut *mut ffi::AVIOContext,
    *const c_char,
    c_int,
    *mut *mut ffi::AVDictionary,
) -> c_int;

/// FFmpeg's own callback, for contexts that a demuxer makes itself.
static DEFAULT: OnceLock<OpenFile> = OnceLock::new();

/// Number of times that a playlist is opened at most; a healthy one is opened once or twice, one that names itself
/// without end.
const MAX_OPENED: usize = 4;

/// Record of the files that a container opened.
#[derive(Debug)]
pub(super) struct LinkedFiles {
    timer: Arc<ReadTimer>,
    /// FFmpeg's name of the only file that may be opened, of a file that is read alone.
    only: Option<CString>,
    record: Mutex<LinkedRecord>,
}

#[derive(Debug, Default)]
struct LinkedRecord {
    /// Files that could not be opened, with the cause.
    missing: BTreeMap<String, String>,
    /// First file that could not be opened, with the cause.
    first: Option<Error>,
    /// Number of times that each playlist was opened.
    playlists: HashMap<PathBuf, usize>,
    /// Cause of the refusal of the container.
    refusal: Option<Error>,
}

/// Code and cause of the refusal to open a file.
struct RefusedFile {
    code: c_int,
    cause: Error,
}

impl RefusedFile {
    fn new(errno: c_int, cause: impl Into<Cow<'static, str>>) -> Self {
        Self { code: ffi::AVERROR(errno), cause: Error::invalid(cause) }
    }
}

impl LinkedFiles {
    pub(super) fn new(timer: Arc<ReadTimer>) -> Self {
        Self { timer, only: None, record: Mutex::default() }
    }

    /// Makes the record of a file of FFmpeg's name `only` that is read alone.
    pub(super) fn standalone(timer: Arc<ReadTimer>, only: CString) -> Self {
        Self { timer, only: Some(only), record: Mutex::default() }
    }

    /// Sets the callback of a context.
    ///
    /// # Safety
    /// The context is alive and not yet opened, and closed before `self` is dropped.
    pub(super) unsafe fn attach(&self, context: *mut ffi::AVFormatContext) {
        // SAFETY: the caller guarantees it. The address is read by `open_file` alone, which takes shared access.
        unsafe {
            if let Some(open) = (*context).io_open {
                DEFAULT.get_or_init(|| open);
                (*context).opaque = std::ptr::from_ref(self).cast_mut().cast();
                (*context).io_open = Some(open_file);
            }
        }
    }

    /// Number of files that could not be opened.
    pub(super) fn n_missing(&self) -> usize {
        self.record().missing.len()
    }

    /// First file that could not be opened, with the cause.
    pub(super) fn first_missing(&self) -> Option<Error> {
        self.record().first.clone()
    }

    /// Cause of the refusal of the container, if it was refused.
    pub(super) fn refusal(&self) -> Option<Error> {
        self.record().refusal.clone()
    }

    fn record(&self) -> MutexGuard<'_, LinkedRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a file that could not be opened.
    fn note(&self, url: &str, cause: &Error) {
        // A call that was given up does not mean that the file is missing.
        if self.timer.is_over() {
            return;
        }
        let path = local_path(url.as_bytes());
        let name = path.as_deref().and_then(Path::file_name).map_or(url.into(), |name| name.to_string_lossy());
        let mut record = self.record();
        record.first.get_or_insert_with(|| cause.clone().about(name.into_owned()));
        record.missing.insert(url.to_owned(), cause.to_string());
    }

    /// Checks a name that a container opens, and returns the name to open in its place, if there is one.
    fn admit(&self, name: &CStr) -> Result<Option<CString>, RefusedFile> {
        match &self.only {
            Some(only) if **only == *name => return Ok(None),
            Some(_) => {
                self.record().refusal.get_or_insert_with(standalone::leads_elsewhere);
                return Err(RefusedFile { code: ffi::AVERROR(libc::EACCES), cause: standalone::leads_elsewhere() });
            }
            None => {}
        }
        match local_path_of(name)? {
            Some(path) => self.prepare(&path),
            None => Ok(None),
        }
    }

    /// Checks a file, and returns the name to open in its place, if it is a live playlist: its text with an end.
    fn prepare(&self, path: &Path) -> Result<Option<CString>, RefusedFile> {
        check_regular(path)?;
        let refuse = |cause: Error| {
            self.record().refusal.get_or_insert_with(|| cause.clone());
            RefusedFile { code: ffi::AVERROR(libc::EINVAL), cause }
        };
        let Some(playlist) = Playlist::read(path).map_err(refuse)? else { return Ok(None) };
        // FFmpeg opens these files without the callback.
        for name in playlist.names().map_err(refuse)? {
            match check_linked(path, &name) {
                Err(RefusedFile { code, cause }) if code == ffi::AVERROR(libc::ENOENT) => self.note(&name, &cause),
                Err(RefusedFile { cause, .. }) => return Err(refuse(cause.about(name))),
                Ok(()) => {}
            }
        }
        let n_opened = {
            let mut record = self.record();
            let n_opened = record.playlists.entry(path.to_owned()).or_default();
            *n_opened += 1;
            *n_opened
        };
        let is_list = playlist.lists_playlists();
        let ended = playlist.ended().map_err(refuse)?;
        if n_opened > MAX_OPENED {
            // A live playlist of segments is opened again for new segments, a playlist of playlists only by itself.
            let cause = match ended.is_some() && !is_list {
                true => "a playlist without an end",
                false => "the playlist leads to itself",
            };
            return Err(RefusedFile::new(libc::ELOOP, cause));
        }
        // The text is part of the name, for FFmpeg's `data` protocol.
        Ok(ended.and_then(|text| CString::new(format!("data:text/plain;base64,{}", STANDARD.encode(text))).ok()))
    }
}

/// Refuses all but regular files; an empty file counts as missing.
fn check_regular(path: &Path) -> Result<(), RefusedFile> {
    let refused = |errno: i32, cause: &'static str| RefusedFile::new(errno, cause);
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() && meta.len() == 0 => Err(refused(libc::ENOENT, "an empty file (0 bytes)")),
        Ok(meta) if meta.is_file() => Ok(()),
        Ok(meta) if meta.is_dir() => Err(refused(libc::EISDIR, "a directory")),
        Ok(_) => Err(refused(libc::EINVAL, "not a regular file")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(refused(libc::ENOENT, "no such file")),
        Err(error) => Err(RefusedFile::new(error.raw_os_error().unwrap_or(libc::EIO), error.to_string())),
    }
}

/// Checks a file that a playlist names: a local regular file other than a playlist.
fn check_linked(playlist: &Path, name: &str) -> Result<(), RefusedFile> {
    if name.contains("://") {
        return Err(RefusedFile::new(libc::ENOENT, "not a local file"));
    }
    let path = playlist.with_file_name("").join(name.strip_prefix("file:").unwrap_or(name));
    check_regular(&path)?;
    match Playlist::read(&path) {
        Ok(None) => Ok(()),
        Ok(Some(_)) | Err(_) => Err(RefusedFile::new(libc::ELOOP, "a playlist inside another one")),
    }
}

/// Callback `io_open` of a context of [`LinkedFiles::attach`], and of the contexts that its demuxer makes.
unsafe extern "C" fn open_file(
    context: *mut ffi::AVFormatContext,
    file: *mut *mut ffi::AVIOContext,
    url: *const c_char,
    flags: c_int,
    options: *mut *mut ffi::AVDictionary,
) -> c_int {
    let Some(open) = DEFAULT.get() else { return ffi::AVERROR(libc::ENOSYS) };
    // SAFETY: FFmpeg passes a live context and a C string; `opaque` is null or a `LinkedFiles` that outlives the
    // context. Everything else is passed on unchanged.
    unsafe {
        let linked = (*context).opaque.cast::<LinkedFiles>().as_ref();
        let name = CStr::from_ptr(url);
        let prepared = match linked {
            Some(linked) => linked.admit(name),
            None => check_unrecorded(name),
        };
        let (code, cause) = match prepared {
            Ok(other) => {
                let code = open(context, file, other.as_deref().unwrap_or(name).as_ptr(), flags, options);
                (code, Error::invalid(ffmpeg::Error::from(code).to_string()))
            }
            Err(RefusedFile { code, cause }) => (code, cause),
        };
        if let Some(linked) = linked.filter(|_| code < 0) {
            linked.note(&name.to_string_lossy(), &cause);
        }
        code
    }
}

/// Checks a name that a context without a record opens.
fn check_unrecorded(name: &CStr) -> Result<Option<CString>, RefusedFile> {
    local_path_of(name)?.map_or(Ok(()), |path| check_regular(&path)).map(|()| None)
}

/// Returns the path of a name of FFmpeg, `None` for names of other data; refuses a remote address.
fn local_path_of(name: &CStr) -> Result<Option<PathBuf>, RefusedFile> {
    match local_path(name.to_bytes()) {
        None if is_remote(name.to_bytes()) => Err(RefusedFile::new(libc::EPROTONOSUPPORT, "not a local file")),
        path => Ok(path),
    }
}

/// Returns whether a name of FFmpeg is a remote address, such as `http://...`.
fn is_remote(url: &[u8]) -> bool {
    !url.starts_with(b"file:") && find(url, b"://").is_some()
}

/// Returns the path of a name of FFmpeg; `None` for names of other data.
fn local_path(url: &[u8]) -> Option<PathBuf> {
    let without = |url: &[u8], scheme: &str| url.strip_prefix(scheme.as_bytes()).map(<[u8]>::to_vec);
    let url = without(url, "crypto:").or_else(|| without(url, "crypto+")).unwrap_or_else(|| url.to_vec());
    if url.starts_with(b"data:") || is_remote(&url) {
        return None;
    }
    let path = without(&url, "file:").unwrap_or(url);
    #[cfg(unix)]
    let path: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(path);
    #[cfg(not(unix))]
    let path = String::from_utf8_lossy(&path).into_owned();
    Some(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ffmpeg_are_paths_or_other_bytes() {
        assert_eq!(local_path(b"file:/a/b%d.ts"), Some("/a/b%d.ts".into()));
        assert_eq!(local_path(b"crypto+file:a:b.ts"), Some("a:b.ts".into()));
        assert_eq!(local_path(b"a.ts"), Some("a.ts".into()));
        assert_eq!(local_path(b"data:text/plain,x"), None);
        assert_eq!(local_path(b"http://a/b.ts"), None);
        assert!(!is_remote(b"file:a://b.ts"));
    }
}
