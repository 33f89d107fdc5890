//! One model in every layout that released checkpoints have: all load, and all answer as transformers does.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use vidense::exec::Stop;
use vidense::language::{Branch, FinishReason, SamplingConfig};
use vidense::pipeline::{Asking, Dialogue, EncodedVideo, Limits, Turns, encode_video};
use vidense::spec::{GeneratePlan, Plan};
use vidense::temporal::Temporal;
use vidense::text::Template;
use vidense::units::Tokens;
use vidense::video::Sample;
use vidense::vlm::{Blueprint, Overrides, Placement, Vlm};
use vidense::weights::Hub;

use crate::harness::{ids, json, repository};

const LAYOUTS: [&str; 5] = ["llava-sharded", "llava-bin", "llava-bin-sharded", "hf-4", "hf-5"];

fn load(layout: &str) -> Vlm {
    let dir = repository("tests/golden/checkpoints").join(layout);
    let blueprint = Blueprint::read(dir.to_str().unwrap(), &Overrides::default(), &Hub::offline(None)).unwrap();
    Vlm::load(blueprint, &Placement::cpu(), &(Arc::new(|_| {}) as _)).unwrap()
}

fn encode(vlm: &Vlm) -> EncodedVideo {
    let plan = Plan { sample: Sample::All, temporal: Temporal::Concat, ..Plan::default() };
    encode_video(vlm, &repository("tests/golden/checkpoints/frames"), &plan, &|_| {}).unwrap()
}

fn dialogue<'a>(vlm: &'a Vlm, video: &'a EncodedVideo, max_new_tokens: usize, turns: Turns) -> Dialogue<'a> {
    let generate = GeneratePlan { max_new_tokens, ..GeneratePlan::default() };
    // A test's plan may live as long as the test.
    let plan = Box::leak(Box::new(Plan { generate, ..Plan::default() }));
    Dialogue::new(Asking { vlm, template: &Template::VicunaV1, plan }, video, turns)
}

#[test]
fn every_layout_loads_and_answers_as_transformers_does() {
    let expected = json(&repository("tests/golden/checkpoints/expected.json"));
    for layout in LAYOUTS {
        let vlm = load(layout);
        assert_eq!(vlm.warnings(), [""; 0], "{layout}");
        let template = if layout.starts_with("hf") { Template::LlavaHf } else { Template::VicunaV1 };
        assert_eq!(vlm.template(), &template, "{layout}");
        let video = encode(&vlm);
        for case in expected["answers"].as_array().unwrap() {
            let question = case["question"].as_str().unwrap();
            let answer = dialogue(&vlm, &video, 16, Turns::One).ask(question, &mut |_| {}).unwrap();
            assert_eq!(answer.token_ids, ids(&case["ids"]), "{layout}: {question}");
            assert_eq!(answer.prompt_tokens.0 as u64, case["n_text"].as_u64().unwrap());
            assert_eq!(answer.visual_tokens.0 as u64, case["n_visual"].as_u64().unwrap());
        }
    }
}

#[test]
fn a_second_turn_computes_its_own_words_only() {
    let vlm = load("llava-sharded");
    let video = encode(&vlm);
    let mut chat = dialogue(&vlm, &video, 8, Turns::Many);
    let first = chat.ask("What is happening?", &mut |_| {}).unwrap();
    assert_eq!(first.reused, Tokens(0));
    let second = chat.ask("Why?", &mut |_| {}).unwrap();
    // The whole first prompt is kept: its text, the video, and whatever of the answer is spelled the same again.
    assert!(second.reused.0 >= first.prompt_tokens.0 + first.visual_tokens.0, "{second:?}");

    // A dialogue that is given the first turn as history computes everything, and says the same.
    let mut fresh = dialogue(&vlm, &video, 8, Turns::One);
    fresh.ask("What is happening?", &mut |_| {}).unwrap();
    let again = fresh.ask("Why?", &mut |_| {}).unwrap();
    assert_eq!(again.reused, Tokens(0));
    assert_eq!((again.token_ids, again.text), (second.token_ids, second.text));
}

