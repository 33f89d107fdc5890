//! `file://` URLs (RFC 8089) as paths. Nothing is looked up on disk here.

use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// Scheme with its slashes.
const SCHEME: &str = "file://";
/// Host that names this machine, beside the empty one.
const LOCALHOST: &str = "localhost";

/// Returns the path of a URL; `None` for another scheme.
///
/// # Errors
/// Another host, an invalid escape, a NUL, a relative path, and `..`, however it is spelled.
pub(super) fn path_of(url: &str) -> Option<Result<PathBuf>> {
    let (scheme, rest) = url.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| of_rest(rest).map_err(|error| error.about("file URL")))
}

fn of_rest(rest: &str) -> Result<PathBuf> {
    let Some(slash) = rest.find('/') else {
        return Err(Error::invalid("no absolute path").with_hint("file:///directory/video.mp4"));
    };
    let (host, path) = rest.split_at(slash);
    if !host.is_empty() && !host.eq_ignore_ascii_case(LOCALHOST) {
        let error = Error::new(Kind::Refused, "a host other than this machine");
        return Err(error.with_hint("file:///directory/video.mp4"));
    }
    if let Some(sign) = path.chars().find(|sign| matches!(sign, '?' | '#')) {
        let escape = format!("%{:02X}", sign as u32);
        return Err(Error::invalid(format!("`{sign}` in a path")).with_hint(format!("`{escape}` for `{sign}`")));
    }
    let bytes = unescaped(path)?;
    if bytes.contains(&0) {
        return Err(Error::invalid("a NUL in a path"));
    }
    let path = path_of_bytes(bytes)?;
    if path.components().any(|component| component == Component::ParentDir) {
        return Err(Error::new(Kind::Refused, "`..` in a path").with_hint("the path itself"));
    }
    Ok(path)
}

/// Replaces `%41` by `A`.
fn unescaped(path: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, others)) = rest.split_first() {
        rest = others;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digit = |i: usize| others.get(i).and_then(|&digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            let rule = format!("invalid escape at position {}", path.len() - others.len() - 1);
            return Err(Error::invalid(rule).with_hint("`%25` for `%`"));
        };
        bytes.push((high * 16 + low) as u8);
        rest = &others[2..];
    }
    Ok(bytes)
}

#[cfg(unix)]
fn path_of_bytes(bytes: Vec<u8>) -> Result<PathBuf> {
    let name: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(bytes);
    Ok(Path::new(&name).to_owned())
}

#[cfg(not(unix))]
fn path_of_bytes(bytes: Vec<u8>) -> Result<PathBuf> {
    String::from_utf8(bytes).map(|name| Path::new(&name).to_owned()).map_err(|_| Error::invalid("a path not in UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_replaced_once() {
        for (url, path) in [
            ("file:///a/b.mp4", "/a/b.mp4"),
            ("FILE://localhost/a/b.mp4", "/a/b.mp4"),
            ("file:///a%20b/%C3%A4.mp4", "/a b/ä.mp4"),
            ("file:///a b", "/a b"),
            ("file:///a%252e", "/a%2e"),
            ("file:///a/%2541", "/a/%41"),
            ("file:////a//b/.", "/a/b"),
        ] {
            assert_eq!(path_of(url).expect("of this scheme").expect(url), Path::new(path), "{url}");
        }
        for url in ["/a/b.mp4", "file:/a", "http://a", "", "fil"] {
            assert!(path_of(url).is_none(), "{url}");
        }
    }

    #[test]
    fn other_paths_are_refused() {
        for (url, expected) in [
            ("file://", "file URL: no absolute path; hint: file:///directory/video.mp4"),
            ("file://a.mp4", "file URL: no absolute path; hint: file:///directory/video.mp4"),
            ("file://host/a", "file URL: a host other than this machine; hint: file:///directory/video.mp4"),
            ("file://127.0.0.1/a", "file URL: a host other than this machine; hint: file:///directory/video.mp4"),
            ("file://../a", "file URL: a host other than this machine; hint: file:///directory/video.mp4"),
            ("file:///a/../b", "file URL: `..` in a path; hint: the path itself"),
            ("file:///a/%2e%2E/b", "file URL: `..` in a path; hint: the path itself"),
            ("file:///a/.%2e", "file URL: `..` in a path; hint: the path itself"),
            ("file:///a%2F..%2Fb", "file URL: `..` in a path; hint: the path itself"),
            ("file:///a%00b", "file URL: a NUL in a path"),
            ("file:///a%", "file URL: invalid escape at position 2; hint: `%25` for `%`"),
            ("file:///a%2", "file URL: invalid escape at position 2; hint: `%25` for `%`"),
            ("file:///a%+1b", "file URL: invalid escape at position 2; hint: `%25` for `%`"),
            ("file:///a%é", "file URL: invalid escape at position 2; hint: `%25` for `%`"),
            ("file:///a?b", "file URL: `?` in a path; hint: `%3F` for `?`"),
            ("file:///a#b", "file URL: `#` in a path; hint: `%23` for `#`"),
        ] {
            assert_eq!(path_of(url).expect("of this scheme").expect_err(url).to_string(), expected);
        }
    }
}
