//! Signs of files that are often mistaken for a video or for a model: what the first bytes, or the boxes of an MP4
//! file, tell.
//!
//! Guesses for messages: no code here decides whether a file can be used.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::{FileKind, kind_of};

/// Bytes that are looked at.
const FIRST: u64 = 4096;
/// Boxes of an MP4 file that are looked at.
const MAX_BOXES: usize = 10_000;

/// A guess at the nature of a file that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign {
    /// The nature of the file, as a noun.
    pub cause: String,
    /// The way out.
    pub hint: &'static str,
}

impl Sign {
    fn new(cause: impl Into<String>, hint: &'static str) -> Self {
        Self { cause: cause.into(), hint }
    }
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; hint: {}", self.cause, self.hint)
    }
}

/// Guesses the nature of a file that is not a video. Only a regular file is opened.
pub fn sign_of(path: &Path) -> Option<Sign> {
    let first = first_bytes(path).ok()?;
    let by_name = || {
        let partial = || Sign::new("an unfinished download or copy", "wait for its end, or download it again");
        (kind_of(path) == Some(FileKind::Partial)).then(partial)
    };
    stand_in(&first).or_else(|| packed(&first)).or_else(|| without_index(path, &first)).or_else(by_name)
}

/// Returns the cause for a missing file whose name is a URL: addresses are not fetched.
pub fn unfetched(path: &Path) -> Option<String> {
    let text = path.to_string_lossy();
    let (scheme, rest) = text.split_once(":/")?;
    let is_scheme = scheme.len() > 1 && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    let local = rest.trim_start_matches('/').trim_start_matches("localhost/");
    match scheme.eq_ignore_ascii_case("file") {
        _ if !is_scheme || path.exists() => None,
        true if !local.contains('%') => Some(format!("a URL, which is not opened; hint: name the path, /{local}")),
        true => Some("a URL, which is not opened; hint: name the path, without `file://`".to_owned()),
        false => Some("a URL, which is not fetched; hint: download it first, and name the file".to_owned()),
    }
}

/// The facts of what is to be read.
///
/// # Errors
/// The system's own, or that it is a URL.
pub(super) fn facts(path: &Path) -> io::Result<Metadata> {
    std::fs::metadata(path).map_err(|error| unfetched(path).map_or(error, io::Error::other))
}

/// The first bytes of a regular file.
///
/// # Errors
/// The system's own.
pub(super) fn first_bytes(path: &Path) -> io::Result<Vec<u8>> {
    if !facts(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut first = Vec::new();
    File::open(path)?.take(FIRST).read_to_end(&mut first)?;
    Ok(first)
}

/// Recognizes a stand-in for the intended file by its first bytes: a Git LFS pointer, or a web page.
pub fn stand_in(bytes: &[u8]) -> Option<Sign> {
    let first = &bytes[..bytes.len().min(FIRST as usize)];
    if first.starts_with(b"version https://git-lfs.github.com/spec/") || first.starts_with(b"version https://hawser") {
        return Some(Sign::new("a Git LFS pointer, not the file itself", "`git lfs pull` fetches the file"));
    }
    let text = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first).trim_ascii_start().to_ascii_lowercase();
    let tags: [&[u8]; 4] = [b"<!doctype html", b"<html", b"<head", b"<body"];
    let is_page = tags.iter().any(|tag| text.starts_with(tag))
        || (text.starts_with(b"<") && text.windows(5).any(|tag| tag == b"<html"));
    is_page.then(|| Sign::new("a web page (HTML), not the file itself", "download the file that the page leads to"))
}

/// Recognizes archives, documents and models.
fn packed(first: &[u8]) -> Option<Sign> {
    let archives: [(&[u8], &str); 8] = [
        (b"PK\x03\x04", "a ZIP archive"),
        (b"\x1f\x8b", "a gzip file"),
        (b"BZh", "a bzip2 file"),
        (b"\xfd7zXZ\0", "an xz file"),
        (b"\x28\xb5\x2f\xfd", "a zstd file"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"Rar!\x1a\x07", "a RAR archive"),
        (b"%PDF-", "a PDF document"),
    ];
    if let Some((_, what)) = archives.iter().find(|(magic, _)| first.starts_with(magic)) {
        let hint =
            if *what == "a PDF document" { "name a video" } else { "unpack it, and name the video that is in it" };
        return Some(Sign::new(*what, hint));
    }
    if first.get(257..262) == Some(b"ustar") {
        return Some(Sign::new("a tar archive", "unpack it, and name the video that is in it"));
    }
    if first.starts_with(b"GGUF") {
        return Some(Sign::new("a language model in a GGUF file", "name it with --llm, beside --model"));
    }
    if first.starts_with(b"SQLite format 3\0") {
        return Some(Sign::new("an SQLite database", "name a video"));
    }
    let is_blank = first.len() as u64 == FIRST && first.iter().all(|&byte| byte == 0);
    is_blank
        .then(|| Sign::new("a file that begins with zeros", "its copy or download never came that far: get it again"))
}

