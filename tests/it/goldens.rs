//! Expected values of `tests/golden/make.py`, computed with PyTorch, Pillow and SentencePiece.
//!
//! Tolerances are relative to the largest value of each tensor; both sides compute in f32.

use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use vidense::connector::ConnectorKind;
use vidense::engine::{EngineConfig, PromptPart};
use vidense::language::Llama;
use vidense::nn::Purpose;
use vidense::projector::{Mlp, Projector, ProjectorBias, ProjectorKind};
use vidense::temporal::{FrameTokens, MaxPool, Temporal};
use vidense::text::{PartPosition, PromptConvention, SentencePiece, Tokenizer};
use vidense::units::LayerIndex;
use vidense::vision::{Tower, TowerFamily};
use vidense::vlm::{JsonFile, llama_config, tower_config};
use vidense::weights::{Checkpoint, Ledger, Rename};

use crate::harness::{assert_close, generate, hidden_states, ids, json, last_logits, repository, tensors};

const TOLERANCE: f32 = 2e-5;

fn weights(dir: &str, rename: Rename) -> (Arc<Ledger>, VarBuilder<'static>) {
    let ledger = Ledger::new(Checkpoint::open(&repository(dir)).unwrap(), Arc::new(|_| {}));
    let vb = ledger.part(rename, "a golden".to_owned(), DType::F32, &Device::Cpu);
    (ledger, vb)
}

/// All states of the tower in `dir`, of which the first `n_layers` layers run.
fn tower_states(dir: &str, n_layers: usize, purpose: Purpose) -> (Tensor, Tensor, TowerFamily) {
    let file = JsonFile::read(&repository(dir).join("config.json")).unwrap();
    let config = tower_config(&file).unwrap();
    let prefix = Rename::none().prefix("", "vision_model.");
    let (ledger, vb) = weights(dir, prefix);
    let tower = Tower::load(&config, n_layers, &vb, purpose).unwrap();
    ledger.check().unwrap();
    let expected = tensors(&repository(dir).join("expected.safetensors"));
    let mut states = Vec::new();
    let visit = &mut |layer: LayerIndex, state: &Tensor| {
        assert_eq!(layer.0, states.len());
        states.push(state.clone());
        Ok(ControlFlow::Continue(()))
    };
    tower.hidden_states(&expected["pixel_values"], visit).unwrap();
    (Tensor::stack(&states, 0).unwrap(), expected["hidden_states"].clone(), config.family)
}

#[test]
fn towers_hand_out_every_hidden_state() {
    for (dir, n_layers, family) in
        [("tests/golden/clip", 5, TowerFamily::Clip), ("tests/golden/siglip", 4, TowerFamily::Siglip)]
    {
        for purpose in [Purpose::Training, Purpose::Inference] {
            let (states, expected, found) = tower_states(dir, n_layers, purpose);
            assert_eq!(found, family);
            assert_close(&format!("{dir}, {purpose:?}"), &states, &expected, TOLERANCE);
        }
        // A tower that is cut off hands out the beginning of the same list.
        let (states, expected, _) = tower_states(dir, n_layers - 1, Purpose::Inference);
        assert_close(dir, &states, &expected.narrow(0, 0, n_layers).unwrap(), TOLERANCE);
    }
}

#[test]
fn connectors_fuse_as_the_released_code_does() {
    let golden = tensors(&repository("tests/golden/connector/expected.safetensors"));
    for (kind, states, last, n_layers, expected) in [
        (ConnectorKind::None, "hidden_states", 23, 24, "none"),
        (ConnectorKind::Sti, "hidden_states", 23, 24, "sti"),
        (ConnectorKind::Sci, "hidden_states", 23, 24, "sci"),
        (ConnectorKind::Dci, "hidden_states", 23, 24, "dci"),
        (ConnectorKind::Dci, "siglip_hidden_states", 26, 26, "siglip_dci"),
    ] {
        let connector = kind.over(LayerIndex(last), n_layers).unwrap();
        let mut fold = connector.begin();
        for layer in 0..=connector.last_layer().0 {
            fold.visit(LayerIndex(layer), &golden[states].get(layer).unwrap()).unwrap();
        }
        let fused = fold.finish().unwrap();
        assert_eq!(fused.dims()[1..], [connector.n_tokens(19), connector.width(8)]);
        assert_close(expected, &fused, &golden[expected], TOLERANCE);
    }
}

#[test]
fn a_connector_that_misses_a_state_says_so() {
    let connector = ConnectorKind::Dci.over(LayerIndex(5), 6).unwrap();
    let mut fold = connector.begin();
    fold.visit(LayerIndex(0), &Tensor::zeros((1, 4, 2), DType::F32, &Device::Cpu).unwrap()).unwrap();
    assert!(fold.finish().unwrap_err().to_string().contains("dci sums 6 hidden states, but 1 came"));
}

#[test]
fn projectors_agree_with_pytorch() {
    let golden = tensors(&repository("tests/golden/projector/expected.safetensors"));
    for kind in [
        ProjectorKind::Linear(ProjectorBias::AsStored),
        ProjectorKind::Mlp(Mlp::gelu(2)),
        ProjectorKind::Mlp(Mlp::gelu(3)),
    ] {
        let vb = VarBuilder::from_tensors(golden.clone(), DType::F32, &Device::Cpu).pp(kind);
        let projector = Projector::load(kind, 24, 16, &vb).unwrap();
        let output = projector.forward(&golden["input"]).unwrap();
        assert_close(&kind.to_string(), &output, &golden[&format!("{kind}.output")], TOLERANCE);
    }
}

