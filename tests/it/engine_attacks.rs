//! Attacks on the engine: requests that fail, end or are cancelled at page boundaries, while others share their pages
//! or wait for them. Every other request gets the tokens that it gets alone.

use std::cell::RefCell;
use std::ops::ControlFlow;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use vidense::engine::{
    Completion, DecodeLaunch, Engine, EngineConfig, PromptPart, Request, RequestEvent, StopRules, Visual,
};
use vidense::error::Kind;
use vidense::exec::Stop;
use vidense::kernels::kv::{PAGE_LEN, pages_for};
use vidense::language::{Decoding, Llama, LlamaConfig, RopeScaling};
use vidense::nn::Purpose;
use vidense::text::{PromptConvention, Tokenizer};

use crate::engine::{Draw, VOCABULARY, WIDTH, config, model, pages, plenty, sink, weights};
use crate::harness::{generate, json, repository, request};

/// A model that runs on candle's operations in this precision.
fn half_model(dtype: DType) -> Llama {
    let config = config(RopeScaling::None);
    Llama::load(&config, &VarBuilder::from_tensors(weights(&config), dtype, &Device::Cpu), Purpose::Training).unwrap()
}

fn words(draw: &mut Draw, n: usize) -> Vec<u32> {
    (0..n).map(|_| draw.below(VOCABULARY) as u32).collect()
}

fn nan(n: usize) -> PromptPart {
    PromptPart::Visual(Visual::new(Tensor::full(f32::NAN, (n, WIDTH), &Device::Cpu).unwrap()))
}

fn shares_with_broken(model: &Llama, kind: &str) {
    let system = words(&mut Draw::new(3), 2 * PAGE_LEN);
    let good = vec![PromptPart::Ids([system.clone(), vec![5; 9]].concat())];
    let expected = generate(model, good.clone(), 8, plenty());
    for n_system in [33, 40, 50, 63, 64] {
        let (failed, done) = (RefCell::new(None), RefCell::new(None));
        let mut engine = Engine::new(model, None, plenty()).unwrap();
        engine.submit(request(vec![PromptPart::Ids(system[..n_system].to_vec()), nan(40)], 8, &failed));
        engine.submit(request(good.clone(), 8, &done));
        engine.run(&Stop::new());
        drop(engine);
        assert!(failed.take().unwrap().is_err());
        match done.take().unwrap() {
            Ok(done) => assert_eq!(done.ids, expected, "{kind}: {n_system}"),
            Err(error) => panic!("{kind}: {n_system}: {error}"),
        }
    }
}

#[test]
fn a_broken_video_does_not_spoil_what_it_shares_with_others() {
    shares_with_broken(&model(&config(RopeScaling::None), None), "f32");
}

#[test]
fn a_broken_video_does_not_spoil_what_it_shares_with_others_in_half_precision() {
    shares_with_broken(&half_model(DType::BF16), "bf16");
    shares_with_broken(&half_model(DType::F16), "f16");
}

/// Lengths at which pages begin, end, or lack one position.
const EDGES: [usize; 12] = [1, 2, 31, 32, 33, 63, 64, 65, 95, 96, 97, 128];

