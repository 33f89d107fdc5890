//! Built-in conversation templates, exact to the space, and a checkpoint's own `prompt_format`.
//!
//! Source: `conversation.py` of the released Dense Connector and LLaVA code. Jinja templates are rendered by
//! [`ChatTemplate`], turns are collected by [`super::Conversation`].

use std::sync::Arc;

use strum::{EnumString, VariantNames};

use super::chat_template::ChatTemplate;
use super::custom_template::CustomTemplate;
use crate::choice;
use crate::error::{Error, Kind, Result};

/// Conversation template. The variants with names come first.
#[derive(Debug, Clone, PartialEq, Eq, EnumString, VariantNames)]
pub enum Template {
    /// Vicuna 1.1 and up, and LLaVA-1.5: `USER: ... ASSISTANT:`.
    #[strum(to_string = "vicuna_v1")]
    VicunaV1,
    /// Llama-3 of the Dense Connector's training: the assistant's header is `system`.
    #[strum(to_string = "llama_3")]
    Llama3,
    /// Llama-3 of LLaVA-NeXT's training: the assistant's header is `assistant`.
    #[strum(to_string = "llava_llama_3")]
    LlavaLlama3,
    /// LLaVA-1.5 in the documentation of its Hugging Face checkpoints: `USER: ... ASSISTANT:` without a system text.
    #[strum(to_string = "llava_hf")]
    LlavaHf,
    /// Llama-2 chat: `[INST] <<SYS>> ... [/INST]`.
    #[strum(to_string = "llama_2")]
    Llama2,
    /// Mistral instruct: `[INST] ... [/INST]`.
    #[strum(to_string = "mistral_instruct")]
    Mistral,
    /// ChatML: `<|im_start|>user ...`, for Yi-34B and its like.
    #[strum(to_string = "chatml_direct")]
    ChatMl,
    /// Qwen 1.5 and 2 of LLaVA-NeXT's and LLaVA-OneVision's training: ChatML with line ends.
    #[strum(to_string = "qwen_1_5")]
    Qwen,
    /// SmolVLM with a video, like its processor.
    #[strum(to_string = "smolvlm")]
    SmolVlm,
    /// The question and nothing else.
    #[strum(to_string = "plain")]
    Plain,
    /// A checkpoint's own `prompt_format`, of one turn.
    #[strum(disabled)]
    Custom(CustomTemplate),
    /// A checkpoint's own chat template in Jinja.
    #[strum(disabled)]
    Checkpoint(Arc<ChatTemplate>),
}

pub(super) const VICUNA_SYSTEM: &str = "A chat between a curious user and an artificial intelligence assistant. \
    The assistant gives helpful, detailed, and polite answers to the user's questions.";
pub(super) const LLAVA_SYSTEM: &str = "You are a helpful language and vision assistant. \
    You are able to understand the visual content that the user provides, \
    and assist the user with a variety of tasks using natural language.";
const CHATML_SYSTEM: &str = "Answer the questions.";
const QWEN_SYSTEM: &str = "You are a helpful assistant.";

/// Character that replaces the video while a prompt is rendered; it is removed from all other text.
pub(super) const VISUAL: char = '\u{10FFFF}';

impl Template {
    /// Name of a checkpoint's own template.
    pub(crate) const CHECKPOINT: &'static str = "checkpoint";

