//! Token budget of a prompt about any number of media against the model's context.
//!
//! A prompt about one medium has the budget of [`TokenBudget`], with its messages. Called by a pipeline's requests.

use super::budget::{TextTokens, TokenBudget};
use crate::error::{Error, Kind};
use crate::temporal::{FrameTokens, Temporal};
use crate::text::MediumKind;
use crate::units::Tokens;

/// Largest number of media that a message lists.
const MAX_LISTED: usize = 8;

/// Frames of a medium, and the strategy that makes one sequence of their tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MediumShape {
    /// Temporal strategy.
    pub temporal: Temporal,
    /// Frames.
    pub n_frames: usize,
}

impl MediumShape {
    /// Returns the kind of the medium: the views of AnyRes show a still image.
    pub fn kind(&self) -> MediumKind {
        if matches!(self.temporal, Temporal::AnyRes(_)) { MediumKind::Image } else { MediumKind::Video }
    }
}

/// Tokens that a prompt about some media needs, and the context that the model has.
#[derive(Debug, Clone, PartialEq)]
pub struct MediaBudget {
    /// Media in the order in which the prompt shows them.
    pub media: Vec<MediumShape>,
    /// Tokens of a frame after the connector.
    pub frame: FrameTokens,
    /// Tokens of the prompt's text.
    pub text: TextTokens,
    /// The model's context.
    pub context: Tokens,
}

impl MediaBudget {
    /// Returns the number of visual tokens of all media.
    pub fn visual(&self) -> Tokens {
        let each = self.media.iter().map(|medium| self.budget(medium).visual().0);
        Tokens(each.fold(0, usize::saturating_add))
    }

    /// Returns the number of text tokens.
    pub(crate) fn text_tokens(&self) -> Tokens {
        let n_frames = if let [medium] = self.media[..] { medium.n_frames } else { 0 };
        self.text.with_frames(n_frames)
    }

    /// Returns the number of positions left for the answer.
    ///
    /// # Errors
    /// [`Kind::Frames`] when a strategy does not apply to such frames; [`Kind::TokenBudget`] with the arithmetic of
    /// each medium, when no position is left; [`Kind::NoVisualTokens`] when a strategy leaves no token of a medium.
    pub fn room(&self) -> Result<Tokens, Error> {
        if let [medium] = &self.media[..] {
            return self.budget(medium).room();
        }
        for (i, medium) in self.media.iter().enumerate() {
            let alone = TokenBudget { text: Tokens(0).into(), context: Tokens(usize::MAX), ..self.budget(medium) };
            alone.room().map_err(|error| error.about(format!("medium {}", i + 1)))?;
        }
        let prompt = self.prompt();
        match self.context.0.checked_sub(prompt.0).filter(|&room| room > 0) {
            Some(room) => Ok(Tokens(room)),
            None => {
                Err(Error::new(Kind::TokenBudget, self.arithmetic(prompt)).with_hint(self.hint()).about("conversation"))
            }
        }
    }

    /// Returns the budget of one of the media, as if it were alone.
    fn budget(&self, medium: &MediumShape) -> TokenBudget {
        let MediumShape { temporal, n_frames } = *medium;
        TokenBudget { temporal, n_frames, frame: self.frame, text: self.text, context: self.context }
    }

    fn prompt(&self) -> Tokens {
        Tokens(self.visual().0.saturating_add(self.text_tokens().0))
    }

    /// Returns the rule of a prompt over the context.
    fn arithmetic(&self, prompt: Tokens) -> String {
        let (text, context) = (self.text_tokens(), self.context);
        if self.media.is_empty() {
            return format!("{text} tokens of text, over the model's context of {context}");
        }
        let each = self.media.iter().enumerate().take(MAX_LISTED).map(|(i, medium)| {
            let MediumShape { temporal, n_frames } = medium;
            let explanation = temporal.explain(*n_frames, self.frame);
            format!("medium {} ({temporal}): {explanation} = {}", i + 1, self.budget(medium).visual())
        });
        let mut listed = each.collect::<Vec<_>>().join("; ");
        if let Some(rest) = self.media.len().checked_sub(MAX_LISTED).filter(|&rest| rest > 0) {
            listed += &format!("; and {rest} more");
        }
        format!(
            "{listed}; together {} visual tokens + {text} for the prompt = {prompt}, over the model's context of {context}",
            self.visual(),
        )
    }