/// An MP4 or QuickTime file without the box that describes its streams.
fn without_index(path: &Path, first: &[u8]) -> Option<Sign> {
    const BEGINNINGS: [&[u8]; 7] = [b"ftyp", b"mdat", b"free", b"skip", b"wide", b"pnot", b"moov"];
    if !BEGINNINGS.contains(&first.get(4..8)?) {
        return None;
    }
    let (has_index, n_missing) = walk_boxes(&mut File::open(path).ok()?).ok()?;
    let cut = n_missing.map_or(String::new(), |n| format!(", {n} bytes short"));
    match (has_index, n_missing) {
        (false, _) => Some(Sign::new(
            format!("an MP4 or QuickTime file without its index (no moov box){cut}"),
            "an unfinished recording or copy: copy it again; `untrunc` may rebuild it from another recording of the same camera",
        )),
        (true, Some(_)) => Some(Sign::new(
            format!("an MP4 or QuickTime file that is cut off{cut}"),
            "an unfinished copy or download: get it again",
        )),
        (true, None) => None,
    }
}

/// Whether an MP4 file has its index, and how many bytes its last box lacks.
fn walk_boxes(file: &mut File) -> io::Result<(bool, Option<u64>)> {
    let length = file.metadata()?.len();
    let (mut at, mut has_index) = (0u64, false);
    for _ in 0..MAX_BOXES {
        if at.saturating_add(8) > length {
            break;
        }
        let mut header = [0; 16];
        file.seek(SeekFrom::Start(at))?;
        let n_read = usize::try_from(length - at).unwrap_or(16).min(16);
        file.read_exact(&mut header[..n_read])?;
        let (word, rest) = header.split_at(8);
        has_index |= matches!(&word[4..], b"moov" | b"moof");
        let size = match u32::from_be_bytes([word[0], word[1], word[2], word[3]]) {
            0 => length - at,
            1 => rest.iter().fold(0, |size, &byte| size << 8 | u64::from(byte)),
            size => u64::from(size),
        };
        if size < 8 {
            break;
        }
        at = at.saturating_add(size);
    }
    Ok((has_index, at.checked_sub(length).filter(|&n| n > 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(name: &str, bytes: &[u8]) -> Option<String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("a small file");
        sign_of(&path).map(|sign| sign.cause)
    }

    #[test]
    fn what_is_mistaken_for_a_video_is_named() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n";
        for (bytes, cause) in [
            (&pointer[..], Some("a Git LFS pointer, not the file itself")),
            (b"\xef\xbb\xbf \n<!DOCTYPE html><html>", Some("a web page (HTML), not the file itself")),
            (b"<?xml version='1.0'?><HTML>", Some("a web page (HTML), not the file itself")),
            (b"<?xml version='1.0'?><MPD>", None),
            (b"PK\x03\x04....", Some("a ZIP archive")),
            (b"\x1f\x8b\x08", Some("a gzip file")),
            (b"GGUF\x03\0\0\0", Some("a language model in a GGUF file")),
            (&[0; 5000], Some("a file that begins with zeros")),
            (&[0; 50], None),
            (b"", None),
            (b"\x1aE\xdf\xa3", None),
        ] {
            assert_eq!(sign("a.mp4", bytes).as_deref(), cause, "{:?}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(sign("a.mp4.part", b"\x1aE\xdf\xa3").as_deref(), Some("an unfinished download or copy"));
    }

    #[test]
    fn a_url_is_called_one_and_a_local_one_names_its_path() {
        for (name, hint) in [
            ("https://example.org/p.yaml", Some("; hint: download it first, and name the file")),
            ("file:///x/a.mp4", Some("; hint: name the path, /x/a.mp4")),
            ("file://localhost/x/a.mp4", Some("; hint: name the path, /x/a.mp4")),
            ("file:///x/a%20b.mp4", Some("; hint: name the path, without `file://`")),
            ("none/a.mp4", None),
            ("c:/a.mp4", None),
        ] {
            let found = unfetched(Path::new(name));
            assert_eq!(found.is_some(), hint.is_some(), "{name}");
            assert!(found.is_none_or(|found| found.ends_with(hint.unwrap_or_default())), "{name}");
        }
    }

    #[test]
    fn an_mp4_file_is_walked_box_by_box() {
        let ftyp = b"\0\0\0\x10ftypisom\0\0\0\0";
        let moov = b"\0\0\0\x08moov";
        let (short, open) = (b"\0\0\0\x64mdatxxxx", b"\0\0\0\0mdatxxxx");
        let large = b"\0\0\0\x01mdat\0\0\0\x01\0\0\0\0xx";
        let no_index = "an MP4 or QuickTime file without its index (no moov box)";
        for (boxes, cause) in [
            (&[&ftyp[..], &short[..]][..], Some(format!("{no_index}, 88 bytes short"))),
            (&[ftyp, open], Some(no_index.to_owned())),
            (&[ftyp, large], Some(format!("{no_index}, {} bytes short", (1u64 << 32) - 18))),
            (&[ftyp, moov, short], Some("an MP4 or QuickTime file that is cut off, 88 bytes short".to_owned())),
            (&[ftyp, moov], None),
            (&[ftyp], Some(no_index.to_owned())),
        ] {
            assert_eq!(sign("a.mp4", &boxes.concat()), cause, "{boxes:?}");
        }
    }
}
