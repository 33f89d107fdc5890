//! Tokenizer of a checkpoint, of any file format, and the ids of a prompt.
//!
//! The reference for ids is one of two code bases. For a checkpoint in Hugging Face's spelling it is transformers 5:
//! the prompt is encoded as one text with the placeholder of the image in it (`LlavaProcessor`). For a checkpoint in
//! LLaVA's spelling it is LLaVA's code: `AutoTokenizer(use_fast=False)`, and the texts on both sides of the image are
//! encoded separately (`tokenizer_image_token`).

mod fast;
mod open;
mod placeholders;
mod recent;
mod settings;
mod slow;

use std::path::Path;

use serde_json::Value;

use super::{Passage, Prompt};
use crate::error::{Error, Kind, Result};
use fast::{Fast, SpecialTokens};
use open::{open_as_llava, open_as_transformers};
use placeholders::Placeholders;
use settings::Settings;
use slow::Slow;

/// Code base that is the reference for the ids of a checkpoint's prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptConvention {
    /// LLaVA's and the Dense Connector's code.
    Llava,
    /// Hugging Face transformers.
    HuggingFace {
        /// Id of the visual tokens' placeholder in `config.json`, if the file has it.
        image_token_id: Option<u32>,
        /// Kind of the placeholder of a video.
        placeholder: Placeholder,
    },
}

/// Placeholder of a video in the prompts of a checkpoint in Hugging Face's spelling.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Placeholder {
    /// The image's placeholder, which visual tokens replace.
    #[default]
    Image,
    /// A placeholder of videos.
    Video,
    /// A placeholder of videos in the template, which is replaced by text around placeholders of images.
    ImageInVideo,
}

/// Position of a text among the parts of a prompt that are encoded separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartPosition {
    /// First part, which keeps the BOS that the tokenizer adds.
    First,
    /// Part after visual tokens, without the BOS that the tokenizer adds.
    Later,
}

/// Tokenizer: text to ids and back.
#[derive(Debug)]
pub struct Tokenizer {
    codec: Codec,
    file: &'static str,
    settings: Settings,
    placeholders: Placeholders,
    /// Templates write a token of videos for a video, not of images.
    has_video_token: bool,
    /// Id of the visual tokens' placeholder, where prompts are encoded as one text.
    placeholder_id: Option<u32>,
    /// BOS, where `tokenizer.json` puts one before every text.
    bos: Option<u32>,
}

#[derive(Debug)]
enum Codec {
    Fast(Fast),
    Slow(Box<Slow>),
}

impl Tokenizer {
    /// Opens the tokenizer of a directory: `tokenizer.json` or `tokenizer.model`, with the settings beside it.
    ///
    /// # Errors
    /// When there is no tokenizer, or it is broken, or its placeholder of an image differs from that of `config.json`.
    pub fn open(dir: &Path, convention: PromptConvention) -> Result<Self> {
        let mut settings = Settings::read(dir)?;
        let placeholders = Placeholders::read(dir, &settings, convention)?;
        let (codec, file) = match convention {
            PromptConvention::Llava => open_as_llava(dir, &mut settings)?,
            PromptConvention::HuggingFace { .. } => open_as_transformers(dir, &mut settings, &placeholders.visual)?,
        };
        let placeholder_id = match (&codec, convention) {
            (Codec::Fast(fast), PromptConvention::HuggingFace { image_token_id, .. }) => {
                let found = fast.token_id(&placeholders.visual);
                check_image_token(dir, &placeholders.visual, found, image_token_id)?;
                found
            }
            _ => None,
        };
        let bos = match &codec {
            Codec::Fast(fast) => fast.added_first()?,
            Codec::Slow(_) => None,
        };
        let has_video_token = matches!(
            convention,
            PromptConvention::HuggingFace { placeholder: Placeholder::Video | Placeholder::ImageInVideo, .. }
        );
        Ok(Self { codec, file, settings, placeholders, has_video_token, placeholder_id, bos })
    }

    /// Encodes a prompt, part after part.
    ///
    /// # Errors
    /// When the text of a prompt that is encoded as one text contains the placeholder of the image, which would move
    /// it, or when the tokenizer fails.
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<Passage<Vec<u32>>>> {
        if let (Some(placeholder_id), Codec::Fast(fast)) = (self.placeholder_id, &self.codec) {
            return self.encode_whole(prompt, fast, placeholder_id);
        }
        let encode = |(i, part): (usize, &Passage<String>)| {
            part.try_map(|words| self.encode(words, if i == 0 { PartPosition::First } else { PartPosition::Later }))
        };
        prompt.parts.iter().enumerate().map(encode).collect()
    }

