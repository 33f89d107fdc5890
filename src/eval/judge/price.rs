//! Prices of a service's tokens.

use super::replies::TokenUsage;

/// Number of tokens that a price is of.
const UNIT: f64 = 1e6;

/// Prices of tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenPrices {
    /// Price of a million tokens of prompts.
    pub prompts: f64,
    /// Price of a million tokens of replies.
    pub replies: f64,
}

impl TokenPrices {
    /// Returns the price of tokens.
    pub(super) fn of(self, usage: TokenUsage) -> f64 {
        let TokenUsage { prompt_tokens, completion_tokens, .. } = usage;
        (prompt_tokens as f64 * self.prompts + completion_tokens as f64 * self.replies) / UNIT
    }
}
