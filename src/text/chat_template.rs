//! A checkpoint's own chat template: where it stands, and the prompt that it makes of a conversation.
//!
//! Files and their order are those of transformers 5 (`ProcessorMixin.get_processor_dict`, then the tokenizer's).
//! Messages are those that its users write: a list of parts with the image first; for a template that wants texts,
//! the placeholder and a line end before the first question. A question's own words never make an image: the
//! placeholder in them is hidden from the template.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::frames::Medium;
use super::template::{Template, Turn};
use super::{Tokenizer, jinja};
use crate::error::{Error, Kind};
use crate::files;

/// Stands for the placeholder of an image in the words of a conversation.
const HIDDEN: char = '\u{10FFFE}';
/// Marks the end of an answer that is to be continued, as transformers marks it.
const CONTINUE: &str = "CONTINUE_FINAL_MESSAGE_TAG ";
/// Directory of templates beside `chat_template.jinja`.
const ADDITIONAL: &str = "additional_chat_templates";

/// A chat template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    /// The Jinja source, or why there is none.
    source: Result<String, String>,
    /// The file, and the key in it.
    origin: String,
    /// `bos_token` and the like, which templates write.
    special_tokens: Vec<(String, String)>,
    /// The placeholder of the video.
    mark: String,
    /// Whether that is a token of videos, not of images.
    is_video: bool,
    /// The placeholder of a single image.
    image_mark: String,
    /// The system text of a conversation that has none of its own.
    system: Option<&'static str>,
}

/// A conversation as a template sees it.
pub(super) struct Chat<'c> {
    pub(super) system: Option<&'c str>,
    pub(super) turns: &'c [Turn],
    /// Words that the next answer begins with.
    pub(super) primed: &'c str,
    /// What it is about.
    pub(super) medium: Medium,
}

/// How a message's content is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// A list of parts, the first of them an image.
    ImageParts,
    /// A list of parts, the first of them a video.
    VideoParts,
    /// A single text, with the placeholder before the first question.
    Text,
    /// A single text, for a template that writes the placeholder itself.
    BareText,
}

/// Why a way to write messages makes no prompt.
struct Failure {
    progress: Progress,
    cause: String,
}

/// How far a way to write messages came. The failure that came furthest is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    Begun,
    Rendered,
    OneImage,
    /// The template itself said why not.
    Refused,
    /// The template missed its deadline; no other way is tried.
    Late,
}

impl ChatTemplate {
    /// The template of a checkpoint, if it has one. A file that cannot be read as one is told when it is used.
    pub fn find(dir: &Path, tokenizer: &Tokenizer) -> Option<Self> {
        let (origin, source) = of_processor(dir).or_else(|| {
            let value = tokenizer.chat_template()?;
            Some(("tokenizer_config.json: chat_template".to_owned(), named_default(value)))
        })?;
        let special_tokens = tokenizer.special_tokens().map(|(name, text)| (name.to_owned(), text.to_owned()));
        Some(Self {
            source,
            origin,
            special_tokens: special_tokens.collect(),
            mark: tokenizer.video_text().to_owned(),
            is_video: tokenizer.is_video_token(),
            image_mark: tokenizer.single_image_text().to_owned(),
            system: None,
        })
    }

    /// The same template with a system text for conversations that have none of their own.
    #[must_use]
    pub fn with_system(self, system: Option<&'static str>) -> Self {
        Self { system, ..self }
    }

