//! The engine: each request gets the tokens that it gets alone, whatever runs beside it, in any order of arrival and
//! with little memory; a request that ends early frees its memory and affects no other.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use vidense::engine::{
    Completion, DecodeLaunch, Engine, EngineConfig, FinishReason, PromptPart, Request, RequestEvent, StopRules, Visual,
};
use vidense::error::{Error, Kind};
use vidense::exec::Stop;
use vidense::kernels::kv::{PAGE_LEN, pages_for};
use vidense::language::{AttentionBias, Decoding, Llama, LlamaConfig, LogitRules, QueryKeyNorm, RopeScaling};
use vidense::nn::{Purpose, QuantFormat, QuantizingLoader};

use crate::harness::{generate, request};

/// A seeded source of small numbers.
pub struct Draw(ChaCha8Rng);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0.next_u32() as usize % n.max(1)
    }

    pub fn values(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| (self.0.next_u32() as f32 / u32::MAX as f32 - 0.5) * scale).collect()
    }

    pub fn tensor(&mut self, shape: &[usize], scale: f32) -> Tensor {
        Tensor::from_vec(self.values(shape.iter().product(), scale), shape, &Device::Cpu).unwrap()
    }
}

pub const VOCABULARY: usize = 97;
pub const WIDTH: usize = 64;

pub fn config(rope_scaling: RopeScaling) -> LlamaConfig {
    LlamaConfig {
        vocab_size: VOCABULARY,
        d_hidden: WIDTH,
        d_intermediate: 96,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        d_head: 16,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling,
        context: 512,
        tied_embeddings: false,
        attention_bias: AttentionBias::None,
        qk_norm: QueryKeyNorm::None,
        mlp_bias: false,
    }
}

/// A model with random weights, packed as every model is that answers.
pub fn model(config: &LlamaConfig, quantization: Option<QuantFormat>) -> Llama {
    let vb = VarBuilder::from_tensors(weights(config), DType::F32, &Device::Cpu);
    match quantization {
        Some(format) => Llama::load_with(config, &vb, &QuantizingLoader(format)).unwrap(),
        None => Llama::load(config, &vb, Purpose::Inference).unwrap(),
    }
}

/// Random weights.
pub fn weights(config: &LlamaConfig) -> HashMap<String, Tensor> {
    let mut draw = Draw::new(7);
    let mut tensors = HashMap::new();
    let mut add = |name: String, shape: &[usize]| {
        let value = match shape {
            [width] => Tensor::ones(*width, DType::F32, &Device::Cpu).unwrap(),
            _ => draw.tensor(shape, 0.6),
        };
        tensors.insert(name, value);
    };
    let (h, wide, d) = (config.d_hidden, config.d_intermediate, config.d_head);
    add("model.embed_tokens.weight".into(), &[config.vocab_size, h]);
    add("model.norm.weight".into(), &[h]);
    add("lm_head.weight".into(), &[config.vocab_size, h]);
    for i in 0..config.n_layers {
        let mut layer = |name: &str, shape: &[usize]| add(format!("model.layers.{i}.{name}.weight"), shape);
        layer("input_layernorm", &[h]);
        layer("post_attention_layernorm", &[h]);
        layer("self_attn.q_proj", &[config.n_heads * d, h]);
        layer("self_attn.k_proj", &[config.n_kv_heads * d, h]);
        layer("self_attn.v_proj", &[config.n_kv_heads * d, h]);
        layer("self_attn.o_proj", &[h, config.n_heads * d]);
        layer("mlp.gate_proj", &[wide, h]);
        layer("mlp.up_proj", &[wide, h]);
        layer("mlp.down_proj", &[h, wide]);
    }
    tensors
}

/// Prompts about a few videos: many begin alike, none is empty.
fn prompts(draw: &mut Draw, n: usize) -> Vec<Vec<PromptPart>> {
    let videos: Vec<Visual> = (0..3).map(|i| Visual::new(draw.tensor(&[30 + 33 * i, WIDTH], 2.0))).collect();
    let system: Vec<u32> = (0..9).map(|_| draw.below(VOCABULARY) as u32).collect();
    (0..n)
        .map(|_| {
            let words = (0..1 + draw.below(40)).map(|_| draw.below(VOCABULARY) as u32).collect();
            match draw.below(5) {
                0 => vec![PromptPart::Ids(words)],
                video => vec![
                    PromptPart::Ids(system.clone()),
                    PromptPart::Visual(videos[video % videos.len()].clone()),
                    PromptPart::Ids(words),
                ],
            }
        })
        .collect()
}

