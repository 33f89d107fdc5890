//! Conversation templates: the words around a question, to the space.
//!
//! Source: `conversation.py` of the released Dense Connector and LLaVA code. A prompt has one place for the video,
//! which [`FrameMarks`] fill. A question's own words never move that place: `<image>` in a question is text.

use std::sync::Arc;

use strum::{EnumString, VariantNames};

use super::chat_template::{Chat, ChatTemplate};
use super::frames::{FrameMarks, ShownFrames, Timestamps};
use super::prompt::{Passage, Prompt};
use crate::choice;
use crate::error::{Error, Kind};

/// A conversation format. The variants with names come first.
#[derive(Debug, Clone, PartialEq, Eq, EnumString, VariantNames)]
pub enum Template {
    /// Vicuna 1.1 and up, and LLaVA-1.5: `USER: ... ASSISTANT:`.
    #[strum(to_string = "vicuna_v1")]
    VicunaV1,
    /// Llama-3 as the Dense Connector trained it: the assistant's header says `system`.
    #[strum(to_string = "llama_3")]
    Llama3,
    /// Llama-3 as LLaVA-NeXT trained it: the assistant's header says `assistant`.
    #[strum(to_string = "llava_llama_3")]
    LlavaLlama3,
    /// LLaVA-1.5 as its Hugging Face checkpoints document it: `USER: ... ASSISTANT:` without a system text.
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
    /// Qwen 1.5 and 2 as LLaVA-NeXT and LLaVA-OneVision trained them: ChatML with line ends.
    #[strum(to_string = "qwen_1_5")]
    Qwen,
    /// SmolVLM with a video, as its processor writes it.
    #[strum(to_string = "smolvlm")]
    SmolVlm,
    /// The question and nothing else.
    #[strum(to_string = "plain")]
    Plain,
    /// A checkpoint's own `prompt_format`, one turn long.
    #[strum(disabled)]
    Custom(CustomTemplate),
    /// A checkpoint's own chat template in Jinja.
    #[strum(disabled)]
    Checkpoint(Arc<ChatTemplate>),
}

/// A format of one turn with the marks `<image>`, `{question}` and `{answer}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomTemplate {
    before_visual: String,
    before_question: String,
    before_answer: String,
    /// White space between the prompt and an answer, which belongs to the answer.
    answer_space: String,
    stop: String,
}

/// One question with its answer; the last turn has none yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) question: String,
    pub(super) answer: Option<String>,
}

/// Questions and answers about one video.
#[derive(Debug, Clone)]
pub struct Conversation {
    template: Template,
    system: Option<String>,
    turns: Vec<Turn>,
    marks: FrameMarks,
    timestamps: Timestamps,
    shown: ShownFrames,
    /// Words before and after each question.
    question_wrapper: (String, String),
    /// What each answer is made to begin with.
    primed: String,
}

const VICUNA_SYSTEM: &str = "A chat between a curious user and an artificial intelligence assistant. \
    The assistant gives helpful, detailed, and polite answers to the user's questions.";
const LLAVA_SYSTEM: &str = "You are a helpful language and vision assistant. \
    You are able to understand the visual content that the user provides, \
    and assist the user with a variety of tasks using natural language.";
const CHATML_SYSTEM: &str = "Answer the questions.";
const QWEN_SYSTEM: &str = "You are a helpful assistant.";

/// Stands for the video while a prompt is put together; no prompt can contain it.
const VISUAL: char = '\u{10FFFF}';

impl Template {
    /// The name of a checkpoint's own template.
    pub const CHECKPOINT: &'static str = "checkpoint";