    /// The system text of a conversation that has none of its own.
    pub(super) fn system(&self) -> Option<&'static str> {
        self.system
    }

    /// The file that it was read from, and the key in it.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The texts before and after the video in the prompt of a conversation: of the ways to write messages, the first
    /// of which the template makes a prompt with exactly one placeholder.
    ///
    /// # Errors
    /// [`Error`] when no way does, or the prompt leaves out the question or the system text.
    pub(super) fn prompt(&self, chat: &Chat<'_>) -> Result<(String, String), Error> {
        let wrong = |cause: String| {
            let hint = format!("--template with one of {}", Template::NAMES.join(", "));
            Error::new(Kind::Text, cause).with_hint(hint).about("chat template").about(self.origin.clone())
        };
        let source = self.source.as_ref().map_err(|cause| wrong(cause.clone()))?;
        let mut failures = Vec::new();
        let (first, last) = match self.is_video && chat.medium == Medium::Video {
            true => (Content::VideoParts, Content::ImageParts),
            false => (Content::ImageParts, Content::VideoParts),
        };
        for content in [first, last, Content::Text, Content::BareText] {
            match self.prompt_of(source, chat, content) {
                Ok(prompt) => return Ok(prompt),
                Err(failure) if failure.progress == Progress::Late => return Err(wrong(failure.cause)),
                Err(failure) => failures.push(failure),
            }
        }
        let furthest = failures.into_iter().max_by_key(|failure| failure.progress);
        Err(wrong(furthest.map_or_else(String::new, |failure| failure.cause)))
    }

    fn prompt_of(&self, source: &str, chat: &Chat<'_>, content: Content) -> Result<(String, String), Failure> {
        let failed = |progress: Progress| move |cause: String| Failure { progress, cause };
        let mut context = Map::new();
        context.extend(self.special_tokens.iter().map(|(name, text)| (name.clone(), text.as_str().into())));
        context.insert("messages".to_owned(), self.messages(chat, content).into());
        context.insert("tools".to_owned(), Value::Null);
        context.insert("documents".to_owned(), Value::Null);
        context.insert("add_generation_prompt".to_owned(), chat.primed.is_empty().into());
        let rendered = jinja::render(source, minijinja::value::Serde(Value::Object(context)).into());
        let mut text = rendered.map_err(|failure| match failure {
            jinja::Failure::Refused(cause) => failed(Progress::Refused)(cause),
            jinja::Failure::Broken(cause) => failed(Progress::Begun)(cause),
            jinja::Failure::Late(cause) => failed(Progress::Late)(cause),
        })?;
        if !chat.primed.is_empty() {
            continue_final_message(&mut text, &self.hide(chat, chat.primed)).map_err(failed(Progress::Rendered))?;
        }
        // A template of texts prints a list as Python or JSON writes it.
        if ["image", "video"].iter().any(|kind| {
            text.contains(&format!("{{'type': '{kind}'}}")) || text.contains(&format!("{{\"type\": \"{kind}\"}}"))
        }) {
            return Err(failed(Progress::Begun)("it prints the parts of a message as a list".to_owned()));
        }
        let mark = self.mark(chat);
        let n_images = text.matches(mark).count();
        let Some((before, after)) = text.split_once(mark).filter(|_| n_images == 1) else {
            let cause = format!("a conversation about one video has `{mark}` {n_images} times in its prompt");
            return Err(failed(Progress::Rendered)(cause));
        };
        let question = chat.turns.last().map(|turn| turn.question.as_str());
        for (part, words) in [("question", question), ("system text", chat.system)] {
            if !text.contains(self.hide(chat, words.unwrap_or_default()).trim()) {
                return Err(failed(Progress::OneImage)(format!("it leaves the {part} out, or changes its words")));
            }
        }
        Ok((self.show(chat, before), self.show(chat, after)))
    }

    fn messages(&self, chat: &Chat<'_>, content: Content) -> Vec<Value> {
        let text = |text: &str| json!({ "type": "text", "text": text });
        let words = |words: &str| match content {
            Content::Text | Content::BareText => Value::from(words),
            Content::ImageParts | Content::VideoParts => json!([text(words)]),
        };
        let message = |role: &str, content: Value| json!({ "role": role, "content": content });
        let mut messages = Vec::new();
        messages.extend(chat.system.map(|system| message("system", words(&self.hide(chat, system)))));
        for (i, turn) in chat.turns.iter().enumerate() {
            let question = self.hide(chat, &turn.question);
            let asked = match (i, content) {
                (0, Content::ImageParts) => json!([{ "type": "image" }, text(&question)]),
                (0, Content::VideoParts) => json!([{ "type": "video" }, text(&question)]),
                (0, Content::Text) => Value::from(format!("{}\n{question}", self.mark(chat))),
                _ => words(&question),
            };
            messages.push(message("user", asked));
            messages.extend(turn.answer.as_ref().map(|answer| message("assistant", words(&self.hide(chat, answer)))));
        }
        if !chat.primed.is_empty() {
            messages.push(message("assistant", words(&format!("{}{CONTINUE}", self.hide(chat, chat.primed)))));
        }
        messages
    }

    /// The placeholder that the template writes.
    fn mark(&self, chat: &Chat<'_>) -> &str {
        match chat.medium {
            Medium::Video => &self.mark,
            Medium::Image => &self.image_mark,
        }
    }

    fn hide(&self, chat: &Chat<'_>, words: &str) -> String {
        words.replace(HIDDEN, "").replace(self.mark(chat), HIDDEN.encode_utf8(&mut [0; 4]))
    }

    fn show(&self, chat: &Chat<'_>, text: &str) -> String {
        text.replace(HIDDEN, self.mark(chat))
    }
}

