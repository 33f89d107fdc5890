//! Chat template of a checkpoint, and the prompt that it renders of a conversation.
//!
//! Messages are in the format of transformers' users: a list of parts with the image first; for a template of texts,
//! the placeholder and a line end before the first question. Text of a question never makes an image: the placeholder
//! in it is hidden from the template. The template's file is found by `source`, Jinja is rendered by [`super::jinja`].

mod source;

use std::path::Path;

use serde_json::{Map, Value, json};

use self::source::TemplateSource;

use super::Tokenizer;
use super::conversation::Turn;
use super::frames::PromptMedium;
use super::jinja::{self, RenderFailure};
use super::template::Template;
use crate::error::{self, Error, Kind};

/// Character that replaces the placeholder of an image in the text of a conversation.
const HIDDEN: char = '\u{10FFFE}';
/// Mark of transformers at the end of an answer that is to be continued.
const CONTINUE: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Chat template in Jinja.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    /// Jinja source, or the reason why the file has none.
    source: Result<String, String>,
    /// File, and the key in it.
    origin: String,
    /// Special tokens by name, such as `bos_token`, which templates write.
    special_tokens: Vec<(String, String)>,
    /// Placeholder of a video.
    placeholder: String,
    /// The placeholder is a token of videos, not of images.
    is_video: bool,
    /// Placeholder of a single image.
    image_placeholder: String,
    /// Default system text.
    system: Option<&'static str>,
}

/// Conversation as input of a template.
pub(super) struct ChatInput<'c> {
    pub(super) system: Option<&'c str>,
    pub(super) turns: &'c [Turn],
    /// Text with which the next answer begins.
    pub(super) answer_prefix: &'c str,
    /// Subject of the conversation.
    pub(super) medium: PromptMedium,
}

/// Format of a message's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MessageFormat {
    /// List of parts, the first of them an image.
    ImageParts,
    /// List of parts, the first of them a video.
    VideoParts,
    /// Text with the placeholder before the first question.
    Text,
    /// Text without it, for a template that writes the placeholder itself.
    BareText,
}

/// Failure to render a prompt with one message format.
struct FormatFailure {
    progress: FormatProgress,
    cause: Error,
}

/// Progress of a message format before it failed. The failure with the most progress is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum FormatProgress {
    Begun,
    Rendered,
    OneImage,
    /// The template refused the conversation itself.
    Refused,
    /// The template missed its deadline; no other format is tried.
    TimedOut,
}

impl ChatTemplate {
    /// Finds the template of a checkpoint, if it has one. An unreadable template is an error when it is used.
    pub fn find(dir: &Path, tokenizer: &Tokenizer) -> Option<Self> {
        let TemplateSource { origin, source } = source::of_processor(dir).or_else(|| {
            let value = tokenizer.chat_template()?;
            let origin = "tokenizer_config.json: chat_template".to_owned();
            Some(TemplateSource { origin, source: source::named_default(value) })
        })?;
        let special_tokens = tokenizer.special_tokens().map(|(name, text)| (name.to_owned(), text.to_owned()));
        Some(Self {
            source: source.map_err(|error| error.to_string()),
            origin,
            special_tokens: special_tokens.collect(),
            placeholder: tokenizer.video_text().to_owned(),
            is_video: tokenizer.has_video_token(),
            image_placeholder: tokenizer.single_image_text().to_owned(),
            system: None,
        })
    }

    /// Sets the default system text.
    #[must_use]
    pub(crate) fn with_default_system(self, system: Option<&'static str>) -> Self {
        Self { system, ..self }
    }