    /// The names that [`Self::named`] knows.
    pub const NAMES: &'static [&'static str] = Self::VARIANTS.split_at(10).0;

    /// Refuses a name that is neither a built-in template's nor [`Self::CHECKPOINT`].
    ///
    /// # Errors
    /// [`Error`] with the names that are known.
    pub fn check_name(name: &str) -> Result<(), Error> {
        if name == Self::CHECKPOINT { Ok(()) } else { Self::named(name).map(|_| ()) }
    }

    /// The template of a name; `own` is the checkpoint's.
    ///
    /// # Errors
    /// [`Error`]; [`Error`] when the checkpoint has none and is asked for it.
    pub fn choose(name: &str, own: Option<&Self>) -> Result<Self, Error> {
        match (name, own) {
            (Self::CHECKPOINT, Some(own)) => Ok(own.clone()),
            (Self::CHECKPOINT, None) => {
                let error = Error::new(Kind::Text, "the checkpoint has no chat template");
                Err(error.with_hint(Self::NAMES.join(", ")).about("template `checkpoint`"))
            }
            (name, _) => Self::named(name),
        }
    }

    /// The template of a name.
    ///
    /// # Errors
    /// [`Error`] with the names that are known.
    pub fn named(name: &str) -> Result<Self, Error> {
        name.parse().map_err(|_| {
            let known = [Self::NAMES, &[Self::CHECKPOINT]].concat();
            choice::unknown_name("template", name, &known).with_kind(Kind::Text)
        })
    }

    /// The template of a checkpoint's own `prompt_format`, such as
    /// `<s>USER: <image>\n{question} ASSISTANT: {answer}</s>`. White space before `{answer}` belongs to the answer.
    ///
    /// # Errors
    /// [`Error`] when a mark is missing or out of order.
    pub fn custom(format: &str) -> Result<Self, Error> {
        let missing =
            |mark: &str| Error::new(Kind::Text, format!("prompt_format of the checkpoint has no {mark}: {format:?}"));
        let (before_visual, rest) = format.split_once("<image>").ok_or_else(|| missing("<image>"))?;
        let (before_question, rest) =
            rest.split_once("{question}").ok_or_else(|| missing("{question} after <image>"))?;
        let (before_answer, stop) = rest.split_once("{answer}").ok_or_else(|| missing("{answer} after {question}"))?;
        Ok(Self::Custom(CustomTemplate {
            before_visual: before_visual.to_owned(),
            before_question: before_question.to_owned(),
            before_answer: before_answer.trim_end().to_owned(),
            answer_space: before_answer[before_answer.trim_end().len()..].to_owned(),
            stop: stop.trim().to_owned(),
        }))
    }

    /// Its name, as [`Self::choose`] takes it; `custom` for a checkpoint's `prompt_format`.
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

    /// The file that it comes from, where it is a checkpoint's own.
    pub fn origin(&self) -> Option<&str> {
        match self {
            Self::Custom(_) => Some("config.json: prompt_format"),
            Self::Checkpoint(chat) => Some(chat.origin()),
            _ => None,
        }
    }

    /// Texts that end an answer. Where one is a token of the vocabulary, that token ends it too. A chat template names
    /// none: the checkpoint's own stop tokens decide.
    pub fn stop_strings(&self) -> Vec<String> {
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

    /// What follows a prompt when its answer begins with `words`.
    fn begin_reply(&self, words: &str) -> String {
        match self {
            Self::VicunaV1 | Self::LlavaHf | Self::Llama2 | Self::Mistral | Self::SmolVlm => format!(" {words}"),
            Self::Llama3 | Self::LlavaLlama3 | Self::ChatMl | Self::Qwen | Self::Plain | Self::Checkpoint(_) => {
                words.to_owned()
            }
            Self::Custom(custom) => format!("{}{words}", custom.answer_space),
        }
    }

    /// Whether earlier questions and answers can stand in a prompt.
    pub fn has_turns(&self) -> bool {
        !matches!(self, Self::Custom(_) | Self::Plain)
    }

    /// Whether a system text can stand in a prompt.
    pub fn has_system(&self) -> bool {
        !matches!(self, Self::Custom(_) | Self::Plain)
    }

    fn default_system(&self) -> &'static str {
        match self {
            Self::VicunaV1 => VICUNA_SYSTEM,
            Self::Llama3 | Self::LlavaLlama3 | Self::Llama2 => LLAVA_SYSTEM,
            Self::ChatMl => CHATML_SYSTEM,
            Self::Qwen => QWEN_SYSTEM,
            Self::LlavaHf | Self::Mistral | Self::SmolVlm | Self::Plain | Self::Custom(_) | Self::Checkpoint(_) => "",
        }
    }

    /// The whole prompt. The question of turn 0 begins with the visual tokens.
    fn render(&self, system: &str, turns: &[Turn]) -> String {
        let mut out = String::new();
        let reply = |turn: &Turn| turn.answer.as_ref().map_or(String::new(), |answer| self.reply(answer));
        match self {
            Self::VicunaV1 | Self::LlavaHf => {
                if !system.is_empty() {
                    out += &format!("{system} ");
                }
                for turn in turns {
                    out += &format!("USER: {} ASSISTANT:", turn.question);
                    out += &reply(turn);
                }
            }
            Self::Llama3 | Self::LlavaLlama3 => {
                let assistant = if *self == Self::Llama3 { "system" } else { "assistant" };
                out += &format!("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>");
                for turn in turns {
                    out += &format!("<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>", turn.question);
                    out += &format!("<|start_header_id|>{assistant}<|end_header_id|>\n\n");
                    out += &reply(turn);
                }
            }
            Self::Llama2 | Self::Mistral => {
                let separator = if *self == Self::Llama2 { "<s>" } else { "" };
                for (i, turn) in turns.iter().enumerate() {
                    let (open, system) = match (i, system) {
                        (0, "") => ("", String::new()),
                        (0, system) => ("", format!("<<SYS>>\n{system}\n<</SYS>>\n\n")),
                        _ => (separator, String::new()),
                    };
                    out += &format!("{open}[INST] {system}{} [/INST]", turn.question);
                    out += &reply(turn);
                }
            }
            Self::ChatMl => {
                out += &format!("<|im_start|>system\n{system}<|im_end|>");
                for turn in turns {
                    out += &format!("<|im_start|>user\n{}<|im_end|><|im_start|>assistant\n", turn.question);
                    out += &reply(turn);
                }
            }
            Self::Qwen => {
                if !system.is_empty() {
                    out += &format!("<|im_start|>system\n{system}<|im_end|>\n");
                }
                for turn in turns {
                    out += &format!("<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", turn.question);
                    out += &turn.answer.as_ref().map_or(String::new(), |answer| self.reply(answer) + "\n");
                }
            }
            Self::SmolVlm => {
                out += "<|im_start|>";
                if !system.is_empty() {
                    out += &format!("System: {system}<end_of_utterance>\n");
                }
                for turn in turns {
                    out += &format!("User: {}<end_of_utterance>\nAssistant:", turn.question);
                    out += &turn.answer.as_ref().map_or(String::new(), |answer| self.reply(answer) + "\n");
                }
            }
            Self::Plain => out += &turns.last().map_or(String::new(), |turn| format!("{}\n", turn.question)),
            Self::Custom(custom) => {
                let question = turns.last().map_or("", |turn| turn.question.as_str());
                out += &format!("{}{question}{}", custom.before_visual, custom.before_answer);
            }
            // It makes its prompts itself.
            Self::Checkpoint(_) => {}
        }
        out
    }
}

