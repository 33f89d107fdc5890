//! The token budget: arithmetic that is done before anything heavy.

use crate::temporal::{FrameTokens, Temporal};
use crate::units::Tokens;
use crate::vlm::ModelError;

/// What a prompt needs and what the model has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenBudget {
    /// The strategy.
    pub temporal: Temporal,
    /// Frames.
    pub n_frames: usize,
    /// Tokens of a frame after the connector.
    pub frame: FrameTokens,
    /// Tokens of the prompt's text.
    pub text: Tokens,
    /// The model's context.
    pub context: Tokens,
}

impl TokenBudget {
    /// `V`.
    pub fn visual(&self) -> Tokens {
        self.temporal.n_tokens(self.n_frames, self.frame)
    }

    /// Positions of the whole prompt.
    pub fn prompt(&self) -> Tokens {
        Tokens(self.visual().0.saturating_add(self.text.0))
    }

    /// Positions left for the answer.
    ///
    /// # Errors
    /// [`ModelError::Strategy`] when the strategy cannot work on such frames; [`ModelError::OverBudget`] with the arithmetic, when not one is left; [`ModelError::NoVisualTokens`] when the strategy
    /// leaves nothing of the video.
    pub fn room(&self) -> Result<Tokens, ModelError> {
        let (prompt, context) = (self.prompt(), self.context);
        self.temporal.check(self.frame).map_err(|rule| ModelError::Strategy { rule })?;
        if self.visual() == Tokens(0) {
            return Err(ModelError::NoVisualTokens {
                strategy: format!("temporal {}", self.temporal),
                visual_words: self.temporal.explain(self.n_frames, self.frame),
                longest: self.frame.count,
            });
        }
        if prompt.0 < context.0 {
            return Ok(Tokens(context.0 - prompt.0));
        }
        Err(ModelError::OverBudget {
            strategy: format!("temporal {}", self.temporal),
            visual_words: self.temporal.explain(self.n_frames, self.frame),
            visual: self.visual(),
            text: self.text,
            total: prompt,
            context,
            hint: self.hint(),
        })
    }

    /// The most frames below these that fit, by bisection: more frames never make fewer tokens.
    fn most_that_fit(&self) -> Option<usize> {
        let (mut fit, mut over) = (0, self.n_frames);
        while over - fit > 1 {
            let n_frames = usize::midpoint(fit, over);
            if (Self { n_frames, ..*self }).fits() {
                fit = n_frames;
            } else {
                over = n_frames;
            }
        }
        (fit > 0).then_some(fit)
    }

    fn fits(&self) -> bool {
        self.prompt() < self.context
    }

    /// What would fit: a shorter question, fewer frames, or another strategy.
    fn hint(&self) -> String {
        let fewer = self.most_that_fit();
        let strategies = [Temporal::D2, Temporal::TemporalMean];
        let other =
            strategies.into_iter().find(|&temporal| temporal != self.temporal && Self { temporal, ..*self }.fits());
        let words = |n: usize| if n == 1 { "1 frame".to_owned() } else { format!("{n} frames") };
        match (fewer, other) {
            _ if self.text.0 >= self.context.0 => "; hint: shorten the question".to_owned(),
            (Some(n), Some(other)) => format!("; hint: use {}, or {other}", words(n)),
            (Some(n), None) => format!("; hint: use {}", words(n)),
            (None, Some(other)) => format!("; hint: use {other}"),
            (None, None) => "; hint: shorten the question".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temporal::MaxPool;

    fn budget(temporal: Temporal, n_frames: usize, text: usize) -> TokenBudget {
        TokenBudget { temporal, n_frames, frame: FrameTokens::loose(576), text: Tokens(text), context: Tokens(4096) }
    }

    #[test]
    fn what_fits_leaves_the_rest() {
        assert_eq!(budget(Temporal::D2, 8, 46).room().expect("it fits"), Tokens(4096 - 2304 - 46));
    }

    #[test]
    fn what_does_not_fit_is_told_as_arithmetic() {
        let error = |temporal, frames, text| budget(temporal, frames, text).room().expect_err("too much").to_string();
        assert_eq!(
            error(Temporal::Concat, 8, 64),
            "temporal concat: 8 frames x 576 tokens = 4608 visual tokens + 64 for the prompt = 4672, \
             over the model's context of 4096; hint: use 6 frames, or max_pool:2"
        );
        assert_eq!(
            error(Temporal::TemporalMean, 8, 5000),
            "temporal temporal_mean: 576 tokens of a mean frame = 576 visual tokens + 5000 for the prompt = 5576, \
             over the model's context of 4096; hint: shorten the question"
        );
    }

    #[test]
    fn one_position_must_be_left_for_the_answer() {
        assert!(budget(Temporal::Concat, 7, 64).room().is_err());
        assert_eq!(budget(Temporal::Concat, 7, 63).room().expect("4032 + 63 = 4095"), Tokens(1));
    }

    #[test]
    fn a_pool_longer_than_a_frame_is_refused() {
        let error =
            budget(Temporal::MaxPool(MaxPool { stride: 577 }), 8, 1).room().expect_err("nothing is left").to_string();
        let words =
            "temporal max_pool:577: 8 frames x 0 tokens (576 / 577) = no visual token; hint: a stride of at most 576";
        assert_eq!(error, words);
    }

    #[test]
    fn absurd_counts_do_not_overflow() {
        assert!(budget(Temporal::Concat, usize::MAX, 1).visual() > Tokens(4096));
    }
}