/// Prompts that are beginnings of each other, at the edges of pages, each several times, cancelled at any step.
fn edges(model: &Llama, seed: u64) {
    let mut draw = Draw::new(seed);
    let stream = words(&mut draw, 200);
    let lengths: Vec<(usize, usize)> =
        (0..30).map(|_| (EDGES[draw.below(EDGES.len())], [1, 2, 31, 32, 33, 70][draw.below(6)])).collect();
    let prompt = |n: usize| vec![PromptPart::Ids(stream[..n].to_vec())];
    let alone: Vec<_> = lengths.iter().map(|(n, new)| generate(model, prompt(*n), *new, plenty())).collect();
    let least = lengths.iter().map(|(n, new)| pages_for(n + new - 1)).max().unwrap();
    for n_pages in [least, least + 1, 2 * least, 500] {
        let config = EngineConfig {
            kv_bytes: pages(model, n_pages),
            max_sequences: [1, 2, 7, 32][draw.below(4)],
            chunk: [1, 31, 32, 33, 1024][draw.below(5)],
            chunk_beside_answers: [1, 5, 32, 128][draw.below(4)],
            decode: DecodeLaunch::default(),
        };
        let done: Vec<RefCell<Option<_>>> = lengths.iter().map(|_| RefCell::new(None)).collect();
        let mut engine = Engine::new(model, None, config).unwrap();
        let (mut ids, mut cancelled) = (Vec::new(), Vec::new());
        let rate = 1 + draw.below(4);
        while ids.len() < lengths.len() || !engine.is_idle() {
            for _ in 0..draw.below(2 * rate) {
                if let Some((n, new)) = lengths.get(ids.len()) {
                    let asked = request(prompt(*n), *new, &done[ids.len()]);
                    ids.push(engine.submit(asked));
                }
            }
            if draw.below(6) == 0 && !ids.is_empty() {
                let i = draw.below(ids.len());
                if done[i].borrow().is_none() {
                    engine.cancel(ids[i]);
                    cancelled.push(i);
                }
            }
            engine.step();
        }
        assert_eq!(engine.kv_bytes(), 0);
        drop(engine);
        for (i, done) in done.into_iter().enumerate() {
            match done.into_inner().expect("every request ends") {
                Ok(completion) => assert_eq!(completion.ids, alone[i], "{seed}: {i} {:?} {config:?}", lengths[i]),
                Err(error) => assert!(cancelled.contains(&i), "{i}: {error}"),
            }
        }
    }
}

#[test]
fn prompts_that_begin_each_other_at_the_edges_of_pages_are_answered_as_alone() {
    let plain = model(&config(RopeScaling::None), None);
    (0..2).for_each(|seed| edges(&plain, seed));
    let ntk = model(&config(RopeScaling::DynamicNtk { factor: 4.0, original_context: 64.0 }), None);
    (0..2).for_each(|seed| edges(&ntk, seed));
}

/// A conversation: each prompt is the one before with its answer and more words.
#[test]
fn turns_that_reuse_answers_are_answered_as_alone() {
    for scaling in [RopeScaling::None, RopeScaling::DynamicNtk { factor: 4.0, original_context: 64.0 }] {
        let model = model(&config(scaling), None);
        let mut draw = Draw::new(9);
        let mut engine_prompt = words(&mut draw, 20);
        let done: Vec<_> = (0..8).map(|_| RefCell::new(None)).collect();
        let mut engine = Engine::new(&model, None, plenty()).unwrap();
        for done in &done {
            engine.submit(request(vec![PromptPart::Ids(engine_prompt.clone())], 37, done));
            engine.run(&Stop::new());
            let ids = done.borrow().as_ref().unwrap().as_ref().unwrap().ids.clone();
            assert_eq!(ids, generate(&model, vec![PromptPart::Ids(engine_prompt.clone())], 37, plenty()));
            engine_prompt.extend(ids);
            engine_prompt.extend(words(&mut draw, 5));
        }
    }
}

#[test]
fn the_reader_that_others_wait_for_may_be_given_up_at_any_step() {
    let model = model(&config(RopeScaling::None), None);
    let visual = Visual::new(Draw::new(1).tensor(&[200, WIDTH], 2.0));
    let prompt = |i: u32| vec![PromptPart::Visual(visual.clone()), PromptPart::Ids(vec![i; 5])];
    let alone: Vec<_> = (0..6).map(|i| generate(&model, prompt(i), 5, plenty())).collect();
    for at in [0, 1, 3, 7, 11, 13] {
        for budget in [7, 16, 1000] {
            let done: Vec<_> = (0..6).map(|_| RefCell::new(None)).collect();
            let config = EngineConfig {
                chunk: 20,
                chunk_beside_answers: 9,
                ..EngineConfig::with_kv_bytes(pages(&model, budget))
            };
            let mut engine = Engine::new(&model, None, config).unwrap();
            let ids: Vec<_> = (0..).zip(&done).map(|(i, done)| engine.submit(request(prompt(i), 5, done))).collect();
            for _ in 0..at {
                engine.step();
            }
            engine.cancel(ids[0]);
            for _ in 0..at {
                engine.step();
            }
            engine.cancel(ids[1]);
            engine.run(&Stop::new());
            assert_eq!(engine.kv_bytes(), 0);
            drop(engine);
            for (i, done) in done.into_iter().enumerate() {
                match done.into_inner().unwrap() {
                    Ok(done) => assert_eq!(done.ids, alone[i]),
                    Err(error) => assert!(i < 2 && error.kind() == Kind::Stopped),
                }
            }
        }
    }
}

