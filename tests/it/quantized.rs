//! Quantized language models and GGUF files: within the documented divergence of full precision, and refused if they do
//! not fit.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::gguf_file::{Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use vidense::eval::kl_divergence;
use vidense::nn::QuantFormat;
use vidense::pipeline::{Asking, EncodedVideo, encode_video};
use vidense::spec::Plan;
use vidense::text::Conversation;
use vidense::vlm::{Blueprint, FrameRows, Overrides, Placement, PromptIds, Vlm};
use vidense::weights::Hub;

use crate::harness::{self, hidden_states, json, llama_cpp_name, repository, tensors};

const QUESTIONS: [&str; 4] =
    ["What color is the circle?", "How many objects are there?", "Is there a star?", "Describe the scene."];

fn load_with(llm: Option<PathBuf>, quantization: Option<QuantFormat>, dtype: DType) -> Result<Vlm, String> {
    let overrides = Overrides { llm, ..Overrides::default() };
    let dir = repository("samples/mini");
    let blueprint =
        Blueprint::read(dir.to_str().unwrap(), &overrides, &Hub::offline(None)).map_err(|error| error.to_string())?;
    let placement = Placement { dtype, quantization, ..Placement::cpu() };
    Vlm::load(blueprint, &placement, &(Arc::new(|_| {}) as _)).map_err(|error| error.to_string())
}

fn load(llm: Option<PathBuf>, quantization: Option<QuantFormat>) -> Vlm {
    load_with(llm, quantization, DType::F32).unwrap()
}

fn encode(vlm: &Vlm) -> EncodedVideo {
    encode_video(vlm, &repository("samples/three_shapes.mp4"), &Plan::default(), &|_| {}).unwrap()
}

fn ask(vlm: &Vlm, video: &EncodedVideo, question: &str) -> Vec<u32> {
    let plan = Plan::default();
    let asking = Asking { vlm, template: vlm.template(), plan: &plan };
    harness::ask(asking, video, question).unwrap().token_ids
}

/// The logits at each place of an answer, given what the video and the answer are.
fn logits(vlm: &Vlm, video: &EncodedVideo, question: &str, answer: &[u32]) -> Vec<Vec<f32>> {
    let prompt = Conversation::new(vlm.template().clone(), None).ask(question).unwrap();
    let ids = PromptIds::encode(&prompt, vlm.tokenizer()).unwrap();
    let prompt = vlm.splice(&ids, &video.visual, FrameRows::together(video.visual.dim(0).unwrap())).unwrap();
    let embeds = Tensor::cat(&[prompt, vlm.language().embed(answer).unwrap()], 0).unwrap();
    let n = embeds.dim(0).unwrap();
    let hidden = hidden_states(vlm.language(), &embeds, n);
    let places = hidden.narrow(0, n - answer.len() - 1, answer.len()).unwrap();
    vlm.language().logits(&places).unwrap().to_vec2().unwrap()
}

/// The mean divergence of `other` from `full` over the answers of `full`, and whether all of its answers are the same.
fn compare(full: &Vlm, other: &Vlm) -> (f64, bool) {
    let video = encode(full);
    let (mut sum, mut n, mut same) = (0.0, 0, true);
    for question in QUESTIONS {
        let answer = ask(full, &video, question);
        same &= ask(other, &video, question) == answer;
        let pairs = logits(full, &video, question, &answer).into_iter().zip(logits(other, &video, question, &answer));
        for (p, q) in pairs {
            sum += kl_divergence(&p, &q);
            n += 1;
        }
    }
    (sum / f64::from(n), same)
}

#[test]
fn eight_bits_change_no_answer_of_mini_and_its_logits_little() {
    let (kl, same) = compare(&load(None, None), &load(None, Some(QuantFormat::Q8_0)));
    assert!(same && kl > 0.0 && kl < 1e-3, "{kl:e}");
}

