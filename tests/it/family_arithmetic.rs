//! Tiny models of each family, built by the test from shapes: visual tokens and logits equal transformers'.
//! `tests/golden/make_families.py` builds the same models and computes the expected values.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use tempfile::TempDir;
use vidense::connector::ConnectorKind;
use vidense::temporal::{OneVision, Temporal};
use vidense::vlm::{Blueprint, Overrides, Placement, VideoPath, Vlm};
use vidense::weights::Hub;

use crate::harness::{assert_close, every, json, last_logits, repository};

const TOLERANCE: f32 = 1e-3;

fn expected() -> Value {
    json(&repository("tests/golden/families.json"))
}

/// Element j, row-major, is `s = sin(0.37 j^2 + 1.7 j + the sum of the name's bytes mod 100)`, scaled: the same as in
/// make_families.py.
fn value(name: &str, shape: &[usize]) -> Tensor {
    let phase = f64::from(name.bytes().map(u32::from).sum::<u32>() % 100);
    let n: usize = shape.iter().product();
    let fan_in: usize = shape.iter().skip(1).product();
    let scaled = |s: f64| match shape.len() {
        1 if name.ends_with("weight") || name.contains("lambda") => 1.0 + 0.2 * s,
        1 => 0.1 * s,
        _ if name.contains("embed_tokens") || name == "pixels" => s,
        _ => s * (2.0 / fan_in as f64).sqrt(),
    };
    let element = |j: f64| scaled((0.37 * j * j + 1.7 * j + phase).sin()) as f32;
    Tensor::from_iter((0..n).map(|j| element(j as f64)), &Device::Cpu).unwrap().reshape(shape).unwrap()
}

/// Writes a case's checkpoint, with the tokenizer of another tiny one.
fn checkpoint(case: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let base = repository("tests/golden/checkpoints/hf-4");
    std::fs::copy(base.join("tokenizer.model"), dir.path().join("tokenizer.model")).unwrap();
    std::fs::write(dir.path().join("config.json"), case["config"].to_string()).unwrap();
    std::fs::write(dir.path().join("generation_config.json"), json!({"eos_token_id": 2}).to_string()).unwrap();
    let shape = |shape: &Value| serde_json::from_value::<Vec<usize>>(shape.clone()).unwrap();
    let shapes = case["shapes"].as_object().unwrap();
    let tensors = shapes.iter().map(|(name, dims)| (name.clone(), value(name, &shape(dims)))).collect();
    candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
    dir
}

fn open(dir: &Path, overrides: &Overrides) -> Result<Vlm, String> {
    let blueprint = Blueprint::read(dir.to_str().unwrap(), overrides, &Hub::offline(None));
    let vlm = blueprint.and_then(|blueprint| Vlm::load(blueprint, &Placement::cpu(), &(Arc::new(|_| {}) as _)));
    vlm.map_err(|error| error.to_string().replace(dir.to_str().unwrap(), "model"))
}

fn matrix(rows: &Value) -> Tensor {
    Tensor::new(serde_json::from_value::<Vec<Vec<f32>>>(rows.clone()).unwrap(), &Device::Cpu).unwrap()
}

fn embed(vlm: &Vlm, ids: &Value) -> Tensor {
    vlm.language().embed(&serde_json::from_value::<Vec<u32>>(ids.clone()).unwrap()).unwrap()
}

