//! Conversation about one video: questions and answers, rendered to a prompt by a [`Template`].
//!
//! A prompt has one position of the video, which [`FrameMarks`] fill. Text of a question never moves that position:
//! `<image>` in a question is text.

use super::chat_template::ChatInput;
use super::frames::{FrameMarks, ShownFrames};
use super::prompt::{Passage, Prompt};
use super::template::{Template, VISUAL};
use super::timestamps::Timestamps;
use crate::error::Result;

/// Question with its answer; the last turn has no answer yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) question: String,
    pub(super) answer: Option<String>,
}

/// Conversation about one video.
#[derive(Debug, Clone)]
pub struct Conversation {
    template: Template,
    system: Option<String>,
    turns: Vec<Turn>,
    marks: FrameMarks,
    timestamps: Timestamps,
    shown: ShownFrames,
    /// Text before each question.
    before_question: String,
    /// Text after each question.
    after_question: String,
    /// Text with which each answer begins.
    answer_prefix: String,
}

impl Conversation {
    /// Makes an empty conversation. `system` replaces the template's own system text.
    pub fn new(template: Template, system: Option<String>) -> Self {
        Self {
            template,
            system,
            turns: Vec::new(),
            marks: FrameMarks::default(),
            timestamps: Timestamps::default(),
            shown: ShownFrames::default(),
            before_question: String::new(),
            after_question: String::new(),
            answer_prefix: String::new(),
        }
    }

    /// Sets the text around each question, which replaces `{question}` in `question`, and the text with which each
    /// answer begins.
    #[must_use]
    pub fn with_wording(self, question: &str, answer: &str) -> Self {
        let (before, after) = question.split_once("{question}").unwrap_or(("", ""));
        let without_visual = |text: &str| text.replace(VISUAL, "");
        Self {
            before_question: without_visual(before),
            after_question: without_visual(after),
            answer_prefix: without_visual(answer),
            ..self
        }
    }

    /// Sets the marks and times around frames.
    #[must_use]
    pub fn with_marks(self, marks: FrameMarks, timestamps: Timestamps) -> Self {
        Self { marks, timestamps, ..self }
    }

    /// Sets the frames that the prompt shows.
    #[must_use]
    pub fn with_frames(self, shown: ShownFrames) -> Self {
        Self { shown, ..self }
    }

    /// Adds a question; returns the prompt with all turns so far.
    ///
    /// # Errors
    /// When a checkpoint's own template makes no prompt of the conversation, or for requested times of frames without
    /// times.
    pub fn ask(&mut self, question: &str) -> Result<Prompt> {
        if !self.template.has_turns() {
            self.turns.clear();
        }
        let question = question.replace(VISUAL, "");
        let question = format!("{}{question}{}", self.before_question, self.after_question);
        if let Template::Checkpoint(chat) = &self.template {
            self.turns.push(Turn { question, answer: None });
            let system = self.system.as_deref().or(chat.system()).filter(|system| !system.is_empty());
            let input = ChatInput {
                system,
                turns: &self.turns,
                answer_prefix: &self.answer_prefix,
                medium: self.shown.medium(),
            };
            let (before, after) = chat.prompt(&input)?;
            return Ok(Prompt::around(&before, self.video()?, &after));
        }
        let question = if self.turns.is_empty() { self.with_visual(&question) } else { question };
        self.turns.push(Turn { question, answer: None });
        let system = self.system.as_deref().unwrap_or(self.template.default_system()).replace(VISUAL, "");
        let mut text = self.template.render(&system, &self.turns);
        if !self.answer_prefix.is_empty() {
            text += &self.template.begin_reply(&self.answer_prefix);
        }
        let (before, after) = text.split_once(VISUAL).unwrap_or((&text, ""));
        Ok(Prompt::around(before, self.video()?, after))
    }

    fn video(&self) -> Result<Vec<Passage<String>>> {
        self.marks.passages(self.timestamps, &self.shown)
    }

    /// Records the answer to the last question.
    pub fn answer(&mut self, answer: &str) {
        if let Some(turn) = self.turns.last_mut() {
            let answer = answer.replace(VISUAL, "");
            // Answers are trimmed: a space separates an answer from the prefix, except after white space or an opening
            // mark.
            let joins = self.answer_prefix.is_empty()
                || self.answer_prefix.ends_with(|c: char| c.is_whitespace() || "([{\"'".contains(c));
            let space = if joins { "" } else { " " };
            turn.answer = Some(format!("{}{space}{answer}", self.answer_prefix));
        }
    }

    /// Removes the last question, which was not answered.
    pub(crate) fn withdraw(&mut self) {
        self.turns.pop();
    }

