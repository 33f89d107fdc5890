//! Request for frames of a video, and the events of its reading: the interface between the reader and its consumers.

use serde::{Deserialize, Serialize};

use super::{Frame, ImageRate, Sample, Window};

/// Request for frames of a video.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrameRequest {
    /// Sampling rule.
    pub sample: Sample,
    /// Part of the video that is sampled.
    pub window: Window,
    /// Index of the video stream among all streams. Default: the best video stream.
    #[serde(default)]
    pub stream: Option<usize>,
    /// Rate of the images of a directory. Default: the images have no times. A video that is not a directory is
    /// refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_rate: Option<ImageRate>,
}

impl FrameRequest {
    /// Requests frames of the best video stream.
    pub fn new(sample: Sample, window: Window) -> Self {
        Self { sample, window, stream: None, image_rate: None }
    }
}

/// Forecast of a reading by the packets of a video, before a frame is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadingForecast {
    /// Number of frames of the window.
    pub n_frames: usize,
    /// Expected number of sampled frames; the maximum of a rule that needs histograms.
    pub n_sampled: usize,
    /// Whether the input is one still image, not a video.
    pub is_single_image: bool,
    /// Upright width and height of the single image.
    pub size: Option<(u32, u32)>,
}

/// Event of a reading.
#[derive(Debug)]
pub enum ReadEvent {
    /// Reading begins.
    Expected {
        /// Number of frames by the packets.
        n_frames: usize,
        /// Expected number of sampled frames; the maximum of a rule that needs histograms.
        n_sampled: usize,
        /// Whether the input is one still image, not a video.
        is_single_image: bool,
    },
    /// No progress; a chance to return [`Flow::Stop`].
    Waiting,
    /// A sampled frame, in order of index.
    Frame(Frame),
    /// Decoding advances.
    Progress {
        /// Number of frames decoded so far.
        n_decoded: usize,
    },
    /// Takes back all frames emitted so far: the video has fewer or more frames than its packets promised. The correct
    /// frames follow.
    Restart,
}

/// Decision of the consumer after a [`ReadEvent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Continues the reading.
    Continue,
    /// Ends the reading early, without an error.
    Stop,
}
