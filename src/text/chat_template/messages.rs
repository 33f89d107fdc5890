//! Messages of a conversation as a chat template's input, in the formats of transformers' users.

use serde_json::{Value, json};

use super::ChatInput;
use super::placeholders::MediumPlaceholders;
use crate::text::frames::MediumKind;
use crate::text::prompt::MediumIndex;
use crate::text::question::QuestionPart;

/// Mark of transformers at the end of an answer that is to be continued.
pub(super) const CONTINUE: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Format of a message's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageFormat {
    /// List of parts in the order of the question; a video is an entry `video` where the family has a token of videos.
    Parts,
    /// List of parts in which entries `image` and `video` are swapped.
    SwappedParts,
    /// Text with the placeholder before the first question.
    Text,
    /// Text without it, for a template that writes the placeholder itself.
    BareText,
}

impl MessageFormat {
    /// Returns the formats to try. Texts have one medium, in the first question, or none; media of different kinds keep
    /// their entries.
    pub(super) fn of(chat: &ChatInput<'_>) -> &'static [Self] {
        let mut kinds = chat.shown().map(|medium| chat.kind(medium));
        let Some(first) = kinds.next() else { return &[Self::Parts, Self::Text] };
        let n_others = kinds.clone().count();
        let is_in_first =
            chat.turns.first().is_some_and(|turn| turn.question.iter().any(|part| part.medium().is_some()));
        match n_others {
            0 if is_in_first => &[Self::Parts, Self::SwappedParts, Self::Text, Self::BareText],
            _ if kinds.all(|kind| kind == first) => &[Self::Parts, Self::SwappedParts],
            _ => &[Self::Parts],
        }
    }

    /// Returns whether contents are lists.
    pub(super) fn is_list(self) -> bool {
        matches!(self, Self::Parts | Self::SwappedParts)
    }
}

impl ChatInput<'_> {
    /// Returns the media of all questions, in their order.
    pub(super) fn shown(&self) -> impl Iterator<Item = MediumIndex> + Clone {
        self.turns.iter().flat_map(|turn| &turn.question).filter_map(QuestionPart::medium)
    }

    /// Returns the kind of a medium.
    pub(super) fn kind(&self, medium: MediumIndex) -> MediumKind {
        self.media.get(medium.0).map_or(MediumKind::Video, |shown| shown.kind())
    }

    /// Makes the messages. Placeholders in texts are hidden from the template.
    pub(super) fn messages(&self, format: MessageFormat, placeholders: &MediumPlaceholders) -> Vec<Value> {
        let content = |text: &str| match format.is_list() {
            true => json!([text_entry(text)]),
            false => Value::from(text),
        };
        let said = |text: &str| content(&placeholders.hide(text));
        let message = |role: &str, content: Value| json!({ "role": role, "content": content });
        let mut messages = Vec::new();
        messages.extend(self.system.map(|system| message("system", said(system))));
        for turn in self.turns {
            messages.push(message("user", self.question(&turn.question, format, placeholders)));
            messages.extend(turn.answer.as_ref().map(|answer| message("assistant", said(answer))));
        }
        if !self.answer_prefix.is_empty() {
            let beginning = format!("{}{CONTINUE}", placeholders.hide(self.answer_prefix));
            messages.push(message("assistant", content(&beginning)));
        }
        messages
    }

    /// Makes the content of a question.
    fn question(&self, question: &[QuestionPart], format: MessageFormat, placeholders: &MediumPlaceholders) -> Value {
        if format.is_list() {
            let entry = |part: &QuestionPart| match part {
                QuestionPart::Text(text) => text_entry(&placeholders.hide(text)),
                QuestionPart::Medium(medium) => {
                    let is_video = placeholders.has_own_video(self.kind(*medium));
                    let is_swapped = format == MessageFormat::SwappedParts;
                    json!({ "type": if is_video == is_swapped { "image" } else { "video" } })
                }
            };
            return question.iter().map(entry).collect();
        }
        let texts: Vec<String> =
            question.iter().filter_map(QuestionPart::text).map(|text| placeholders.hide(text)).collect();
        let medium = question.iter().find_map(QuestionPart::medium).filter(|_| format == MessageFormat::Text);
        let before = medium.map(|medium| format!("{}\n", placeholders.of_kind(self.kind(medium))));
        Value::from(before.unwrap_or_default() + &texts.join("\n"))
    }
}

fn text_entry(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}
