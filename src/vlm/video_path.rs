//! A family's own processing of a video: sampling of frames, temporal strategy, and the text around frames. Pipelines
//! name it `checkpoint`.

use crate::image::ImageProcessor;
use crate::temporal::{self, Temporal};
use crate::text::{FrameLayout, FrameMarks, Placeholder, Tokenizer};
use crate::video::Sample;
use crate::video::sample::{InternVlSampling, OneVisionSampling, SmolVlmSampling};

/// A family's own processing of videos.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VideoPath {
    /// No processing of its own: a family trained on images, whose frames replace the one image of the prompt.
    None,
    /// Images in place of a video, each with its own marks, without text between them: Idefics3, the first SmolVLM.
    Idefics3,
    /// SmolVLM2.
    SmolVlm,
    /// LLaVA-OneVision.
    OneVision,
    /// InternVL.
    InternVl,
}

impl VideoPath {
    /// Returns whether the family has its own processing of videos, or of several images.
    pub fn is_own(self) -> bool {
        self != Self::None
    }

    /// Returns whether the family's processor takes videos, not only images.
    pub(super) fn takes_videos(self) -> bool {
        matches!(self, Self::SmolVlm | Self::OneVision | Self::InternVl)
    }

    /// Returns the sampling rule of the family's processor, with the defaults of its class.
    pub(super) fn sample(self) -> Sample {
        match self {
            Self::None | Self::Idefics3 => Sample::default(),
            Self::SmolVlm => Sample::SmolVlm(SmolVlmSampling::default()),
            Self::OneVision => Sample::OneVision(OneVisionSampling::default()),
            Self::InternVl => Sample::InternVl(InternVlSampling::default()),
        }
    }

    /// Returns the image processor of the family, where it has its own.
    pub(super) fn processor(self) -> Option<ImageProcessor> {
        match self {
            Self::None => None,
            Self::Idefics3 => Some(ImageProcessor::Idefics3),
            Self::SmolVlm => Some(ImageProcessor::SmolVlm),
            Self::OneVision => Some(ImageProcessor::LlavaOnevision),
            Self::InternVl => Some(ImageProcessor::InternVl),
        }
    }

    /// Returns the temporal strategy of the family.
    pub fn temporal(self) -> Temporal {
        match self {
            Self::OneVision => Temporal::OneVision(temporal::OneVision::default()),
            Self::None | Self::Idefics3 | Self::SmolVlm | Self::InternVl => Temporal::Concat,
        }
    }

    /// Returns the kind of the placeholder of a video in the family's prompts.
    pub(super) fn placeholder(self) -> Placeholder {
        match self {
            Self::None | Self::Idefics3 | Self::SmolVlm => Placeholder::Image,
            Self::OneVision => Placeholder::Video,
            Self::InternVl => Placeholder::ImageInVideo,
        }
    }

    /// Returns the layout of frames in a prompt, with the marks that the tokenizer's files name.
    pub(super) fn marks(self, tokenizer: &Tokenizer) -> FrameMarks {
        let named = |key: &str, default: &str| tokenizer.named_token(key).unwrap_or(default).to_owned();
        match self {
            Self::None | Self::OneVision => FrameMarks::default(),
            Self::Idefics3 | Self::SmolVlm => {
                let fake = named("fake_image_token", "<fake_token_around_image>");
                let layout = if self == Self::SmolVlm { FrameLayout::SmolVlm } else { FrameLayout::PerFrame };
                let open = format!("{fake}{}", named("global_image_token", "<global-img>"));
                FrameMarks { layout, open, close: fake }
            }
            Self::InternVl => FrameMarks {
                layout: FrameLayout::InternVl,
                open: named("start_image_token", "<img>"),
                close: named("end_image_token", "</img>"),
            },
        }
    }
}
