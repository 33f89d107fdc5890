//! Placeholders of visual input in prompts: the tokens that templates write for a video and for an image.

use std::path::Path;

use serde_json::Value;

use super::settings::{self, Settings};
use super::{Placeholder, PromptConvention};
use crate::error::Result;

/// Placeholder of an image where no file names one.
const IMAGE_TOKEN: &str = "<image>";
/// Placeholder of a video where no file names one.
const VIDEO_TOKEN: &str = "<video>";

/// Texts of placeholders.
#[derive(Debug)]
pub(super) struct Placeholders {
    /// Placeholder of visual tokens.
    pub(super) visual: String,
    /// Text that a template writes for a video.
    pub(super) video: String,
    /// Text that a template writes for a single image.
    pub(super) single_image: String,
}

impl Placeholders {
    /// Reads the placeholders of a checkpoint: the tokenizer's own tokens, else the processor's, else `<image>` and
    /// `<video>`.
    ///
    /// # Errors
    /// When the processor's file cannot be read.
    pub(super) fn read(dir: &Path, settings: &Settings, convention: PromptConvention) -> Result<Self> {
        let processor = settings::object(&dir.join("processor_config.json"))?.unwrap_or_default();
        let named = |keys: &[&str], default: &str| {
            let own = keys.iter().find_map(|key| settings.token(key));
            let other = keys.iter().find_map(|key| processor.get(*key).and_then(Value::as_str));
            own.or(other.filter(|token| !token.is_empty())).unwrap_or(default).to_owned()
        };
        let image = named(&["image_token", "context_image_token"], IMAGE_TOKEN);
        let video = || named(&["video_token"], VIDEO_TOKEN);
        let single_image = image.clone();
        let (visual, video) = match convention {
            PromptConvention::Llava | PromptConvention::HuggingFace { placeholder: Placeholder::Image, .. } => {
                (image.clone(), image)
            }
            PromptConvention::HuggingFace { placeholder: Placeholder::Video, .. } => (video(), video()),
            PromptConvention::HuggingFace { placeholder: Placeholder::ImageInVideo, .. } => (image, video()),
        };
        Ok(Self { visual, video, single_image })
    }
}
