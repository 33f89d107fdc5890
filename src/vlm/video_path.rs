//! What a family's own processor does with a video: the frames that it samples, how they become tokens, and the words
//! around them. Pipelines name it `checkpoint`.

use crate::text::{FrameLayout, FrameMarks, Tokenizer};

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