#[test]
fn every_family_computes_what_transformers_does() {
    let expected = expected();
    for (name, case) in expected["cases"].as_object().unwrap() {
        let dir = checkpoint(case);
        let vlm = open(dir.path(), &Overrides::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        // Pixels are given: a processor file would be another family's for most cases.
        let is_default =
            |warning: &String| warning.contains("no processor_config.json and no preprocessor_config.json");
        assert!(vlm.warnings().iter().all(is_default), "{name}: {:?}", vlm.warnings());
        let side = case["image_size"].as_u64().unwrap() as usize;
        let pixels = value("pixels", &[2, 3, side, side]);
        let temporal = match vlm.video_path() {
            VideoPath::OneVision => Temporal::OneVision(OneVision::default()),
            _ => Temporal::Concat,
        };
        let mut fold = temporal.begin_with(vlm.frame_tokens(), vlm.newline().cloned());
        fold.push(&vlm.project(&vlm.fuse(&pixels).unwrap()).unwrap()).unwrap();
        let visual = fold.finish().unwrap();
        assert_eq!(visual.dim(0).unwrap() as u64, case["n_visual"].as_u64().unwrap(), "{name}");
        assert_eq!(temporal.n_tokens(2, vlm.frame_tokens()).0, visual.dim(0).unwrap(), "{name}");
        assert_close(&format!("{name}: projected"), &every(&visual, 0, 3), &matrix(&case["projected"]), TOLERANCE);
        let prompt = [embed(&vlm, &expected["before"]), visual, embed(&vlm, &expected["after"])];
        let logits = every(&last_logits(vlm.language(), &Tensor::cat(&prompt, 0).unwrap(), 16), 0, 4);
        let wanted = Tensor::new(serde_json::from_value::<Vec<f32>>(case["logits"].clone()).unwrap(), &Device::Cpu);
        assert_close(&format!("{name}: logits"), &logits, &wanted.unwrap(), TOLERANCE);
    }
}

#[test]
fn connectors_that_keep_the_width_run_without_training_and_others_are_refused() {
    let expected = expected();
    let dir = checkpoint(&expected["cases"]["smolvlm"]);
    let with = |connector| Overrides { connector: Some(connector), ..Overrides::default() };
    let vlm = open(dir.path(), &with(ConnectorKind::Sti)).unwrap();
    // 8 x 8 patches are 4 tokens of 4 x 4; STI pools the 4 tokens of two earlier states by 8, which leaves none.
    assert_eq!(vlm.frame_tokens().count, 4);
    let fused = vlm.fuse(&value("pixels", &[1, 3, 32, 32])).unwrap();
    assert_eq!(vlm.project(&fused).unwrap().dims(), [1, 4, 32]);
    let blueprint = |kind| Blueprint::read(dir.path().to_str().unwrap(), &with(kind), &Hub::offline(None)).unwrap();
    assert_eq!(blueprint(ConnectorKind::Sti).connector_misfit(), None);
    for kind in [ConnectorKind::Sci, ConnectorKind::Dci] {
        let misfit = blueprint(kind).connector_misfit().unwrap();
        assert!(misfit.starts_with(&format!("{kind} makes tokens of 768 channels")), "{misfit}");
        assert!(misfit.contains("projector takes 256"), "{misfit}");
    }
}

#[test]
fn families_say_what_they_cannot_do() {
    let expected = expected();
    let cases = &expected["cases"];
    for (name, change, message) in [
        (
            "smolvlm",
            json!({"scale_factor": 3}),
            "squares of 3 x 3 patches become one token, but the patch grid is 8 x 8",
        ),
        (
            "smolvlm",
            json!({"vision_config": {"model_type": "clip_vision_model"}}),
            "the tower of this family is SigLIP",
        ),
        ("smolvlm", json!({"text_config": {"model_type": "gemma"}}), "supported here are the language models llama"),
        ("smolvlm", json!({"text_config": {"qk_layer_norms": true}}), "qk_layer_norms: true"),
        ("internvl", json!({"downsample_ratio": 0.3}), "expected 1 divided by a whole number"),
        ("internvl", json!({"vision_config": {"norm_type": "rms_norm"}}), "only layer_norm is supported"),
        ("internvl", json!({"vision_config": {"use_qk_norm": true}}), "only false is supported"),
        (
            "internvl",
            json!({"text_config": {"use_sliding_window": true, "max_window_layers": 1, "sliding_window": 8, "layer_types": null}}),
            "layers 1 to 1 have a window",
        ),
        ("llava_onevision", json!({"scale_factor": 2}), "scale_factor: 2"),
    ] {
        let mut case = cases[name].clone();
        for (key, value) in change.as_object().unwrap() {
            match value.as_object() {
                Some(keys) => keys.iter().for_each(|(inner, value)| case["config"][key][inner] = value.clone()),
                None => case["config"][key] = value.clone(),
            }
        }
        let dir = checkpoint(&case);
        let error = open(dir.path(), &Overrides::default()).map(drop).expect_err(message);
        assert!(error.contains(message), "{name}: {error}");
    }
}
