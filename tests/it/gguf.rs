//! GGUF files beside a `config.json`: a file that agrees loads and gives the same answers, any other is refused with
//! the key or tensor that differs.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::gguf_file::{Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use serde_json::json;
use vidense::language::RopeScaling;
use vidense::nn::QuantFormat;
use vidense::vlm::{Blueprint, Overrides, Placement, Unused, Vlm};
use vidense::weights::Hub;

use crate::harness::llama_cpp_name;
use crate::variants::{Weights, added, answer, base, merge, write as write_checkpoint};

const N_HEADS: usize = 4;
const N_KV_HEADS: usize = 2;
const D_HEAD: usize = 8;

pub type Facts = HashMap<String, Value>;

/// Interleaves the halves of each head, as llama.cpp's converter does.
fn interleaved(tensor: &Tensor, n_heads: usize) -> Tensor {
    let dims = tensor.dims().to_vec();
    let halves = tensor.reshape((n_heads, 2, D_HEAD / 2, ())).unwrap().transpose(1, 2).unwrap();
    halves.contiguous().unwrap().reshape(dims).unwrap()
}

/// The language model of a checkpoint as llama.cpp's converter would write it.
fn converted(weights: &Weights) -> Weights {
    let mut theirs = HashMap::new();
    for (name, tensor) in weights {
        let Some(name) = name.strip_prefix("language_model.") else { continue };
        let name = llama_cpp_name(name);
        let tensor = match name.split('.').nth(2) {
            Some("attn_q") => interleaved(tensor, N_HEADS),
            Some("attn_k") => interleaved(tensor, N_KV_HEADS),
            _ => tensor.clone(),
        };
        theirs.insert(name, tensor);
    }
    theirs
}

pub fn facts() -> Facts {
    let numbers = [
        ("block_count", 2),
        ("context_length", 512),
        ("embedding_length", 32),
        ("feed_forward_length", 48),
        ("vocab_size", 608),
        ("attention.head_count", N_HEADS as u32),
        ("attention.head_count_kv", N_KV_HEADS as u32),
        ("rope.dimension_count", D_HEAD as u32),
    ];
    let mut facts: Facts = numbers.into_iter().map(|(key, n)| (format!("llama.{key}"), Value::U32(n))).collect();
    facts.insert("general.architecture".into(), Value::String("llama".into()));
    facts.insert("llama.attention.layer_norm_rms_epsilon".into(), Value::F32(1e-5));
    facts
}

pub fn store(path: &Path, facts: &Facts, tensors: &Weights, dtype: GgmlDType) {
    let stored: Vec<(String, QTensor)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let fits = tensor.rank() == 2 && tensor.dim(1).unwrap() % 32 == 0 && name.starts_with("blk.");
            let dtype = if fits { dtype } else { GgmlDType::F32 };
            (name.clone(), QTensor::quantize(tensor, dtype).unwrap())
        })
        .collect();
    let facts: Vec<(&str, &Value)> = facts.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let stored: Vec<(&str, &QTensor)> = stored.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    write(&mut File::create(path).unwrap(), &facts, &stored).unwrap();
}

pub fn load(model: &Path, llm: &Path, quantization: Option<QuantFormat>, unused: Unused) -> Result<Vlm, String> {
    let overrides = Overrides { llm: Some(llm.to_owned()), ..Overrides::default() }.with_unused(unused);
    let blueprint = Blueprint::read(model.to_str().unwrap(), &overrides, &Hub::offline(None));
    let placement = Placement { quantization, ..Placement::cpu() };
    let vlm = blueprint.and_then(|blueprint| Vlm::load(blueprint, &placement, &(Arc::new(|_| {}) as _)));
    vlm.map_err(|error| error.to_string().replace(llm.to_str().unwrap(), "llm.gguf"))
}