#[test]
fn rows_that_four_bits_do_not_fit_are_held_in_eight_and_it_is_said() {
    let vlm = load(None, Some(QuantFormat::Q4K));
    let formats: Vec<_> = vlm.language().linear_layers().map(|layer| layer.format()).collect();
    assert!(formats.iter().all(|&format| format == Some(QuantFormat::Q8_0)), "{formats:?}");
    let expected = format!(
        "of {n} linear layers {n} are stored in q8_0 and 0 in f32: q4_k takes rows that are a multiple of 256",
        n = formats.len()
    );
    assert_eq!(vlm.warnings(), [expected]);
}

#[test]
fn eight_bits_in_half_precision_answer_as_half_precision_does() {
    // Candle's kernels, as on a GPU, in place of this crate's.
    for dtype in [DType::F16, DType::BF16] {
        let full = load_with(None, None, dtype).unwrap();
        let quantized = load_with(None, Some(QuantFormat::Q8_0), dtype).unwrap();
        let formats: Vec<_> = quantized.language().linear_layers().map(|layer| layer.format()).collect();
        assert!(formats.iter().all(|&format| format == Some(QuantFormat::Q8_0)), "{formats:?}");
        let (kl, same) = compare(&full, &quantized);
        assert!(same && kl > 0.0 && kl < 5e-3, "{dtype:?}: {same} {kl:e}");
    }
}

/// The language model of `samples/mini` as llama.cpp's converter would write it: other names, and queries and keys with
/// the two halves of each head interleaved. Matrices are stored in `dtype`, everything else in f32.
fn write_gguf(
    path: &Path,
    dtype: GgmlDType,
    change: impl FnOnce(&mut HashMap<String, Value>, &mut HashMap<String, Tensor>),
) {
    let config = json(&repository("samples/mini/config.json"));
    let number = |key: &str| config[key].as_u64().unwrap() as u32;
    let (n_heads, d) = (number("num_attention_heads") as usize, number("hidden_size") as usize);
    let mut theirs = HashMap::new();
    for (name, tensor) in tensors(&repository("samples/mini/model.safetensors")) {
        let new = llama_cpp_name(&name);
        if !["blk.", "token_embd.", "output"].iter().any(|prefix| new.starts_with(prefix)) {
            continue;
        }
        let mut tensor = tensor.to_dtype(DType::F32).unwrap();
        if new.contains("attn_q.") || new.contains("attn_k.") {
            let halves = tensor.reshape((n_heads, 2, d / n_heads / 2, d)).unwrap();
            tensor = halves.transpose(1, 2).unwrap().contiguous().unwrap().reshape((d, d)).unwrap();
        }
        theirs.insert(new, tensor);
    }
    let mut facts: HashMap<String, Value> = [
        ("block_count", number("num_hidden_layers")),
        ("embedding_length", number("hidden_size")),
        ("feed_forward_length", number("intermediate_size")),
        ("attention.head_count", number("num_attention_heads")),
    ]
    .into_iter()
    .map(|(key, value)| (format!("llama.{key}"), Value::U32(value)))
    .collect();
    facts.insert("general.architecture".to_owned(), Value::String("llama".to_owned()));
    facts.insert(
        "llama.rope.freq_base".to_owned(),
        Value::F32(config["rope_theta"].as_f64().unwrap_or(10_000.0) as f32),
    );
    change(&mut facts, &mut theirs);
    let stored: Vec<(String, QTensor)> = theirs
        .into_iter()
        .map(|(name, tensor)| {
            let dtype = if tensor.rank() == 2 { dtype } else { GgmlDType::F32 };
            (name, QTensor::quantize(&tensor, dtype).unwrap())
        })
        .collect();
    let facts: Vec<(&str, &Value)> = facts.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let stored: Vec<(&str, &QTensor)> = stored.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    write(&mut File::create(path).unwrap(), &facts, &stored).unwrap();
}

