//! Image formats by the first bytes of a file. The reader of a directory of images goes by the ending of a name, so a
//! file is named after its content, not after the client's media type.

use crate::error::{Error, Kind, Result};

/// Bytes that decide the format.
pub(super) const N_FIRST: usize = 12;

/// Format of a still image that can be a frame of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameFormat {
    Jpeg,
    Png,
    Gif,
    WebP,
    Bmp,
    Tiff,
}

impl FrameFormat {
    /// Returns the format of a file by its first [`N_FIRST`] bytes.
    ///
    /// # Errors
    /// [`Kind::NotMedia`] for any other content.
    pub(super) fn of(first: &[u8]) -> Result<Self> {
        let is_webp = first.starts_with(b"RIFF") && first.get(8..12) == Some(b"WEBP");
        let found = match first {
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            [b'G', b'I', b'F', b'8', ..] => Some(Self::Gif),
            [b'B', b'M', ..] => Some(Self::Bmp),
            [b'I', b'I', b'*', 0, ..] | [b'M', b'M', 0, b'*', ..] => Some(Self::Tiff),
            _ => is_webp.then_some(Self::WebP),
        };
        let unknown = || Error::new(Kind::NotMedia, "not an image").with_hint("JPEG, PNG, GIF, WebP, BMP, TIFF");
        found.ok_or_else(unknown)
    }

    /// Checks that the file is a JPEG image.
    ///
    /// # Errors
    /// [`Kind::NotMedia`] for any other content.
    pub(super) fn check_jpeg(first: &[u8]) -> Result<Self> {
        match Self::of(first) {
            Ok(Self::Jpeg) => Ok(Self::Jpeg),
            _ => Err(Error::new(Kind::NotMedia, "not a JPEG image")),
        }
    }

    /// Returns the ending of a name.
    pub(super) fn ending(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::Gif => "gif",
            Self::WebP => "webp",
            Self::Bmp => "bmp",
            Self::Tiff => "tiff",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_decides_the_format() {
        for (bytes, expected) in [
            (&b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01"[..], Some(FrameFormat::Jpeg)),
            (b"\x89PNG\r\n\x1a\n\0\0\0\r", Some(FrameFormat::Png)),
            (b"GIF89a", Some(FrameFormat::Gif)),
            (b"RIFF\0\0\0\0WEBP", Some(FrameFormat::WebP)),
            (b"RIFF\0\0\0\0AVI ", None),
            (b"BM", Some(FrameFormat::Bmp)),
            (b"II*\0", Some(FrameFormat::Tiff)),
            (b"#EXTM3U\n/etc", None),
            (b"\xff\xd8", None),
            (b"", None),
        ] {
            assert_eq!(FrameFormat::of(bytes).ok(), expected, "{bytes:?}");
        }
        assert!(FrameFormat::check_jpeg(b"\x89PNG\r\n\x1a\n").is_err());
    }
}
