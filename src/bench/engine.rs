//! A run of the engine over prompts that are submitted together, with the times of its tokens.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::time::Instant;

use candle_core::Result;

use crate::engine::{Engine, EngineConfig, EngineStats, PromptPart, Request, RequestEvent};
use crate::language::{Decoding, Llama};

/// Times of one run of all requests.
pub(super) struct EngineRun {
    /// Seconds from the submission of all requests to the end.
    pub(super) total: f64,
    pub(super) first_tokens: Vec<f64>,
    /// Seconds between two tokens of a sequence.
    pub(super) between: Vec<f64>,
    /// Seconds of the steps without prefill.
    pub(super) decode: f64,
    /// Tokens of the steps without prefill.
    pub(super) decoded: u64,
    /// Number of the steps without prefill.
    pub(super) decode_steps: u64,
    pub(super) stats: EngineStats,
}

/// Answers all prompts in one engine, with `n_new` tokens each; greedily, or drawn at temperature 1 from the best
/// `top_k`.
pub(super) fn answer(
    model: &Llama,
    prompts: &[Vec<PromptPart>],
    n_new: usize,
    top_k: Option<usize>,
) -> Result<EngineRun> {
    let decoding = Decoding { temperature: top_k.map_or(0.0, |_| 1.0), top_k, ..Decoding::default() };
    let begin = Instant::now();
    let tokens: Vec<RefCell<Vec<f64>>> = prompts.iter().map(|_| RefCell::default()).collect();
    let failure = RefCell::new(None);
    let mut config = EngineConfig::for_model(model, None);
    config.max_sequences = prompts.len();
    let mut engine = Engine::new(model, None, config)?;
    for (prompt, tokens) in prompts.iter().zip(&tokens) {
        let failure = &failure;
        let listener = move |event: RequestEvent<'_>| {
            match event {
                RequestEvent::Token { .. } => tokens.borrow_mut().push(begin.elapsed().as_secs_f64()),
                RequestEvent::Done(Err(error)) => *failure.borrow_mut() = Some(error),
                RequestEvent::Done(Ok(_)) => {}
            }
            ControlFlow::Continue(())
        };
        let decoding = decoding.clone();
        engine.submit(Request { decoding, ..Request::greedy(prompt.clone(), n_new, Box::new(listener)) });
    }
    let (mut decode, mut decoded, mut decode_steps) = (0.0, 0, 0);
    let mut before = engine.stats();
    loop {
        let start = Instant::now();
        let goes_on = engine.step();
        let after = engine.stats();
        if after.prompt_tokens == before.prompt_tokens {
            decode += start.elapsed().as_secs_f64();
            decoded += after.new_tokens - before.new_tokens;
            decode_steps += after.steps - before.steps;
        }
        before = after;
        if !goes_on {
            break;
        }
    }
    drop(engine);
    if let Some(error) = failure.take() {
        return Err(error.into());
    }
    let times: Vec<Vec<f64>> = tokens.into_iter().map(RefCell::into_inner).collect();
    let first_tokens = times.iter().filter_map(|times| times.first().copied()).collect();
    let between = times.iter().flat_map(|times| times.windows(2).map(|pair| pair[1] - pair[0])).collect();
    Ok(EngineRun {
        total: begin.elapsed().as_secs_f64(),
        first_tokens,
        between,
        decode,
        decoded,
        decode_steps,
        stats: before,
    })
}
