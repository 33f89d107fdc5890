//! JSON files of a checkpoint decide its answers like in transformers: `tests/golden/make_descriptions.py`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use tempfile::TempDir;
use vidense::pipeline::{Asking, encode_video};
use vidense::spec::{GeneratePlan, Plan};
use vidense::temporal::Temporal;
use vidense::text::Template;
use vidense::video::Sample;
use vidense::vlm::{Blueprint, Overrides, Placement, Unused, Vlm};
use vidense::weights::Hub;

use crate::harness::{ask, ids, json as read_json, repository};

/// A copy of the checkpoint that the cases change.
fn checkpoint() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(repository("tests/golden/checkpoints/hf-5")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

/// Sets a key, with dots, of a JSON file, or removes it.
fn edit(dir: &Path, file: &str, key: &str, value: Option<Value>) {
    let path = dir.join(file);
    let mut whole = if path.is_file() { read_json(&path) } else { json!({}) };
    let (outer, last) = key.rsplit_once('.').map_or((None, key), |(outer, last)| (Some(outer), last));
    let part = outer.into_iter().flat_map(|outer| outer.split('.')).fold(&mut whole, |part, name| &mut part[name]);
    match value {
        Some(value) => part[last] = value,
        None => drop(part.as_object_mut().unwrap().remove(last).unwrap()),
    }
    std::fs::write(path, whole.to_string()).unwrap();
}

fn change_tensors(dir: &Path, kind: &str) {
    let path = dir.join("model.safetensors");
    let mut weights: HashMap<String, Tensor> = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    match kind {
        "join" => {
            let first = weights.get_mut("multi_modal_projector.linear_1.weight").unwrap();
            *first = Tensor::cat(&[&*first, &(&*first / 2.0).unwrap()], 1).unwrap();
        }
        "bare" => weights.retain(|name, _| !(name.starts_with("multi_modal_projector.") && name.ends_with(".bias"))),
        "loud" => {
            for (_, weight) in weights.iter_mut().filter(|(name, _)| name.starts_with("multi_modal_projector.")) {
                *weight = (&*weight * 3.0).unwrap();
            }
        }
        "siglip" => {
            let class = weights.keys().find(|name| name.ends_with("embeddings.class_embedding")).unwrap().clone();
            let prefix = class.strip_suffix("embeddings.class_embedding").unwrap();
            weights.remove(&class);
            weights.remove(&format!("{prefix}pre_layrnorm.weight")).unwrap();
            let bias = weights.remove(&format!("{prefix}pre_layrnorm.bias")).unwrap();
            weights.insert(format!("{prefix}embeddings.patch_embedding.bias"), bias);
            let position = weights.get_mut(&format!("{prefix}embeddings.position_embedding.weight")).unwrap();
            *position = position.narrow(0, 1, position.dim(0).unwrap() - 1).unwrap().contiguous().unwrap();
        }
        kind => panic!("{kind}"),
    }
    candle_core::safetensors::save(&weights, path).unwrap();
}

fn blueprint(dir: &Path, overrides: &Overrides) -> Result<Blueprint, String> {
    Blueprint::read(dir.to_str().unwrap(), overrides, &Hub::offline(None)).map_err(|error| error.to_string())
}

fn load(dir: &Path) -> Result<Vlm, String> {
    let blueprint = blueprint(dir, &Overrides::default())?;
    Vlm::load(blueprint, &Placement::cpu(), &(Arc::new(|_| {}) as _)).map_err(|error| error.to_string())
}

#[test]
fn every_description_answers_as_transformers_does() {
    let expected = read_json(&repository("tests/golden/descriptions/expected.json"));
    let question = expected["question"].as_str().unwrap();
    let generate = GeneratePlan { max_new_tokens: 16, ..GeneratePlan::default() };
    let plan = Plan { sample: Some(Sample::All), temporal: Some(Temporal::Concat), generate, ..Plan::default() };
    let mut wrong = Vec::new();
    for case in expected["cases"].as_array().unwrap() {
        let dir = checkpoint();
        for change in case["set"].as_array().into_iter().flatten() {
            edit(dir.path(), change[0].as_str().unwrap(), change[1].as_str().unwrap(), Some(change[2].clone()));
        }
        for change in case["removed"].as_array().into_iter().flatten() {
            edit(dir.path(), change[0].as_str().unwrap(), change[1].as_str().unwrap(), None);
        }
        if let Some(kind) = case["tensors"].as_str() {
            change_tensors(dir.path(), kind);
        }
        let name = case["name"].as_str().unwrap();
        let vlm = load(dir.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let endless = case["removed"].as_array().into_iter().flatten().any(|removed| removed[1] == "eos_token_id");
        let warnings: Vec<bool> =
            vlm.warnings().iter().map(|w| w.contains("answers end at --max-new-tokens only")).collect();
        assert_eq!(warnings, vec![true; usize::from(endless)], "{name}: {:?}", vlm.warnings());
        let video = encode_video(&vlm, &repository("tests/golden/checkpoints/frames"), &plan, &|_| {});
        if let Some(rule) = case["refused"].as_str() {
            let error = video.map(drop).expect_err(name).to_string();
            assert!(error.contains(rule), "{name}: {error}");
            continue;
        }
        let asking = Asking { vlm: &vlm, template: &Template::VicunaV1, plan: &plan };
        let answer = ask(asking, &video.unwrap(), question).unwrap();
        let found = (answer.token_ids, answer.visual_tokens.0 as u64);
        let wanted = (ids(&case["ids"]), case["n_visual"].as_u64().unwrap());
        if found != wanted {
            wrong.push(format!("{name}: found {found:?}, transformers {wanted:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn models_and_keys_that_are_not_understood_are_refused_by_name() {
    for (file, key, value, message) in [
        ("config.json", "model_type", json!("llava_next_video"), "model_type: \"llava_next_video\" is not usable"),
        (
            "config.json",
            "model_type",
            json!("llava_onevision"),
            "a model_type of this kind is a LlavaOnevisionForConditionalGeneration, not a LlavaForConditionalGeneration",
        ),
        ("config.json", "model_type", json!("vipllava"), "a model_type of this kind is a VipLlavaFor"),
        (
            "config.json",
            "model_type",
            json!("llava_onevison"),
            "supported are llava, llava_next, vipllava, llava_onevision, smolvlm, idefics3, internvl; \
             hint: the nearest is llava_onevision",
        ),
        ("config.json", "model_type", json!("qwen3_vl"), "smolvlm, idefics3, internvl"),
        (
            "config.json",
            "architectures",
            json!(["VipLlavaForConditionalGeneration"]),
            "architectures: [\"VipLlavaForConditionalGeneration\"] is not usable; a model_type of this kind is a \
             LlavaForConditionalGeneration",
        ),
        ("config.json", "text_config.model_type", json!("vicuna"), "text_config.model_type: \"vicuna\" is not usable"),
        ("config.json", "vision_config.model_type", json!("siglip2_vision_model"), "supported towers are"),
        ("config.json", "text_config.attention_multiplier", json!(0.5), "text_config.attention_multiplier: 0.5"),
        ("config.json", "text_config.final_logit_softcapping", json!(30.0), "final_logit_softcapping: 30.0"),
        ("config.json", "text_config.layer_types", json!(["linear_attention"]), "layer_types: [\"linear_attention\"]"),
        ("config.json", "text_config.num_local_experts", json!(8), "num_local_experts: 8"),
        ("config.json", "projector_hidden_act", json!("gelu_10"), "projector_hidden_act: \"gelu_10\" is not usable"),
        ("config.json", "vision_feature_layer", json!([]), "expected a whole number, or a list of whole numbers"),
        ("config.json", "vision_feature_layer", json!([-2, 9]), "the selected hidden state 9 does not exist"),
        ("preprocessor_config.json", "image_processor_type", json!("Emu3ImageProcessor"), "\"Emu3ImageProcessor\""),
        ("config.json", "text_config.attention_chunk_size", json!(16), "text_config.attention_chunk_size: 16"),
        ("preprocessor_config.json", "data_format", json!("channels_last"), "data_format: \"channels_last\""),
        ("preprocessor_config.json", "size", json!({"min_pixels": 3}), "size: {\"min_pixels\":3} is not usable"),
        ("generation_config.json", "num_beams", json!(3), "num_beams: 3"),
        ("generation_config.json", "guidance_scale", json!(1.5), "guidance_scale: 1.5"),
        ("generation_config.json", "eos_token_id", json!("</s>"), "expected a token id, or a list of token ids"),
    ] {
        let dir = checkpoint();
        edit(dir.path(), file, key, Some(value));
        let error = blueprint(dir.path(), &Overrides::default()).map(drop).expect_err(key);
        assert!(error.contains(message) && error.contains(file), "{key}: {error}");
    }
}

#[test]
fn refused_keys_may_be_allowed_and_unknown_ones_are_named() {
    let dir = checkpoint();
    edit(dir.path(), "config.json", "text_config.logits_scaling", Some(json!(2.0)));
    edit(dir.path(), "config.json", "text_config.pretraining_tp", Some(json!(2)));
    edit(dir.path(), "config.json", "vision_config.colour_of_the_sky", Some(json!("blue")));
    let error = blueprint(dir.path(), &Overrides::default()).map(drop).expect_err("it is refused");
    assert!(error.contains("logits_scaling: 2.0") && error.contains("hint: --allow-unused"), "{error}");
    let allowed = Overrides::default().with_unused(Unused::Allow);
    let warnings = blueprint(dir.path(), &allowed).unwrap().warnings;
    assert!(
        warnings[0].ends_with("config.json: unknown keys have no effect: vision_config.colour_of_the_sky"),
        "{warnings:?}"
    );
    assert!(warnings[1].contains("logits_scaling: 2.0"), "{warnings:?}");
    assert_eq!(warnings.len(), 2);
}

#[test]
fn a_processor_that_counts_other_tokens_than_the_model_makes_is_refused() {
    let dir = checkpoint();
    for (key, value) in [("patch_size", json!(7)), ("num_additional_image_tokens", json!(0))] {
        edit(dir.path(), "processor_config.json", key, Some(value));
    }
    edit(dir.path(), "processor_config.json", "vision_feature_select_strategy", Some(json!("default")));
    let error = blueprint(dir.path(), &Overrides::default()).map(drop).expect_err("15 for 16");
    assert!(error.contains("count 15 tokens a frame, but the model makes 16"), "{error}");
}

#[test]
fn tokens_that_are_no_grid_are_told_to_strategies_that_need_one() {
    let dir = checkpoint();
    edit(dir.path(), "config.json", "vision_config.model_type", Some(json!("siglip_vision_model")));
    let frame = blueprint(dir.path(), &Overrides::default()).unwrap().frame_tokens();
    assert_eq!(frame.count, 15);
    assert!(Temporal::D2.check(frame).is_ok());
    let error = "pool_2d".parse::<Temporal>().unwrap().check(frame).expect_err("15 tokens are no grid");
    assert!(error.to_string().contains("15"), "{error}");
}

#[test]
fn every_file_that_decides_the_answers_is_in_the_fingerprint() {
    let dir = checkpoint();
    let names = [
        "processor_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
    ];
    for name in names {
        std::fs::write(dir.path().join(name), "{}").unwrap();
    }
    std::fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
    std::fs::write(dir.path().join("additional_chat_templates/tool.jinja"), "").unwrap();
    let files = blueprint(dir.path(), &Overrides::default()).unwrap().files();
    for name in names.iter().copied().chain(["additional_chat_templates/tool.jinja", "generation_config.json"]) {
        assert!(files.contains(&dir.path().join(name)), "{name} is not in {files:?}");
    }
}
