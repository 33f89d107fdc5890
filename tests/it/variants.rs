//! Language models that differ from the tiny checkpoint in one key: each answers like transformers, or is refused by
//! name.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use vidense::pipeline::{Asking, EncodedVideo, encode_video};
use vidense::spec::{GeneratePlan, Plan};
use vidense::temporal::Temporal;
use vidense::text::Template;
use vidense::video::Sample;
use vidense::vlm::{Blueprint, Overrides, Placement, Unused, Vlm};
use vidense::weights::Hub;

use crate::harness::{ask, ids, json, repository, tensors};

const BASE: &str = "tests/golden/checkpoints/hf-4";
const QUESTION: &str = "What is happening?";
const LAYER: &str = "language_model.model.layers.0";

pub type Weights = HashMap<String, Tensor>;

pub fn base() -> (Value, Weights) {
    let weights = tensors(&repository(BASE).join("model.safetensors"));
    let weights = weights.into_iter().map(|(name, tensor)| (name, tensor.to_dtype(DType::F32).unwrap())).collect();
    (json(&repository(BASE).join("config.json")), weights)
}

pub fn merge(config: &mut Value, keys: &Value) {
    for (key, value) in keys.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
}

fn directory(config: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["preprocessor_config.json", "tokenizer.model"] {
        std::fs::copy(repository(BASE).join(name), dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

pub fn write(config: &Value, weights: &Weights) -> TempDir {
    let dir = directory(config);
    candle_core::safetensors::save(weights, dir.path().join("model.safetensors")).unwrap();
    dir
}

fn load_with(dir: &Path, unused: Unused) -> Result<Vlm, String> {
    let overrides = Overrides::default().with_unused(unused);
    let blueprint = Blueprint::read(dir.to_str().unwrap(), &overrides, &Hub::offline(None));
    let vlm = blueprint.and_then(|blueprint| Vlm::load(blueprint, &Placement::cpu(), &(Arc::new(|_| {}) as _)));
    vlm.map_err(|error| error.to_string().replace(dir.to_str().unwrap(), "model"))
}

pub fn load(dir: &Path) -> Result<Vlm, String> {
    load_with(dir, Unused::Refuse)
}

fn encode(vlm: &Vlm) -> EncodedVideo {
    let plan = Plan { sample: Some(Sample::All), temporal: Some(Temporal::Concat), ..Plan::default() };
    encode_video(vlm, &repository("tests/golden/checkpoints/frames"), &plan, &|_| {}).unwrap()
}

pub fn answer(vlm: &Vlm) -> Vec<u32> {
    let plan = Plan { generate: GeneratePlan { max_new_tokens: 16, ..GeneratePlan::default() }, ..Plan::default() };
    let asking = Asking { vlm, template: &Template::VicunaV1, plan: &plan };
    ask(asking, &encode(vlm), QUESTION).unwrap().token_ids
}

/// Element j is `0.3 sin(1.7 j + the sum of the name's bytes mod 100)`: the same as in make_variants.py.
pub fn added(name: &str, shape: &Value) -> Tensor {
    let shape: Vec<usize> = shape.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
    let phase = f64::from(name.bytes().map(u32::from).sum::<u32>() % 100);
    let values = (0..shape.iter().product()).map(|j: usize| (0.3 * (1.7 * j as f64 + phase).sin()) as f32);
    Tensor::from_iter(values, &Device::Cpu).unwrap().reshape(shape).unwrap()
}

#[test]
fn every_variant_answers_as_transformers_does() {
    let variants = json(&repository("tests/golden/variants.json"));
    let variants: &Map<String, Value> = variants.as_object().unwrap();
    assert!(variants.len() >= 20);
    for (name, variant) in variants {
        let (mut config, mut weights) = base();
        merge(&mut config, &variant["top"]);
        merge(&mut config["text_config"], &variant["text"]);
        for (name, shape) in variant["add"].as_object().into_iter().flatten() {
            weights.insert(name.clone(), added(name, shape));
        }
        for name in variant["remove"].as_array().into_iter().flatten() {
            weights.remove(name.as_str().unwrap()).unwrap();
        }
        let dir = write(&config, &weights);
        let vlm = load(dir.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(answer(&vlm), ids(&variant["ids"]), "{name}");
        assert_eq!(vlm.warnings().len(), usize::from(name == "tied_with_another_head"), "{name}: {:?}", vlm.warnings());
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (text, message) in [
        (json!({"hidden_act": "gelu"}), "text_config.hidden_act: \"gelu\" is not usable; only silu, also called swish"),
        (json!({"partial_rotary_factor": 0.5}), "text_config.partial_rotary_factor: 0.5 is not usable; only heads"),
        (
            json!({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}),
            "text_config.rope_scaling.rope_type: \"longrope\" is not usable; supported types are default, linear, dynamic",
        ),
        (json!({"rope_scaling": {"type": "su"}}), "text_config.rope_scaling.type: \"su\" is not usable;"),
        (
            json!({"rope_parameters": {"rope_type": "linear"}}),
            "text_config.rope_parameters.factor: nothing is not usable; this scaling needs it",
        ),
    ] {
        let (mut config, weights) = base();
        merge(&mut config["text_config"], &text);
        let error = load(write(&config, &weights).path()).err().unwrap_or_else(|| panic!("{text} is taken"));
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn unused_tensors_refuse_wherever_they_are_called() {
    for (name, spared) in [
        ("language_model.model.layers.0.mlp.gate_proj.bias", false),
        ("language_model.model.layers.0.self_attn.rotary_emb.inv_freq", true),
        ("language_model.model.layers.2.self_attn.rotary_emb.inv_freq", false),
        ("image_newline", true),
        ("language_model.image_newline", false),
        ("vision_tower.vision_model.embeddings.position_ids", true),
        ("vision_tower.vision_model.post_layernorm.weight", true),
        ("vision_tower.vision_model.encoder.layers.3.self_attn.q_proj.extra", true),
        ("vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.extra", false),
        ("vision_tower.vision_model.encoder.layers.4.mlp.fc1.weight", false),
        ("vision_tower.merger.weight", false),
        ("multi_modal_projector.linear_3.weight", false),
        ("text_model.logit_scale", false),
    ] {
        let (config, mut weights) = base();
        // The row is read, for the strategies that want it: it has the language model's width.
        let width = if name == "image_newline" { 32 } else { 3 };
        weights.insert(name.to_owned(), Tensor::zeros(width, DType::F32, &Device::Cpu).unwrap());
        let dir = write(&config, &weights);
        match load(dir.path()) {
            Ok(vlm) => assert!(spared && vlm.warnings().is_empty(), "{name}"),
            Err(error) => {
                let hint = "hint: --allow-unused loads the model without them";
                assert_eq!(error, format!("model: tensors that are not used (1): {name}; {hint}"));
                assert!(!spared, "{error}");
                let vlm = load_with(dir.path(), Unused::Allow).unwrap();
                let warning = format!("{}: tensors that are not used (1): {name}", dir.path().display());
                assert_eq!(vlm.warnings(), [warning]);
            }
        }
    }
}

/// A weight in FP8 and its scale, and the weight that both stand for.
struct Fp8 {
    stored: Tensor,
    scale: Tensor,
    full: Tensor,
}

impl Fp8 {
    /// Of `weight (rows, columns)`, scaled in blocks of `height x width`; `scale` makes the scales from their grid.
    fn new(weight: &Tensor, (height, width): (usize, usize), grid: &[usize]) -> Self {
        let (rows, columns) = weight.dims2().unwrap();
        let (down, across) = (rows.div_ceil(height), columns.div_ceil(width));
        let scale: Vec<f32> = (0..down * across).map(|i| 0.002 * (1.0 + (i % 7) as f32)).collect();
        let stored = (weight * 200.0).unwrap().to_dtype(DType::F8E4M3).unwrap();
        let values = stored.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
        let full = values.iter().enumerate().flat_map(|(i, row)| {
            let scale = &scale;
            row.iter().enumerate().map(move |(j, value)| value * scale[i / height * across + j / width])
        });
        let full: Vec<f32> = full.collect();
        Self {
            stored,
            scale: Tensor::from_vec(scale, grid, &Device::Cpu).unwrap(),
            full: Tensor::from_vec(full, (rows, columns), &Device::Cpu).unwrap(),
        }
    }
}

fn is_linear_of_language(name: &str) -> bool {
    name.contains("language_model.model.layers.") && name.ends_with("_proj.weight")
}

/// Asserts that the checkpoint with FP8 weights answers as the one with the weights that they stand for.
fn assert_fp8(
    quantization: &Value,
    scale_name: &str,
    block: (usize, usize),
    grid: impl Fn(usize, usize) -> Vec<usize>,
) {
    let (mut config, weights) = base();
    let (mut stored, mut full) = (weights.clone(), weights.clone());
    for (name, weight) in weights.iter().filter(|(name, _)| is_linear_of_language(name)) {
        let (rows, columns) = weight.dims2().unwrap();
        let block = (block.0.min(rows), block.1.min(columns));
        let grid = grid(rows.div_ceil(block.0), columns.div_ceil(block.1));
        let fp8 = Fp8::new(weight, block, &grid);
        let layer = name.strip_suffix(".weight").unwrap();
        stored.insert(name.clone(), fp8.stored);
        stored.insert(format!("{layer}.{scale_name}"), fp8.scale);
        stored.insert(format!("{layer}.input_scale"), Tensor::ones(1, DType::F32, &Device::Cpu).unwrap());
        full.insert(name.clone(), fp8.full);
    }
    let expected = answer(&load(write(&config, &full).path()).unwrap());
    let unscaled = write(&config, &stored);
    let error = load(unscaled.path()).err().unwrap();
    assert!(error.contains("_proj.weight is stored in FP8, and config.json has no quantization_config"), "{error}");
    config["quantization_config"] = quantization.clone();
    let vlm = load(write(&config, &stored).path()).unwrap_or_else(|error| panic!("{quantization}: {error}"));
    assert_eq!(answer(&vlm), expected, "{quantization}");
    assert_eq!(vlm.warnings(), [""; 0]);
    stored.remove(&format!("{LAYER}.mlp.up_proj.{scale_name}"));
    let error = load(write(&config, &stored).path()).err().unwrap();
    let missing = format!("its scales, {LAYER}.mlp.up_proj.{scale_name}, are missing");
    assert!(error.contains(&missing), "{error}");
}

fn compressed_tensors(weights: Value) -> Value {
    let mut described = json!({"num_bits": 8, "type": "float", "symmetric": true, "dynamic": false});
    merge(&mut described, &weights);
    json!({
        "quant_method": "compressed-tensors", "format": "float-quantized", "quantization_status": "compressed",
        "ignore": ["lm_head"], "config_groups": {"group_0": {"targets": ["Linear"], "weights": described}}
    })
}

#[test]
fn fp8_weights_are_multiplied_by_their_scales() {
    let whole = (usize::MAX, usize::MAX);
    assert_fp8(&json!({"quant_method": "fp8"}), "weight_scale_inv", (128, 128), |r, c| vec![r, c]);
    assert_fp8(
        &json!({"quant_method": "fp8", "weight_block_size": [20, 12], "activation_scheme": "dynamic"}),
        "weight_scale_inv",
        (20, 12),
        |r, c| vec![r, c],
    );
    assert_fp8(&json!({"quant_method": "fp8", "weight_block_size": null}), "weight_scale_inv", whole, |_, _| vec![]);
    assert_fp8(&compressed_tensors(json!({"strategy": "tensor"})), "weight_scale", whole, |_, _| vec![1]);
    let by_row = compressed_tensors(json!({"strategy": "channel"}));
    assert_fp8(&by_row, "weight_scale", (1, usize::MAX), |rows, _| vec![rows, 1]);
    let by_group = compressed_tensors(json!({"strategy": "group", "group_size": 16}));
    assert_fp8(&by_group, "weight_scale", (1, 16), |r, c| vec![r, c]);
    let by_block = compressed_tensors(json!({"strategy": "block", "block_structure": [16, 8]}));
    assert_fp8(&by_block, "weight_scale", (16, 8), |r, c| vec![r, c]);
}

#[test]
fn other_quantization_is_refused_by_its_method() {
    for method in ["gptq", "awq", "bitsandbytes", "hqq", "torchao", "mxfp4", "fbgemm_fp8", "modelopt"] {
        for place in ["/quantization_config", "/text_config/quantization_config", "/compression_config"] {
            let (mut config, weights) = base();
            let (parent, key) = place.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[key] = json!({"quant_method": method, "bits": 4});
            let error = load(write(&config, &weights).path()).err().unwrap();
            assert!(error.contains(&format!("quant_method: \"{method}\" is not usable; supported are fp8")), "{error}");
        }
    }
    for (quantization, message) in [
        (json!({"load_in_8bit": true}), "quantization_config.quant_method: nothing is not usable"),
        (compressed_tensors(json!({"type": "int"})), "config_groups.group_0.weights.type: \"int\" is not usable"),
        (compressed_tensors(json!({"num_bits": 4})), "config_groups.group_0.weights.num_bits: 4 is not usable"),
        (compressed_tensors(json!({"symmetric": false})), "weights.symmetric: false is not usable"),
    ] {
        let (mut config, weights) = base();
        config["quantization_config"] = quantization;
        let error = load(write(&config, &weights).path()).err().unwrap();
        assert!(error.contains(message), "{error}");
    }
    let (mut config, weights) = base();
    config["quantization_config"] = compressed_tensors(json!({}));
    config["quantization_config"]["format"] = json!("pack-quantized");
    let error = load(write(&config, &weights).path()).err().unwrap();
    assert!(error.contains("quantization_config.format: \"pack-quantized\" is not usable"), "{error}");
}

#[test]
fn bytes_are_not_taken_for_weights() {
    let (config, mut weights) = base();
    let name = format!("{LAYER}.mlp.up_proj.weight");
    let bytes = weights[&name].zeros_like().unwrap().to_dtype(DType::U8).unwrap();
    weights.insert(name.clone(), bytes);
    let error = load(write(&config, &weights).path()).err().unwrap();
    assert!(error.contains(&format!("tensor {name} is stored as u8, an unsupported format of weights")), "{error}");
}

#[test]
fn files_of_torch_save_before_1_6_are_read() {
    // tests/golden/legacy.bin: a two-layer dict as torch.save(..., _use_new_zipfile_serialization=False) writes it.
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(repository("tests/golden/legacy.bin"), dir.path().join("pytorch_model.bin")).unwrap();
    let checkpoint = vidense::weights::Checkpoint::open(dir.path()).unwrap();
    let read = |name: &str| {
        let tensor = checkpoint.load(name, DType::F32, &Device::Cpu).unwrap();
        (tensor.dims().to_vec(), tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap())
    };
    assert_eq!(read("whole"), (vec![2, 3], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]));
    // Rows 1 and 2 of four that share a storage, and a transposed view of it.
    assert_eq!(read("part"), (vec![2, 2], vec![12.0, 13.0, 14.0, 15.0]));
    assert_eq!(read("turned"), (vec![2, 4], vec![10.0, 12.0, 14.0, 16.0, 11.0, 13.0, 15.0, 17.0]));
    assert_eq!(read("half"), (vec![2], vec![0.5, -2.0]));
    assert_eq!(read("parameter"), (vec![1], vec![7.0]));
}

#[test]
fn a_strided_tensor_of_either_format_is_refused_with_its_file_and_its_name() {
    for name in ["strided.bin", "strided_legacy.bin"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pytorch_model.bin");
        std::fs::copy(repository("tests/golden").join(name), &path).unwrap();
        let checkpoint = vidense::weights::Checkpoint::open(dir.path()).unwrap();
        let error = checkpoint.load("rows", DType::F32, &Device::Cpu).unwrap_err().to_string();
        let expected = "tensor rows: its values are strided; hint: save it with `.contiguous()`";
        assert!(error.starts_with(&format!("{}: {expected}", path.display())), "{name}: {error}");
    }
}

#[test]
fn old_files_are_read_past_masks_and_nested_ones_are_refused() {
    let open = |name: &str| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(repository("tests/golden").join(name), dir.path().join("pytorch_model.bin")).unwrap();
        (vidense::weights::Checkpoint::open(dir.path()), dir)
    };
    // Tensors are read on demand: the directory must live.
    let (masked, _dir) = open("legacy_mask.bin");
    let masked = masked.unwrap();
    let whole = masked.load("whole", DType::F32, &Device::Cpu).unwrap();
    assert_eq!(whole.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert!(!masked.contains("mask"));
    let error = open("legacy_nested.bin").0.err().unwrap().to_string();
    assert!(error.ends_with("no state dict of tensors"), "{error}");
}

#[test]
fn the_flag_and_the_key_of_a_plan_let_a_model_with_unused_tensors_load() {
    let (config, mut weights) = base();
    weights.insert("vision_tower.merger.weight".to_owned(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
    let dir = write(&config, &weights);
    let plan = dir.path().join("plan.yaml");
    std::fs::write(&plan, format!("model: {}\ngenerate: {{ max_new_tokens: 2 }}\n", dir.path().display())).unwrap();
    let (model, plan) = (dir.path().to_str().unwrap(), plan.to_str().unwrap());
    let frames = repository("tests/golden/checkpoints/frames");
    let frames = frames.to_str().unwrap();
    let ask = ["ask", frames, QUESTION, "--model", model, "--max-new-tokens", "2"];
    let run = ["run", plan, frames, "--question", QUESTION];
    for (command, allow) in
        [(&ask[..], &["--allow-unused"][..]), (&run, &["--allow-unused"]), (&run, &["--set", "unused=allow"])]
    {
        let vidense = |more: &[&str]| {
            let mut vidense = std::process::Command::new(env!("CARGO_BIN_EXE_vidense"));
            vidense.env("HF_HUB_OFFLINE", "1").args(command).args(more).output().unwrap()
        };
        let told = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let refused = vidense(&[]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(
            told(refused.stderr)
                .contains("tensors that are not used (1): vision_tower.merger.weight; hint: --allow-unused")
        );
        let allowed = vidense(allow);
        let warning = told(allowed.stderr);
        assert!(
            allowed.status.success() && warning.contains("tensors that are not used (1): vision_tower.merger"),
            "{warning}"
        );
    }
    let inspect =
        std::process::Command::new(env!("CARGO_BIN_EXE_vidense")).args(["inspect", plan, "--allow-unused"]).output();
    assert!(String::from_utf8(inspect.unwrap().stdout).unwrap().contains("\nunused: allow\n"));
}