    /// Encodes a prompt as one text, with one placeholder for each run of visual tokens.
    fn encode_whole(&self, prompt: &Prompt, fast: &Fast, placeholder_id: u32) -> Result<Vec<Passage<Vec<u32>>>> {
        let Placeholders { visual: visual_text, single_image, .. } = &self.placeholders;
        let ambiguous = |token: &String| {
            let rule = format!(
                "the prompt contains `{token}` beside the video's own; this checkpoint's tokenizer reads each as an image"
            );
            Error::new(Kind::Text, rule).with_hint("write it otherwise in the question, for example with spaces")
        };
        // The placeholder of a single image is not one of a video, and vice versa.
        let is_in_text =
            |token: &&String| prompt.parts.iter().filter_map(Passage::text).any(|words| words.contains(*token));
        if let Some(token) = [visual_text, single_image].into_iter().find(is_in_text) {
            return Err(ambiguous(token));
        }
        let text: String = prompt.parts.iter().map(|part| part.text().unwrap_or(visual_text).as_str()).collect();
        // Like `ProcessorMixin.apply_chat_template`: a prompt that begins with BOS gets no second one.
        let writes_bos = self.settings.token("bos_token").is_some_and(|bos| text.starts_with(bos));
        let ids = fast.encode(&text, if writes_bos { SpecialTokens::Omitted } else { SpecialTokens::Added })?;
        let words: Vec<&[u32]> = ids.split(|&id| id == placeholder_id).collect();
        let visual: Vec<&Passage<String>> = prompt.parts.iter().filter(|part| part.text().is_none()).collect();
        if words.len() != visual.len() + 1 {
            return Err(ambiguous(visual_text));
        }
        let mut parts = Vec::with_capacity(2 * words.len());
        for (i, ids) in words.into_iter().enumerate() {
            if i == 0 || i == visual.len() || !ids.is_empty() {
                parts.push(Passage::Text(ids.to_vec()));
            }
            parts.extend(visual.get(i).map(|part| part.try_map(|_| Ok::<_, Error>(Vec::new()))).transpose()?);
        }
        Ok(parts)
    }

    /// Encodes one part of a prompt whose parts are encoded separately.
    ///
    /// # Errors
    /// When the tokenizer fails, which well-formed ones never do.
    pub fn encode(&self, text: &str, position: PartPosition) -> Result<Vec<u32>> {
        match (&self.codec, position) {
            (Codec::Slow(slow), PartPosition::First) => Ok(slow.encode(text)),
            (Codec::Slow(slow), PartPosition::Later) => Ok(slow.encode_later(text)),
            (Codec::Fast(fast), _) => {
                let mut ids = fast.encode(text, SpecialTokens::Added)?;
                if position == PartPosition::Later && self.bos.is_some() && ids.first() == self.bos.as_ref() {
                    ids.remove(0);
                }
                Ok(ids)
            }
        }
    }

    /// Decodes ids, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> String {
        match &self.codec {
            Codec::Fast(fast) => fast.decode(ids),
            Codec::Slow(slow) => slow.decode(ids),
        }
    }

    /// Returns the number of ids whose text no later id can change. The text of a run of byte tokens is certain only
    /// after another token ends the run: one bad byte changes all of it.
    pub fn n_certain(&self, ids: &[u32]) -> usize {
        let Codec::Fast(fast) = &self.codec else { return ids.len() };
        let is_open = |&id: &u32| fast.is_byte(id) || fast.is_skipped(id);
        let n_open = ids.iter().rev().take_while(|id| is_open(id)).count();
        let (certain, open) = ids.split_at(ids.len() - n_open);
        if open.iter().any(|&id| fast.is_byte(id)) { certain.len() } else { ids.len() }
    }

    /// Returns the token of an id as the vocabulary spells it, with its marks of spaces and bytes.
    pub fn piece(&self, id: u32) -> Option<String> {
        match &self.codec {
            Codec::Fast(fast) => fast.piece(id),
            Codec::Slow(slow) => slow.piece(id).map(str::to_owned),
        }
    }

    /// Returns the id of a token by its exact text.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        match &self.codec {
            Codec::Fast(fast) => fast.token_id(token),
            Codec::Slow(slow) => slow.token_id(token),
        }
    }

    /// Returns the number of ids, added tokens included.
    pub fn vocab_size(&self) -> usize {
        match &self.codec {
            Codec::Fast(fast) => fast.vocab_size(),
            Codec::Slow(slow) => slow.vocab_size(),
        }
    }

    /// Returns the kind of the tokenizer's file, for display.
    pub fn kind(&self) -> &'static str {
        self.file
    }

    /// Returns the named special tokens (`bos_token`, ...) and their texts.
    pub fn special_tokens(&self) -> impl Iterator<Item = (&str, &str)> {
        self.settings.named()
    }

    /// Returns the text of a token that `tokenizer_config.json` names, such as `fake_image_token`.
    pub(crate) fn named_token(&self, name: &str) -> Option<&str> {
        self.settings.token(name)
    }

    /// Returns the text that a template writes for a video: the image's placeholder unless the family has another.
    pub(crate) fn video_text(&self) -> &str {
        &self.placeholders.video
    }

    /// Returns the text that a template writes for a single image.
    pub(super) fn single_image_text(&self) -> &str {
        &self.placeholders.single_image
    }

    /// Returns whether templates write a token of videos for a video, not of images.
    pub(super) fn has_video_token(&self) -> bool {
        self.has_video_token
    }

    /// Returns `chat_template` of `tokenizer_config.json`.
    pub(super) fn chat_template(&self) -> Option<&Value> {
        self.settings.get("chat_template").filter(|value| !value.is_null())
    }
}

/// Checks that the tokenizer's id of the placeholder equals that of `config.json`, by which the model finds visual
/// tokens.
fn check_image_token(dir: &Path, text: &str, found: Option<u32>, config: Option<u32>) -> Result<()> {
    match (found, config) {
        (Some(tokenizer), Some(config)) if tokenizer != config => {
            let rule = format!("{config} is not the id of `{text}` in the tokenizer, {tokenizer}");
            let error = Error::new(Kind::Text, rule).with_hint("the tokenizer's files belong to another checkpoint");
            Err(error.about("image_token_index").about(dir.join("config.json")))
        }
        _ => Ok(()),
    }
}