pub fn positions(prompt: &[PromptPart]) -> usize {
    let n = |part: &PromptPart| match part {
        PromptPart::Ids(ids) => ids.len(),
        PromptPart::Visual(visual) => visual.embeds().dim(0).unwrap(),
    };
    prompt.iter().map(n).sum()
}

pub fn plenty() -> EngineConfig {
    EngineConfig::with_kv_bytes(1 << 30)
}

/// The bytes of so many pages.
pub fn pages(model: &Llama, n: usize) -> usize {
    n * model.new_kv_store().unwrap().page_bytes()
}

/// Submits requests at random steps, cancels or fails some, and compares all others with what each is alone; on one
/// thread and on several.
fn compare(model: &Llama, seed: u64) {
    for n_threads in [1, 2, 5] {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        threads.install(|| compare_here(model, seed));
    }
}

fn compare_here(model: &Llama, seed: u64) {
    let mut draw = Draw::new(seed);
    let prompts = prompts(&mut draw, 14);
    let lengths: Vec<usize> = prompts.iter().map(|_| 1 + draw.below(40)).collect();
    let alone: Vec<Vec<u32>> =
        prompts.iter().zip(&lengths).map(|(prompt, n)| generate(model, prompt.clone(), *n, plenty())).collect();
    // One whose keys and values are NaN, which begins like no other.
    let broken = || vec![PromptPart::Visual(Visual::new(Tensor::full(f32::NAN, (70, WIDTH), &Device::Cpu).unwrap()))];
    // From plenty down to what the longest needs alone.
    let least = prompts.iter().zip(&lengths).map(|(p, n)| pages_for(positions(p) + n - 1)).max().unwrap();
    for n_pages in [1000, 3 * least, least + 1, least] {
        let config = EngineConfig {
            kv_bytes: pages(model, n_pages),
            max_sequences: 1 + draw.below(16),
            chunk: 1 + draw.below(90),
            chunk_beside_answers: 1 + draw.below(30),
            decode: DecodeLaunch::default(),
        };
        let done: Vec<RefCell<Option<_>>> = prompts.iter().map(|_| RefCell::new(None)).collect();
        let mut engine = Engine::new(model, None, config).unwrap();
        let (mut ids, mut next, mut cancelled) = (Vec::new(), 0, Vec::new());
        while next < prompts.len() || !engine.is_idle() {
            while next < prompts.len() && draw.below(3) > 0 {
                ids.push(engine.submit(request(prompts[next].clone(), lengths[next], &done[next])));
                next += 1;
            }
            if next < prompts.len() && draw.below(9) == 0 {
                engine.submit(sink(broken(), 3));
            }
            if draw.below(40) == 0 && next > 0 {
                let i = draw.below(next);
                if done[i].borrow().is_none() {
                    engine.cancel(ids[i]);
                    cancelled.push(i);
                }
            }
            engine.step();
            assert!(engine.kv_bytes() <= config.kv_bytes && engine.kv_allocated_bytes() <= config.kv_bytes);
        }
        assert_eq!(engine.kv_bytes(), 0, "memory is held by nobody");
        drop(engine);
        for (i, done) in done.into_iter().enumerate() {
            match done.into_inner().expect("every request ends") {
                Ok(completion) => assert_eq!(completion.ids, alone[i], "{seed}: request {i} with {config:?}"),
                Err(error) => {
                    assert!(cancelled.contains(&i) && error.kind() == Kind::Stopped, "{i}: {error}")
                }
            }
        }
    }
}

#[test]
fn every_request_gets_the_tokens_that_it_gets_alone() {
    let model = model(&config(RopeScaling::None), None);
    (0..6).for_each(|seed| compare(&model, seed));
}

