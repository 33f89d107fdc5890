//! Template of a checkpoint's own `prompt_format`, such as `<s>USER: <image>\n{question} ASSISTANT: {answer}</s>`.

use crate::error::{Error, Kind, Result};

/// Format of one turn with the marks `<image>`, `{question}` and `{answer}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomTemplate {
    pub(super) before_visual: String,
    pub(super) before_question: String,
    pub(super) before_answer: String,
    /// White space between the prompt and an answer, which is part of the answer.
    pub(super) answer_space: String,
    pub(super) stop: String,
}

impl CustomTemplate {
    /// Parses a format. White space before `{answer}` is part of the answer.
    ///
    /// # Errors
    /// When a mark is missing or out of order.
    pub(super) fn parse(format: &str) -> Result<Self> {
        let missing =
            |mark: &str| Error::new(Kind::Text, format!("prompt_format of the checkpoint has no {mark}: {format:?}"));
        let (before_visual, rest) = format.split_once("<image>").ok_or_else(|| missing("<image>"))?;
        let (before_question, rest) =
            rest.split_once("{question}").ok_or_else(|| missing("{question} after <image>"))?;
        let (before_answer, stop) = rest.split_once("{answer}").ok_or_else(|| missing("{answer} after {question}"))?;
        Ok(Self {
            before_visual: before_visual.to_owned(),
            before_question: before_question.to_owned(),
            before_answer: before_answer.trim_end().to_owned(),
            answer_space: before_answer[before_answer.trim_end().len()..].to_owned(),
            stop: stop.trim().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_custom_format_without_a_mark_is_refused() {
        for (format, missing) in [
            ("{question}{answer}", "<image>"),
            ("<image>{answer}", "{question} after <image>"),
            ("<image>{question}", "{answer} after {question}"),
        ] {
            let error = CustomTemplate::parse(format).expect_err("a mark is missing").to_string();
            assert_eq!(error, format!("prompt_format of the checkpoint has no {missing}: {format:?}"));
        }
    }
}