#[test]
fn a_chat_that_outgrows_the_context_goes_on_with_what_fits() {
    let vlm = load("hf-4");
    let video = encode(&vlm);
    let mut chat = dialogue(&vlm, &video, 4, Turns::Many);
    let first = chat.ask("Why?", &mut |_| {}).unwrap();
    let error = chat.ask(&"what ".repeat(600), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("over the model's context of 512; hint: shorten the question"), "{error}");
    // The question that did not fit is forgotten.
    let second = chat.ask("And now?", &mut |_| {}).unwrap();
    assert!(second.prompt_tokens.0 < first.prompt_tokens.0 + 60, "{second:?}");
    assert_eq!(second.finish_reason, FinishReason::Length);
}

#[test]
fn an_answer_that_fills_the_context_says_so() {
    let vlm = load("hf-4");
    let video = encode(&vlm);
    let ask = |n, limit| dialogue(&vlm, &video, limit, Turns::One).ask(&"what ".repeat(n), &mut |_| {}).unwrap();
    let n_text = |n| ask(n, 1).prompt_tokens.0;
    // The longest question that still fits leaves room for a few tokens only.
    let word = n_text(20) - n_text(19);
    let longest = 20 + (511 - 48 - n_text(20)) / word;
    let answer = ask(longest, 100);
    let total = answer.prompt_tokens.0 + answer.visual_tokens.0 + answer.token_ids.len();
    assert_eq!((answer.finish_reason, answer.context_full, total), (FinishReason::Length, true, 512));
}

#[test]
fn the_streamed_pieces_are_the_answer() {
    let vlm = load("hf-5");
    let video = encode(&vlm);
    let mut pieces = String::new();
    let answer = dialogue(&vlm, &video, 24, Turns::One).ask("Why?", &mut |text| pieces.push_str(text)).unwrap();
    assert_eq!(pieces, answer.text);
}

#[test]
fn a_tower_named_by_hand_replaces_the_one_inside() {
    let dir = repository("tests/golden/checkpoints/llava-bin");
    let tower = repository("tests/golden/checkpoints/llava-sharded/tower");
    let blueprint =
        Blueprint::read(dir.to_str().unwrap(), &Overrides::tower(tower.to_str()), &Hub::offline(None)).unwrap();
    let vlm = Vlm::load(blueprint, &Placement::cpu(), &(Arc::new(|_| {}) as _)).unwrap();
    let expected = json(&repository("tests/golden/checkpoints/expected.json"));
    let video = encode(&vlm);
    let answer = dialogue(&vlm, &video, 16, Turns::One).ask("What is happening?", &mut |_| {}).unwrap();
    assert_eq!(answer.token_ids, ids(&expected["answers"][0]["ids"]));
}

#[test]
fn half_precision_answers_too() {
    for dtype in [DType::F16, DType::BF16] {
        let dir = repository("tests/golden/checkpoints/hf-4");
        let blueprint = Blueprint::read(dir.to_str().unwrap(), &Overrides::default(), &Hub::offline(None)).unwrap();
        let vlm = Vlm::load(blueprint, &Placement { dtype, ..Placement::cpu() }, &(Arc::new(|_| {}) as _)).unwrap();
        let video = encode(&vlm);
        assert_eq!(video.visual.dtype(), dtype);
        let answer = dialogue(&vlm, &video, 4, Turns::One).ask("Why?", &mut |_| {}).unwrap();
        assert!(!answer.token_ids.is_empty(), "{dtype:?}");
    }
}

