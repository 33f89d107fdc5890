//! Conversation about any number of videos and still images: questions and answers, rendered to a prompt by a
//! [`Template`].
//!
//! Each medium has its place in its question, which [`FrameMarks`] fill. Text of a question never moves that place:
//! `<image>` in a question is text. A question about one video, which stands before the first question, is the simplest
//! case.

use super::chat_template::ChatInput;
use super::frames::{FrameMarks, ShownFrames};
use super::prompt::{MediumIndex, Prompt};
use super::question::{QuestionPart, Turn, Wording, without_visual};
use super::template::Template;
use super::timestamps::Timestamps;
use crate::error::{Error, Kind, Result};

/// Conversation about videos and still images, or about none.
#[derive(Debug, Clone)]
pub struct Conversation {
    template: Template,
    system: Option<String>,
    turns: Vec<Turn>,
    marks: FrameMarks,
    timestamps: Timestamps,
    media: Vec<ShownFrames>,
    wording: Wording,
}

impl Conversation {
    /// Makes an empty conversation about one video. `system` replaces the template's own system text.
    pub fn new(template: Template, system: Option<String>) -> Self {
        Self {
            template,
            system,
            turns: Vec::new(),
            marks: FrameMarks::default(),
            timestamps: Timestamps::default(),
            media: vec![ShownFrames::default()],
            wording: Wording::default(),
        }
    }

    /// Sets the text around each question, which replaces `{question}` in `question`, and the text with which each
    /// answer begins.
    #[must_use]
    pub fn with_wording(self, question: &str, answer: &str) -> Self {
        Self { wording: Wording::new(question, answer), ..self }
    }

    /// Sets the marks and times around frames.
    #[must_use]
    pub fn with_marks(self, marks: FrameMarks, timestamps: Timestamps) -> Self {
        Self { marks, timestamps, ..self }
    }

    /// Sets the frames of the one video that the prompt shows.
    #[must_use]
    pub fn with_frames(self, shown: ShownFrames) -> Self {
        self.with_media(vec![shown])
    }

    /// Sets the media that the conversation is about: none, one or several.
    #[must_use]
    pub fn with_media(self, media: Vec<ShownFrames>) -> Self {
        Self { media, ..self }
    }

    /// Sets the system text, in place of the template's own.
    ///
    /// # Errors
    /// When the template has no place for a system text.
    pub fn with_system(self, system: &str) -> Result<Self> {
        if !(self.template.has_system() || system.is_empty()) {
            let rule = format!("the template `{}` has no system text", self.template.name());
            return Err(Error::new(Kind::Text, rule).with_hint("put the text into the question").about("system"));
        }
        Ok(Self { system: Some(system.to_owned()), ..self })
    }

    /// Adds a question; returns the prompt with all turns so far. All media stand before the first question.
    ///
    /// # Errors
    /// As [`Self::prompt`].
    pub fn ask(&mut self, question: &str) -> Result<Prompt> {
        let n_media = if self.turns.is_empty() { self.media.len() } else { 0 };
        let media = (0..n_media).map(|i| QuestionPart::Medium(MediumIndex(i)));
        self.add(media.chain([QuestionPart::Text(question.to_owned())]).collect());
        self.prompt()
    }

    /// Adds a question of texts and media.
    pub fn add(&mut self, question: Vec<QuestionPart>) {
        self.turns.push(Turn { question: self.wording.around(question), answer: None });
    }

    /// Records the answer to the last question.
    pub fn answer(&mut self, answer: &str) {
        if let Some(turn) = self.turns.last_mut() {
            turn.answer = Some(self.wording.answer(answer));
        }
    }

    /// Removes the last question, which was not answered.
    pub(crate) fn withdraw(&mut self) {
        self.turns.pop();
    }

    /// Returns the prompt of all turns, which the answer to the last question follows. A template of one turn shows the
    /// last question alone, behind the media of earlier ones.
    ///
    /// # Errors
    /// When a checkpoint's own template makes no prompt of the conversation, for requested times of frames without
    /// times, or for a medium that the conversation does not have.
    pub fn prompt(&self) -> Result<Prompt> {
        self.prompt_before(&self.wording.answer_prefix)
    }

    /// Returns the prompt of all turns, the last of which has an answer that begins with `beginning` and is continued.
    ///
    /// # Errors
    /// As [`Self::prompt`].
    pub fn continue_answer(&self, beginning: &str) -> Result<Prompt> {
        self.prompt_before(&self.wording.answer(beginning))
    }

    /// Returns the prompt whose answer begins with `answer_prefix`.
    fn prompt_before(&self, answer_prefix: &str) -> Result<Prompt> {
        let turns = self.shown_turns();
        let parts = match &self.template {
            Template::Checkpoint(chat) => {
                let system = self.system.as_deref().or(chat.system()).filter(|system| !system.is_empty());
                chat.prompt(&ChatInput { system, turns: &turns, answer_prefix, media: &self.media })?
            }
            template => {
                let system = without_visual(self.system.as_deref().unwrap_or(template.default_system()));
                template.write(&system, &turns, answer_prefix, &self.media)
            }
        };
        let mut all = Vec::with_capacity(parts.len());
        for part in parts {
            match part.medium() {
                Some(medium) => all.extend(self.marks.passages(self.timestamps, medium, self.shown(medium)?)?),
                None => all.push(part),
            }
        }
        Ok(Prompt::joined(all))
    }

    /// Returns the turns that the template writes.
    fn shown_turns(&self) -> Vec<Turn> {
        let Some((last, earlier)) = self.turns.split_last().filter(|_| !self.template.has_turns()) else {
            return self.turns.clone();
        };
        let media = earlier.iter().flat_map(|turn| &turn.question).filter(|part| part.medium().is_some());
        let question = media.chain(&last.question).cloned().collect();
        vec![Turn { question, answer: last.answer.clone() }]
    }

    fn shown(&self, medium: MediumIndex) -> Result<&ShownFrames> {
        let unknown = || Error::invalid(format!("unknown medium {} of {}", medium.0, self.media.len()));
        self.media.get(medium.0).ok_or_else(unknown)
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