    fn with_visual(&self, question: &str) -> String {
        let between = match &self.template {
            Template::Custom(custom) => custom.before_question.as_str(),
            Template::SmolVlm => "",
            _ => "\n",
        };
        format!("{VISUAL}{between}{question}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::template::{LLAVA_SYSTEM, VICUNA_SYSTEM};

    fn prompt(template: Template, question: &str) -> (String, String) {
        let prompt = Conversation::new(template, None).ask(question).expect("a built-in template");
        (prompt.before_visual().to_owned(), prompt.after_visual().to_owned())
    }

    #[test]
    fn the_vicuna_prompt_equals_the_reference_to_the_space() {
        let (before, after) = prompt(Template::VicunaV1, "What is happening in the video?");
        assert_eq!(before, format!("{VICUNA_SYSTEM} USER: "));
        assert_eq!(after, "\nWhat is happening in the video? ASSISTANT:");
    }

    #[test]
    fn llama_3_answers_under_the_header_it_was_trained_with() {
        let (before, after) = prompt(Template::Llama3, "Why?");
        assert!(before.starts_with("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful"));
        assert!(before.ends_with("natural language.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"));
        assert_eq!(after, "\nWhy?<|eot_id|><|start_header_id|>system<|end_header_id|>\n\n");
    }

    #[test]
    fn other_llama_3_models_answer_as_the_assistant() {
        let (before, after) = prompt(Template::LlavaLlama3, "Why?");
        assert_eq!(before, prompt(Template::Llama3, "Why?").0);
        assert_eq!(after, "\nWhy?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
    }

    #[test]
    fn hugging_faces_llava_has_no_system_text() {
        assert_eq!(prompt(Template::LlavaHf, "Why?"), ("USER: ".to_owned(), "\nWhy? ASSISTANT:".to_owned()));
        let mut bare = Conversation::new(Template::VicunaV1, Some(String::new()));
        assert_eq!(bare.ask("Why?").expect("a built-in template").before_visual(), "USER: ");
        let mut own = Conversation::new(Template::LlavaHf, Some("S".to_owned()));
        own.ask("A?").expect("a built-in template");
        own.answer("a");
        let prompt = own.ask("B?").expect("a built-in template");
        assert_eq!(prompt.before_visual(), "S USER: ");
        assert_eq!(prompt.after_visual(), "\nA? ASSISTANT: a</s>USER: B? ASSISTANT:");
    }

    #[test]
    fn other_templates_follow_their_separators() {
        let llama_2 = prompt(Template::Llama2, "Why?");
        assert_eq!(llama_2, (format!("[INST] <<SYS>>\n{LLAVA_SYSTEM}\n<</SYS>>\n\n"), "\nWhy? [/INST]".to_owned()));
        assert_eq!(prompt(Template::Mistral, "Why?"), ("[INST] ".to_owned(), "\nWhy? [/INST]".to_owned()));
        let chatml = "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n";
        assert_eq!(
            prompt(Template::ChatMl, "Why?"),
            (chatml.to_owned(), "\nWhy?<|im_end|><|im_start|>assistant\n".to_owned())
        );
        assert_eq!(prompt(Template::Plain, "Why?"), (String::new(), "\nWhy?\n".to_owned()));
    }

    #[test]
    fn a_second_turn_repeats_the_first_and_adds_no_image() {
        let mut conversation = Conversation::new(Template::VicunaV1, Some("S".to_owned()));
        conversation.ask("A?").expect("a built-in template");
        conversation.answer("a");
        let prompt = conversation.ask("B?").expect("a built-in template");
        assert_eq!(prompt.before_visual(), "S USER: ");
        assert_eq!(prompt.after_visual(), "\nA? ASSISTANT: a</s>USER: B? ASSISTANT:");
    }

    #[test]
    fn questions_are_wrapped_and_answers_prefixed() {
        let mut conversation =
            Conversation::new(Template::VicunaV1, Some("S".to_owned())).with_wording("Q: {question}\n", "It is");
        let first = conversation.ask("{question}?").expect("a built-in template");
        assert_eq!(first.after_visual(), "\nQ: {question}?\n ASSISTANT: It is");
        conversation.answer("red");
        assert_eq!(
            conversation.ask("B").expect("a built-in template").after_visual(),
            "\nQ: {question}?\n ASSISTANT: It is red</s>USER: Q: B\n ASSISTANT: It is"
        );
    }

    #[test]
    fn a_custom_format_has_one_turn() {
        let template = Template::custom("<s>USER: <image>\n{question} ASSISTANT: {answer}</s>").expect("a good format");
        assert_eq!(template.stop_strings(), ["</s>"]);
        let mut conversation = Conversation::new(template, None);
        for question in ["A?", "B?"] {
            let prompt = conversation.ask(question).expect("a built-in template");
            assert_eq!(prompt.before_visual(), "<s>USER: ");
            assert_eq!(prompt.after_visual(), format!("\n{question} ASSISTANT:"));
            conversation.answer("a");
        }
    }

    #[test]
    fn marks_in_a_question_are_text() {
        let (_, after) = prompt(Template::VicunaV1, "<image> {answer} \u{10FFFF}?");
        assert_eq!(after, "\n<image> {answer} ? ASSISTANT:");
    }
}