#[test]
fn questions_that_are_asked_together_get_the_tokens_that_each_gets_alone() {
    for layout in ["llava-sharded", "hf-5"] {
        let vlm = load(layout);
        let video = encode(&vlm);
        // Of different lengths, more than are answered at once, and one that does not fit.
        let mut questions: Vec<String> = (0..40).map(|i| format!("{} number {i}?", "what ".repeat(i % 7))).collect();
        questions[11] = "what ".repeat(5000);
        for temperature in [0.0, 0.9] {
            let sampling = SamplingConfig { temperature: Some(temperature), ..SamplingConfig::default() };
            let plan = Plan { generate: GeneratePlan { max_new_tokens: 12, sampling }, ..Plan::default() };
            let asking = Asking { vlm: &vlm, template: &Template::VicunaV1, plan: &plan };
            let mut together = BTreeMap::new();
            asking.ask_each(&video, &questions, (&Limits::default(), &Stop::new()), &mut |place, answer| {
                assert!(together.insert(place, answer).is_none(), "{place} is told twice");
            });
            assert_eq!(together.len(), questions.len());
            let mut n_reused = 0;
            for (place, answer) in together {
                let alone = Dialogue::new(asking, &video, Turns::One).ask(&questions[place], &mut |_| {});
                match (answer, alone) {
                    (Ok(answer), Ok(alone)) => {
                        assert_eq!(answer.token_ids, alone.token_ids, "{layout}: {place}");
                        assert_eq!((&answer.text, answer.finish_reason), (&alone.text, alone.finish_reason));
                        assert_eq!(
                            (answer.prompt_tokens, answer.visual_tokens),
                            (alone.prompt_tokens, alone.visual_tokens)
                        );
                        n_reused += usize::from(answer.reused.0 >= answer.visual_tokens.0);
                    }
                    (Err(answer), Err(alone)) => assert_eq!((place, answer.to_string()), (11, alone.to_string())),
                    (answer, alone) => panic!("{place}: {answer:?} together, {alone:?} alone"),
                }
            }
            // All but the first.
            assert_eq!(n_reused, 38);
        }
    }
}

#[test]
fn branches_of_one_prefix_come_out_the_same_to_the_bit_whatever_is_beside_them() {
    let vlm = load("llava-sharded");
    let language = vlm.language();
    let prefix = language.embed(&[1, 5, 9, 7, 3]).unwrap();
    let words: [&[u32]; 3] = [&[4, 8], &[6], &[2, 9, 9, 4, 1, 7]];
    let bits = |hidden: &Tensor| -> Vec<Vec<u32>> {
        let rows = language.logits(hidden).unwrap().to_vec2::<f32>().unwrap();
        rows.into_iter().map(|row| row.into_iter().map(f32::to_bits).collect()).collect()
    };
    // Each alone, in a cache of its own: its words, then 70 times the same token, one by one.
    let alone: Vec<Vec<Vec<u32>>> = words
        .iter()
        .map(|words| {
            let mut cache = language.new_cache(100).unwrap();
            language.forward(&prefix, &mut cache).unwrap();
            let mut found = bits(&language.forward(&language.embed(words).unwrap(), &mut cache).unwrap());
            for _ in 0..70 {
                found.extend(bits(&language.forward(&language.embed(&[5]).unwrap(), &mut cache).unwrap()));
            }
            found
        })
        .collect();
    let mut cache = language.new_cache(100).unwrap();
    language.forward(&prefix, &mut cache).unwrap();
    let mut branches = [Branch::new(), Branch::new(), Branch::new()];
    let mut together = vec![Vec::new(); 3];
    let mut run = |ids: &[u32], counts: [usize; 3]| {
        let mut parts: Vec<(&mut Branch, usize)> = branches.iter_mut().zip(counts).collect();
        let hidden = language.forward_branches(&language.embed(ids).unwrap(), &mut parts, &mut cache).unwrap();
        let mut rows = bits(&hidden).into_iter();
        for (found, count) in together.iter_mut().zip(counts) {
            found.extend(rows.by_ref().take(count));
        }
    };
    run(&words.concat(), [2, 1, 6]);
    (0..70).for_each(|_| run(&[5, 5, 5], [1, 1, 1]));
    assert!(together == alone);
}