#[test]
fn a_gguf_file_gives_the_answers_of_the_checkpoint_that_it_was_made_of() {
    let dir = tempfile::tempdir().unwrap();
    let full = load(None, None);
    // Stored in full the logits are the same to the bit; else as close as the format is.
    for (dtype, most, format) in [
        (GgmlDType::F32, 0.0, None),
        (GgmlDType::F16, 1e-5, None),
        (GgmlDType::Q8_0, 1e-3, Some(QuantFormat::Q8_0)),
        (GgmlDType::Q5_1, 3e-2, Some(QuantFormat::Q8_0)),
        (GgmlDType::Q4_0, 3e-1, Some(QuantFormat::Q8_0)),
    ] {
        let path = dir.path().join("mini.gguf");
        write_gguf(&path, dtype, |_, _| {});
        let vlm = load(Some(path), None);
        assert_eq!(vlm.warnings(), [""; 0]);
        assert!(vlm.language().linear_layers().all(|layer| layer.format() == format), "{dtype:?}");
        let (kl, same) = compare(&full, &vlm);
        assert!(kl <= most, "{dtype:?}: {kl:e}");
        assert!(same || most > 1e-2, "{dtype:?}");
    }
}

#[test]
fn a_gguf_file_may_be_held_in_another_format() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mini.gguf");
    write_gguf(&path, GgmlDType::F16, |_, _| {});
    let vlm = load(Some(path), Some(QuantFormat::Q8_0));
    assert!(vlm.language().linear_layers().all(|layer| layer.format() == Some(QuantFormat::Q8_0)));
    let (kl, same) = compare(&load(None, None), &vlm);
    assert!(same && kl < 1e-3, "{kl:e}");
}

#[test]
fn a_gguf_file_that_does_not_fit_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.gguf");
    let refused = |change: fn(&mut HashMap<String, Value>, &mut HashMap<String, Tensor>)| {
        write_gguf(&path, GgmlDType::F32, change);
        load_with(Some(path.clone()), None, DType::F32).err().unwrap().replace(dir.path().to_str().unwrap(), "")
    };
    let error = refused(|facts, _| drop(facts.insert("general.architecture".into(), Value::String("qwen2".into()))));
    let rule = "its general.architecture is qwen2, and that of the checkpoint's language model is llama";
    assert_eq!(error, format!("/other.gguf: {rule}"));
    let error = refused(|facts, _| drop(facts.insert("llama.rope.freq_base".into(), Value::F32(5e5))));
    assert!(
        error.starts_with(
            "/other.gguf: llama.rope.freq_base is 500000, but rope_theta of the model's config.json is 10000;"
        ),
        "{error}"
    );
    let error = refused(|_, tensors| drop(tensors.remove("blk.1.ffn_up.weight")));
    assert!(
        error.starts_with(
            "/other.gguf: the weights do not fit the configuration:\n  missing: blk.1.ffn_up.weight [384, 128] ("
        ),
        "{error}"
    );
    let error = refused(|_, tensors| {
        let narrow = Tensor::zeros((512, 64), DType::F32, &Device::Cpu).unwrap();
        tensors.insert("output.weight".into(), narrow);
    });
    assert!(error.contains("wrong shape: output.weight: expected [512, 128], found [512, 64]"), "{error}");
}

#[test]
fn a_broken_gguf_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mini.gguf");
    let load = || {
        load_with(Some(path.clone()), None, DType::F32)
            .err()
            .map(|error| error.replace(dir.path().to_str().unwrap(), ""))
    };
    assert!(load().unwrap().starts_with("/mini.gguf: No such file"), "{:?}", load());
    std::fs::write(&path, b"not a model").unwrap();
    assert!(load().unwrap().starts_with("/mini.gguf: not a readable GGUF file: unknown magic"), "{:?}", load());
    write_gguf(&path, GgmlDType::Q8_0, |_, _| {});
    let bytes = std::fs::read(&path).unwrap();
    for end in [5, 30, 300, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..end]).unwrap();
        assert!(load().is_some(), "{end} of {} bytes", bytes.len());
    }
}
