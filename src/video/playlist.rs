//! Playlists (HLS, DASH, scripts of `concat`): format, names of their files, and an end for live ones. FFmpeg is not
//! called here; `linked` opens and checks the files.

use std::io::Read;
use std::path::Path;

use super::dash;
use crate::error::{Error, Result};

/// Bytes of a playlist at most.
const MAX_PLAYLIST: u64 = 64 << 20;
/// Number of first bytes that decide the format of a playlist.
const FIRST: u64 = 4096;
/// First line of an HLS playlist.
const HLS: &[u8] = b"#EXTM3U";

/// Text of a playlist, by its format.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Playlist {
    /// HTTP Live Streaming (RFC 8216).
    Hls(Vec<u8>),
    /// MPEG-DASH (ISO 23009-1).
    Dash(Vec<u8>),
    /// Script of FFmpeg's `concat` demuxer.
    Concat(Vec<u8>),
}

/// Constructor of a playlist from its text.
type FromText = fn(Vec<u8>) -> Playlist;

impl Playlist {
    /// Reads a file, if it is a playlist.
    ///
    /// # Errors
    /// For a playlist that FFmpeg would read only in part.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        // FFmpeg reports a file that cannot be read.
        let Ok(mut file) = std::fs::File::open(path) else { return Ok(None) };
        let mut text = Vec::new();
        let Ok(_) = file.by_ref().take(FIRST).read_to_end(&mut text) else { return Ok(None) };
        let Some(kind) = Self::kind(&text)? else { return Ok(None) };
        let Ok(_) = file.take(MAX_PLAYLIST).read_to_end(&mut text) else { return Ok(None) };
        if text.len() as u64 >= MAX_PLAYLIST {
            return Err(Error::invalid(format!("a playlist of more than {} MiB", MAX_PLAYLIST >> 20)));
        }
        let playlist = kind(text);
        match playlist.names_nothing() {
            true => Err(Error::invalid("the playlist names no segment")),
            false => Ok(Some(playlist)),
        }
    }

    /// Returns whether the first bytes of a file are those of a playlist, whole or broken.
    pub(super) fn begins(first: &[u8]) -> bool {
        Self::kind(first).map_or(true, |kind| kind.is_some())
    }

    /// Returns the format of a playlist by its first bytes.
    fn kind(first: &[u8]) -> Result<Option<FromText>> {
        let without_mark = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first);
        if first.starts_with(HLS) {
            Ok(Some(Self::Hls))
        } else if without_mark.trim_ascii_start().starts_with(HLS) {
            let before = if without_mark.len() < first.len() { "a byte order mark" } else { "blank lines or spaces" };
            Err(Error::invalid(format!("a playlist with {before} before `#EXTM3U`"))
                .with_hint("remove what stands before it"))
        } else if find(first, b"<MPD").is_some() {
            Ok(Some(Self::Dash))
        } else {
            Ok(first.starts_with(b"ffconcat version 1.0").then_some(Self::Concat))
        }
    }

    /// Returns whether an HLS playlist names neither a segment nor another playlist.
    fn names_nothing(&self) -> bool {
        let Self::Hls(text) = self else { return false };
        !lines(text)
            .any(|line| !line.trim_ascii().is_empty() && !line.starts_with(b"#") || find(line, b"URI=").is_some())
    }

    /// Returns whether this is an HLS playlist of playlists.
    pub(super) fn lists_playlists(&self) -> bool {
        let Self::Hls(text) = self else { return false };
        lines(text).any(|line| line.starts_with(b"#EXT-X-STREAM-INF") || line.starts_with(b"#EXT-X-MEDIA:"))
    }

    /// Returns the names of the files that FFmpeg opens without `io_open`.
    ///
    /// # Errors
    /// For a manifest whose segments are unknown.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        match self {
            // The HLS demuxer opens each segment by `io_open`.
            Self::Hls(_) => Ok(Vec::new()),
            Self::Dash(text) => dash::segment_names(&String::from_utf8_lossy(text)),
            Self::Concat(text) => Ok(String::from_utf8_lossy(text).lines().filter_map(concat_file).collect()),
        }
    }

    /// Returns the text with an end, where it has no end.
    ///
    /// # Errors
    /// For a live manifest that cannot have an end.
    pub(super) fn ended(self) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Hls(text) if lines(&text).any(|line| line.starts_with(b"#EXT-X-ENDLIST")) => Ok(None),
            Self::Hls(text) => Ok(Some([&text[..], b"\n#EXT-X-ENDLIST\n"].concat())),
            Self::Dash(text) => Ok(dash::ended(&String::from_utf8_lossy(&text))?.map(String::into_bytes)),
            Self::Concat(_) => Ok(None),
        }
    }
}

/// Returns the file that a line of a script names, in FFmpeg's quoting: `file 'a b.mp4'`, `file a\ b.mp4`.
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

/// Splits a text into lines as FFmpeg does: a carriage return or a NUL ends a line as well.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| matches!(byte, b'\n' | b'\r' | 0))
}

/// Returns the offset of the first occurrence of `wanted`.
pub(super) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_playlist_without_an_end_gets_one() {
        let ended = |text: &str| {
            let ended = Playlist::Hls(text.as_bytes().to_vec()).ended().expect("HLS can have an end");
            ended.map(|text| text.len())
        };
        assert_eq!(ended("#EXTM3U\n#EXT-X-ENDLIST\n"), None);
        assert_eq!(ended("#EXTM3U\na.ts"), Some(12 + 16));
        // Only at the beginning of a line, for each kind of line end.
        for text in ["#EXTM3U\n# no #EXT-X-ENDLIST\na.ts", "#EXTM3U\n #EXT-X-ENDLIST\na.ts", "#EXTM3U\na#EXT-X-ENDLIST"]
        {
            assert_eq!(ended(text), Some(text.len() + 16), "{text}");
        }
        assert_eq!(ended("#EXTM3U\ra.ts\r#EXT-X-ENDLIST\r"), None);
    }

    #[test]
    fn a_playlist_is_known_by_its_beginning() {
        let kind = |text: &str| {
            let kind = Playlist::kind(text.as_bytes()).map_err(|error| error.to_string());
            kind.map(|kind| kind.map(|kind| kind(Vec::new())))
        };
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
}
