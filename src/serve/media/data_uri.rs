//! `data:` URIs (RFC 2397) of whole files and of lists of JPEG frames. Only the head is parsed here; `base64_stream`
//! decodes the data. The media type is a label: the content decides how a file is read.

use crate::error::{Error, Result};

/// Characters of the head at most: media type and parameters.
const MAX_HEAD: usize = 256;
/// Mark between the head and the data.
const MARK: &str = ";base64,";
/// Media type of a list of JPEG frames, as vLLM defines it.
const FRAME_LIST: &str = "video/jpeg";

/// A `data:` URI, its data undecoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DataUri<'t> {
    /// Media type, such as `video/mp4`; may be empty.
    pub(super) media_type: &'t str,
    /// Data in base64; of a list of frames, each after a comma.
    pub(super) data: &'t str,
}

impl<'t> DataUri<'t> {
    /// Parses a URI; `None` for another scheme.
    ///
    /// # Errors
    /// Percent-encoded data, and media types that are neither videos nor images.
    pub(super) fn parse(uri: &'t str) -> Option<Result<Self>> {
        let (scheme, rest) = uri.split_at_checked("data:".len())?;
        scheme.eq_ignore_ascii_case("data:").then(|| Self::of_rest(rest).map_err(|error| error.about("data URI")))
    }

    fn of_rest(rest: &'t str) -> Result<Self> {
        let head = &rest.as_bytes()[..rest.len().min(MAX_HEAD + MARK.len())];
        let found = head.windows(MARK.len()).position(|window| window.eq_ignore_ascii_case(MARK.as_bytes()));
        let Some(at) = found else {
            let error = Error::invalid("no `;base64,` after the media type");
            return Err(error.with_hint("data:video/mp4;base64,..."));
        };
        let (head, data) = (&rest[..at], &rest[at + MARK.len()..]);
        if !head.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return Err(Error::invalid("invalid character in the media type"));
        }
        let media_type = head.split(';').next().unwrap_or_default().trim();
        let is_of = |class: &str| media_type.get(..class.len()).is_some_and(|own| own.eq_ignore_ascii_case(class));
        let is_known = media_type.is_empty() || is_of("video/") || is_of("image/");
        if !is_known && !media_type.eq_ignore_ascii_case("application/octet-stream") {
            let error = Error::invalid(format!("unknown media type `{media_type}`"));
            return Err(error.with_hint("video/..., image/..., application/octet-stream"));
        }
        Ok(Self { media_type, data })
    }

    /// Returns whether the data is a list of JPEG frames.
    pub(super) fn is_frame_list(&self) -> bool {
        self.media_type.eq_ignore_ascii_case(FRAME_LIST)
    }

    /// Returns the data of each frame of a list.
    pub(super) fn frames(&self) -> impl Iterator<Item = &'t str> + Clone {
        self.data.split(',')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_a_media_type_and_data() {
        for (uri, media_type, data) in [
            ("data:video/mp4;base64,AAAA", "video/mp4", "AAAA"),
            ("DATA:Video/MP4;Base64,AAAA", "Video/MP4", "AAAA"),
            ("data:;base64,AAAA", "", "AAAA"),
            ("data:video/webm;codecs=vp8,opus;base64,AAAA", "video/webm", "AAAA"),
            ("data:application/octet-stream;base64,", "application/octet-stream", ""),
            ("data:image/png;base64,a;base64,b", "image/png", "a;base64,b"),
        ] {
            let parsed = DataUri::parse(uri).expect("of this scheme").expect(uri);
            assert_eq!(parsed, DataUri { media_type, data }, "{uri}");
        }
        for uri in ["file:///a", "dat", "", "date:video/mp4;base64,AAAA", "dätä:"] {
            assert!(DataUri::parse(uri).is_none(), "{uri}");
        }
    }

    #[test]
    fn a_list_of_frames_has_a_media_type_of_its_own() {
        let parsed = DataUri::parse("data:video/JPEG;base64,AA==,BB==,").expect("data").expect("valid");
        assert!(parsed.is_frame_list());
        assert_eq!(parsed.frames().collect::<Vec<_>>(), ["AA==", "BB==", ""]);
        assert!(!DataUri::parse("data:image/jpeg;base64,AA==").expect("data").expect("valid").is_frame_list());
    }

    #[test]
    fn other_encodings_and_types_are_refused_by_name() {
        let far = format!("data:video/mp4;{};base64,AAAA", "x".repeat(MAX_HEAD));
        for (uri, expected) in [
            ("data:video/mp4,%00%01", "data URI: no `;base64,` after the media type; hint: data:video/mp4;base64,..."),
            ("data:", "data URI: no `;base64,` after the media type; hint: data:video/mp4;base64,..."),
            (&far, "data URI: no `;base64,` after the media type; hint: data:video/mp4;base64,..."),
            ("data:vid\neo/mp4;base64,AAAA", "data URI: invalid character in the media type"),
            ("data:vidéo/mp4;base64,AAAA", "data URI: invalid character in the media type"),
            (
                "data:text/html;base64,AAAA",
                "data URI: unknown media type `text/html`; hint: video/..., image/..., application/octet-stream",
            ),
        ] {
            let error = DataUri::parse(uri).expect("of this scheme").expect_err(uri).to_string();
            assert_eq!(error, expected);
        }
        // The limit of the head may fall into a character.
        let _ =
            DataUri::parse(&format!("data:{}", "é".repeat(MAX_HEAD))).expect("of this scheme").expect_err("no mark");
    }
}
