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
            Self::Llama3 | Self::LlavaLlama3 => out += &self.render_llama_3(system, turns),
            Self::Llama2 | Self::Mistral => out += &self.render_inst(system, turns),
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

    /// Renders turns between the headers of Llama-3.
    fn render_llama_3(&self, system: &str, turns: &[WrittenTurn<'_>]) -> String {
        let assistant = if *self == Self::Llama3 { "system" } else { "assistant" };
        let mut out = format!("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>");
        for turn in turns {
            out += &format!("<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>", turn.question);
            out += &format!("<|start_header_id|>{assistant}<|end_header_id|>\n\n");
            out += &turn.answer.map_or(String::new(), |answer| self.reply(answer));
        }
        out
    }

    /// Renders turns between `[INST]` and `[/INST]`.
    fn render_inst(&self, system: &str, turns: &[WrittenTurn<'_>]) -> String {
        let separator = if *self == Self::Llama2 { "<s>" } else { "" };
        let mut out = String::new();
        for (i, turn) in turns.iter().enumerate() {
            let (open, system) = match (i, system) {
                (0, "") => ("", String::new()),
                (0, system) => ("", format!("<<SYS>>\n{system}\n<</SYS>>\n\n")),
                _ => (separator, String::new()),
            };
            out += &format!("{open}[INST] {system}{} [/INST]", turn.question);
            out += &turn.answer.map_or(String::new(), |answer| self.reply(answer));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{Conversation, Prompt};

    /// The text of a prompt, with a mark for each medium.
    fn marked(prompt: &Prompt) -> String {
        let text = |part: &Passage<String>| match part {
            Passage::Text(text) => text.clone(),
            Passage::Medium(MediumIndex(i)) | Passage::Frames(MediumIndex(i), _) => format!("[{i}]"),
        };
        prompt.parts.iter().map(text).collect()
    }

    fn text(text: &str) -> QuestionPart {
        QuestionPart::Text(text.to_owned())
    }

    fn medium(index: usize) -> QuestionPart {
        QuestionPart::Medium(MediumIndex(index))
    }

    /// A conversation with the system text `S`, whose last question has no answer; the others have the answer `a`.
    fn conversation(template: &Template, questions: Vec<Vec<QuestionPart>>) -> Conversation {
        let media = vec![ShownFrames::unknown(1); 2];
        let mut conversation = Conversation::new(template.clone(), Some("S".to_owned())).with_media(media);
        for (i, question) in questions.into_iter().enumerate() {
            if i > 0 {
                conversation.answer("a");
            }
            conversation.add(question);
        }
        conversation
    }

    fn assert_prompts(template: &Template, none: &str, two: &str, later: &str) {
        for (questions, expected) in [
            (vec![vec![text("Why?")]], none),
            (vec![vec![medium(0), medium(1), text("Why?")]], two),
            (vec![vec![text("A?")], vec![medium(0), text("Why?")]], later),
        ] {
            let prompt = conversation(template, questions).prompt().expect("a built-in template");
            assert_eq!(marked(&prompt), expected, "{}", template.name());
        }
    }

    #[test]
    fn media_stand_in_their_questions_and_no_placeholder_stands_in_a_prompt_of_text() {
        for template in [Template::VicunaV1, Template::LlavaHf] {
            assert_prompts(
                &template,
                "S USER: Why? ASSISTANT:",
                "S USER: [0]\n[1]\nWhy? ASSISTANT:",
                "S USER: A? ASSISTANT: a</s>USER: [0]\nWhy? ASSISTANT:",
            );
        }
        for (template, separator) in [(Template::Llama2, "<s>"), (Template::Mistral, "")] {
            let system = "[INST] <<SYS>>\nS\n<</SYS>>\n\n";
            assert_prompts(
                &template,
                &format!("{system}Why? [/INST]"),
                &format!("{system}[0]\n[1]\nWhy? [/INST]"),
                &format!("{system}A? [/INST] a </s>{separator}[INST] [0]\nWhy? [/INST]"),
            );
        }
        let custom = Template::custom("<s>Q: <image>|{question} A: {answer}</s>").expect("a good format");
        assert_prompts(&custom, "<s>Q: Why? A:", "<s>Q: [0]|[1]|Why? A:", "<s>Q: [0]|Why? A:");
        assert_prompts(&Template::Plain, "Why?\n", "[0]\n[1]\nWhy?\n", "[0]\nWhy?\n");
    }

    #[test]
    fn media_stand_in_the_questions_of_templates_with_headers() {
        for (template, role) in [(Template::Llama3, "system"), (Template::LlavaLlama3, "assistant")] {
            let header = |role: &str| format!("<|start_header_id|>{role}<|end_header_id|>\n\n");
            let system = format!("<|begin_of_text|>{}S<|eot_id|>{}", header("system"), header("user"));
            let asked = format!("<|eot_id|>{}", header(role));
            assert_prompts(
                &template,
                &format!("{system}Why?{asked}"),
                &format!("{system}[0]\n[1]\nWhy?{asked}"),
                &format!("{system}A?{asked}a<|eot_id|>{}[0]\nWhy?{asked}", header("user")),
            );
        }
        for (template, end) in [(Template::Qwen, "<|im_end|>\n"), (Template::ChatMl, "<|im_end|>")] {
            let system = format!("<|im_start|>system\nS{end}<|im_start|>user\n");
            let asked = format!("{end}<|im_start|>assistant\n");
            assert_prompts(
                &template,
                &format!("{system}Why?{asked}"),
                &format!("{system}[0]\n[1]\nWhy?{asked}"),
                &format!("{system}A?{asked}a{end}<|im_start|>user\n[0]\nWhy?{asked}"),
            );
        }
        let (end, reply) = ("<end_of_utterance>\n", "<end_of_utterance>\nAssistant:");
        assert_prompts(
            &Template::SmolVlm,
            &format!("<|im_start|>System: S{end}User: Why?{reply}"),
            &format!("<|im_start|>System: S{end}User: [0][1]Why?{reply}"),
            &format!("<|im_start|>System: S{end}User: A?{reply} a{end}User: [0]Why?{reply}"),
        );
    }

    #[test]
    fn texts_and_media_keep_their_order() {
        let question = vec![text("First "), medium(1), text("then"), text("this"), medium(0)];
        let prompt = conversation(&Template::VicunaV1, vec![question.clone()]).prompt().expect("a built-in template");
        assert_eq!(marked(&prompt), "S USER: First [1]\nthen\nthis[0]\n ASSISTANT:");
        // Wording goes around the texts of a question, and is the text of a question without one.
        let mut worded = conversation(&Template::VicunaV1, Vec::new()).with_wording("Q {question}.", "");
        worded.add(question);
        worded.answer("a");
        worded.add(vec![medium(0)]);
        let prompt = worded.prompt().expect("a built-in template");
        let expected = "S USER: Q First [1]\nthen\nthis.[0]\n ASSISTANT: a</s>USER: [0]\nQ . ASSISTANT:";
        assert_eq!(marked(&prompt), expected);
    }

    #[test]
    fn an_answer_is_continued_behind_the_prefix_of_answers() {
        let asked = |answer: &str| {
            let mut conversation = conversation(&Template::VicunaV1, Vec::new()).with_wording("{question}", answer);
            conversation.add(vec![text("Why?")]);
            marked(&conversation.continue_answer("It was").expect("a built-in template"))
        };
        assert_eq!(asked(""), "S USER: Why? ASSISTANT: It was");
        assert_eq!(asked("Well."), "S USER: Why? ASSISTANT: Well. It was");
    }

    #[test]
    fn an_unknown_medium_is_refused() {
        let prompt = conversation(&Template::Qwen, vec![vec![medium(2)]]).prompt();
        assert_eq!(prompt.expect_err("two media").to_string(), "unknown medium 2 of 2");
    }
}