#[test]
fn temporal_strategies_agree_with_pytorch() {
    let golden = tensors(&repository("tests/golden/temporal/expected.safetensors"));
    for (strategy, name) in [
        (Temporal::TemporalMean, "temporal_mean"),
        (Temporal::SpatialMean, "spatial_mean"),
        (Temporal::SpatialTemporalMean, "spatial_temporal_mean"),
        (Temporal::Concat, "concat"),
        (Temporal::D2, "max_pool_2"),
        (Temporal::MaxPool(MaxPool { stride: 3 }), "max_pool_3"),
    ] {
        let mut fold = strategy.begin(FrameTokens::loose(golden["input"].dim(1).unwrap()));
        fold.push(&golden["input"]).unwrap();
        assert_close(name, &fold.finish().unwrap(), &golden[name], TOLERANCE);
    }
}

#[test]
fn llamas_agree_with_transformers_in_any_chunks() {
    for case in ["grouped", "llama3_rope", "linear_rope"] {
        let dir = format!("tests/golden/llama/{case}");
        let config = llama_config(&JsonFile::read(&repository(&dir).join("config.json")).unwrap()).unwrap();
        let (ledger, vb) = weights(&dir, Rename::none());
        let llama = Llama::load(&config, &vb, Purpose::Inference).unwrap();
        ledger.check().unwrap();
        assert_eq!(ledger.unused(), [""; 0], "{case}");
        let expected = tensors(&repository(&dir).join("expected.safetensors"));
        let input: Vec<u32> = integers(&expected["input_ids"]);
        let embeds = llama.embed(&input).unwrap();

        let logits = llama.logits(&hidden_states(&llama, &embeds, input.len())).unwrap();
        assert_close(case, &logits, &expected["logits"].squeeze(0).unwrap(), TOLERANCE);

        let wanted = integers(&expected["generated_ids"]);
        for chunk in [1, 7, 64, 1000] {
            let config = EngineConfig { chunk, ..EngineConfig::with_kv_bytes(1 << 30) };
            let prompt = vec![PromptPart::Ids(input.clone())];
            assert_eq!(generate(&llama, prompt, wanted.len(), config), wanted, "{case}, chunks of {chunk}");
        }
    }
}

#[test]
fn half_precisions_run_and_stay_near() {
    let dir = "tests/golden/llama/grouped";
    let config = llama_config(&JsonFile::read(&repository(dir).join("config.json")).unwrap()).unwrap();
    let ledger = Ledger::new(Checkpoint::open(&repository(dir)).unwrap(), Arc::new(|_| {}));
    let expected = tensors(&repository(dir).join("expected.safetensors"));
    let last = expected["logits"].squeeze(0).unwrap().get(99).unwrap();
    for (dtype, tolerance) in [(DType::F16, 2e-2), (DType::BF16, 1e-1)] {
        let llama =
            Llama::load(&config, &ledger.part(Rename::none(), String::new(), dtype, &Device::Cpu), Purpose::Inference)
                .unwrap();
        let embeds = llama.embed(&integers(&expected["input_ids"])).unwrap();
        assert_close(dtype.as_str(), &last_logits(&llama, &embeds, 32), &last, tolerance);
    }
}

fn integers(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_vec1::<i64>().unwrap().into_iter().map(|id| id as u32).collect()
}

fn sentencepiece(model: &str) -> SentencePiece {
    let path = repository(&format!("tests/golden/sentencepiece/{model}.model"));
    SentencePiece::from_bytes(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn sentencepiece_ids_and_texts_are_those_of_the_library() {
    let golden = json(&repository("tests/golden/sentencepiece/expected.json"));
    for case in golden["encode"].as_array().unwrap() {
        let model = sentencepiece(case["model"].as_str().unwrap());
        assert_eq!(model.encode(case["text"].as_str().unwrap()), ids(&case["ids"]), "{case}");
    }
    for case in golden["decode"].as_array().unwrap() {
        let model = sentencepiece(case["model"].as_str().unwrap());
        assert_eq!(model.decode(&ids(&case["ids"])), case["decoded"].as_str().unwrap(), "{case}");
    }
}

#[test]
fn token_ids_are_those_of_the_slow_llama_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(repository("tests/golden/sentencepiece/a.model"), dir.path().join("tokenizer.model")).unwrap();
    let tokenizer = Tokenizer::open(dir.path(), PromptConvention::Llava).unwrap();
    let golden = json(&repository("tests/golden/sentencepiece/slow_llama.json"));
    let cases = golden.as_array().unwrap();
    assert!(cases.len() > 100);
    for case in cases {
        let (text, expected) = (case["text"].as_str().unwrap(), ids(&case["ids"]));
        assert_eq!(tokenizer.encode(text, PartPosition::First).unwrap(), expected, "{text:?}");
        assert_eq!(tokenizer.encode(text, PartPosition::Later).unwrap(), expected[1..], "{text:?}");
    }
}

proptest::proptest! {
    #[test]
    fn sentencepiece_round_trips_any_text(text in proptest::prop_oneof![".*", "[ a-e\n=.]{0,40}", "\\PC*"]) {
        // U+2581 is SentencePiece's own spelling of a space: it comes back as one.
        let model = sentencepiece("a");
        proptest::prop_assert_eq!(model.decode(&model.encode(&text)), text.replace('\u{2581}', " "));
    }
}