/// Cuts what follows the words of the last message, as `continue_final_message` of transformers does.
fn continue_final_message(text: &mut String, words: &str) -> Result<(), String> {
    let mark = CONTINUE.trim_end();
    let Some(at) = text.rfind(mark).filter(|_| text.contains(words.trim())) else {
        return Err("it leaves out the words that the answer is to begin with".to_owned());
    };
    // Without the space after the mark, the template trims messages.
    let keeps_space = text[at..].starts_with(CONTINUE);
    text.truncate(at);
    if !keeps_space {
        text.truncate(text.trim_end().len());
    }
    Ok(())
}

/// A source and where it was found.
type Found = (String, Result<String, String>);

/// The template that transformers' processor takes, if there is one.
fn of_processor(dir: &Path) -> Option<Found> {
    let key = |name: &str| match object(dir, name)? {
        Ok(mut map) => {
            let value = map.remove("chat_template").filter(|value| !value.is_null())?;
            Some((format!("{name}: chat_template"), named_default(&value)))
        }
        Err(cause) => Some((name.to_owned(), Err(cause))),
    };
    if let Some(found) = key("processor_config.json") {
        return Some(found);
    }
    let mut named = additional(dir);
    if let Some((origin, source)) = key("chat_template.json") {
        let both = format!("{ADDITIONAL} stands beside it; only chat_template.jinja goes with that");
        return Some((origin, if named.is_empty() { source } else { Err(both) }));
    }
    if let Some(default) = text(dir, "chat_template.jinja") {
        return Some(("chat_template.jinja".to_owned(), default));
    }
    if named.is_empty() {
        return None;
    }
    let source = named.remove("default").unwrap_or_else(|| Err(no_default(named.keys())));
    Some((ADDITIONAL.to_owned(), source))
}

/// The templates in the directory beside `chat_template.jinja`, by name.
fn additional(dir: &Path) -> BTreeMap<String, Result<String, String>> {
    let Ok(entries) = std::fs::read_dir(dir.join(ADDITIONAL)) else { return BTreeMap::new() };
    let named = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?.strip_suffix(".jinja")?.to_owned();
        let source = text(dir, &format!("{ADDITIONAL}/{name}.jinja"))?;
        Some((name, source))
    });
    named.collect()
}

/// A template, or the one called `default` of a list or a map of named ones.
fn named_default(value: &Value) -> Result<String, String> {
    let name = |item: &Value| item.get("name").and_then(Value::as_str).map(str::to_owned);
    let named: Vec<(String, &Value)> = match value {
        Value::String(source) => return Ok(source.clone()),
        Value::Object(map) => map.iter().map(|(name, source)| (name.clone(), source)).collect(),
        Value::Array(list) => list.iter().filter_map(|item| Some((name(item)?, item.get("template")?))).collect(),
        _ => return Err("expected a text, or named texts".to_owned()),
    };
    let default = named.iter().find(|(name, _)| name == "default").and_then(|(_, source)| source.as_str());
    default.map(str::to_owned).ok_or_else(|| no_default(named.iter().map(|(name, _)| name)))
}

fn no_default<'n>(names: impl Iterator<Item = &'n String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    format!("none of the named templates is `default`: {}", names.join(", "))
}

fn object(dir: &Path, name: &str) -> Option<Result<Map<String, Value>, String>> {
    let parse = |text: String| match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err("not a JSON object".to_owned()),
        Err(error) => Err(format!("not JSON: {error}")),
    };
    text(dir, name).map(|text| text.and_then(parse))
}

/// A file's text, if there is such a file.
fn text(dir: &Path, name: &str) -> Option<Result<String, String>> {
    let path = dir.join(name);
    let read = || {
        let bytes = files::read(&path).map_err(|error| error.to_string())?;
        String::from_utf8(bytes.into_owned()).map_err(|_| "not UTF-8".to_owned())
    };
    files::is_file(&path).then(read)
}
