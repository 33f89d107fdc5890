//! FFmpeg: the files that a container opens itself, above all the segments of a playlist (HLS, DASH).
//!
//! They are regular files or they are not opened: a pipe or a device would wait for ever. What cannot be opened is
//! counted, since FFmpeg passes over it without a word. A playlist that has no end yet is read as if it ended where it
//! does: FFmpeg would wait for more. No segment is read here.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString, c_char, c_int};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ffmpeg::ffi;
use ffmpeg_next as ffmpeg;

use super::dash;
use super::limits::Spent;

/// FFmpeg's way to open a file for a container.
type OpenFile = unsafe extern "C" fn(
    *mut ffi::AVFormatContext,
    *mut *mut ffi::AVIOContext,
    *const c_char,
    c_int,
    *mut *mut ffi::AVDictionary,
) -> c_int;

/// FFmpeg's own, for contexts that a demuxer makes itself.
static DEFAULT: OnceLock<OpenFile> = OnceLock::new();

/// A playlist larger than this is refused.
const MAX_PLAYLIST: u64 = 64 << 20;
/// Bytes in which a playlist shows what it is.
const FIRST: u64 = 4096;
/// First line of an HLS playlist.
const HLS: &[u8] = b"#EXTM3U";
/// A playlist is opened once or twice; one that leads back to itself without end.
const MAX_OPENED: usize = 4;

/// Record of the files that a container opened.
#[derive(Debug)]
pub(super) struct Linked {
    spent: Arc<Spent>,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    /// Files that could not be opened, with the cause.
    missing: BTreeMap<String, String>,
    /// The first of them.
    first: Option<String>,
    /// How often each playlist was opened.
    playlists: HashMap<PathBuf, usize>,
    /// Why the whole is refused.
    refusal: Option<String>,
}

/// Why a file is not opened.
struct Refused {
    code: c_int,
    cause: String,
}

impl Linked {
    pub(super) fn new(spent: Arc<Spent>) -> Self {
        Self { spent, found: Mutex::default() }
    }

    /// Has a context open its files here.
    ///
    /// # Safety
    /// The context is alive and not yet opened, and closed before this goes.
    pub(super) unsafe fn attach(&self, context: *mut ffi::AVFormatContext) {
        // SAFETY: as the caller promises. The address is read by `open_file` alone, which takes shared access.
        unsafe {
            if let Some(open) = (*context).io_open {
                DEFAULT.get_or_init(|| open);
                (*context).opaque = std::ptr::from_ref(self).cast_mut().cast();
                (*context).io_open = Some(open_file);
            }
        }
    }

    /// Files that could not be opened.
    pub(super) fn n_missing(&self) -> usize {
        self.found().missing.len()
    }

    /// The first file that could not be opened, and why.
    pub(super) fn first_missing(&self) -> Option<String> {
        self.found().first.clone()
    }

    /// Why the whole was refused, if it was.
    pub(super) fn refusal(&self) -> Option<String> {
        self.found().refusal.clone()
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, url: &str, cause: &str) {
        // What was given up is there all the same.
        if self.spent.is_over() {
            return;
        }
        let path = local_path(url.as_bytes());
        let name = path.as_deref().and_then(Path::file_name).map_or(url.into(), |name| name.to_string_lossy());
        let mut found = self.found();
        found.first.get_or_insert_with(|| format!("{name}: {cause}"));
        found.missing.insert(url.to_owned(), cause.to_owned());
    }

