//! Prompts of the built-in templates: the text of all turns, with each medium where it stands in its question.
//!
//! As in LLaVA's code, a line end follows each medium. SmolVLM's processor writes none.

use super::frames::{MediumKind, ShownFrames};
use super::prompt::{MediumIndex, Passage};
use super::question::{QuestionPart, Turn};
use super::template::{Template, VISUAL};

/// Turn whose question is one text, with [`VISUAL`] for each medium.
struct WrittenTurn<'t> {
    question: String,
    answer: Option<&'t str>,
}

impl Template {
    /// Writes a conversation: texts, and the media between them. The answer to the last question begins with
    /// `answer_prefix`. A chat template writes nothing here.
    pub(super) fn write(
        &self,
        system: &str,
        turns: &[Turn],
        answer_prefix: &str,
        media: &[ShownFrames],
    ) -> Vec<Passage<String>> {
        let written = turns.iter().map(|turn| WrittenTurn {
            question: self.write_question(&turn.question, media),
            answer: turn.answer.as_deref(),
        });
        let mut text = self.render(system, &written.collect::<Vec<_>>());
        if !answer_prefix.is_empty() {
            text += &self.begin_reply(answer_prefix);
        }
        let shown: Vec<MediumIndex> =
            turns.iter().flat_map(|turn| &turn.question).filter_map(QuestionPart::medium).collect();
        let mut parts = Vec::with_capacity(2 * shown.len() + 1);
        for (i, text) in text.split(VISUAL).enumerate() {
            parts.push(Passage::Text(text.to_owned()));
            parts.extend(shown.get(i).map(|&medium| Passage::Medium(medium)));
        }
        parts
    }

    /// Writes a question, with [`VISUAL`] for each medium.
    fn write_question(&self, question: &[QuestionPart], media: &[ShownFrames]) -> String {
        let (after_medium, between_texts) = match self {
            Self::Custom(custom) => (custom.before_question.as_str(), "\n"),
            Self::SmolVlm => ("", ""),
            _ => ("\n", "\n"),
        };
        let is_image = |part: &QuestionPart| {
            let medium = part.medium().and_then(|medium| media.get(medium.0));
            medium.is_some_and(|shown| shown.kind() == MediumKind::Image)
        };
        let mut out = String::new();
        if *self == Self::SmolVlm && !question.first().is_some_and(is_image) {
            out.push(' ');
        }
        for (i, part) in question.iter().enumerate() {
            match part {
                QuestionPart::Medium(_) => out += &format!("{VISUAL}{after_medium}"),
                QuestionPart::Text(text) => {
                    if i > 0 && question[i - 1].text().is_some() {
                        out += between_texts;
                    }
                    out += text;
                }
            }
        }
        out
    }

    /// Renders the text of all turns.
    fn render(&self, system: &str, turns: &[WrittenTurn<'_>]) -> String {
        let mut out = String::new();
        let reply = |turn: &WrittenTurn<'_>| turn.answer.map_or(String::new(), |answer| self.reply(answer));
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
                    out += &turn.answer.map_or(String::new(), |answer| self.reply(answer) + "\n");
                }
            }
            Self::SmolVlm => {
                out += "<|im_start|>";
                if !system.is_empty() {
                    out += &format!("System: {system}<end_of_utterance>\n");
                }
                for turn in turns {
                    out += &format!("User:{}<end_of_utterance>\nAssistant:", turn.question);
                    out += &turn.answer.map_or(String::new(), |answer| self.reply(answer) + "\n");
                }
            }
            Self::Plain => out += &turns.last().map_or(String::new(), |turn| format!("{}\n", turn.question)),
            Self::Custom(custom) => {
                let question = turns.last().map_or("", |turn| turn.question.as_str());
                out += &format!("{}{question}{}", custom.before_visual, custom.before_answer);
            }
            // A chat template renders its prompts itself.
            Self::Checkpoint(_) => {}
        }
        out
    }
}