    /// Returns the largest number of frames of each medium that fits, by bisection: more never make fewer tokens.
    fn most_frames_that_fit(&self) -> Option<usize> {
        let (mut fit, mut over) = (0, self.media.iter().map(|medium| medium.n_frames).max().unwrap_or(0));
        while over - fit > 1 {
            let n_frames = usize::midpoint(fit, over);
            let fewer = |medium: &MediumShape| MediumShape { n_frames: medium.n_frames.min(n_frames), ..*medium };
            let media = self.media.iter().map(fewer).collect();
            if (Self { media, ..self.clone() }).prompt() < self.context {
                fit = n_frames;
            } else {
                over = n_frames;
            }
        }
        (fit > 0).then_some(fit)
    }

    /// Returns the hint of what would fit: fewer frames of each medium, fewer media, or a shorter conversation.
    fn hint(&self) -> String {
        let frames = self.most_frames_that_fit();
        match frames {
            _ if self.text_tokens() >= self.context || self.media.is_empty() => "shorten the conversation".to_owned(),
            Some(1) => "use 1 frame of each, or fewer media".to_owned(),
            Some(n) => format!("use at most {n} frames of each, or fewer media"),
            None => "use fewer media".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(frames: &[usize], text: usize) -> MediaBudget {
        let media = frames.iter().map(|&n_frames| MediumShape { temporal: Temporal::Concat, n_frames }).collect();
        let (frame, text, context) = (FrameTokens::loose(576), Tokens(text).into(), Tokens(4096));
        MediaBudget { media, frame, text, context }
    }

    #[test]
    fn tokens_of_all_media_are_added() {
        // 4 x 576 + 2 x 576 = 3456.
        assert_eq!(budget(&[4, 2], 40).visual(), Tokens(3456));
        assert_eq!(budget(&[4, 2], 40).room().expect("it fits"), Tokens(4096 - 3456 - 40));
        assert_eq!(budget(&[], 40).room().expect("it fits"), Tokens(4056));
        assert_eq!(budget(&[4], 40).room().expect("it fits"), Tokens(4096 - 2304 - 40));
    }

    #[test]
    fn an_error_over_budget_shows_the_arithmetic_of_each_medium() {
        let error = |frames: &[usize], text| budget(frames, text).room().expect_err("too much");
        let several = error(&[6, 2], 64);
        assert_eq!(several.kind(), Kind::TokenBudget);
        assert_eq!(
            several.to_string(),
            "conversation: medium 1 (concat): 6 frames x 576 tokens = 3456; medium 2 (concat): 2 frames x 576 tokens = \
             1152; together 4608 visual tokens + 64 for the prompt = 4672, over the model's context of 4096; hint: use at \
             most 4 frames of each, or fewer media"
        );
        assert_eq!(
            error(&[], 4096).to_string(),
            "conversation: 4096 tokens of text, over the model's context of 4096; hint: shorten the conversation"
        );
        // The message about one medium is that of a question about one video.
        assert!(error(&[8], 64).to_string().starts_with("temporal concat: 8 frames x 576 tokens = 4608 visual tokens"));
        assert!(error(&[1; 20], 64).to_string().contains("; and 12 more; together 11520 visual tokens"));
        assert!(error(&[1; 20], 64).to_string().ends_with("hint: use fewer media"));
    }

    #[test]
    fn absurd_counts_do_not_overflow() {
        assert!(budget(&[usize::MAX, usize::MAX], 1).room().is_err());
    }
}
