//! Addresses of content: `data:`, `file:`, `http(s):` and `upload:`, told apart by their scheme. Nothing is read here.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::fetch::shown_url;

use super::data_uri::DataUri;
use super::file_url;

/// Characters of an unknown scheme that an error shows.
const MAX_SCHEME: usize = 16;

/// Address of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MediaAddress<'t> {
    /// Data in base64.
    Base64(&'t str),
    /// A list of JPEG frames, each in base64, after commas.
    FrameList(DataUri<'t>),
    /// A local file.
    Local(PathBuf),
    /// A file of another host.
    Remote(&'t str),
    /// Id of an upload.
    Upload(&'t str),
}

impl<'t> MediaAddress<'t> {
    /// Parses an address.
    ///
    /// # Errors
    /// A path without a scheme, an unknown scheme, and the rules of each scheme.
    pub(super) fn parse(address: &'t str) -> Result<Self> {
        if let Some(uri) = DataUri::parse(address) {
            let uri = uri?;
            return Ok(if uri.is_frame_list() { Self::FrameList(uri) } else { Self::Base64(uri.data) });
        }
        if let Some(path) = file_url::path_of(address) {
            return path.map(Self::Local);
        }
        let is_of = |scheme: &str| address.get(..scheme.len()).is_some_and(|own| own.eq_ignore_ascii_case(scheme));
        if is_of("http://") || is_of("https://") {
            return Ok(Self::Remote(address));
        }
        match address.strip_prefix("upload:") {
            Some(id) => Ok(Self::Upload(id)),
            None => Err(unknown(address)),
        }
    }

    /// Returns the name of the content in messages.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Base64(_) => "data".to_owned(),
            Self::FrameList(_) => "frames".to_owned(),
            Self::Local(path) => path.display().to_string(),
            Self::Remote(url) => shown_url(url),
            Self::Upload(id) => format!("upload:{}", id.chars().take(64).collect::<String>()),
        }
    }
}

fn unknown(address: &str) -> Error {
    const HINT: &str = "data:video/mp4;base64,..., file:///..., https://..., upload:ID";
    let scheme = address.split_once(':').map(|(scheme, _)| scheme);
    let is_scheme = |scheme: &&str| {
        scheme.len() <= MAX_SCHEME
            && scheme.starts_with(|sign: char| sign.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    match scheme.filter(is_scheme) {
        Some(scheme) => Error::invalid(format!("unknown scheme `{scheme}`")).with_hint(HINT),
        None => Error::invalid("an address without a scheme").with_hint(HINT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn schemes_are_told_apart() {
        for (address, expected) in [
            ("data:video/mp4;base64,AAAA", MediaAddress::Base64("AAAA")),
            ("file:///a", MediaAddress::Local(Path::new("/a").to_owned())),
            ("https://example.org/a.mp4", MediaAddress::Remote("https://example.org/a.mp4")),
            ("HTTP://example.org/a.mp4", MediaAddress::Remote("HTTP://example.org/a.mp4")),
            ("upload:vid_1", MediaAddress::Upload("vid_1")),
        ] {
            assert_eq!(MediaAddress::parse(address).expect(address), expected);
        }
        assert!(matches!(MediaAddress::parse("data:video/jpeg;base64,AA==,BB=="), Ok(MediaAddress::FrameList(_))));
    }

    #[test]
    fn paths_and_other_schemes_are_refused() {
        const HINT: &str = "; hint: data:video/mp4;base64,..., file:///..., https://..., upload:ID";
        for (address, expected) in [
            ("/etc/passwd", "an address without a scheme"),
            ("video.mp4", "an address without a scheme"),
            ("", "an address without a scheme"),
            ("C:\\video.mp4", "unknown scheme `C`"),
            ("ftp://example.org/a", "unknown scheme `ftp`"),
            ("concat:/a|/b", "unknown scheme `concat`"),
            ("subfile,,start,0:/a", "an address without a scheme"),
            ("file:/etc/passwd", "unknown scheme `file`"),
            (" file:///a", "an address without a scheme"),
            ("é:a", "an address without a scheme"),
        ] {
            assert_eq!(MediaAddress::parse(address).expect_err(address).to_string(), format!("{expected}{HINT}"));
        }
    }
}