#[test]
fn so_it_does_with_quantized_weights_and_with_frequencies_that_depend_on_the_prompt() {
    compare(&model(&config(RopeScaling::None), Some(QuantFormat::Q8_0)), 11);
    let ntk = RopeScaling::DynamicNtk { factor: 4.0, original_context: 64.0 };
    (20..23).for_each(|seed| compare(&model(&config(ntk), None), seed));
}

#[test]
fn little_memory_preempts_and_still_answers_all_in_order_of_arrival() {
    let model = model(&config(RopeScaling::None), None);
    let prompt = |i: u32| vec![PromptPart::Ids(vec![i; 40])];
    let alone: Vec<_> = (0..4).map(|i| generate(&model, prompt(i), 90, plenty())).collect();
    // Each needs five pages; two are admitted into the two that their prompts take.
    let config = EngineConfig::with_kv_bytes(pages(&model, 6));
    let done: Vec<_> = (0..4).map(|_| RefCell::new(None)).collect();
    let mut engine = Engine::new(&model, None, config).unwrap();
    for (i, done) in (0..).zip(&done) {
        engine.submit(request(prompt(i), 90, done));
    }
    let mut order = Vec::new();
    while engine.step() {
        let ended = |i: &usize| done[*i].borrow().is_some() && !order.contains(i);
        let ended: Vec<usize> = (0..4).filter(ended).collect();
        order.extend(ended);
    }
    assert!(engine.stats().preemptions > 0, "{:?}", engine.stats());
    assert_eq!(order[..3], [0, 1, 2], "the older ends first");
    drop(engine);
    for (done, alone) in done.into_iter().zip(alone) {
        assert_eq!(done.into_inner().unwrap().unwrap().ids, alone);
    }
}

#[test]
fn a_video_is_read_once_for_all_questions_about_it() {
    let model = model(&config(RopeScaling::None), None);
    let visual = Visual::new(Draw::new(1).tensor(&[200, WIDTH], 2.0));
    let prompt =
        |i: u32| vec![PromptPart::Ids(vec![1, 2]), PromptPart::Visual(visual.clone()), PromptPart::Ids(vec![i; 5])];
    let done: Vec<_> = (0..8).map(|_| RefCell::new(None)).collect();
    let mut engine = Engine::new(&model, None, EngineConfig { chunk: 50, ..plenty() }).unwrap();
    // All at once, and one more when the others are done.
    for (i, done) in (0..7).zip(&done) {
        engine.submit(request(prompt(i), 6, done));
    }
    engine.run(&Stop::new());
    engine.submit(request(prompt(7), 6, &done[7]));
    engine.run(&Stop::new());
    let stats = engine.stats();
    // Six pages are shared, and the ten positions of the video in the seventh are copied.
    assert_eq!(stats.prefix_hits, 7 * 202);
    assert_eq!(stats.prompt_tokens, 202 + 8 * 5);
    assert_eq!((stats.new_tokens, stats.peak_running), (8 * 6, 7));
    // The pages of the video once, and one or two of each question's own.
    assert!(stats.peak_kv_bytes <= pages(&model, 202 / PAGE_LEN + 2 * 7), "{stats:?}");
}

#[test]
fn a_question_that_was_asked_before_is_read_from_its_last_word_on() {
    let model = model(&config(RopeScaling::None), None);
    let visual = Visual::new(Draw::new(1).tensor(&[40, WIDTH], 2.0));
    let prompt = |ids: &[u32]| vec![PromptPart::Visual(visual.clone()), PromptPart::Ids(ids.to_vec())];
    let (asked, begins_alike, other) = ([5, 6, 7, 8, 9, 10], [5, 6, 7, 80], [11, 12]);
    // 46 positions; the last one alone; 40 + 3 are common with the first; the 40 of the video are common.
    let cases = [(&asked[..], 46), (&asked, 1), (&begins_alike, 1), (&other, 2), (&begins_alike, 1)];
    let done: Vec<_> = cases.iter().map(|_| RefCell::new(None)).collect();
    let mut engine = Engine::new(&model, None, plenty()).unwrap();
    for ((ids, n_computed), done) in cases.iter().zip(&done) {
        let before = engine.stats().prompt_tokens;
        engine.submit(request(prompt(ids), 12, done));
        engine.run(&Stop::new());
        assert_eq!(engine.stats().prompt_tokens - before, *n_computed, "{ids:?}");
        let ids_of = |done: &RefCell<Option<Result<Completion, Error>>>| done.take().unwrap().unwrap().ids;
        assert_eq!(ids_of(done), generate(&model, prompt(ids), 12, plenty()), "{ids:?}");
    }
}

