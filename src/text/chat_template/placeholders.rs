//! Placeholders of media in the output of a chat template: one for each medium, in the order of those of its kind.
//!
//! A template may put the images of a message before its videos; it keeps the order of images, and that of videos.
//! Placeholders in the text of a conversation are text: they are hidden from the template.

use std::collections::VecDeque;

use super::ChatInput;
use crate::error::{Error, Result};
use crate::text::Tokenizer;
use crate::text::frames::MediumKind;
use crate::text::prompt::{MediumIndex, Passage};

/// Character that replaces the placeholder of a video in the text of a conversation.
const HIDDEN_VIDEO: char = '\u{10FFFE}';
/// Character that replaces the placeholder of an image, where it differs.
const HIDDEN_IMAGE: char = '\u{10FFFD}';

/// Placeholders that templates write for media.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MediumPlaceholders {
    video: String,
    /// Videos have a token of their own, which is not that of images.
    has_video_token: bool,
    image: String,
}

impl MediumPlaceholders {
    pub(super) fn of(tokenizer: &Tokenizer) -> Self {
        Self {
            video: tokenizer.video_text().to_owned(),
            has_video_token: tokenizer.has_video_token(),
            image: tokenizer.single_image_text().to_owned(),
        }
    }

    /// Returns the placeholder of a kind of media.
    pub(super) fn of_kind(&self, kind: MediumKind) -> &str {
        match kind {
            MediumKind::Video => &self.video,
            MediumKind::Image => &self.image,
        }
    }

    /// Returns whether a medium is a video with a token of videos.
    pub(super) fn has_own_video(&self, kind: MediumKind) -> bool {
        self.has_video_token && kind == MediumKind::Video
    }

    /// Replaces the placeholders in a text of the conversation.
    pub(super) fn hide(&self, text: &str) -> String {
        let text = text.replace([HIDDEN_VIDEO, HIDDEN_IMAGE], "");
        let text = text.replace(&self.video, HIDDEN_VIDEO.encode_utf8(&mut [0; 4]));
        text.replace(&self.image, HIDDEN_IMAGE.encode_utf8(&mut [0; 4]))
    }

    fn show(&self, text: &str) -> String {
        text.replace(HIDDEN_VIDEO, &self.video).replace(HIDDEN_IMAGE, &self.image)
    }

    /// Splits the output of a template at the placeholders of the conversation's media.
    ///
    /// # Errors
    /// When there is not exactly one placeholder for each medium.
    pub(super) fn split(&self, text: &str, chat: &ChatInput<'_>) -> Result<Vec<Passage<String>>> {
        let mut waiting = self.waiting(chat);
        for (placeholder, media) in &waiting {
            let found = text.matches(placeholder).count();
            if found != media.len() {
                return Err(wrong_count(placeholder, found, media.len()));
            }
        }
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            let next = waiting.iter_mut().filter(|(_, media)| !media.is_empty());
            let next = next.filter_map(|(placeholder, media)| Some((rest.find(*placeholder)?, *placeholder, media)));
            let Some((at, placeholder, media)) = next.min_by_key(|(at, ..)| *at) else { break };
            parts.push(Passage::Text(self.show(&rest[..at])));
            parts.extend(media.pop_front().map(Passage::Medium));
            rest = &rest[at + placeholder.len()..];
        }
        parts.push(Passage::Text(self.show(rest)));
        Ok(parts)
    }

    /// Returns the media of each placeholder, in their order. Without media, no placeholder may come.
    fn waiting(&self, chat: &ChatInput<'_>) -> Vec<(&str, VecDeque<MediumIndex>)> {
        let mut waiting: Vec<(&str, VecDeque<MediumIndex>)> = Vec::new();
        for medium in chat.shown() {
            let placeholder = self.of_kind(chat.kind(medium));
            match waiting.iter_mut().find(|(known, _)| *known == placeholder) {
                Some((_, media)) => media.push_back(medium),
                None => waiting.push((placeholder, [medium].into())),
            }
        }
        if waiting.is_empty() {
            waiting.extend([(self.video.as_str(), VecDeque::new()), (self.image.as_str(), VecDeque::new())]);
        }
        waiting
    }
}

fn wrong_count(placeholder: &str, found: usize, n_media: usize) -> Error {
    let about = match n_media {
        0 => "text alone".to_owned(),
        1 => "one video".to_owned(),
        n => format!("{n} media"),
    };
    Error::invalid(format!("a conversation about {about} has `{placeholder}` {found} times in its prompt"))
}