#[test]
fn seeds_draw_the_same_with_little_memory() {
    let model = model(&config(RopeScaling::None), None);
    let hot = |seed| Decoding { temperature: 1.2, top_k: Some(20), top_p: Some(0.9), seed, ..Decoding::default() };
    let run = |seeds: &[u64], n_pages: usize| -> (Vec<Vec<u32>>, u64) {
        let done: Vec<_> = seeds.iter().map(|_| RefCell::new(None)).collect();
        let mut engine = Engine::new(&model, None, EngineConfig::with_kv_bytes(pages(&model, n_pages))).unwrap();
        for (seed, done) in seeds.iter().zip(&done) {
            let asked = request(vec![PromptPart::Ids(vec![4; 50])], 90, done);
            engine.submit(Request { decoding: hot(*seed), ..asked });
        }
        engine.run(&Stop::new());
        let preemptions = engine.stats().preemptions;
        drop(engine);
        (done.into_iter().map(|done| done.into_inner().unwrap().unwrap().ids).collect(), preemptions)
    };
    let seeds: Vec<u64> = (0..8).collect();
    let (alone, _) = run(&seeds, 1000);
    for n_pages in [5, 6, 7, 12] {
        let (ids, preemptions) = run(&seeds, n_pages);
        assert_eq!(ids, alone, "{n_pages}: {preemptions} preemptions");
    }
}

#[test]
fn the_end_of_a_prefix_is_evicted_before_its_beginning() {
    let model = model(&config(RopeScaling::None), None);
    let mut draw = Draw::new(2);
    let (first, second) = (words(&mut draw, 10 * PAGE_LEN + 1), words(&mut draw, 3 * PAGE_LEN));
    let mut engine = Engine::new(&model, None, EngineConfig::with_kv_bytes(pages(&model, 11))).unwrap();
    for prompt in [&first, &second, &first] {
        engine.submit(sink(vec![PromptPart::Ids(prompt.clone())], 1));
        engine.run(&Stop::new());
    }
    // The second prompt took three of eleven pages: one that was free, two that ended the first prompt.
    assert_eq!(engine.stats().prefix_hits, 8 * PAGE_LEN as u64);
}

#[test]
fn requests_are_admitted_when_they_come_while_there_are_places_and_pages() {
    let model = model(&config(RopeScaling::None), None);
    let config = EngineConfig { max_sequences: 3, ..EngineConfig::with_kv_bytes(pages(&model, 8)) };
    let mut engine = Engine::new(&model, None, config).unwrap();
    let mut submit = |i: u32| {
        engine.submit(sink(vec![PromptPart::Ids(vec![i; 40])], 2));
        (engine.n_running(), engine.n_waiting())
    };
    assert_eq!([0, 1, 2, 3].map(&mut submit), [(1, 0), (2, 0), (3, 0), (3, 1)]);
    engine.step();
    assert_eq!(engine.stats().sequence_steps, 3, "all three are read in the first step");
}

#[test]
fn a_budget_below_a_page_is_refused_with_both_sizes() {
    let model = model(&config(RopeScaling::None), None);
    let page = pages(&model, 1);
    let error = Engine::new(&model, None, EngineConfig::with_kv_bytes(page - 1)).err().unwrap().to_string();
    assert!(error.starts_with(&format!("{} bytes of key-value memory are less than the {page} bytes", page - 1)));
    assert_eq!(Engine::new(&model, None, EngineConfig::with_kv_bytes(page)).unwrap().stats().kv_budget_bytes, page);
}

/// The text of a request, as its listener hears it piece by piece and as a whole.
#[derive(Debug, Default, Clone, PartialEq)]
struct HeardText {
    pieces: String,
    whole: String,
}