#[test]
fn memory_does_not_grow_with_the_requests_that_passed() {
    let model = model(&config(RopeScaling::None), None);
    let mut engine = Engine::new(&model, None, plenty()).unwrap();
    let mut draw = Draw::new(5);
    let mut allocated = Vec::new();
    for _ in 0..60 {
        let visual = Visual::new(draw.tensor(&[300, WIDTH], 2.0));
        let prompt = vec![PromptPart::Visual(visual), PromptPart::Ids(vec![3])];
        engine.submit(sink(prompt, 5));
        engine.run(&Stop::new());
        allocated.push(engine.kv_allocated_bytes());
    }
    assert_eq!(allocated[10], allocated[59]);
    // No more than a context stays of what is past, beside what runs.
    assert!(allocated[59] <= pages(&model, pages_for(512) + pages_for(306)));
}

pub fn sink(prompt: Vec<PromptPart>, max_new_tokens: usize) -> Request<'static> {
    Request::greedy(prompt, max_new_tokens, Box::new(|_| ControlFlow::Continue(())))
}

#[test]
fn one_that_fails_fails_alone() {
    let model = model(&config(RopeScaling::None), None);
    let good = vec![PromptPart::Ids(vec![4; 50])];
    let expected = generate(&model, good.clone(), 20, plenty());
    let broken = Tensor::full(f32::NAN, (40, WIDTH), &Device::Cpu).unwrap();
    let narrow = Tensor::zeros((3, WIDTH - 1), DType::F32, &Device::Cpu).unwrap();
    let bad: [(Vec<PromptPart>, &str); 4] = [
        (vec![PromptPart::Visual(Visual::new(broken))], "not finite"),
        (vec![PromptPart::Visual(Visual::new(narrow))], "width 63 for a language model of 64"),
        (vec![PromptPart::Ids(vec![1, 97])], "token id 97 is beyond the vocabulary of 97"),
        (vec![PromptPart::Ids(Vec::new())], "an empty prompt"),
    ];
    let (before, after) = (RefCell::new(None), RefCell::new(None));
    let failed: Vec<_> = bad.iter().map(|_| RefCell::new(None)).collect();
    let mut engine = Engine::new(&model, None, EngineConfig::with_kv_bytes(pages(&model, 8))).unwrap();
    engine.submit(request(good.clone(), 20, &before));
    for ((prompt, _), failed) in bad.iter().zip(&failed) {
        engine.submit(request(prompt.clone(), 20, failed));
    }
    engine.submit(request(good, 20, &after));
    engine.run(&Stop::new());
    assert_eq!(engine.kv_bytes(), 0);
    drop(engine);
    for ((_, rule), failed) in bad.iter().zip(failed) {
        let error = failed.into_inner().unwrap().unwrap_err().to_string();
        assert!(error.contains(rule), "{error}");
    }
    for good in [before, after] {
        assert_eq!(good.into_inner().unwrap().unwrap().ids, expected);
    }
}

