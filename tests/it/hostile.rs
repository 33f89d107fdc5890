//! Broken checkpoints: each ends in a clear error, never in a panic.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;
use tempfile::TempDir;
use vidense::vlm::{Blueprint, Overrides, Placement, Vlm};
use vidense::weights::{Checkpoint, Hub};

use crate::harness::{json as read_json, repository, tensors};

const MINI: &str = "samples/mini";

/// A copy of the sample model that may be broken.
fn copy() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("vision_tower")).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(repository(MINI).join(name), dir.path().join(name)).unwrap();
    }
    for name in ["config.json", "model.safetensors", "preprocessor_config.json"] {
        let name = format!("vision_tower/{name}");
        std::fs::copy(repository(MINI).join(&name), dir.path().join(&name)).unwrap();
    }
    dir
}

/// What loading it says, or its warnings.
fn load(dir: &Path) -> Result<Vec<String>, String> {
    let hub = Hub::offline(None);
    let blueprint =
        Blueprint::read(dir.to_str().unwrap(), &Overrides::default(), &hub).map_err(|error| error.to_string())?;
    let vlm = Vlm::load(blueprint, &Placement::cpu(), &(Arc::new(|_| {}) as _)).map_err(|error| error.to_string())?;
    Ok(vlm.warnings().to_vec())
}

fn edit_config(dir: &Path, file: &str, key: &str, value: Value) {
    let path = dir.join(file);
    let mut config = read_json(&path);
    config[key] = value;
    std::fs::write(path, config.to_string()).unwrap();
}

fn edit_weights(dir: &Path, file: &str, edit: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let path = dir.join(file);
    let mut weights = tensors(&path);
    edit(&mut weights);
    std::fs::remove_file(&path).unwrap();
    candle_core::safetensors::save(&weights, path).unwrap();
}

/// File, key, value, and what must be said of it.
fn unusable_keys() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    vec![
        (
            "config.json",
            "hidden_size",
            json!(null),
            "config.json: hidden_size: null is not usable; it is needed to lay out the language model",
        ),
        (
            "config.json",
            "hidden_size",
            json!("wide"),
            "hidden_size: \"wide\" is not usable; expected a whole number from 1 to 1048576",
        ),
        ("config.json", "num_hidden_layers", json!(1e18), "num_hidden_layers"),
        (
            "config.json",
            "num_key_value_heads",
            json!(3),
            "num_key_value_heads: 3 is not usable; it must divide num_attention_heads, 4",
        ),
        (
            "config.json",
            "mm_dense_connector_type",
            json!("dcx"),
            "unknown connector `dcx`; hint: did you mean `dci`? known: none, sti, sci, dci",
        ),
        ("config.json", "mm_projector_type", json!("resampler"), "projector `resampler` is not supported"),
        (
            "config.json",
            "rope_scaling",
            json!({"type": "longrope", "factor": 2}),
            "rope_scaling.type: \"longrope\" is not usable; supported types are default, linear, dynamic, yarn and llama3",
        ),
        (
            "config.json",
            "rope_scaling",
            json!({"type": "linear"}),
            "rope_scaling.factor: nothing is not usable; this scaling needs it",
        ),
        (
            "config.json",
            "model_type",
            json!("llava_qwen2"),
            "model_type: \"llava_qwen2\" is not usable; supported are llava, llava_llama, llava_mistral, llama, mistral, \
             vicuna, yi, llava_qwen, qwen2; hint: the nearest is llava_qwen",
        ),
        (
            "config.json",
            "mm_vision_select_layer",
            json!(-9),
            "the selected hidden state -9 does not exist: the tower has 7 (0 to 6)",
        ),
        (
            "config.json",
            "mm_vision_select_feature",
            json!("cls_patch"),
            "cls_patch does not go with the connector dci; hint: patch",
        ),
        (
            "config.json",
            "mm_vision_tower",
            json!("elsewhere"),
            "config.json: mm_vision_tower names `elsewhere`, which is neither a directory nor a hub id; hint: name the tower with --vision-tower",
        ),
        ("config.json", "prompt_format", json!("{question}"), "prompt_format of the checkpoint has no <image>"),
        ("vision_tower/config.json", "model_type", json!("dinov2"), "supported towers are CLIP's and SigLIP's"),
        (
            "vision_tower/config.json",
            "num_attention_heads",
            json!(3),
            "it must be a multiple of num_attention_heads, 3",
        ),
        (
            "vision_tower/config.json",
            "patch_size",
            json!(100),
            "patch_size: 100 is not usable; it must not exceed image_size, 64",
        ),
        ("vision_tower/preprocessor_config.json", "image_std", json!([0, 1, 1]), "image_std: [0,1,1] is not usable"),
    ]
}