    /// Returns the name to open in place of a file: its own, or the text of a playlist.
    fn prepare(&self, path: &Path) -> Result<Option<CString>, Refused> {
        check_regular(path)?;
        let refuse = |cause: String| {
            self.found().refusal.get_or_insert_with(|| cause.clone());
            Refused { code: ffi::AVERROR(libc::EINVAL), cause }
        };
        let Some(playlist) = Playlist::read(path).map_err(refuse)? else { return Ok(None) };
        // What FFmpeg opens past this callback is looked at here.
        for name in playlist.names().map_err(refuse)? {
            match check_linked(path, &name) {
                Err(Refused { code, cause }) if code == ffi::AVERROR(libc::ENOENT) => self.note(&name, &cause),
                Err(Refused { cause, .. }) => return Err(refuse(format!("{name}: {cause}"))),
                Ok(()) => {}
            }
        }
        let n_opened = {
            let mut found = self.found();
            let n_opened = found.playlists.entry(path.to_owned()).or_default();
            *n_opened += 1;
            *n_opened
        };
        let is_list = playlist.lists_playlists();
        let ended = playlist.ended().map_err(refuse)?;
        if n_opened > MAX_OPENED {
            // One of segments without an end is opened again for those to come, one of playlists only by itself.
            let cause = match ended.is_some() && !is_list {
                true => "a playlist without an end",
                false => "the playlist leads to itself",
            };
            return Err(Refused { code: ffi::AVERROR(libc::ELOOP), cause: cause.to_owned() });
        }
        // The text travels inside the name: it is opened by FFmpeg's own `data` protocol.
        Ok(ended.and_then(|text| CString::new(format!("data:text/plain;base64,{}", STANDARD.encode(text))).ok()))
    }
}

/// Refuses what is no regular file, and one without a byte as if it were missing.
fn check_regular(path: &Path) -> Result<(), Refused> {
    let refused = |code: i32, cause: &str| Refused { code: ffi::AVERROR(code), cause: cause.to_owned() };
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() && meta.len() == 0 => Err(refused(libc::ENOENT, "an empty file (0 bytes)")),
        Ok(meta) if meta.is_file() => Ok(()),
        Ok(meta) if meta.is_dir() => Err(refused(libc::EISDIR, "a directory")),
        Ok(_) => Err(refused(libc::EINVAL, "not a regular file")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(refused(libc::ENOENT, "no such file")),
        Err(error) => Err(refused(error.raw_os_error().unwrap_or(libc::EIO), &error.to_string())),
    }
}

/// Refuses what a playlist names beside it and is no regular file, or a playlist itself.
fn check_linked(playlist: &Path, name: &str) -> Result<(), Refused> {
    if name.contains("://") {
        return Err(Refused { code: ffi::AVERROR(libc::ENOENT), cause: "not a local file".to_owned() });
    }
    let path = playlist.with_file_name("").join(name.strip_prefix("file:").unwrap_or(name));
    check_regular(&path)?;
    match Playlist::read(&path) {
        Ok(None) => Ok(()),
        Ok(Some(_)) | Err(_) => {
            Err(Refused { code: ffi::AVERROR(libc::ELOOP), cause: "a playlist inside another one".to_owned() })
        }
    }
}

/// `io_open` of a context that [`Linked::attach`] has seen, or of one that a demuxer made after it.
unsafe extern "C" fn open_file(
    context: *mut ffi::AVFormatContext,
    file: *mut *mut ffi::AVIOContext,
    url: *const c_char,
    flags: c_int,
    options: *mut *mut ffi::AVDictionary,
) -> c_int {
    let Some(open) = DEFAULT.get() else { return ffi::AVERROR(libc::ENOSYS) };
    // SAFETY: FFmpeg gives a live context and a C string; `opaque` is null or a `Linked` that outlives the context. All
    // else is handed on as it came.
    unsafe {
        let linked = (*context).opaque.cast::<Linked>().as_ref();
        let name = CStr::from_ptr(url);
        let prepared = match (local_path(name.to_bytes()), linked) {
            (None, _) if is_remote(name.to_bytes()) => {
                Err(Refused { code: ffi::AVERROR(libc::EPROTONOSUPPORT), cause: "not a local file".to_owned() })
            }
            (None, _) => Ok(None),
            (Some(path), Some(linked)) => linked.prepare(&path),
            (Some(path), None) => check_regular(&path).map(|()| None),
        };
        let (code, cause) = match prepared {
            Ok(other) => {
                let code = open(context, file, other.as_deref().unwrap_or(name).as_ptr(), flags, options);
                (code, ffmpeg::Error::from(code).to_string())
            }
            Err(Refused { code, cause }) => (code, cause),
        };
        if let Some(linked) = linked.filter(|_| code < 0) {
            linked.note(&name.to_string_lossy(), &cause);
        }
        code
    }
}

