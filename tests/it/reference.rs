//! Results of the released Dense Connector code, stage by stage, and its generated ids.
//!
//! The reference is beside the repository; if it is absent, these tests say so and pass.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Tensor;
use vidense::pipeline::{Asking, encode_video};
use vidense::spec::{GeneratePlan, Plan};
use vidense::temporal::Temporal;
use vidense::text::{Conversation, Template};
use vidense::video::Sample;
use vidense::vlm::{Blueprint, FrameRows, Overrides, Placement, PromptIds, Vlm};
use vidense::weights::Hub;

use crate::harness::{ask, assert_close, every, ids, json, largest, last_logits, repository, shared, tensors};

const CASES: [(&str, Temporal); 5] = [
    ("clip-none", Temporal::Concat),
    ("clip-sti", Temporal::D2),
    ("clip-sci", Temporal::Concat),
    ("clip-dci", Temporal::D2),
    ("siglip-dci", Temporal::D2),
];
/// Of a stage that starts from the same pixels.
const TOLERANCE: f32 = 1e-3;
/// A reference case, loaded.
struct Case {
    dir: PathBuf,
    vlm: Vlm,
    expected: serde_json::Value,
}

fn load(reference: &Path, name: &str) -> Case {
    let dir = reference.join(name);
    let towers = reference.join("towers");
    let hub = Hub::offline(Some(towers));
    let blueprint = Blueprint::read(dir.to_str().unwrap(), &Overrides::default(), &hub).unwrap();
    let vlm = Vlm::load(blueprint, &Placement::cpu(), &(Arc::new(|_| {}) as _)).unwrap();
    let expected = json(&dir.join("expected.json"));
    Case { dir, vlm, expected }
}

fn png(path: &Path) -> image::RgbImage {
    image::open(path).unwrap().into_rgb8()
}

/// The fused tokens and the hidden states of one frame.
fn encode(vlm: &Vlm, pixels: &Tensor) -> (Tensor, Tensor) {
    let mut states = Vec::new();
    let visit = &mut |_, state: &Tensor| {
        states.push(every(state, 1, 29));
        Ok(ControlFlow::Continue(()))
    };
    vlm.tower().hidden_states(pixels, visit).unwrap();
    (vlm.fuse(pixels).unwrap(), Tensor::cat(&states, 0).unwrap())
}

#[test]
#[ignore = "slow"]
fn every_stage_agrees_with_the_released_code() {
    let Some(reference) = shared("reference") else { return };
    for (name, temporal) in CASES {
        let Case { dir, vlm, expected } = load(&reference, name);
        let tensor = tensors(&dir.join("expected.safetensors"));

        // Our own pixels: every level is Pillow's.
        let own = vlm.prepare(png(&dir.join("frames/000.png"))).unwrap();
        let theirs = tensor["pixel_values.frame0"].unsqueeze(0).unwrap();
        let difference = largest(&(own - &theirs).unwrap());
        assert!(difference <= 1e-5, "{name}: pixels differ by {difference}");

        // From their pixels, every hidden state that runs, and the connector.
        let (fused, states) = encode(&vlm, &theirs);
        let expected_states = tensor["hidden_states.frame0"].narrow(0, 0, states.dim(0).unwrap()).unwrap();
        assert_close(&format!("{name} hidden states"), &states, &expected_states, TOLERANCE);
        let sample = every(&fused.squeeze(0).unwrap(), 0, 5);
        assert_close(&format!("{name} fused"), &sample, &tensor["fused.frame0.sample"], TOLERANCE);

        // All frames, from our pixels.
        let plan = Plan { sample: Some(Sample::All), temporal: Some(temporal), ..Plan::default() };
        let video = encode_video(&vlm, &dir.join("frames"), &plan, &|_| {}).unwrap();
        assert_eq!(video.visual.dim(0).unwrap() as u64, expected["n_visual_tokens"].as_u64().unwrap());
        let aggregated = every(&video.visual, 0, 13);
        assert_close(&format!("{name} aggregated"), &aggregated, &tensor["aggregated.sample"], TOLERANCE);
        let last = vlm.prepare(png(&dir.join(format!("frames/{:03}.png", video.frames.len() - 1)))).unwrap();
        let last = vlm.project(&vlm.fuse(&last).unwrap()).unwrap();
        let last = every(&last.squeeze(0).unwrap(), 0, 5);
        assert_close(&format!("{name} projected"), &last, &tensor["projected.frame_last.sample"], TOLERANCE);

        // The prompt, and what the reference's language model was given and answered.
        let prompt = prompt_ids(&vlm, &expected);
        let mut all = prompt.before_visual().to_vec();
        all.push(-200i32 as u32);
        all.extend(prompt.after_visual());
        assert_eq!(all, ids(&expected["input_ids"]), "{name}");
        let first_frame = vlm.project(&fused).unwrap().squeeze(0).unwrap();
        let embeds = vlm.splice(&prompt, &first_frame, FrameRows::together(first_frame.dim(0).unwrap())).unwrap();
        assert_close(&format!("{name} spliced"), &every(&embeds, 0, 11), &tensor["inputs_embeds.sample"], TOLERANCE);
        let logits = last_logits(vlm.language(), &embeds, 256);
        assert_close(&format!("{name} logits"), &logits, &tensor["logits.last"], TOLERANCE);
    }
}

/// The ids of an answer to a case's question about some frames.
fn generated(case: &Case, frames: &Path, temporal: Temporal) -> Vec<u32> {
    let generate = GeneratePlan { max_new_tokens: 24, ..GeneratePlan::default() };
    let plan = Plan { sample: Some(Sample::All), temporal: Some(temporal), generate, ..Plan::default() };
    let video = encode_video(&case.vlm, frames, &plan, &|_| {}).unwrap();
    let asking = Asking { vlm: &case.vlm, template: &Template::VicunaV1, plan: &plan };
    ask(asking, &video, case.expected["question"].as_str().unwrap()).unwrap().token_ids
}

/// The reference's `inputs_embeds.sample` shows that its language model was given the first frame alone, not pooled, in
/// every case, although `aggregated.sample` and `n_visual_tokens` are those of all frames. So its ids are compared for
/// what made them, and those over all frames with PyTorch's (`tests/golden/make_reference.py`).
#[test]
#[ignore = "slow"]
fn generated_ids_are_those_of_the_reference_and_of_pytorch() {
    let Some(reference) = shared("reference") else { return };
    let all_frames = json(&repository("tests/golden/reference.json"));
    for (name, temporal) in CASES {
        let case = load(&reference, name);
        let first_frame = tempfile::tempdir().unwrap();
        std::fs::copy(case.dir.join("frames/000.png"), first_frame.path().join("000.png")).unwrap();
        let from_one = generated(&case, first_frame.path(), Temporal::Concat);
        assert_eq!(from_one, ids(&case.expected["generated_ids"]), "{name}, first frame");
        let from_all = generated(&case, &case.dir.join("frames"), temporal);
        assert_eq!(from_all, ids(&all_frames[name]["ids"]), "{name}, all frames");
    }
}

fn prompt_ids(vlm: &Vlm, expected: &serde_json::Value) -> PromptIds {
    let prompt = Conversation::new(Template::VicunaV1, None).ask(expected["question"].as_str().unwrap()).unwrap();
    PromptIds::encode(&prompt, vlm.tokenizer()).unwrap()
}