#[test]
fn an_unusable_key_is_named_with_its_value_and_rule() {
    for (file, key, value, message) in unusable_keys() {
        let dir = copy();
        edit_config(dir.path(), file, key, value);
        if file.starts_with("vision_tower/config") {
            let path = dir.path().join(file);
            let mut config = read_json(&path);
            config.as_object_mut().unwrap().remove("architectures");
            std::fs::write(path, config.to_string()).unwrap();
        }
        let error = load(dir.path()).expect_err(message);
        assert!(error.contains(message), "{error}\ndoes not say\n{message}");
    }
}

#[test]
fn missing_and_misshaped_tensors_are_told_together() {
    let dir = copy();
    edit_weights(dir.path(), "model.safetensors", |weights| {
        weights.remove("model.layers.1.mlp.up_proj.weight").unwrap();
        weights.remove("model.norm.weight").unwrap();
        let half = weights["model.mm_projector.0.weight"].narrow(1, 0, 128).unwrap().contiguous().unwrap();
        weights.insert("model.mm_projector.0.weight".to_owned(), half);
        weights.insert("model.extra".to_owned(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
    });
    let error = load(dir.path()).expect_err("three tensors are wrong");
    for part in [
        "missing: model.layers.1.mlp.up_proj.weight [384, 128] (config.json: hidden_size 128",
        "missing: model.norm.weight [128]",
        "wrong shape: model.mm_projector.0.weight: expected [128, 384], found [128, 128] (mlp2x_gelu: connector dci over a tower of width 128 gives 384 channels; the language model takes 128)",
    ] {
        assert!(error.contains(part), "{error}\ndoes not say\n{part}");
    }
}

#[test]
fn a_configuration_that_lies_about_the_weights_allocates_nothing() {
    let dir = copy();
    edit_config(dir.path(), "config.json", "hidden_size", json!(1_048_576));
    edit_config(dir.path(), "config.json", "vocab_size", json!(16_777_216));
    let error = load(dir.path()).expect_err("nothing fits");
    assert!(
        error.contains("wrong shape: model.embed_tokens.weight: expected [16777216, 1048576], found [512, 128]"),
        "{error}"
    );
}

#[test]
fn unused_tensors_refuse_the_model() {
    let dir = copy();
    edit_weights(dir.path(), "model.safetensors", |weights| {
        weights.insert("model.extra".to_owned(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
        weights.insert(
            "model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(),
            Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap(),
        );
    });
    let error = load(dir.path()).unwrap_err();
    assert!(
        error.ends_with(
            ": tensors that are not used (1): model.extra; hint: --allow-unused loads the model without them"
        )
    );
}

#[test]
fn missing_files_are_named() {
    for (file, message) in [
        ("model.safetensors", "no weights here; expected one of model.safetensors"),
        ("tokenizer.json", "no tokenizer here; expected tokenizer.json or tokenizer.model"),
        ("config.json", "not a model: no config.json here"),
        ("vision_tower/model.safetensors", "no weights here"),
    ] {
        let dir = copy();
        std::fs::remove_file(dir.path().join(file)).unwrap();
        let error = load(dir.path()).expect_err(message);
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn files_of_rubbish_are_refused_by_name() {
    for (file, rubbish, message) in [
        ("config.json", "{", "config.json: not JSON: EOF"),
        ("config.json", "[1]", "config.json: not JSON: expected an object"),
        ("model.safetensors", "rubbish", "model.safetensors: not a readable safetensors file"),
        ("model.safetensors", "", "model.safetensors: not a readable safetensors file"),
        ("tokenizer.json", "{}", "tokenizer.json: not a usable tokenizer"),
    ] {
        let dir = copy();
        std::fs::write(dir.path().join(file), rubbish).unwrap();
        let error = load(dir.path()).expect_err(message);
        assert!(error.contains(message), "{error}");
    }
    for (file, message) in [
        ("pytorch_model.bin", "pytorch_model.bin: not a readable PyTorch file"),
        ("tokenizer.model", "tokenizer.model: not a usable tokenizer"),
    ] {
        let dir = copy();
        let replaced = if file.starts_with("tokenizer") { "tokenizer.json" } else { "model.safetensors" };
        std::fs::remove_file(dir.path().join(replaced)).unwrap();
        std::fs::write(dir.path().join(file), b"rubbish").unwrap();
        let error = load(dir.path()).expect_err(message);
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_truncated_safetensors_file_is_refused() {
    let dir = copy();
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for length in [4, 9, 1000, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let error = load(dir.path()).expect_err("it is cut");
        assert!(error.contains("model.safetensors: not a readable safetensors file"), "{length}: {error}");
    }
}

#[test]
fn weights_that_are_no_numbers_are_told_when_they_show() {
    let dir = copy();
    edit_weights(dir.path(), "model.safetensors", |weights| {
        let norm = &weights["model.norm.weight"];
        let broken = (norm.zeros_like().unwrap() / 0.0).unwrap();
        weights.insert("model.norm.weight".to_owned(), broken);
    });
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_vidense"))
        .args(["ask", "--model", dir.path().to_str().unwrap()])
        .arg(repository("samples/three_shapes.mp4"))
        .arg("Why?")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(error.contains("logits are not finite; hint: damaged weights"), "{error}");
}

/// Values that a hostile `config.json` may hold anywhere.
fn hostile_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(null)),
        Just(json!(0)),
        Just(json!(-1)),
        Just(json!(1)),
        Just(json!(7)),
        Just(json!(1e300)),
        Just(json!(u64::MAX)),
        Just(json!("x")),
        Just(json!([])),
        Just(json!({})),
        Just(json!([1, "a", null])),
        Just(json!(true)),
        Just(json!(65536)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn no_configuration_makes_it_panic(which in 0usize..3, place in any::<prop::sample::Index>(), value in hostile_value()) {
        let file = ["config.json", "vision_tower/config.json", "vision_tower/preprocessor_config.json"][which];
        let dir = copy();
        let keys: Vec<String> = read_json(&dir.path().join(file)).as_object().unwrap().keys().cloned().collect();
        edit_config(dir.path(), file, &keys[place.index(keys.len())], value);
        // Any answer will do; a panic or an abort will not.
        let _ = load(dir.path());
    }

    #[test]
    fn no_flipped_bytes_make_a_weight_file_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), bin in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let (name, source) = if bin {
            ("pytorch_model.bin", repository("tests/golden/checkpoints/llava-bin/pytorch_model.bin"))
        } else {
            ("model.safetensors", repository("tests/golden/llama/grouped/model.safetensors"))
        };
        let mut bytes = std::fs::read(source).unwrap();
        let header = bytes.len().min(4096);
        for (place, value) in flips {
            // The header is where a lie can do harm.
            bytes[place.index(header)] = value;
        }
        std::fs::write(dir.path().join(name), &bytes).unwrap();
        if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
            for name in checkpoint.names().map(str::to_owned).collect::<Vec<_>>() {
                let _ = checkpoint.load(&name, DType::F32, &Device::Cpu);
            }
        }
    }
}
