//! Token budget of a prompt against the model's context: refuses a plan before weights are read or frames decoded.

use crate::error::{Error, Kind};
use crate::temporal::{FrameTokens, Temporal};
use crate::units::Tokens;
use crate::vlm::PromptIds;

/// Text tokens of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextTokens {
    /// Tokens independent of the number of frames.
    pub once: Tokens,
    /// Tokens repeated with each frame.
    pub each: Tokens,
}

impl TextTokens {
    /// Counts the text tokens of a prompt about one medium of `n_frames`; text between the first and the last frame is
    /// counted per frame.
    pub fn of(ids: &PromptIds, n_frames: usize) -> Self {
        if ids.shown().len() != 1 {
            return Tokens(ids.n_text()).into();
        }
        let n_ends = ids.before_visual().len() + ids.after_visual().len();
        let between = ids.n_text().saturating_sub(n_ends);
        let each = between.checked_div(n_frames.saturating_sub(1)).unwrap_or(0);
        Self { once: Tokens(ids.n_text().saturating_sub(each * n_frames)), each: Tokens(each) }
    }

    /// Returns the number of text tokens with `n_frames`.
    pub fn with_frames(self, n_frames: usize) -> Tokens {
        Tokens(self.once.0.saturating_add(self.each.0.saturating_mul(n_frames)))
    }
}

impl From<Tokens> for TextTokens {
    fn from(once: Tokens) -> Self {
        Self { once, each: Tokens(0) }
    }
}

/// Tokens that a prompt needs, and the context that the model has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenBudget {
    /// Temporal strategy.
    pub temporal: Temporal,
    /// Frames.
    pub n_frames: usize,
    /// Tokens of a frame after the connector.
    pub frame: FrameTokens,
    /// Tokens of the prompt's text.
    pub text: TextTokens,
    /// The model's context.
    pub context: Tokens,
}

impl TokenBudget {
    /// Returns `V`, the number of visual tokens.
    pub fn visual(&self) -> Tokens {
        self.temporal.n_tokens(self.n_frames, self.frame)
    }

    /// Returns the number of text tokens.
    pub(crate) fn text_tokens(&self) -> Tokens {
        self.text.with_frames(self.n_frames)
    }

    /// Returns the number of positions of the whole prompt.
    pub fn prompt(&self) -> Tokens {
        Tokens(self.visual().0.saturating_add(self.text_tokens().0))
    }

    /// Returns the number of positions left for the answer.
    ///
    /// # Errors
    /// [`Kind::Frames`] when the strategy does not apply to such frames; [`Kind::TokenBudget`] with the arithmetic,
    /// when no position is left; [`Kind::NoVisualTokens`] when the strategy leaves no token of the video.
    pub fn room(&self) -> Result<Tokens, Error> {
        let (prompt, context) = (self.prompt(), self.context);
        self.temporal
            .check(self.frame)
            .map_err(|error| error.reworded(|rule| format!("{} {rule}", self.key())).with_kind(Kind::Frames))?;
        let explanation = self.temporal.explain(self.n_frames, self.frame);
        let strategy = format!("{} {}", self.key(), self.temporal);
        if self.visual() == Tokens(0) {
            let error = Error::new(Kind::NoVisualTokens, format!("{explanation} = no visual token"));
            return Err(error.with_hint(format!("a stride of at most {}", self.frame.count)).about(strategy));
        }
        if prompt.0 < context.0 {
            return Ok(Tokens(context.0 - prompt.0));
        }
        let rule = format!(
            "{explanation} = {} visual tokens + {} for the prompt = {prompt}, over the model's context of {context}",
            self.visual(),
            self.text_tokens(),
        );
        Err(Error::new(Kind::TokenBudget, rule).with_hint(self.hint()).about(strategy))
    }