impl Conversation {
    /// A conversation that has not begun. `system` replaces the template's own system text.
    pub fn new(template: Template, system: Option<String>) -> Self {
        Self {
            template,
            system,
            turns: Vec::new(),
            marks: FrameMarks::default(),
            timestamps: Timestamps::default(),
            shown: ShownFrames::default(),
            question_wrapper: (String::new(), String::new()),
            primed: String::new(),
        }
    }

    /// Lays words around each question, which stands for `{question}` in `question`, and makes each answer begin with
    /// `answer`.
    #[must_use]
    pub fn worded(self, question: &str, answer: &str) -> Self {
        let (before, after) = question.split_once("{question}").unwrap_or(("", ""));
        let question_wrapper = (before.replace(VISUAL, ""), after.replace(VISUAL, ""));
        Self { question_wrapper, primed: answer.replace(VISUAL, ""), ..self }
    }

    /// Writes the video with these marks and times.
    #[must_use]
    pub fn marked(self, marks: FrameMarks, timestamps: Timestamps) -> Self {
        Self { marks, timestamps, ..self }
    }

    /// Tells of these frames, where the prompt has words about them.
    #[must_use]
    pub fn showing(self, shown: ShownFrames) -> Self {
        Self { shown, ..self }
    }

    /// Adds a question. The prompt holds all turns so far.
    ///
    /// # Errors
    /// [`Error`] when a checkpoint's own template makes no prompt of the conversation;
    /// [`Error`] for times of frames that have none.
    pub fn ask(&mut self, question: &str) -> Result<Prompt, Error> {
        if !self.template.has_turns() {
            self.turns.clear();
        }
        let (before, after) = &self.question_wrapper;
        let question = format!("{before}{}{after}", question.replace(VISUAL, ""));
        if let Template::Checkpoint(chat) = &self.template {
            self.turns.push(Turn { question, answer: None });
            let system = self.system.as_deref().or(chat.system()).filter(|system| !system.is_empty());
            let (before, after) =
                chat.prompt(&Chat { system, turns: &self.turns, primed: &self.primed, medium: self.shown.medium() })?;
            return Ok(Prompt::around(&before, self.video()?, &after));
        }
        let question = if self.turns.is_empty() { self.with_visual(&question) } else { question };
        self.turns.push(Turn { question, answer: None });
        let system = self.system.as_deref().unwrap_or(self.template.default_system()).replace(VISUAL, "");
        let mut text = self.template.render(&system, &self.turns);
        if !self.primed.is_empty() {
            text += &self.template.begin_reply(&self.primed);
        }
        let (before, after) = text.split_once(VISUAL).unwrap_or((&text, ""));
        Ok(Prompt::around(before, self.video()?, after))
    }