/// The checkpoint with biases everywhere.
fn biased() -> (serde_json::Value, Weights) {
    let (mut config, mut weights) = base();
    merge(&mut config["text_config"], &json!({"attention_bias": true, "mlp_bias": true}));
    let layers: Vec<(String, usize)> = weights
        .iter()
        .filter(|(name, _)| name.starts_with("language_model.model.layers.") && name.ends_with("_proj.weight"))
        .map(|(name, weight)| (name.replace(".weight", ".bias"), weight.dim(0).unwrap()))
        .collect();
    for (name, width) in layers {
        weights.insert(name.clone(), added(&name, &json!([width])));
    }
    (config, weights)
}

#[test]
fn biases_of_a_gguf_file_are_used_in_every_format() {
    let (config, weights) = biased();
    let model = write_checkpoint(&config, &weights);
    let llm = model.path().join("llm.gguf");
    store(&llm, &facts(), &converted(&weights), GgmlDType::F32);
    let full = load(model.path(), &llm, None, Unused::Refuse).unwrap();
    assert_eq!(full.warnings(), [""; 0]);
    assert_eq!(answer(&full), answer(&crate::variants::load(model.path()).unwrap()));
    // What q8_0 stands for, stored in full and held in q8_0, is what is stored in q8_0.
    let rounded = |(name, tensor): (String, Tensor)| {
        let fits = tensor.rank() == 2 && tensor.dim(1).unwrap() % 32 == 0 && name.starts_with("blk.");
        let q8 = || QTensor::quantize(&tensor, GgmlDType::Q8_0).unwrap().dequantize(&Device::Cpu).unwrap();
        let tensor = if fits { q8() } else { tensor };
        (name, tensor)
    };
    let rounded: Weights = converted(&weights).into_iter().map(rounded).collect();
    let of_format = |dtype| {
        store(&llm, &facts(), &rounded, dtype);
        answer(&load(model.path(), &llm, Some(QuantFormat::Q8_0), Unused::Refuse).unwrap())
    };
    assert_eq!(of_format(GgmlDType::Q8_0), of_format(GgmlDType::F32));
}

/// A change of a file, and what is said of it.
type Case = (&'static str, fn(&mut Facts, &mut Weights), &'static str);

fn set(facts: &mut Facts, key: &str, value: Value) {
    facts.insert(format!("llama.{key}"), value);
}

/// Files that say otherwise than config.json. The last two are a matter of `--allow-unused`.
const CONTRADICTIONS: [Case; 14] = [
    (
        "linear",
        |facts, _| {
            set(facts, "rope.scaling.type", Value::String("linear".into()));
            set(facts, "rope.scaling.factor", Value::F32(4.0));
        },
        "its rotary positions (llama.rope.scaling.type linear, without rope_freqs.weight) differ from those of config.json",
    ),
    (
        "yarn",
        |facts, _| {
            set(facts, "rope.scaling.type", Value::String("yarn".into()));
            set(facts, "rope.scaling.factor", Value::F32(4.0));
            set(facts, "rope.scaling.original_context_length", Value::U32(128));
        },
        "its rotary positions (llama.rope.scaling.type yarn",
    ),
    (
        "longrope",
        |facts, _| set(facts, "rope.scaling.type", Value::String("longrope".into())),
        "scaling.type is longrope",
    ),
    (
        "frequencies",
        |_, tensors| {
            let divisors = Tensor::new(&[1f32, 1.0, 2.0, 8.0], &Device::Cpu).unwrap();
            tensors.insert("rope_freqs.weight".into(), divisors);
        },
        "with rope_freqs.weight) differ from those of config.json (None): the frequency of channel 2",
    ),
    (
        "base",
        |facts, _| set(facts, "rope.freq_base", Value::F32(5e5)),
        "llama.rope.freq_base is 500000, but rope_theta",
    ),
    (
        "part",
        |facts, _| set(facts, "rope.dimension_count", Value::U32(4)),
        "llama.rope.dimension_count is 4, but head_dim",
    ),
    (
        "keys",
        |facts, _| set(facts, "attention.key_length", Value::U32(16)),
        "llama.attention.key_length is 16, but head_dim",
    ),
    ("vocabulary", |facts, _| set(facts, "vocab_size", Value::U32(600)), "llama.vocab_size is 600, but vocab_size"),
    (
        "layers",
        |facts, _| set(facts, "attention.head_count_kv", Value::Array(vec![Value::U32(2), Value::U32(1)])),
        "llama.attention.head_count_kv is 1, but num_key_value_heads",
    ),
    ("experts", |facts, _| set(facts, "expert_count", Value::U32(8)), "llama.expert_count is 8"),
    (
        "scale",
        |facts, _| set(facts, "logit_scale", Value::F32(0.5)),
        "llama.logit_scale is 0.5, and these models have none",
    ),
    (
        "window",
        |facts, _| set(facts, "attention.sliding_window", Value::U32(64)),
        "llama.attention.sliding_window is 64",
    ),
    (
        "word",
        |facts, _| set(facts, "attention.temperature", Value::F32(2.0)),
        "keys that are not used (1): llama.attention.temperature",
    ),
    (
        "biases",
        |_, tensors| {
            tensors.insert("blk.1.attn_q.bias".into(), Tensor::ones(32, DType::F32, &Device::Cpu).unwrap());
        },
        "tensors that are not used (1): blk.1.attn_q.bias; hint: --allow-unused",
    ),
];

