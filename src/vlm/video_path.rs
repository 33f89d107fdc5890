//! A family's own way with a video: the frames that it samples, how they become tokens, and the words
//! around them. Pipelines name it `checkpoint`.

use crate::image::ImageProcessor;
use crate::temporal::{self, Temporal};
use crate::text::{FrameLayout, FrameMarks, Placeholder, Tokenizer};
use crate::video::Sample;
use crate::video::sample::{InternVl, OneVision, SmolVlm};

/// A family's own way with videos.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VideoPath {
    /// None: a family of images, whose frames stand together at the one image.
    None,
    /// None, but several images have marks of their own each, with nothing between: Idefics3, the first SmolVLM.
    Idefics3,
    /// SmolVLM2.
    SmolVlm,
    /// LLaVA-OneVision.
    OneVision,
    /// InternVL.
    InternVl,
}

impl VideoPath {
    /// Whether the family takes videos, or several images, in a way of its own.
    pub fn is_own(self) -> bool {
        self != Self::None
    }

    /// Whether the family's processor takes videos, not images alone.
    pub(super) fn takes_videos(self) -> bool {
        matches!(self, Self::SmolVlm | Self::OneVision | Self::InternVl)
    }

    /// The frames that the family's processor takes of a video, by its class's own numbers.
    pub(super) fn sample(self) -> Sample {
        match self {
            Self::None | Self::Idefics3 => Sample::default(),
            Self::SmolVlm => Sample::SmolVlm(SmolVlm::default()),
            Self::OneVision => Sample::OneVision(OneVision::default()),
            Self::InternVl => Sample::InternVl(InternVl::default()),
        }
    }

    /// The processor that prepares the frames, where the family has its own.
    pub(super) fn processor(self) -> Option<ImageProcessor> {
        match self {
            Self::None => None,
            Self::Idefics3 => Some(ImageProcessor::Idefics3),
            Self::SmolVlm => Some(ImageProcessor::SmolVlm),
            Self::OneVision => Some(ImageProcessor::LlavaOnevision),
            Self::InternVl => Some(ImageProcessor::InternVl),
        }
    }

    /// How the family makes one sequence of a video's frames.
    pub fn temporal(self) -> Temporal {
        match self {
            Self::OneVision => Temporal::OneVision(temporal::OneVision::default()),
            Self::None | Self::Idefics3 | Self::SmolVlm | Self::InternVl => Temporal::Concat,
        }
    }

    /// The placeholder of a video in the family's prompts, and what stands for its tokens.
    pub(super) fn placeholder(self) -> Placeholder {
        match self {
            Self::None | Self::Idefics3 | Self::SmolVlm => Placeholder::Image,
            Self::OneVision => Placeholder::Video,
            Self::InternVl => Placeholder::ImageInVideo,
        }
    }

    /// The layout of frames in a prompt, with the marks that the tokenizer's files name.
    pub(super) fn marks(self, tokenizer: &Tokenizer) -> FrameMarks {
        let named = |key: &str, default: &str| tokenizer.named_token(key).unwrap_or(default).to_owned();
        match self {
            Self::None | Self::OneVision => FrameMarks::default(),
            Self::Idefics3 | Self::SmolVlm => {
                let fake = named("fake_image_token", "<fake_token_around_image>");
                let layout = if self == Self::SmolVlm { FrameLayout::SmolVlm } else { FrameLayout::Each };
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