/// Answers prompts together, of which each may have a stop string.
fn texts(model: &Llama, tokenizer: &Tokenizer, asked: &[(u32, Option<String>)]) -> Vec<HeardText> {
    let heard: Vec<_> = asked.iter().map(|_| RefCell::new(HeardText::default())).collect();
    let mut engine = Engine::new(model, Some(tokenizer), plenty()).unwrap();
    for ((i, stop), heard) in asked.iter().zip(&heard) {
        let listener = |event: RequestEvent<'_>| {
            let mut heard = heard.borrow_mut();
            match event {
                RequestEvent::Token { text, .. } => heard.pieces.push_str(text),
                RequestEvent::Done(outcome) => {
                    let Completion { text, rest, .. } = outcome.unwrap();
                    heard.pieces.push_str(&rest);
                    heard.whole = text;
                }
            }
            ControlFlow::Continue(())
        };
        let stop = StopRules { strings: stop.iter().cloned().collect(), ..StopRules::default() };
        engine.submit(Request { stop, listener: Box::new(listener), ..sink(vec![PromptPart::Ids(vec![*i; 40])], 50) });
    }
    engine.run(&Stop::new());
    drop(engine);
    heard.into_iter().map(RefCell::into_inner).collect()
}

#[test]
fn texts_and_stop_strings_are_each_request_s_own() {
    let model = model(&LlamaConfig { vocab_size: 512, ..config(RopeScaling::None) }, None);
    let tokenizer = Tokenizer::open(&repository("samples/mini"), PromptConvention::Llava).unwrap();
    let without: Vec<_> = (0..8).map(|i| texts(&model, &tokenizer, &[(i, None)]).remove(0)).collect();
    // Three characters from the middle of each answer, which lie across tokens in some.
    let middle = |text: &str| text.chars().skip(text.chars().count() / 2).take(3).collect::<String>();
    let stops: Vec<String> = without.iter().map(|heard| middle(&heard.whole)).collect();
    let asked: Vec<_> = (0..8).flat_map(|i| [(i, None), (i, Some(stops[i as usize].clone()))]).collect();
    for ((i, stop), heard) in asked.iter().zip(texts(&model, &tokenizer, &asked)) {
        let whole = &without[*i as usize].whole;
        let expected = stop.as_ref().map_or(whole.as_str(), |stop| whole.split(stop.as_str()).next().unwrap().trim());
        assert_eq!((heard.whole.as_str(), heard.pieces.as_str()), (expected, expected), "{i}: {stop:?}");
    }
}

/// A tokenizer whose decoder panics at a token of this text alone: it strips the text from both sides.
fn panicking_tokenizer(text: &str) -> Tokenizer {
    let mut file = json(&repository("samples/mini/tokenizer.json"));
    file["decoder"] = serde_json::json!({ "type": "Strip", "content": text, "start": 1, "stop": 1 });
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
    Tokenizer::open(dir.path(), PromptConvention::Llava).unwrap()
}

#[test]
fn a_tokenizer_that_panics_fails_one_request_alone() {
    let config = LlamaConfig { vocab_size: 512, ..config(RopeScaling::None) };
    let model = model(&config, None);
    let prompt = |i: u32| vec![PromptPart::Ids(vec![i; 40])];
    let alone: Vec<_> = (0..12).map(|i| generate(&model, prompt(i), 12, plenty())).collect();
    let whole = Tokenizer::open(&repository("samples/mini"), PromptConvention::Llava).unwrap();
    // A token of one character which one answer has and another has not.
    let character = |id: &u32| whole.piece(*id).filter(|piece| piece.chars().count() == 1);
    let (bad, text) = (0..12).find_map(|i| Some((i, alone[i].iter().find_map(character)?))).unwrap();
    let good = (0..12).find(|i| alone[*i].iter().all(|id| whole.piece(*id).as_ref() != Some(&text))).unwrap();
    let tokenizer = panicking_tokenizer(&text);
    let (failed, done) = (RefCell::new(None), RefCell::new(None));
    let mut engine = Engine::new(&model, Some(&tokenizer), plenty()).unwrap();
    engine.submit(request(prompt(bad as u32), 12, &failed));
    engine.submit(request(prompt(good as u32), 12, &done));
    engine.run(&Stop::new());
    assert_eq!(engine.kv_bytes(), 0);
    drop(engine);
    let error = failed.take().unwrap().unwrap_err();
    assert!(error.kind() == Kind::Defect, "{error}");
    assert_eq!(done.take().unwrap().unwrap().ids, alone[good]);
}
