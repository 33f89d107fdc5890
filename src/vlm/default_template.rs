//! Prompt settings of a checkpoint: the convention by which its tokenizer is read, the marks around visual tokens, its
//! own template, and the default template. Called by [`super::Blueprint::read`] and [`super::Design::read`].

use std::path::Path;
use std::sync::Arc;

use super::VideoPath;
use super::config::{LanguageKind, Spelling, VlmConfig};
use crate::connector::ConnectorKind;
use crate::error::Error;
use crate::text::{ChatTemplate, FrameMarks, PromptConvention, Template, Tokenizer};

/// Returns the code base by which the checkpoint's tokenizer is read.
pub(super) fn reading(config: &VlmConfig) -> PromptConvention {
    match config.spelling {
        Spelling::Llava => PromptConvention::Llava,
        Spelling::HuggingFace => PromptConvention::HuggingFace {
            image_token_id: config.visual_token(),
            placeholder: config.video_path.placeholder(),
        },
    }
}

/// Returns the marks around a checkpoint's visual tokens.
pub(super) fn frame_marks(config: &VlmConfig, tokenizer: &Tokenizer) -> FrameMarks {
    if config.image_marks {
        return FrameMarks::around_all("<im_start>", "<im_end>");
    }
    config.video_path.marks(tokenizer)
}

/// Returns the checkpoint's `prompt_format`, else its chat template, if it has one.
///
/// # Errors
/// [`Error`] for a malformed `prompt_format`.
pub(super) fn own_template(dir: &Path, config: &VlmConfig, tokenizer: &Tokenizer) -> Result<Option<Template>, Error> {
    if let Some(format) = &config.prompt_format {
        return Ok(Some(Template::custom(format)?));
    }
    // The processor uses the template of its code for every prompt with a video.
    if config.video_path == VideoPath::SmolVlm {
        return Ok(Some(Template::SmolVlm));
    }
    Ok(ChatTemplate::find(dir, tokenizer)
        .map(|chat| Template::Checkpoint(Arc::new(chat.with_default_system(config.family.system)))))
}

/// Facts that decide a checkpoint's default template.
pub(super) struct DefaultTemplate {
    spelling: Spelling,
    language: LanguageKind,
    /// The Dense Connector's authors trained the checkpoint.
    is_dense: bool,
}

impl DefaultTemplate {
    pub(super) fn of(config: &VlmConfig) -> Self {
        let is_dense = config.connector != ConnectorKind::None;
        Self { spelling: config.spelling, language: config.language, is_dense }
    }

    /// Chooses the checkpoint's own template, unless it is in LLaVA's spelling, whose code has its own conversations;
    /// else the built-in template to which the tokenizer's special tokens belong.
    pub(super) fn choose(&self, tokenizer: &Tokenizer, own: Option<&Template>) -> Template {
        let has = |token| tokenizer.token_id(token).is_some();
        let is_qwen = matches!(self.language, LanguageKind::Qwen2 | LanguageKind::Qwen3);
        match (own, self.spelling) {
            (Some(own @ Template::Custom(_)), _) | (Some(own), Spelling::HuggingFace) => own.clone(),
            _ if has("<|eot_id|>") && self.is_dense => Template::Llama3,
            _ if has("<|eot_id|>") => Template::LlavaLlama3,
            _ if has("<|im_start|>") && is_qwen => Template::Qwen,
            _ if has("<|im_start|>") => Template::ChatMl,
            _ if self.language == LanguageKind::Mistral => Template::Mistral,
            (_, Spelling::HuggingFace) => Template::LlavaHf,
            (_, Spelling::Llava) => Template::VicunaV1,
        }
    }
}
