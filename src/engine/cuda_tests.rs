//! A whole model on the kernels for NVIDIA GPUs: emulated in every build, and on a GPU where one answers. Greedy ids in
//! f32 are those of the CPU.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use super::*;
use crate::exec::Stop;
use crate::kernels::cuda::tests::{Tested, tested};
use crate::kernels::finite_difference::random;
use crate::kernels::kv::{PageId, StepRows};
use crate::kernels::tests::with_kernels;
use crate::language::{
    AttentionBias, Decoding, Llama, LlamaConfig, LogitRules, QueryKeyNorm, RopeScaling, SequenceRows,
};
use crate::nn::Purpose;

fn config() -> LlamaConfig {
    LlamaConfig {
        vocab_size: 97,
        d_hidden: 64,
        d_intermediate: 96,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        d_head: 16,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        context: 512,
        tied_embeddings: false,
        attention_bias: AttentionBias::All,
        qk_norm: QueryKeyNorm::None,
        mlp_bias: false,
    }
}

/// Random weights, as a checkpoint names them.
fn weights(config: &LlamaConfig) -> HashMap<String, Tensor> {
    let LlamaConfig { d_hidden: h, d_intermediate: wide, d_head: d, vocab_size, n_layers, n_heads, .. } = *config;
    let n_kv_heads = config.n_kv_heads;
    let mut tensors = HashMap::new();
    let mut add = |name: String, shape: &[usize]| {
        let x = random(shape, tensors.len() as u64);
        let x = if shape.len() == 1 { (x.abs(), 0.5) } else { (Ok(x), 0.2) };
        tensors.insert(name, x.0.and_then(|value| value * x.1).expect("small"));
    };
    for name in ["model.embed_tokens", "lm_head"] {
        add(format!("{name}.weight"), &[vocab_size, h]);
    }
    add("model.norm.weight".to_owned(), &[h]);
    for layer in 0..n_layers {
        let mut add = |name: &str, shape: &[usize]| add(format!("model.layers.{layer}.{name}"), shape);
        add("input_layernorm.weight", &[h]);
        add("post_attention_layernorm.weight", &[h]);
        for (name, d_out, d_in) in
            [("q", n_heads * d, h), ("k", n_kv_heads * d, h), ("v", n_kv_heads * d, h), ("o", h, n_heads * d)]
        {
            add(&format!("self_attn.{name}_proj.weight"), &[d_out, d_in]);
            add(&format!("self_attn.{name}_proj.bias"), &[d_out]);
        }
        add("mlp.gate_proj.weight", &[wide, h]);
        add("mlp.up_proj.weight", &[wide, h]);
        add("mlp.down_proj.weight", &[h, wide]);
    }
    tensors
}

fn model(dtype: DType, device: &Device) -> Llama {
    let weights = weights(&config()).into_iter().map(|(name, x)| {
        let x = x.to_dtype(dtype).and_then(|x| x.to_device(device));
        (name, x.expect("small"))
    });
    let vb = VarBuilder::from_tensors(weights.collect(), dtype, device);
    Llama::load(&config(), &vb, Purpose::Inference).expect("all weights")
}

/// Prompts of which several begin with the same visual tokens, with the decoding of their answers.
fn prompts(model: &Llama) -> Vec<(Vec<PromptPart>, Decoding)> {
    let visual = random((70, config().d_hidden), 100).to_dtype(model.dtype()).and_then(|x| x.to_device(model.device()));
    let visual = Visual::new(visual.expect("small"));
    let drawn = Decoding { temperature: 0.8, seed: 5, ..Decoding::default() };
    (0..5u32)
        .map(|i| {
            let question: Vec<u32> = (0..3 + 11 * i).map(|j| (7 * i + 13 * j) % 97).collect();
            let question = PromptPart::Ids(question);
            let parts = if i == 3 { vec![question] } else { vec![PromptPart::Visual(visual.clone()), question] };
            (parts, if i == 1 { drawn.clone() } else { Decoding::default() })
        })
        .collect()
}

/// Returns the ids of each answer, all requests together.
fn answers(model: &Llama, config: EngineConfig) -> Vec<Vec<u32>> {
    answers_to(prompts(model), model, config).0
}

/// Returns the answers to given prompts, and the engine's counters.
fn answers_to(
    prompts: Vec<(Vec<PromptPart>, Decoding)>,
    model: &Llama,
    config: EngineConfig,
) -> (Vec<Vec<u32>>, EngineStats) {
    let answers = RefCell::new(vec![Vec::new(); prompts.len()]);
    let mut engine = Engine::new(model, None, config).expect("memory");
    for (i, (prompt, decoding)) in prompts.into_iter().enumerate() {
        let answers = &answers;
        let listener = Box::new(move |event: RequestEvent<'_>| {
            if let RequestEvent::Done(outcome) = event {
                answers.borrow_mut()[i] = outcome.expect("it runs").ids;
            }
            ControlFlow::Continue(())
        });
        engine.submit(Request { decoding, ..Request::greedy(prompt, 6 + i, listener) });
    }
    engine.run(&Stop::default());
    let stats = engine.stats();
    drop(engine);
    (answers.into_inner(), stats)
}