/// Whether a name of FFmpeg leads elsewhere: `http://...`, and no file of that name.
fn is_remote(url: &[u8]) -> bool {
    !url.starts_with(b"file:") && find(url, b"://").is_some()
}

/// The path that a name of FFmpeg stands for; none where it names other bytes.
fn local_path(url: &[u8]) -> Option<PathBuf> {
    let after = |url: &[u8], scheme: &str| url.strip_prefix(scheme.as_bytes()).map(<[u8]>::to_vec);
    let url = after(url, "crypto:").or_else(|| after(url, "crypto+")).unwrap_or_else(|| url.to_vec());
    if url.starts_with(b"data:") || is_remote(&url) {
        return None;
    }
    let path = after(&url, "file:").unwrap_or(url);
    #[cfg(unix)]
    let path: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(path);
    #[cfg(not(unix))]
    let path = String::from_utf8_lossy(&path).into_owned();
    Some(path.into())
}

/// The text of a playlist.
#[derive(Debug, PartialEq, Eq)]
enum Playlist {
    /// HTTP Live Streaming (RFC 8216).
    Hls(Vec<u8>),
    /// MPEG-DASH (ISO 23009-1).
    Dash(Vec<u8>),
    /// A script of FFmpeg's `concat` demuxer.
    Concat(Vec<u8>),
}

/// Makes a playlist of its text.
type FromText = fn(Vec<u8>) -> Playlist;

impl Playlist {
    /// Reads a file, if it is a playlist; an error in words where FFmpeg would not take all of it.
    fn read(path: &Path) -> Result<Option<Self>, String> {
        // A file that cannot be read is for FFmpeg to tell of.
        let Ok(mut file) = std::fs::File::open(path) else { return Ok(None) };
        let mut text = Vec::new();
        let Ok(_) = file.by_ref().take(FIRST).read_to_end(&mut text) else { return Ok(None) };
        let Some(kind) = Self::kind(&text)? else { return Ok(None) };
        let Ok(_) = file.take(MAX_PLAYLIST).read_to_end(&mut text) else { return Ok(None) };
        if text.len() as u64 >= MAX_PLAYLIST {
            return Err(format!("a playlist of more than {} MiB", MAX_PLAYLIST >> 20));
        }
        let playlist = kind(text);
        match playlist.names_nothing() {
            true => Err("the playlist names no segment".to_owned()),
            false => Ok(Some(playlist)),
        }
    }

    /// The kind of playlist that begins so.
    fn kind(first: &[u8]) -> Result<Option<FromText>, String> {
        let mark = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first);
        if first.starts_with(HLS) {
            Ok(Some(Self::Hls))
        } else if mark.trim_ascii_start().starts_with(HLS) {
            let before = if mark.len() < first.len() { "a byte order mark" } else { "blank lines or spaces" };
            Err(format!("a playlist with {before} before `#EXTM3U`; hint: remove what stands before it"))
        } else if find(first, b"<MPD").is_some() {
            Ok(Some(Self::Dash))
        } else {
            Ok(first.starts_with(b"ffconcat version 1.0").then_some(Self::Concat))
        }
    }

    /// Whether an HLS playlist names neither a segment nor another playlist.
    fn names_nothing(&self) -> bool {
        let Self::Hls(text) = self else { return false };
        !lines(text)
            .any(|line| !line.trim_ascii().is_empty() && !line.starts_with(b"#") || find(line, b"URI=").is_some())
    }

    /// Whether this is an HLS playlist of playlists.
    fn lists_playlists(&self) -> bool {
        let Self::Hls(text) = self else { return false };
        lines(text).any(|line| line.starts_with(b"#EXT-X-STREAM-INF") || line.starts_with(b"#EXT-X-MEDIA:"))
    }

    /// The files that FFmpeg opens past `io_open`, as they are named; an error in words where they cannot be known.
    fn names(&self) -> Result<Vec<String>, String> {
        match self {
            // Its demuxer asks for each segment.
            Self::Hls(_) => Ok(Vec::new()),
            Self::Dash(text) => dash::segment_names(&String::from_utf8_lossy(text)),
            Self::Concat(text) => Ok(String::from_utf8_lossy(text).lines().filter_map(concat_file).collect()),
        }
    }

    /// The text with an end, where it has none; an error in words where it cannot have one.
    fn ended(self) -> Result<Option<Vec<u8>>, String> {
        match self {
            Self::Hls(text) if lines(&text).any(|line| line.starts_with(b"#EXT-X-ENDLIST")) => Ok(None),
            Self::Hls(text) => Ok(Some([&text[..], b"\n#EXT-X-ENDLIST\n"].concat())),
            Self::Dash(text) => Ok(dash::ended(&String::from_utf8_lossy(&text))?.map(String::into_bytes)),
            Self::Concat(_) => Ok(None),
        }
    }
}