#[test]
fn a_file_that_says_otherwise_is_refused_by_what_it_says() {
    let (config, weights) = base();
    let model = write_checkpoint(&config, &weights);
    let llm = model.path().join("llm.gguf");
    for (name, change, message) in CONTRADICTIONS {
        let (mut facts, mut tensors) = (facts(), converted(&weights));
        change(&mut facts, &mut tensors);
        store(&llm, &facts, &tensors, GgmlDType::F32);
        let error = load(model.path(), &llm, None, Unused::Refuse).err().unwrap_or_else(|| panic!("{name} is taken"));
        assert!(error.starts_with("llm.gguf: ") && error.contains(message), "{name}: {error}");
    }
    for (_, change, _) in &CONTRADICTIONS[12..] {
        let (mut facts, mut tensors) = (facts(), converted(&weights));
        change(&mut facts, &mut tensors);
        store(&llm, &facts, &tensors, GgmlDType::F32);
        assert_eq!(load(model.path(), &llm, None, Unused::Allow).unwrap().warnings().len(), 1);
    }
}

#[test]
fn a_file_that_says_the_same_in_its_own_words_loads() {
    let llama3 = json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 100}});
    let linear = json!({"rope_scaling": {"type": "linear", "factor": 2.0}});
    let yarn = json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}});
    let dynamic = json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}});
    for (text, change) in [
        (
            llama3,
            (|facts, tensors| {
                let scaling = RopeScaling::Llama3 {
                    factor: 8.0,
                    low_freq_factor: 1.0,
                    high_freq_factor: 4.0,
                    original_context: 100.0,
                };
                let of = |scaling| {
                    vidense::language::Rope { d_head: D_HEAD, theta: 10_000.0, scaling }.inverse_frequencies(0)
                };
                let (plain, scaled) = (of(RopeScaling::None), of(scaling));
                let divisors: Vec<f32> = plain.iter().zip(scaled).map(|(plain, scaled)| plain / scaled).collect();
                assert!(divisors[0] == 1.0 && divisors[3] == 8.0, "{divisors:?}");
                tensors.insert("rope_freqs.weight".into(), Tensor::new(divisors, &Device::Cpu).unwrap());
                let _ = facts;
            }) as fn(&mut Facts, &mut Weights),
        ),
        (linear, |facts, _| {
            set(facts, "rope.scaling.type", Value::String("linear".into()));
            set(facts, "rope.scaling.factor", Value::F32(2.0));
        }),
        (yarn, |facts, _| {
            set(facts, "rope.scaling.type", Value::String("yarn".into()));
            set(facts, "rope.scaling.factor", Value::F32(4.0));
            set(facts, "rope.scaling.original_context_length", Value::U32(128));
            set(facts, "rope.scaling.finetuned", Value::Bool(true));
        }),
        (dynamic, |_, _| {}),
    ] {
        let (mut config, weights) = base();
        merge(&mut config["text_config"], &text);
        let model = write_checkpoint(&config, &weights);
        let llm = model.path().join("llm.gguf");
        let (mut facts, mut tensors) = (facts(), converted(&weights));
        change(&mut facts, &mut tensors);
        store(&llm, &facts, &tensors, GgmlDType::F32);
        let vlm = load(model.path(), &llm, None, Unused::Refuse).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(vlm.warnings(), [""; 0], "{text}");
        assert_eq!(answer(&vlm), answer(&crate::variants::load(model.path()).unwrap()), "{text}");
        // The same file beside a checkpoint without scaling, and the reverse.
        let (plain, _) = base();
        let other = write_checkpoint(&plain, &weights);
        let is_dynamic = text["rope_scaling"]["type"] == "dynamic";
        assert_eq!(load(other.path(), &llm, None, Unused::Refuse).is_ok(), is_dynamic, "{text}");
        store(&llm, &self::facts(), &converted(&weights), GgmlDType::F32);
        assert_eq!(load(model.path(), &llm, None, Unused::Refuse).is_ok(), is_dynamic, "{text}");
    }
}

