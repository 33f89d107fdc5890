//! Chat template of a checkpoint, and the prompt that it renders of a conversation.
//!
//! A conversation is rendered in the first of the [`MessageFormat`]s of which the template makes a prompt with exactly
//! one placeholder for each medium. `messages` makes a template's input, `placeholders` finds the media in its output.
//! The template's file is found by `source`, Jinja is rendered by [`super::jinja`].

mod messages;
mod placeholders;
mod source;

use std::path::Path;

use serde_json::{Map, Value};

use self::messages::{CONTINUE, MessageFormat};
use self::placeholders::MediumPlaceholders;
use self::source::TemplateSource;
use super::Tokenizer;
use super::frames::ShownFrames;
use super::jinja::{self, RenderFailure};
use super::prompt::Passage;
use super::question::{QuestionPart, Turn};
use super::template::Template;
use crate::error::{self, Error, Kind};

/// Chat template in Jinja.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    /// Jinja source, or the reason why the file has none.
    source: Result<String, String>,
    /// File, and the key in it.
    origin: String,
    /// Special tokens by name, such as `bos_token`, which templates write.
    special_tokens: Vec<(String, String)>,
    /// Placeholders of media.
    placeholders: MediumPlaceholders,
    /// Default system text.
    system: Option<&'static str>,
}

/// Conversation as input of a template.
pub(super) struct ChatInput<'c> {
    pub(super) system: Option<&'c str>,
    pub(super) turns: &'c [Turn],
    /// Text with which the next answer begins.
    pub(super) answer_prefix: &'c str,
    /// Media of the conversation.
    pub(super) media: &'c [ShownFrames],
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
    /// The prompt has one placeholder for each medium.
    Placed,
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
            placeholders: MediumPlaceholders::of(tokenizer),
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

    /// Renders the texts of a conversation and the media between them.
    ///
    /// # Errors
    /// When no message format gives a prompt with one placeholder for each medium, or the prompt leaves out the
    /// question or the system text.
    pub(super) fn prompt(&self, chat: &ChatInput<'_>) -> Result<Vec<Passage<String>>, Error> {
        let wrong = |cause: String| {
            let hint = format!("--template with one of {}", Template::NAMES.join(", "));
            Error::new(Kind::Text, cause).with_hint(hint).about("chat template").about(self.origin.clone())
        };
        let source = self.source.as_ref().map_err(|cause| wrong(cause.clone()))?;
        let mut failures = Vec::new();
        for &format in MessageFormat::of(chat) {
            match self.render(source, chat, format) {
                Ok(prompt) => return Ok(prompt),
                Err(failure) if failure.progress == FormatProgress::TimedOut => {
                    return Err(wrong(failure.cause.to_string()));
                }
                Err(failure) => failures.push(failure),
            }
        }
        if !MessageFormat::of(chat).contains(&MessageFormat::Text) {
            let cause = Error::invalid("a template of texts takes one medium, in the first question");
            failures.push(FormatFailure { progress: FormatProgress::Begun, cause });
        }
        let furthest = failures.into_iter().max_by_key(|failure| failure.progress);
        Err(wrong(furthest.map_or_else(String::new, |failure| failure.cause.to_string())))
    }

    fn render(
        &self,
        source: &str,
        chat: &ChatInput<'_>,
        format: MessageFormat,
    ) -> Result<Vec<Passage<String>>, FormatFailure> {
        let failed = |progress: FormatProgress| move |cause: Error| FormatFailure { progress, cause };
        let mut context = Map::new();
        context.extend(self.special_tokens.iter().map(|(name, text)| (name.clone(), text.as_str().into())));
        context.insert("messages".to_owned(), chat.messages(format, &self.placeholders).into());
        context.insert("tools".to_owned(), Value::Null);
        context.insert("documents".to_owned(), Value::Null);
        context.insert("add_generation_prompt".to_owned(), chat.answer_prefix.is_empty().into());
        let rendered = jinja::render(source, minijinja::value::Serde(Value::Object(context)).into());
        let mut text = rendered.map_err(|failure| match failure {
            RenderFailure::Refused(cause) => failed(FormatProgress::Refused)(cause),
            RenderFailure::Broken(cause) => failed(FormatProgress::Begun)(cause),
            RenderFailure::TimedOut(cause) => failed(FormatProgress::TimedOut)(cause),
        })?;
        let hide = |text: &str| self.placeholders.hide(text);
        if !chat.answer_prefix.is_empty() {
            continue_final_message(&mut text, &hide(chat.answer_prefix)).map_err(failed(FormatProgress::Rendered))?;
        }
        if format.is_list() && prints_list(&text, chat) {
            return Err(failed(FormatProgress::Begun)(Error::invalid("it prints the parts of a message as a list")));
        }
        let parts = self.placeholders.split(&text, chat).map_err(failed(FormatProgress::Rendered))?;
        let question = chat.turns.last().into_iter().flat_map(|turn| &turn.question).filter_map(QuestionPart::text);
        let texts = question.map(|text| ("question", text)).chain(chat.system.map(|text| ("system text", text)));
        for (part, words) in texts {
            if !text.contains(hide(words).trim()) {
                let cause = format!("it leaves the {part} out, or changes its words");
                return Err(failed(FormatProgress::Placed)(Error::invalid(cause)));
            }
        }
        Ok(parts)
    }
}

/// Returns whether a template of texts printed a list of parts, as Python or JSON writes it. An entry that a text of
/// the conversation contains is not a sign.
fn prints_list(text: &str, chat: &ChatInput<'_>) -> bool {
    let entries = |kind: &str| [format!("{{'type': '{kind}'"), format!("{{\"type\": \"{kind}\"")];
    let signs: Vec<String> = match chat.shown().next() {
        Some(_) => ["image", "video"].into_iter().flat_map(entries).map(|entry| entry + "}").collect(),
        None => entries("text").into(),
    };
    let turns = || chat.turns.iter().flat_map(|turn| turn.question.iter().filter_map(QuestionPart::text));
    let answers = || chat.turns.iter().filter_map(|turn| turn.answer.as_deref());
    let is_said = |sign: &str| {
        let texts = turns().chain(answers()).chain(chat.system).chain([chat.answer_prefix]);
        { texts }.any(|text| text.contains(sign))
    };
    signs.iter().any(|sign| text.contains(sign) && !is_said(sign))
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