    fn video(&self) -> Result<Vec<Passage<String>>, Error> {
        self.marks.passages(self.timestamps, &self.shown)
    }

    /// Records the answer to the last question.
    pub fn answer(&mut self, answer: &str) {
        if let Some(turn) = self.turns.last_mut() {
            let answer = answer.replace(VISUAL, "");
            // An answer comes without the white space at its ends; words of their own are set apart from those before.
            let joins =
                self.primed.is_empty() || self.primed.ends_with(|c: char| c.is_whitespace() || "([{\"'".contains(c));
            let space = if joins { "" } else { " " };
            turn.answer = Some(format!("{}{space}{answer}", self.primed));
        }
    }

    /// Takes the last question back: it was not answered.
    pub fn withdraw(&mut self) {
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

    fn prompt(template: Template, question: &str) -> (String, String) {
        let prompt = Conversation::new(template, None).ask(question).expect("a built-in template");
        (prompt.before_visual().to_owned(), prompt.after_visual().to_owned())
    }

    #[test]
    fn vicuna_is_the_reference_to_the_space() {
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
    fn the_others_follow_their_separators() {
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
    fn questions_are_wrapped_and_answers_primed() {
        let mut conversation =
            Conversation::new(Template::VicunaV1, Some("S".to_owned())).worded("Q: {question}\n", "It is");
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
    fn a_custom_format_without_a_mark_is_refused() {
        for (format, missing) in [
            ("{question}{answer}", "<image>"),
            ("<image>{answer}", "{question} after <image>"),
            ("<image>{question}", "{answer} after {question}"),
        ] {
            let error = Template::custom(format).expect_err("a mark is missing").to_string();
            assert_eq!(error, format!("prompt_format of the checkpoint has no {missing}: {format:?}"));
        }
    }

    #[test]
    fn marks_in_a_question_are_text() {
        let (_, after) = prompt(Template::VicunaV1, "<image> {answer} \u{10FFFF}?");
        assert_eq!(after, "\n<image> {answer} ? ASSISTANT:");
    }
}