    /// Names of the built-in templates.
    pub(crate) const NAMES: &'static [&'static str] = Self::VARIANTS.split_at(10).0;

    /// Refuses a name that is neither a built-in template's nor `CHECKPOINT`.
    ///
    /// # Errors
    /// For an unknown name, with the known names.
    pub fn check_name(name: &str) -> Result<()> {
        if name == Self::CHECKPOINT { Ok(()) } else { Self::named(name).map(|_| ()) }
    }

    /// Returns the template of a name; `own` is the checkpoint's.
    ///
    /// # Errors
    /// For an unknown name, or when the checkpoint's own is named and it has none.
    pub(crate) fn choose(name: &str, own: Option<&Self>) -> Result<Self> {
        match (name, own) {
            (Self::CHECKPOINT, Some(own)) => Ok(own.clone()),
            (Self::CHECKPOINT, None) => {
                let error = Error::new(Kind::Text, "the checkpoint has no chat template");
                Err(error.with_hint(Self::NAMES.join(", ")).about("template `checkpoint`"))
            }
            (name, _) => Self::named(name),
        }
    }

    /// Returns the built-in template of a name.
    ///
    /// # Errors
    /// For an unknown name, with the known names.
    pub fn named(name: &str) -> Result<Self> {
        name.parse().map_err(|_| {
            let known = [Self::NAMES, &[Self::CHECKPOINT]].concat();
            choice::unknown_name("template", name, &known).with_kind(Kind::Text)
        })
    }

    /// Parses a checkpoint's own `prompt_format`, such as
    /// `<s>USER: <image>\n{question} ASSISTANT: {answer}</s>`. White space before `{answer}` is part of the answer.
    ///
    /// # Errors
    /// When a mark is missing or out of order.
    pub fn custom(format: &str) -> Result<Self> {
        CustomTemplate::parse(format).map(Self::Custom)
    }

    /// Returns the name for `choose`; `custom` for a checkpoint's `prompt_format`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::VicunaV1 => "vicuna_v1",
            Self::Llama3 => "llama_3",
            Self::LlavaLlama3 => "llava_llama_3",
            Self::LlavaHf => "llava_hf",
            Self::Llama2 => "llama_2",
            Self::Mistral => "mistral_instruct",
            Self::ChatMl => "chatml_direct",
            Self::Qwen => "qwen_1_5",
            Self::SmolVlm => "smolvlm",
            Self::Plain => "plain",
            Self::Custom(_) => "custom",
            Self::Checkpoint(_) => Self::CHECKPOINT,
        }
    }

    /// Returns the file of a checkpoint's own template.
    pub fn origin(&self) -> Option<&str> {
        match self {
            Self::Custom(_) => Some("config.json: prompt_format"),
            Self::Checkpoint(chat) => Some(chat.origin()),
            _ => None,
        }
    }

    /// Returns the strings that end an answer. If a string is a token of the vocabulary, that token ends it too. A chat
    /// template has none: the checkpoint's own stop tokens end answers.
    pub(crate) fn stop_strings(&self) -> Vec<String> {
        let stop = match self {
            Self::VicunaV1 | Self::LlavaHf | Self::Llama2 | Self::Mistral | Self::Plain => "</s>",
            Self::Llama3 | Self::LlavaLlama3 => "<|eot_id|>",
            Self::ChatMl | Self::Qwen => "<|im_end|>",
            Self::SmolVlm => "<end_of_utterance>",
            Self::Custom(custom) => &custom.stop,
            Self::Checkpoint(_) => "",
        };
        if stop.is_empty() { Vec::new() } else { vec![stop.to_owned()] }
    }

    /// Returns the text after a prompt whose answer is `answer`, stop text included: the target of training. A chat
    /// template closes answers itself, within the next prompt.
    pub fn reply(&self, answer: &str) -> String {
        let stop = match self {
            Self::VicunaV1 | Self::LlavaHf | Self::Plain => "</s>",
            Self::Llama3 | Self::LlavaLlama3 => "<|eot_id|>",
            Self::Llama2 | Self::Mistral => " </s>",
            Self::ChatMl | Self::Qwen => "<|im_end|>",
            Self::SmolVlm => "<end_of_utterance>",
            Self::Custom(custom) => &custom.stop,
            Self::Checkpoint(_) => "",
        };
        format!("{}{stop}", self.begin_reply(answer))
    }

    /// Returns the text after a prompt whose answer begins with `words`.
    pub(super) fn begin_reply(&self, words: &str) -> String {
        match self {
            Self::VicunaV1 | Self::LlavaHf | Self::Llama2 | Self::Mistral | Self::SmolVlm => format!(" {words}"),
            Self::Llama3 | Self::LlavaLlama3 | Self::ChatMl | Self::Qwen | Self::Plain | Self::Checkpoint(_) => {
                words.to_owned()
            }
            Self::Custom(custom) => format!("{}{words}", custom.answer_space),
        }
    }

    /// Returns whether a prompt can contain earlier questions and answers.
    pub fn has_turns(&self) -> bool {
        !matches!(self, Self::Custom(_) | Self::Plain)
    }

    /// Returns whether a prompt can contain a system text.
    pub(crate) fn has_system(&self) -> bool {
        !matches!(self, Self::Custom(_) | Self::Plain)
    }

    pub(super) fn default_system(&self) -> &'static str {
        match self {
            Self::VicunaV1 => VICUNA_SYSTEM,
            Self::Llama3 | Self::LlavaLlama3 | Self::Llama2 => LLAVA_SYSTEM,
            Self::ChatMl => CHATML_SYSTEM,
            Self::Qwen => QWEN_SYSTEM,
            Self::LlavaHf | Self::Mistral | Self::SmolVlm | Self::Plain | Self::Custom(_) | Self::Checkpoint(_) => "",
        }
    }
}
