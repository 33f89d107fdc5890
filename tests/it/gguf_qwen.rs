//! Qwen's language models in GGUF files (architectures `qwen2` and `qwen3`), whose query and key rows llama.cpp does
//! not permute, against the same weights in a checkpoint.

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use serde_json::json;
use vidense::vlm::Unused;

use crate::gguf::{Facts, facts, load, store};
use crate::harness::llama_cpp_name;
use crate::variants::{Weights, added, answer, base, load as load_checkpoint, merge, write};

/// The tiny checkpoint as one of these classes, and the parts of each layer's attention that it has more than a Llama.
fn checkpoint(kind: &str) -> (serde_json::Value, Weights) {
    let (mut config, mut weights) = base();
    merge(&mut config["text_config"], &json!({"model_type": kind, "head_dim": 8}));
    let more: &[(&str, usize)] = match kind {
        "qwen2" => &[("q_proj.bias", 32), ("k_proj.bias", 16), ("v_proj.bias", 16)],
        _ => &[("q_norm.weight", 8), ("k_norm.weight", 8)],
    };
    for layer in 0..2 {
        for (name, width) in more {
            let name = format!("language_model.model.layers.{layer}.self_attn.{name}");
            weights.insert(name.clone(), added(&name, &json!([width])));
        }
    }
    (config, weights)
}

/// The language model's tensors under llama.cpp's names.
fn converted(weights: &Weights) -> Weights {
    let name = |ours: &str| {
        llama_cpp_name(ours).replace("self_attn.q_norm", "attn_q_norm").replace("self_attn.k_norm", "attn_k_norm")
    };
    let language = |(ours, tensor): (&String, &candle_core::Tensor)| {
        Some((name(ours.strip_prefix("language_model.")?), tensor.clone()))
    };
    weights.iter().filter_map(language).collect()
}

fn facts_of(kind: &str) -> Facts {
    let mut of_kind: Facts =
        facts().into_iter().map(|(key, value)| (key.replace("llama.", &format!("{kind}.")), value)).collect();
    of_kind.insert("general.architecture".into(), Value::String(kind.into()));
    of_kind
}

#[test]
fn a_qwen_in_a_gguf_file_answers_as_in_its_checkpoint() {
    let mut answers = Vec::new();
    for kind in ["qwen2", "qwen3"] {
        let (config, weights) = checkpoint(kind);
        let model = write(&config, &weights);
        let llm = model.path().join("llm.gguf");
        store(&llm, &facts_of(kind), &converted(&weights), GgmlDType::F32);
        let loaded = load(model.path(), &llm, None, Unused::Refuse).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(loaded.warnings(), [""; 0], "{kind}");
        let expected = answer(&load_checkpoint(model.path()).unwrap());
        assert_eq!(answer(&loaded), expected, "{kind}");
        answers.push(expected);
        // A file of another architecture is another model.
        store(&llm, &facts(), &converted(&weights), GgmlDType::F32);
        let error = load(model.path(), &llm, None, Unused::Refuse).err().unwrap();
        let rule = format!("general.architecture is llama, and that of the checkpoint's language model is {kind}");
        assert!(error.contains(&rule), "{error}");
    }
    assert_ne!(answers[0], answers[1]);
}