    /// Default system text.
    pub(super) fn system(&self) -> Option<&'static str> {
        self.system
    }

    /// Returns the file of the template, and the key in it.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Renders the texts before and after the video in the prompt of a conversation, with the first message format of
    /// which the template makes a prompt with exactly one placeholder.
    ///
    /// # Errors
    /// When no format does, or the prompt leaves out the question or the system text.
    pub(super) fn prompt(&self, chat: &ChatInput<'_>) -> Result<(String, String), Error> {
        let wrong = |cause: String| {
            let hint = format!("--template with one of {}", Template::NAMES.join(", "));
            Error::new(Kind::Text, cause).with_hint(hint).about("chat template").about(self.origin.clone())
        };
        let source = self.source.as_ref().map_err(|cause| wrong(cause.clone()))?;
        let mut failures = Vec::new();
        let (first, last) = match self.is_video && chat.medium == PromptMedium::Video {
            true => (MessageFormat::VideoParts, MessageFormat::ImageParts),
            false => (MessageFormat::ImageParts, MessageFormat::VideoParts),
        };
        for format in [first, last, MessageFormat::Text, MessageFormat::BareText] {
            match self.render(source, chat, format) {
                Ok(prompt) => return Ok(prompt),
                Err(failure) if failure.progress == FormatProgress::TimedOut => {
                    return Err(wrong(failure.cause.to_string()));
                }
                Err(failure) => failures.push(failure),
            }
        }
        let furthest = failures.into_iter().max_by_key(|failure| failure.progress);
        Err(wrong(furthest.map_or_else(String::new, |failure| failure.cause.to_string())))
    }

    fn render(
        &self,
        source: &str,
        chat: &ChatInput<'_>,
        format: MessageFormat,
    ) -> Result<(String, String), FormatFailure> {
        let failed = |progress: FormatProgress| move |cause: Error| FormatFailure { progress, cause };
        let mut context = Map::new();
        context.extend(self.special_tokens.iter().map(|(name, text)| (name.clone(), text.as_str().into())));
        context.insert("messages".to_owned(), self.messages(chat, format).into());
        context.insert("tools".to_owned(), Value::Null);
        context.insert("documents".to_owned(), Value::Null);
        context.insert("add_generation_prompt".to_owned(), chat.answer_prefix.is_empty().into());
        let rendered = jinja::render(source, minijinja::value::Serde(Value::Object(context)).into());
        let mut text = rendered.map_err(|failure| match failure {
            RenderFailure::Refused(cause) => failed(FormatProgress::Refused)(cause),
            RenderFailure::Broken(cause) => failed(FormatProgress::Begun)(cause),
            RenderFailure::TimedOut(cause) => failed(FormatProgress::TimedOut)(cause),
        })?;
        if !chat.answer_prefix.is_empty() {
            continue_final_message(&mut text, &self.hide(chat, chat.answer_prefix))
                .map_err(failed(FormatProgress::Rendered))?;
        }
        // A template of texts prints a list as Python or JSON writes it.
        if ["image", "video"].iter().any(|kind| {
            text.contains(&format!("{{'type': '{kind}'}}")) || text.contains(&format!("{{\"type\": \"{kind}\"}}"))
        }) {
            return Err(failed(FormatProgress::Begun)(Error::invalid("it prints the parts of a message as a list")));
        }
        let placeholder = self.placeholder(chat);
        let n_images = text.matches(placeholder).count();
        let Some((before, after)) = text.split_once(placeholder).filter(|_| n_images == 1) else {
            let cause = format!("a conversation about one video has `{placeholder}` {n_images} times in its prompt");
            return Err(failed(FormatProgress::Rendered)(Error::invalid(cause)));
        };
        let question = chat.turns.last().map(|turn| turn.question.as_str());
        for (part, words) in [("question", question), ("system text", chat.system)] {
            if !text.contains(self.hide(chat, words.unwrap_or_default()).trim()) {
                let cause = format!("it leaves the {part} out, or changes its words");
                return Err(failed(FormatProgress::OneImage)(Error::invalid(cause)));
            }
        }
        Ok((self.show(chat, before), self.show(chat, after)))
    }

    fn messages(&self, chat: &ChatInput<'_>, format: MessageFormat) -> Vec<Value> {
        let text = |text: &str| json!({ "type": "text", "text": text });
        let words = |words: &str| match format {
            MessageFormat::Text | MessageFormat::BareText => Value::from(words),
            MessageFormat::ImageParts | MessageFormat::VideoParts => json!([text(words)]),
        };
        let message = |role: &str, content: Value| json!({ "role": role, "content": content });
        let mut messages = Vec::new();
        messages.extend(chat.system.map(|system| message("system", words(&self.hide(chat, system)))));
        for (i, turn) in chat.turns.iter().enumerate() {
            let question = self.hide(chat, &turn.question);
            let asked = match (i, format) {
                (0, MessageFormat::ImageParts) => json!([{ "type": "image" }, text(&question)]),
                (0, MessageFormat::VideoParts) => json!([{ "type": "video" }, text(&question)]),
                (0, MessageFormat::Text) => Value::from(format!("{}\n{question}", self.placeholder(chat))),
                _ => words(&question),
            };
            messages.push(message("user", asked));
            messages.extend(turn.answer.as_ref().map(|answer| message("assistant", words(&self.hide(chat, answer)))));
        }
        if !chat.answer_prefix.is_empty() {
            messages.push(message("assistant", words(&format!("{}{CONTINUE}", self.hide(chat, chat.answer_prefix)))));
        }
        messages
    }

    /// Returns the placeholder that the template writes.
    fn placeholder(&self, chat: &ChatInput<'_>) -> &str {
        match chat.medium {
            PromptMedium::Video => &self.placeholder,
            PromptMedium::Image => &self.image_placeholder,
        }
    }

    fn hide(&self, chat: &ChatInput<'_>, words: &str) -> String {
        words.replace(HIDDEN, "").replace(self.placeholder(chat), HIDDEN.encode_utf8(&mut [0; 4]))
    }

    fn show(&self, chat: &ChatInput<'_>, text: &str) -> String {
        text.replace(HIDDEN, self.placeholder(chat))
    }
}

/// Cuts the text after the last message, as `continue_final_message` of transformers does.
fn continue_final_message(text: &mut String, words: &str) -> error::Result<()> {
    let mark = CONTINUE.trim_end();
    let Some(at) = text.rfind(mark).filter(|_| text.contains(words.trim())) else {
        return Err(Error::invalid("it leaves out the words that the answer is to begin with"));
    };
    // Without the space after the mark, the template trims messages.
    let keeps_space = text[at..].starts_with(CONTINUE);
    text.truncate(at);
    if !keeps_space {
        text.truncate(text.trim_end().len());
    }
    Ok(())
}