/// The tokens of the checkpoint's `tokenizer.model`, and padding up to the rows of the model.
fn tokens() -> Vec<String> {
    let bytes = std::fs::read(crate::harness::repository("tests/golden/checkpoints/hf-4/tokenizer.model")).unwrap();
    let model = vidense::text::SentencePiece::from_bytes(&bytes).unwrap();
    (0..608).map(|id| model.piece(id).map_or(format!("[PAD{id}]"), str::to_owned)).collect()
}

fn list(tokens: &[String]) -> Value {
    Value::Array(tokens.iter().cloned().map(Value::String).collect())
}

#[test]
fn a_vocabulary_that_is_not_the_checkpoints_is_refused() {
    let (config, weights) = base();
    let model = write_checkpoint(&config, &weights);
    let llm = model.path().join("llm.gguf");
    let load_with = |facts: &Facts| {
        store(&llm, facts, &converted(&weights), GgmlDType::F32);
        load(model.path(), &llm, None, Unused::Refuse)
    };
    let own = tokens();
    let mut said = facts();
    said.insert("general.type".into(), Value::String("model".into()));
    said.insert("tokenizer.ggml.tokens".into(), list(&own));
    said.insert("tokenizer.ggml.bos_token_id".into(), Value::U32(1));
    said.insert("tokenizer.ggml.eos_token_id".into(), Value::U32(2));
    said.insert("llama.attention.temperature_tuning".into(), Value::Bool(false));
    assert_eq!(load_with(&said).unwrap().warnings(), [""; 0]);
    // Other names of some tokens, and spaces written in another way.
    let mut renamed: Vec<String> = own.iter().map(|token| token.replace('\u{2581}', "\u{120}")).collect();
    renamed[5..50].iter_mut().for_each(|token| token.insert(0, '!'));
    said.insert("tokenizer.ggml.tokens".into(), list(&renamed));
    assert_eq!(load_with(&said).unwrap().warnings(), [""; 0]);
    for (key, value, warning) in [
        ("bos", 7, "tokenizer.ggml.bos_token_id is 7, but the checkpoint's tokenizer, which is used, has 1"),
        ("eos", 9, "tokenizer.ggml.eos_token_id is 9, but answers end with the checkpoint's [2]"),
    ] {
        let mut said = said.clone();
        said.insert(format!("tokenizer.ggml.{key}_token_id"), Value::U32(value));
        let vlm = load_with(&said).unwrap();
        assert!(vlm.warnings().len() == 1 && vlm.warnings()[0].ends_with(warning), "{:?}", vlm.warnings());
    }
    let mut turned = own.clone();
    turned.reverse();
    for (key, value, rule) in [
        ("tokenizer.ggml.tokens", list(&turned), "is another vocabulary than the checkpoint's: "),
        ("tokenizer.ggml.tokens", list(&own[1..]), "has 607 entries, but vocab_size of the model's config.json is 608"),
        ("general.type", Value::String("adapter".into()), "its general.type is adapter; expected model"),
    ] {
        let mut said = said.clone();
        said.insert(key.into(), value);
        let error = load_with(&said).err().unwrap();
        assert!(error.starts_with("llm.gguf: ") && error.contains(rule), "{error}");
    }
}

