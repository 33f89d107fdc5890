//! Placement of a model: vision encoder and language model on different devices and in different precisions.

use std::process::{Command, Output};

use candle_core::DType;
use serde_json::Value;
use vidense::device::DTypeSpec;
use vidense::pipeline::{LoadedModel, encode_video, open};
use vidense::spec::{Plan, VisionPlan};

use crate::harness::{self, relative_difference, repository};

const QUESTION: &str = "How many objects are there?";

fn plan(dtype: &str, vision: VisionPlan) -> Plan {
    let spec = |text: &str| text.parse::<DTypeSpec>().unwrap();
    Plan { device: "cpu".parse().unwrap(), dtype: spec(dtype), vision, ..Plan::default() }
}

fn vision(device: Option<&str>, dtype: Option<&str>) -> VisionPlan {
    VisionPlan { device: device.map(|text| text.parse().unwrap()), dtype: dtype.map(|text| text.parse().unwrap()) }
}

fn encode(model: &LoadedModel) -> vidense::pipeline::EncodedVideo {
    encode_video(&model.vlm, &repository("samples/three_shapes.mp4"), &model.plan, &|_| {}).unwrap()
}

fn ask(model: &LoadedModel) -> Vec<u32> {
    harness::ask(model.asking(), &encode(model), QUESTION).unwrap().token_ids
}

fn vidense(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vidense"));
    command.current_dir(repository("")).env("HF_HUB_OFFLINE", "1").args(arguments).output().unwrap()
}

#[test]
fn the_vision_encoder_has_a_precision_of_its_own_and_its_tokens_are_moved_to_the_language_models() {
    let same = open(plan("f32", VisionPlan::default())).unwrap();
    let mixed = open(plan("f32", vision(Some("cpu"), Some("bf16")))).unwrap();
    assert_eq!((mixed.vlm.dtype(), mixed.vlm.vision_dtype()), (DType::F32, DType::BF16));
    assert_eq!(same.arithmetic(), "f32 on cpu");
    assert_eq!(mixed.arithmetic(), "f32 on cpu, vision bf16 on cpu");
    let (full, rounded) = (encode(&same).visual, encode(&mixed).visual);
    assert_eq!((full.dtype(), rounded.dtype()), (DType::F32, DType::F32));
    // Computed in bf16, then moved: close to those in f32, and other ones.
    let difference = relative_difference(&rounded, &full);
    assert!(difference > 1e-4 && difference < 0.1, "{difference}");
    assert_eq!(ask(&mixed), ask(&same));
}

#[test]
fn a_language_model_in_half_precision_takes_a_vision_encoder_in_f32() {
    let model = open(plan("bf16", vision(None, Some("f32")))).unwrap();
    assert_eq!((model.vlm.dtype(), model.vlm.vision_dtype()), (DType::BF16, DType::F32));
    assert_eq!(encode(&model).visual.dtype(), DType::BF16);
    assert_eq!(model.arithmetic(), "bf16 on cpu, vision f32 on cpu");
    assert_eq!(ask(&model), ask(&open(plan("f32", VisionPlan::default())).unwrap()));
}

#[test]
fn the_same_place_named_twice_is_one() {
    let named = open(plan("f32", vision(Some("cpu"), Some("f32")))).unwrap();
    assert_eq!(named.arithmetic(), "f32 on cpu");
    assert_eq!(ask(&named), ask(&open(plan("f32", VisionPlan::default())).unwrap()));
}

#[test]
fn flags_and_pipelines_name_the_places_and_json_tells_them() {
    let video = "samples/three_shapes.mp4";
    let ask = ["ask", video, QUESTION, "--device", "cpu", "--json", "--vision-device", "cpu", "--vision-dtype", "bf16"];
    let run = [
        "run",
        "pipelines/mini.yaml",
        video,
        "-q",
        QUESTION,
        "--json",
        "--set",
        "device=cpu",
        "--set",
        "vision.dtype=bf16",
    ];
    for arguments in [&ask[..], &run[..]] {
        let output = vidense(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(object["arithmetic"], "f32 on cpu, vision bf16 on cpu");
    }
    let output = vidense(&["inspect", "pipelines/mini.yaml", "--set", "device=cpu", "--set", "vision.dtype=bf16"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("vision:\n  dtype: bf16\n"), "{text}");
    assert!(text.contains("# device      cpu, vision cpu"), "{text}");
    let output = vidense(&["run", "pipelines/mini.yaml", video, "-q", QUESTION, "--set", "vision.device=gpu"]);
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(2) && words.contains("vision.device") && words.contains("hint: auto, cpu"),
        "{words}"
    );
}

#[test]
fn batches_that_wait_for_more_images_change_no_answer() {
    let video = "samples/three_shapes.mp4";
    let ids = |sets: &[&str]| {
        let base = ["run", "pipelines/mini.yaml", video, video, "-q", QUESTION, "--json", "--set", "device=cpu"];
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        let output = vidense(&base.into_iter().chain(sets).collect::<Vec<_>>());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).unwrap();
        let ids = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["token_ids"].clone());
        ids.collect::<Vec<_>>()
    };
    let plain = ids(&[]);
    assert_eq!(plain.len(), 2);
    assert_eq!(ids(&["exec.encode_batch=5", "exec.encode_wait_ms=50", "exec.sequences=1"]), plain);
}