#[test]
fn answers_in_f32_are_those_of_the_cpu() {
    let expected = answers(&model(DType::F32, &Device::Cpu), EngineConfig::with_kv_bytes(1 << 30));
    assert!(expected.iter().enumerate().all(|(i, ids)| ids.len() == 6 + i), "{expected:?}");
    for Tested { kernels, device, .. } in tested().into_iter().filter(|tested| tested.dtype == DType::F32) {
        let model = with_kernels(kernels, || model(DType::F32, &device));
        // Prompts in pieces, many and few rows at a time.
        for (chunk, chunk_beside_answers) in [(1024, 128), (50, 5)] {
            let config = EngineConfig { chunk, chunk_beside_answers, ..EngineConfig::with_kv_bytes(1 << 30) };
            assert_eq!(answers(&model, config), expected, "{device:?}, pieces of {chunk}");
        }
    }
}

#[test]
fn greedy_and_drawn_answers_are_replayed_as_whole_steps() {
    let requests = |model: &Llama| {
        let [shared, _, _, alone, _] = prompts(model).try_into().expect("five prompts");
        // Ten that begin alike, in one step filled up to 16, then fewer and fewer; one that shares nothing.
        let prompt = |i: u32| {
            let mut prompt = if i == 4 { alone.0.clone() } else { shared.0.clone() };
            prompt.push(PromptPart::Ids(vec![i, 3 * i]));
            let hot = Decoding { temperature: 0.8, seed: i.into(), ..Decoding::default() };
            let decoding = match i {
                2 => Decoding { top_k: Some(5), ..hot },
                5 => Decoding { top_k: Some(20), top_p: Some(0.8), ..hot },
                7 => hot,
                8 => Decoding { rules: LogitRules { repetition_penalty: 1.3, ..hot.rules }, ..Decoding::default() },
                _ => Decoding::default(),
            };
            (prompt, decoding)
        };
        (0..10).map(prompt).collect::<Vec<_>>()
    };
    let config = |decode| EngineConfig { decode, ..EngineConfig::with_kv_bytes(1 << 30) };
    let on_cpu = model(DType::F32, &Device::Cpu);
    let (expected, stats) = answers_to(requests(&on_cpu), &on_cpu, config(DecodeLaunch::Graph));
    assert_eq!(stats.replayed_steps, 0);
    for Tested { kernels, device, .. } in tested().into_iter().filter(|tested| tested.dtype == DType::F32) {
        let model = with_kernels(kernels, || model(DType::F32, &device));
        let (found, stats) = answers_to(requests(&model), &model, config(DecodeLaunch::Graph));
        assert_eq!(found, expected, "{device:?}");
        // 14 steps of answers; of each form the first three are not.
        assert!(stats.replayed_steps >= 2, "{stats:?}");
        let (found, stats) = answers_to(requests(&model), &model, config(DecodeLaunch::Operations));
        assert_eq!((found, stats.replayed_steps), (expected.clone(), 0), "{device:?}");
    }
}

#[test]
fn logits_in_half_precision_are_near_those_of_f32() {
    let ids = [5u32, 17, 80, 3, 44, 60, 21, 9, 11, 2];
    let logits = |model: &Llama| {
        let mut store = model.new_kv_store().expect("even heads");
        store.allocate(PageId(0)).expect("memory");
        let pages: Arc<[PageId]> = [PageId(0)].into();
        let mut last = None;
        // Nine positions together, then one.
        for (start, n) in [(0, 9), (9, 1)] {
            let rows = StepRows { pages: pages.clone(), start, n };
            let rows = [SequenceRows { rows, n_prompt: 10 }];
            let embeds = model.embed(&ids[start..start + n]).expect("in the vocabulary");
            let hidden = model.forward(&embeds, &rows, &mut *store).expect("it fits");
            last = Some(model.logits(&hidden.narrow(0, n - 1, 1).expect("a row")).expect("it fits"));
        }
        let last = last.and_then(|x| x.to_device(&Device::Cpu).ok()).expect("two steps");
        last.flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("f32")
    };
    let expected = logits(&model(DType::F32, &Device::Cpu));
    let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    for Tested { kernels, device, dtype } in tested() {
        let found = logits(&with_kernels(kernels, || model(dtype, &device)));
        let tolerance = if dtype == DType::F32 { 2e-5 } else { 3e-2 } * largest;
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() <= tolerance, "{dtype:?} on {device:?}: {found} {expected}");
        }
    }
}