#[test]
fn a_tensor_of_impossible_size_is_refused_when_the_file_is_opened() {
    let (config, weights) = base();
    let model = write_checkpoint(&config, &weights);
    let llm = model.path().join("llm.gguf");
    store(&llm, &facts(), &converted(&weights), GgmlDType::F32);
    let mut bytes = std::fs::read(&llm).unwrap();
    let name = b"blk.1.ffn_up.weight";
    let dims = bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len() + 4;
    bytes[dims..dims + 16].copy_from_slice(&[(1u64 << 40).to_le_bytes(), (1u64 << 40).to_le_bytes()].concat());
    std::fs::write(&llm, bytes).unwrap();
    let error = load(model.path(), &llm, None, Unused::Refuse).err().unwrap();
    assert!(
        error.contains("tensor blk.1.ffn_up.weight has the impossible shape [1099511627776, 1099511627776]"),
        "{error}"
    );
}

#[test]
fn a_head_beside_tied_embeddings_must_equal_them() {
    let (mut config, mut weights) = base();
    config["tie_word_embeddings"] = json!(true);
    let head = weights.remove("language_model.lm_head.weight").unwrap();
    let table = weights["language_model.model.embed_tokens.weight"].clone();
    let model = write_checkpoint(&config, &weights);
    let llm = model.path().join("llm.gguf");
    let with_head = |head: &Tensor| {
        let mut tensors = converted(&weights);
        tensors.insert("output.weight".into(), head.clone());
        store(&llm, &facts(), &tensors, GgmlDType::F32);
        load(model.path(), &llm, None, Unused::Refuse)
    };
    let expected = answer(&crate::variants::load(model.path()).unwrap());
    assert_eq!(answer(&with_head(&table).unwrap()), expected);
    let error = with_head(&head).err().unwrap();
    assert!(error.starts_with("llm.gguf: output.weight differs from token_embd.weight"), "{error}");
}

#[test]
fn tensor_formats_that_are_not_read_are_named() {
    let (config, weights) = base();
    let model = write_checkpoint(&config, &weights);
    let llm = model.path().join("llm.gguf");
    store(&llm, &facts(), &converted(&weights), GgmlDType::F32);
    let bytes = std::fs::read(&llm).unwrap();
    // In the header a name is followed by the number of dimensions, two of them, and the type: 20 is IQ4_NL.
    let name = b"blk.1.ffn_up.weight";
    let place = bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len();
    for (number, format) in [(20u32, "IQ4_NL"), (23, "IQ4_XS"), (39, "MXFP4"), (999, "number 999")] {
        let mut changed = bytes.clone();
        changed[place + 4 + 16..][..4].copy_from_slice(&number.to_le_bytes());
        std::fs::write(&llm, changed).unwrap();
        let error = load(model.path(), &llm, None, Unused::Refuse).err().unwrap();
        assert!(
            error.starts_with("llm.gguf: not a readable GGUF file: ")
                && error.contains(&format!("tensor blk.1.ffn_up.weight is stored in the unsupported format {format}")),
            "{error}"
        );
    }
}
