//! Guesses about files that cannot be used: the first bytes, or the boxes of an MP4 file, tell what is often mistaken
//! for a video or a model.
//!
//! The guesses are for error messages: a rule (the nature of the file, as a noun) and a hint. No code decides by them
//! whether a file can be used.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::{FileKind, kind_of};
use crate::error::Error;

/// Number of bytes at the beginning of a file that are examined.
const HEAD_LEN: u64 = 4096;
/// Number of boxes of an MP4 file that are examined.
const MAX_BOXES: usize = 10_000;

/// Guesses the nature of a file that is not a video. Only a regular file is opened.
pub(crate) fn diagnose(path: &Path) -> Option<Error> {
    let head = read_head(path).ok()?;
    let by_name = || {
        let partial = || guess("an unfinished download or copy", "wait for its end, or download it again");
        (kind_of(path) == Some(FileKind::Partial)).then(partial)
    };
    placeholder(&head).or_else(|| other_format(&head)).or_else(|| damaged_mp4(path, &head)).or_else(by_name)
}

fn guess(nature: impl Into<String>, hint: &'static str) -> Error {
    Error::invalid(nature.into()).with_hint(hint)
}

/// Returns the error for a missing file whose name is a URL: URLs are not fetched.
pub(crate) fn url_error(path: &Path) -> Option<Error> {
    let text = path.to_string_lossy();
    let (scheme, rest) = text.split_once(":/")?;
    let is_scheme = scheme.len() > 1 && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    if !is_scheme || path.exists() {
        return None;
    }
    let local = rest.trim_start_matches('/').trim_start_matches("localhost/");
    Some(match scheme.eq_ignore_ascii_case("file") {
        true if !local.contains('%') => {
            Error::invalid("a URL, which is not opened").with_hint(format!("name the path, /{local}"))
        }
        true => guess("a URL, which is not opened", "name the path, without `file://`"),
        false => guess("a URL, which is not fetched", "download it first, and name the file"),
    })
}

/// Returns the metadata of a file that is to be read.
///
/// # Errors
/// The operating system's error, or [`url_error`].
pub(super) fn metadata(path: &Path) -> io::Result<Metadata> {
    std::fs::metadata(path).map_err(|error| url_error(path).map_or(error, io::Error::other))
}

/// Reads the first bytes of a regular file.
///
/// # Errors
/// The operating system's error.
pub(super) fn read_head(path: &Path) -> io::Result<Vec<u8>> {
    if !metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut head = Vec::new();
    File::open(path)?.take(HEAD_LEN).read_to_end(&mut head)?;
    Ok(head)
}

/// Recognizes a placeholder for the intended file by its first bytes: a Git LFS pointer, or a web page.
pub(crate) fn placeholder(bytes: &[u8]) -> Option<Error> {
    let head = &bytes[..bytes.len().min(HEAD_LEN as usize)];
    if head.starts_with(b"version https://git-lfs.github.com/spec/") || head.starts_with(b"version https://hawser") {
        return Some(guess("a Git LFS pointer, not the file itself", "`git lfs pull` fetches the file"));
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start().to_ascii_lowercase();
    let tags: [&[u8]; 4] = [b"<!doctype html", b"<html", b"<head", b"<body"];
    let is_page = tags.iter().any(|tag| text.starts_with(tag))
        || (text.starts_with(b"<") && text.windows(5).any(|tag| tag == b"<html"));
    is_page.then(|| guess("a web page (HTML), not the file itself", "download the file that the page leads to"))
}

/// Recognizes archives, documents and models.
fn other_format(head: &[u8]) -> Option<Error> {
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
    if let Some((_, what)) = archives.iter().find(|(magic, _)| head.starts_with(magic)) {
        let hint =
            if *what == "a PDF document" { "name a video" } else { "unpack it, and name the video that is in it" };
        return Some(guess(*what, hint));
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some(guess("a tar archive", "unpack it, and name the video that is in it"));
    }
    if head.starts_with(b"GGUF") {
        return Some(guess("a language model in a GGUF file", "name it with --llm, beside --model"));
    }
    if head.starts_with(b"SQLite format 3\0") {
        return Some(guess("an SQLite database", "name a video"));
    }
    let is_blank = head.len() as u64 == HEAD_LEN && head.iter().all(|&byte| byte == 0);
    is_blank.then(|| guess("a file that begins with zeros", "its copy or download never came that far: get it again"))
}

/// Recognizes an MP4 or QuickTime file that is cut off, or has no box that describes its streams.
fn damaged_mp4(path: &Path, head: &[u8]) -> Option<Error> {
    const BEGINNINGS: [&[u8]; 7] = [b"ftyp", b"mdat", b"free", b"skip", b"wide", b"pnot", b"moov"];
    if !BEGINNINGS.contains(&head.get(4..8)?) {
        return None;
    }
    let Mp4Boxes { has_index, n_missing } = walk_boxes(&mut File::open(path).ok()?).ok()?;
    let cut = n_missing.map_or(String::new(), |n| format!(", {n} bytes short"));
    match (has_index, n_missing) {
        (false, _) => Some(guess(
            format!("an MP4 or QuickTime file without its index (no moov box){cut}"),
            "an unfinished recording or copy: copy it again; `untrunc` may rebuild it from another recording of the same camera",
        )),
        (true, Some(_)) => Some(guess(
            format!("an MP4 or QuickTime file that is cut off{cut}"),
            "an unfinished copy or download: get it again",
        )),
        (true, None) => None,
    }
}

/// Top-level structure of an MP4 file.
struct Mp4Boxes {
    /// Whether there is an index: a `moov` or `moof` box.
    has_index: bool,
    /// Number of bytes that the last box lacks, if the file is cut off.
    n_missing: Option<u64>,
}

/// Reads the sizes of the top-level boxes of an MP4 file.
fn walk_boxes(file: &mut File) -> io::Result<Mp4Boxes> {
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
    Ok(Mp4Boxes { has_index, n_missing: at.checked_sub(length).filter(|&n| n > 0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnosis(name: &str, bytes: &[u8]) -> Option<String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("a small file");
        diagnose(&path).map(|error| error.rule().to_owned())
    }

    #[test]
    fn the_nature_of_a_file_is_guessed_from_its_first_bytes() {
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
            assert_eq!(diagnosis("a.mp4", bytes).as_deref(), cause, "{:?}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(diagnosis("a.mp4.part", b"\x1aE\xdf\xa3").as_deref(), Some("an unfinished download or copy"));
    }

    #[test]
    fn the_hint_for_a_local_url_names_its_path() {
        for (name, hint) in [
            ("https://example.org/p.yaml", Some("; hint: download it first, and name the file")),
            ("file:///x/a.mp4", Some("; hint: name the path, /x/a.mp4")),
            ("file://localhost/x/a.mp4", Some("; hint: name the path, /x/a.mp4")),
            ("file:///x/a%20b.mp4", Some("; hint: name the path, without `file://`")),
            ("none/a.mp4", None),
            ("c:/a.mp4", None),
        ] {
            let found = url_error(Path::new(name)).map(|error| error.to_string());
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
            assert_eq!(diagnosis("a.mp4", &boxes.concat()), cause, "{boxes:?}");
        }
    }
}