#[test]
fn requests_end_at_their_limits() {
    let model = model(&config(RopeScaling::None), None);
    let outcome = |change: &dyn Fn(&mut Request<'_>), config: EngineConfig| -> Result<Completion, Error> {
        let done = RefCell::new(None);
        let mut engine = Engine::new(&model, None, config).unwrap();
        let mut asked = request(vec![PromptPart::Ids(vec![4; 50])], 20, &done);
        change(&mut asked);
        engine.submit(asked);
        engine.run(&Stop::new());
        assert_eq!(engine.kv_bytes(), 0);
        drop(engine);
        done.into_inner().unwrap()
    };
    let whole = outcome(&|_| {}, plenty()).unwrap();
    assert_eq!((whole.ids.len(), whole.finish_reason), (20, FinishReason::Length));
    let stopped = outcome(&|asked| asked.stop.tokens = [whole.ids[7]].into(), plenty()).unwrap();
    let first = whole.ids.iter().position(|id| *id == whole.ids[7]).unwrap();
    assert_eq!((stopped.ids.as_slice(), stopped.finish_reason), (&whole.ids[..=first], FinishReason::Stop));
    let none = outcome(&|asked| asked.max_new_tokens = 0, plenty()).unwrap();
    assert_eq!((none.ids.len(), none.finish_reason), (0, FinishReason::Length));
    let late = outcome(&|asked| asked.time_limit = Some(Duration::ZERO), plenty()).unwrap_err().to_string();
    assert_eq!(late, "it took longer than the limit of 0 s");
    let large =
        outcome(&|asked| asked.max_new_tokens = 100, EngineConfig::with_kv_bytes(pages(&model, 2))).unwrap_err();
    let needed = pages(&model, pages_for(149));
    assert!(
        large.kind() == Kind::KvMemory
            && large
                .rule()
                .starts_with(&format!("a prompt of 50 and an answer of up to 100 tokens need {needed} bytes")),
        "{large}"
    );
    let stop = StopRules { strings: ["x".to_owned()].into(), ..StopRules::default() };
    let stringy = outcome(&|asked| asked.stop = stop.clone(), plenty()).unwrap_err().to_string();
    assert!(stringy.contains("stop strings without a tokenizer"), "{stringy}");
}

#[test]
fn a_listener_that_has_enough_ends_its_request() {
    let model = model(&config(RopeScaling::None), None);
    let (n, ended) = (Cell::new(0), Cell::new(false));
    let mut engine = Engine::new(&model, None, plenty()).unwrap();
    engine.submit(Request {
        listener: Box::new(|event: RequestEvent<'_>| {
            match event {
                RequestEvent::Token { .. } => n.set(n.get() + 1),
                RequestEvent::Done(outcome) => ended.set(outcome.is_err_and(|error| error.kind() == Kind::Stopped)),
            }
            if n.get() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }),
        ..sink(vec![PromptPart::Ids(vec![4; 50])], 20)
    });
    engine.run(&Stop::new());
    assert_eq!((n.get(), ended.get(), engine.kv_bytes()), (3, true, 0));
}

#[test]
fn an_abort_gives_all_requests_up() {
    let model = model(&config(RopeScaling::None), None);
    let done: Vec<_> = (0..40).map(|_| RefCell::new(None)).collect();
    let mut engine = Engine::new(&model, None, plenty()).unwrap();
    let stop = Stop::new();
    for done in &done {
        engine.submit(request(vec![PromptPart::Ids(vec![4; 50])], 200, done));
    }
    engine.step();
    stop.abort();
    engine.run(&stop);
    assert_eq!((engine.kv_bytes(), engine.is_idle()), (0, true));
    drop(engine);
    assert!(
        done.into_iter()
            .all(|done| done.into_inner().is_some_and(|done| done.is_err_and(|error| error.kind() == Kind::Stopped)))
    );
}

#[test]
fn rules_and_drawn_tokens_are_each_request_s_own() {
    let model = model(&config(RopeScaling::None), None);
    let hot = |seed| Decoding { temperature: 1.5, seed, ..Decoding::default() };
    let rules = LogitRules { repetition_penalty: 3.0, ..LogitRules::default() };
    let decodings = [Decoding::default(), hot(1), hot(2), hot(1), Decoding { rules, ..Decoding::default() }];
    let run = |decodings: &[Decoding]| -> Vec<Vec<u32>> {
        let done: Vec<_> = decodings.iter().map(|_| RefCell::new(None)).collect();
        let mut engine = Engine::new(&model, None, plenty()).unwrap();
        for (decoding, done) in decodings.iter().zip(&done) {
            let asked = request(vec![PromptPart::Ids(vec![4; 50])], 30, done);
            engine.submit(Request { decoding: decoding.clone(), ..asked });
        }
        engine.run(&Stop::new());
        drop(engine);
        done.into_iter().map(|done| done.into_inner().unwrap().unwrap().ids).collect()
    };
    let together = run(&decodings);
    let alone: Vec<_> = decodings.iter().flat_map(|decoding| run(std::slice::from_ref(decoding))).collect();
    assert_eq!(together, alone);
    assert_eq!(together[1], together[3]);
    assert!(together[1] != together[2] && together[0] != together[4]);
}