/// The file that a line of a script names, in FFmpeg's quoting: `file 'a b.mp4'`, `file a\ b.mp4`.
fn concat_file(line: &str) -> Option<String> {
    let mut name = String::new();
    let mut is_quoted = false;
    let mut rest = line.trim().strip_prefix("file")?.strip_prefix(char::is_whitespace)?.trim_start().chars();
    while let Some(c) = rest.next() {
        match c {
            '\'' => is_quoted = !is_quoted,
            '\\' if !is_quoted => name.extend(rest.next()),
            c if c.is_whitespace() && !is_quoted => break,
            c => name.push(c),
        }
    }
    Some(name)
}

/// The lines of a text as FFmpeg splits them: a carriage return or a NUL ends one as well.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| matches!(byte, b'\n' | b'\r' | 0))
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_playlist_without_an_end_gets_one() {
        let ended = |text: &str| Playlist::Hls(text.as_bytes().to_vec()).ended().map(|text| text.map(|t| t.len()));
        assert_eq!(ended("#EXTM3U\n#EXT-X-ENDLIST\n"), Ok(None));
        assert_eq!(ended("#EXTM3U\na.ts"), Ok(Some(12 + 16)));
        // Only at the beginning of a line, of whichever kind.
        for text in ["#EXTM3U\n# no #EXT-X-ENDLIST\na.ts", "#EXTM3U\n #EXT-X-ENDLIST\na.ts", "#EXTM3U\na#EXT-X-ENDLIST"]
        {
            assert_eq!(ended(text), Ok(Some(text.len() + 16)), "{text}");
        }
        assert_eq!(ended("#EXTM3U\ra.ts\r#EXT-X-ENDLIST\r"), Ok(None));
    }

    #[test]
    fn a_playlist_is_known_by_its_beginning() {
        let kind = |text: &str| Playlist::kind(text.as_bytes()).map(|kind| kind.map(|kind| kind(Vec::new())));
        assert_eq!(kind("#EXTM3U\n"), Ok(Some(Playlist::Hls(Vec::new()))));
        assert_eq!(kind("<?xml?>\n<MPD>"), Ok(Some(Playlist::Dash(Vec::new()))));
        assert_eq!(kind("text"), Ok(None));
        let hint = "hint: remove what stands before it";
        for (text, before) in [("\u{feff}#EXTM3U", "a byte order mark"), ("\n \n#EXTM3U", "blank lines or spaces")] {
            assert_eq!(kind(text), Err(format!("a playlist with {before} before `#EXTM3U`; {hint}")));
        }
        assert!(Playlist::Hls(b"#EXTM3U\n\n#EXT-X-TARGETDURATION:2\n".to_vec()).names_nothing());
        assert!(!Playlist::Hls(b"#EXTM3U\na.ts".to_vec()).names_nothing());
    }

    #[test]
    fn scripts_name_files_in_quotes_or_without() {
        let names =
            [r"file a.mp4", r"  file 'a b.mp4'", r"file a\ b'c'.mp4", "file 'it'\\''s.mp4'", "duration 5", "files x"];
        let expected = ["a.mp4", "a b.mp4", "a bc.mp4", "it's.mp4"];
        assert_eq!(names.iter().filter_map(|line| concat_file(line)).collect::<Vec<_>>(), expected);
    }

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
