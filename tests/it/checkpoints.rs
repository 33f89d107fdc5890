//! One model in every layout of released checkpoints: each loads, and answers like transformers.

use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::DType;
use vidense::engine::FinishReason;
use vidense::kernels::kv::PAGE_LEN;
use vidense::pipeline::{Asking, EncodedVideo, Limits, VideoChat, encode_video};
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
    let plan = Plan { sample: Some(Sample::All), temporal: Some(Temporal::Concat), ..Plan::default() };
    encode_video(vlm, &repository("tests/golden/checkpoints/frames"), &plan, &|_| {}).unwrap()
}

fn chat<'a>(vlm: &'a Vlm, video: &'a EncodedVideo, max_new_tokens: usize) -> VideoChat<'a> {
    let generate = GeneratePlan { max_new_tokens, ..GeneratePlan::default() };
    // A test's plan may live as long as the test.
    let plan = Box::leak(Box::new(Plan { generate, ..Plan::default() }));
    VideoChat::new(Asking { vlm, template: &Template::VicunaV1, plan }, video, &Limits::default()).unwrap()
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
            let answer = chat(&vlm, &video, 16).ask(question, &mut |_| ControlFlow::Continue(())).unwrap();
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
    let mut turns = chat(&vlm, &video, 8);
    let first = turns.ask("What is happening?", &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(first.reused, Tokens(0));
    let second = turns.ask("Why?", &mut |_| ControlFlow::Continue(())).unwrap();
    // The first prompt is kept but for its last page, which is not full.
    let first_prompt = first.prompt_tokens.0 + first.visual_tokens.0;
    assert!(second.reused.0 >= first_prompt / PAGE_LEN * PAGE_LEN, "{second:?}");
    // Nothing is kept of another video, though it is the same.
    let mut again = chat(&vlm, &video, 8);
    assert_eq!(again.ask("What is happening?", &mut |_| ControlFlow::Continue(())).unwrap().reused, Tokens(0));
    assert_eq!(again.ask("Why?", &mut |_| ControlFlow::Continue(())).unwrap().token_ids, second.token_ids);
}

#[test]
fn a_chat_that_outgrows_the_context_goes_on_with_what_fits() {
    let vlm = load("hf-4");
    let video = encode(&vlm);
    let mut turns = chat(&vlm, &video, 4);
    let first = turns.ask("Why?", &mut |_| ControlFlow::Continue(())).unwrap();
    let error = turns.ask(&"what ".repeat(600), &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(error.contains("over the model's context of 512; hint: shorten the question"), "{error}");
    // The question that did not fit is forgotten.
    let second = turns.ask("And now?", &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(second.prompt_tokens.0 < first.prompt_tokens.0 + 60, "{second:?}");
    assert_eq!(second.finish_reason, FinishReason::Length);
}

#[test]
fn an_answer_that_fills_the_context_says_so() {
    let vlm = load("hf-4");
    let video = encode(&vlm);
    let ask = |n, limit| chat(&vlm, &video, limit).ask(&"what ".repeat(n), &mut |_| ControlFlow::Continue(())).unwrap();
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
    let answer = chat(&vlm, &video, 24)
        .ask("Why?", &mut |text| {
            pieces.push_str(text);
            ControlFlow::Continue(())
        })
        .unwrap();
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
    let answer = chat(&vlm, &video, 16).ask("What is happening?", &mut |_| ControlFlow::Continue(())).unwrap();
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
        let answer = chat(&vlm, &video, 4).ask("Why?", &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(!answer.token_ids.is_empty(), "{dtype:?}");
    }
}
