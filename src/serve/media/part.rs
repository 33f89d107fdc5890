//! Video and image parts of a message, as a client names them. Made by the parser of requests; nothing is read here.

use serde::{Deserialize, Serialize};

use super::data_uri::DataUri;
use crate::units::Seconds;

/// Bytes of a client's `uuid` at most.
pub(in crate::serve) const MAX_UUID: usize = 256;

/// Video or image of a message.
#[derive(Debug, Clone, PartialEq)]
pub struct MediaPart {
    /// Source of the content.
    pub source: MediaSource,
    /// Name by which the client refers to the same content again.
    pub uuid: Option<String>,
    /// Frames to sample, where the request says so.
    pub frames: FrameOptions,
    /// Times of frames that are sent as images.
    pub timing: Option<FrameTiming>,
    /// Path of the part in the request's body, such as `messages[0].content[1].video_url`; the `param` of its errors.
    pub param: String,
}

/// Source of a medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MediaSource {
    /// Address: `http`, `https`, `file`, `data`, or `upload:ID`.
    Url(String),
    /// File in base64.
    Base64(String),
    /// Addresses of images that are the frames of one video, or of one image.
    Frames(Vec<String>),
    /// Content of an earlier request, which [`MediaPart::uuid`] names.
    Known,
}

impl MediaPart {
    /// Returns whether content is fetched from another host.
    pub fn is_remote(&self) -> bool {
        let is_remote = |url: &String| url.get(..4).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http"));
        match &self.source {
            MediaSource::Url(url) => is_remote(url),
            MediaSource::Frames(urls) => urls.iter().any(is_remote),
            MediaSource::Base64(_) | MediaSource::Known => false,
        }
    }
}

impl MediaSource {
    /// Returns whether a medium is sent as a list of frames, whose times the request can say.
    pub(in crate::serve) fn is_frame_list(&self) -> bool {
        match self {
            Self::Frames(images) => images.len() > 1,
            Self::Url(url) => DataUri::parse(url).is_some_and(|uri| uri.is_ok_and(|uri| uri.is_frame_list())),
            Self::Base64(_) | Self::Known => false,
        }
    }
}

/// Frames that a request asks for. An absent option is that of the server's plan.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FrameOptions {
    /// Number of frames.
    pub num_frames: Option<usize>,
    /// Frames per second of video.
    pub fps: Option<f64>,
    /// Minimum number of frames, beside `fps`.
    pub min_frames: Option<usize>,
    /// Maximum number of frames, beside `fps`.
    pub max_frames: Option<usize>,
    /// Whether frames are sampled; `false` takes all.
    pub do_sample_frames: Option<bool>,
    /// Start of the part that is sampled.
    pub start: Option<Seconds>,
    /// End of the part that is sampled, exclusive.
    pub end: Option<Seconds>,
}

/// Times of frames that are sent as images, by vLLM's names.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FrameTiming {
    /// Frames per second of the video that the frames are from.
    pub fps: Option<f64>,
    /// Index of each frame in that video.
    pub frames_indices: Option<Vec<usize>>,
    /// Number of frames of that video.
    pub total_num_frames: Option<usize>,
    /// Duration of that video, in seconds.
    pub duration: Option<f64>,
    /// Whether the sent frames are sampled once more; `false` takes all.
    pub do_sample_frames: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_frames_is_told_from_a_file_and_from_one_image() {
        let is_list = |url: &str| MediaSource::Url(url.to_owned()).is_frame_list();
        assert!(is_list("data:video/jpeg;base64,AA==,BB==") && is_list("DATA:Video/JPEG;base64,AA=="));
        assert!(!is_list("data:video/mp4;base64,AA==") && !is_list("https://host/video/jpeg") && !is_list(""));
        let images = |n| MediaSource::Frames(vec!["upload:a".to_owned(); n]).is_frame_list();
        assert!(images(2) && !images(1) && !MediaSource::Known.is_frame_list());
    }

    #[test]
    fn a_part_is_remote_if_any_of_its_addresses_is() {
        let part = |source| MediaPart {
            source,
            uuid: None,
            frames: FrameOptions::default(),
            timing: None,
            param: String::new(),
        };
        let url = |url: &str| part(MediaSource::Url(url.to_owned())).is_remote();
        assert!(url("http://host/a.mp4") && url("HTTPS://host/a.mp4"));
        assert!(!url("upload:http") && !url("data:video/mp4;base64,") && !url("") && !url("h\u{e9}\u{e9}"));
        let list = |urls: &[&str]| part(MediaSource::Frames(urls.iter().map(|&url| url.to_owned()).collect()));
        assert!(list(&["upload:a", "https://host/b.png"]).is_remote());
        assert!(!list(&["upload:a"]).is_remote() && !part(MediaSource::Known).is_remote());
    }
}
