//! Turns of a conversation: questions of texts and media in the order of their asker, and the wording around questions.
//!
//! Data of [`Conversation`](super::Conversation). Templates write a turn in `template` and `chat_template`.

use super::prompt::MediumIndex;
use super::template::VISUAL;

/// Part of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuestionPart {
    /// Text.
    Text(String),
    /// Medium among those of the conversation.
    Medium(MediumIndex),
}

impl QuestionPart {
    /// Returns the text, if the part is text.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Medium(_) => None,
        }
    }

    /// Returns the medium, if the part is one.
    pub(super) fn medium(&self) -> Option<MediumIndex> {
        match self {
            Self::Text(_) => None,
            Self::Medium(medium) => Some(*medium),
        }
    }
}

/// Question with its answer; the last turn has no answer yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) question: Vec<QuestionPart>,
    pub(super) answer: Option<String>,
}

/// Text around each question and at the beginning of each answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Wording {
    /// Text before the first text of each question.
    before_question: String,
    /// Text after the last text of each question.
    after_question: String,
    /// Text with which each answer begins.
    pub(super) answer_prefix: String,
}

impl Wording {
    /// Makes the wording of a plan: `{question}` in `question` is the question.
    pub(super) fn new(question: &str, answer: &str) -> Self {
        let (before, after) = question.split_once("{question}").unwrap_or(("", ""));
        Self {
            before_question: without_visual(before),
            after_question: without_visual(after),
            answer_prefix: without_visual(answer),
        }
    }

    /// Puts the wording around a question. A question of media alone gets a text, if there is wording.
    pub(super) fn around(&self, mut question: Vec<QuestionPart>) -> Vec<QuestionPart> {
        let (before, after) = (self.before_question.as_str(), self.after_question.as_str());
        let texts = || question.iter().enumerate().filter(|(_, part)| part.text().is_some()).map(|(i, _)| i);
        let (first, last) = (texts().next(), texts().next_back());
        if first.is_none() && !(before.is_empty() && after.is_empty()) {
            question.push(QuestionPart::Text(format!("{before}{after}")));
            return question;
        }
        let wrap = |(i, part): (usize, QuestionPart)| match part {
            QuestionPart::Text(text) => {
                let before = if Some(i) == first { before } else { "" };
                let after = if Some(i) == last { after } else { "" };
                QuestionPart::Text(format!("{before}{}{after}", without_visual(&text)))
            }
            medium => medium,
        };
        question.into_iter().enumerate().map(wrap).collect()
    }

    /// Returns an answer with its prefix. Answers are trimmed: a space separates an answer from the prefix, except
    /// after white space or an opening mark.
    pub(super) fn answer(&self, answer: &str) -> String {
        let (prefix, answer) = (&self.answer_prefix, without_visual(answer));
        let joins = prefix.is_empty() || prefix.ends_with(|c: char| c.is_whitespace() || "([{\"'".contains(c));
        let space = if joins { "" } else { " " };
        format!("{prefix}{space}{answer}")
    }
}

/// Removes the character that stands for a medium in a template's text.
pub(super) fn without_visual(text: &str) -> String {
    text.replace(VISUAL, "")
}