    /// Returns the plan's key of the strategy.
    fn key(&self) -> &'static str {
        if matches!(self.temporal, Temporal::AnyRes(_)) { "single_image" } else { "temporal" }
    }

    /// Returns the largest number of frames that fits, by bisection: more frames never make fewer tokens.
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

    /// Returns the hint of what would fit: a shorter question, fewer frames, or another strategy.
    fn hint(&self) -> String {
        if matches!(self.temporal, Temporal::AnyRes(_)) {
            let frame = Self { temporal: Temporal::Concat, ..*self };
            let words =
                if frame.fits() { "single_image: frame (--single-image frame)" } else { "shorten the question" };
            return words.to_owned();
        }
        let fewer = self.most_that_fit();
        let strategies = [Temporal::D2, Temporal::TemporalMean];
        let other =
            strategies.into_iter().find(|&temporal| temporal != self.temporal && Self { temporal, ..*self }.fits());
        let words = |n: usize| if n == 1 { "1 frame".to_owned() } else { format!("{n} frames") };
        match (fewer, other) {
            _ if self.text.once >= self.context => "shorten the question".to_owned(),
            (Some(n), Some(other)) => format!("use {}, or {other}", words(n)),
            (Some(n), None) => format!("use {}", words(n)),
            (None, Some(other)) => format!("use {other}"),
            (None, None) => "shorten the question".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temporal::MaxPool;

    fn budget(temporal: Temporal, n_frames: usize, text: usize) -> TokenBudget {
        TokenBudget {
            temporal,
            n_frames,
            frame: FrameTokens::loose(576),
            text: Tokens(text).into(),
            context: Tokens(4096),
        }
    }

    #[test]
    fn a_prompt_that_fits_leaves_the_rest_of_the_context() {
        assert_eq!(budget(Temporal::D2, 8, 46).room().expect("it fits"), Tokens(4096 - 2304 - 46));
    }

    #[test]
    fn an_error_over_budget_shows_the_arithmetic() {
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
    fn an_error_about_a_single_image_names_its_own_key() {
        use crate::temporal::{AnyRes, Grid, Unpad};
        // Room for the base view alone.
        let any_res = AnyRes { image: (900, 900), rows: 2, columns: 2, unpad: Unpad::Rounded, max_tiles: None };
        let grid = FrameTokens::on_grid(Grid { height: 24, width: 24 });
        let frame = FrameTokens { has_newline: true, ..grid };
        let budget = TokenBudget { frame, context: Tokens(2048), ..budget(Temporal::AnyRes(any_res), 1, 40) };
        assert_eq!(
            budget.room().expect_err("too much").to_string(),
            "single_image any_res: 576 tokens of the base view + 48 rows x (48 tokens + 1 newline) of 2 x 2 tiles = 2928 \
             visual tokens + 40 for the prompt = 2968, over the model's context of 2048; hint: single_image: frame \
             (--single-image frame)"
        );
        let without = TokenBudget { frame: FrameTokens { has_newline: false, ..frame }, ..budget };
        let error = without.room().expect_err("no row").to_string();
        assert!(error.starts_with("single_image any_res: ends rows of tokens with the row image_newline"), "{error}");
    }

    #[test]
    fn one_position_must_be_left_for_the_answer() {
        assert!(budget(Temporal::Concat, 7, 64).room().is_err());
        assert_eq!(budget(Temporal::Concat, 7, 63).room().expect("4032 + 63 = 4095"), Tokens(1));
    }

    #[test]
    fn text_per_frame_is_counted_with_the_frames_that_would_fit() {
        use crate::text::{MediumIndex, Passage};
        let words = |n: usize| Passage::Text(vec![0; n]);
        // 10 + 20 tokens once, 8 per frame: those of the first frame are among the 18 at the beginning.
        let frame = |i: usize| Passage::Frames(MediumIndex(0), i..i + 1);
        let parts = vec![words(18), frame(0), words(8), frame(1), words(20)];
        let text = TextTokens::of(&PromptIds { parts }, 2);
        assert_eq!(text, TextTokens { once: Tokens(30), each: Tokens(8) });
        // (4096 - 31) / (576 + 8) = 6.96.
        let budget = TokenBudget { text, ..budget(Temporal::Concat, 9, 0) };
        let error = budget.room().expect_err("too much").to_string();
        assert!(error.contains("+ 102 for the prompt") && error.contains("use 6 frames"), "{error}");
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
