//! The sizes of an engine's steps, and the engine on a device that runs out of memory: smaller steps, then an error
//! with the sizes.

use std::sync::Arc;

use std::cell::RefCell;
use std::ops::ControlFlow;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use super::*;
use crate::engine::{PromptPart, RequestEvent};
use crate::kernels::kv::{PAGE_LEN, PageId, StepLayout};
use crate::language::{AttentionBias, LlamaConfig, QueryKeyNorm, RopeScaling};
use crate::nn::Purpose;

/// Page memory on a device with room for the activations of a number of positions.
struct Cramped {
    store: Box<dyn KvStore>,
    room: usize,
    /// Positions and sequences of every step that was tried.
    tried: Tried,
}

impl KvStore for Cramped {
    fn page_bytes(&self) -> usize {
        self.store.page_bytes()
    }

    fn allocate(&mut self, page: PageId) -> Result<()> {
        self.store.allocate(page)
    }

    fn begin(&mut self, layout: StepLayout) -> Result<()> {
        let n_rows = layout.n_rows();
        crate::exec::lock(&self.tried).push((n_rows, layout.sequences.len()));
        if n_rows > self.room {
            candle_core::bail!("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
        }
        self.store.begin(layout)
    }

    fn attend(&mut self, layer: usize, qkv: &Tensor) -> Result<Tensor> {
        self.store.attend(layer, qkv)
    }
}

fn model() -> Llama {
    let config = LlamaConfig {
        vocab_size: 16,
        d_hidden: 8,
        d_intermediate: 8,
        n_layers: 1,
        n_heads: 2,
        n_kv_heads: 2,
        d_head: 4,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        rope_scaling: RopeScaling::None,
        context: 4096,
        tied_embeddings: false,
        attention_bias: AttentionBias::None,
        qk_norm: QueryKeyNorm::None,
        mlp_bias: false,
    };
    Llama::load(&config, &VarBuilder::zeros(DType::F32, &Device::Cpu), Purpose::Training).expect("small")
}

/// Positions and sequences of steps.
type Tried = Arc<std::sync::Mutex<Vec<(usize, usize)>>>;

/// Returns an engine on a device with so much room, and the steps that it tries.
fn cramped(model: &Llama, config: EngineConfig, room: usize) -> (Engine<'_>, Tried) {
    let mut engine = Engine::new(model, None, config).expect("a budget");
    let tried = Tried::default();
    let store = std::mem::replace(&mut engine.store, model.new_kv_store().expect("small"));
    engine.store = Box::new(Cramped { store, room, tried: Arc::clone(&tried) });
    (engine, tried)
}

/// Returns a request for `n` tokens after a prompt, without a listener.
fn request<'l>(ids: Vec<u32>, n_new: usize) -> Request<'l> {
    Request::greedy(vec![PromptPart::Ids(ids)], n_new, Box::new(|_| ControlFlow::Continue(())))
}

/// Number of tokens of an answer, or why there is none.
type Outcome = std::result::Result<usize, Error>;

/// Answers prompts of these lengths with three tokens each, on a device with so much room; returns the outcomes, the
/// steps that were tried, and the counters.
fn answer(lengths: &[usize], room: usize) -> (Vec<Outcome>, Vec<(usize, usize)>, EngineStats) {
    let model = model();
    let outcomes: Vec<_> = lengths.iter().map(|_| RefCell::new(None)).collect();
    let (mut engine, tried) = cramped(&model, EngineConfig::with_kv_bytes(1 << 20), room);
    for (i, (n, outcome)) in lengths.iter().zip(&outcomes).enumerate() {
        let listener = move |event: RequestEvent<'_>| {
            if let RequestEvent::Done(done) = event {
                *outcome.borrow_mut() = Some(done.map(|completion| completion.ids.len()));
            }
            ControlFlow::Continue(())
        };
        // No two begin alike.
        let ids = vec![i as u32; *n];
        engine.submit(Request::greedy(vec![PromptPart::Ids(ids)], 3, Box::new(listener)));
    }
    engine.run(&Stop::new());
    let stats = engine.stats();
    drop(engine);
    let tried = crate::exec::lock(&tried).clone();
    (outcomes.into_iter().map(|outcome| outcome.into_inner().expect("done")).collect(), tried, stats)
}

#[test]
fn answers_count_into_the_rows_of_a_step() {
    let model = model();
    let config = EngineConfig { chunk_beside_answers: 64, ..EngineConfig::with_kv_bytes(1 << 20) };
    let (mut engine, tried) = cramped(&model, config, usize::MAX);
    for i in 0..8 {
        engine.submit(request(vec![i; 4], 40));
    }
    engine.step();
    engine.submit(request(vec![9; 300], 1));
    (0..2).for_each(|_| assert!(engine.step()));
    // Eight prompts; then a token of each and 56 positions of the long prompt, twice.
    assert_eq!(*crate::exec::lock(&tried), [(32, 8), (64, 9), (64, 9)]);
    // A page of a prompt however many answers there are.
    engine.config.chunk_beside_answers = 33;
    engine.step();
    assert_eq!(crate::exec::lock(&tried).last(), Some(&(8 + PAGE_LEN, 9)));
}

#[test]
fn requests_are_taken_until_one_waits_for_a_place() {
    let model = model();
    let config = EngineConfig { max_sequences: 3, chunk: PAGE_LEN, ..EngineConfig::with_kv_bytes(1 << 20) };
    let mut engine = Engine::new(&model, None, config).expect("a budget");
    let in_engine = |engine: &Engine<'_>| (engine.n_running(), engine.n_waiting());
    engine.submit(request(vec![1; 200], 2));
    engine.step();
    // Waits for the first one, which is still reading what both begin with: places are not what it lacks.
    engine.submit(request(vec![1; 190], 2));
    assert!(engine.takes_more() && in_engine(&engine) == (1, 1));
    engine.submit(request(vec![2; 8], 2));
    assert!(!engine.takes_more() && in_engine(&engine) == (2, 1), "three have a slot");
    engine.run(&Stop::new());
    assert!(engine.takes_more() && engine.is_idle());
    // One that waits for memory.
    let config = EngineConfig { max_sequences: 3, ..EngineConfig::with_kv_bytes(3 * engine.store.page_bytes()) };
    let mut engine = Engine::new(&model, None, config).expect("a budget");
    engine.submit(request(vec![1; 60], 2));
    engine.submit(request(vec![2; 60], 2));
    assert!(!engine.takes_more() && in_engine(&engine) == (1, 1));
}

#[test]
fn prompts_are_read_in_smaller_chunks_where_memory_is_short() {
    let (outcomes, tried, stats) = answer(&[300], 80);
    assert!(matches!(outcomes[..], [Ok(3)]), "{outcomes:?}");
    // 300 and its half, 150, are too many; 75 fit.
    assert_eq!(tried[..3], [(300, 1), (150, 1), (75, 1)]);
    assert_eq!(stats.memory_retreats, 2);
    assert!(tried[2..].iter().all(|(n_rows, _)| *n_rows <= 75));
}

#[test]
fn fewer_sequences_run_together_where_memory_is_short() {
    let (outcomes, tried, stats) = answer(&[4; 8], 9);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(3))), "{outcomes:?}");
    // Eight prompts of four positions, then four, then two, of which eight positions fit.
    assert_eq!(tried[..3], [(32, 8), (16, 4), (8, 2)]);
    assert_eq!(stats.memory_retreats, 2);
    assert!(tried[2..].iter().all(|(_, n_sequences)| *n_sequences <= 2));
}

#[test]
fn a_device_without_memory_for_anything_is_told_with_the_sizes() {
    let (outcomes, _, stats) = answer(&[40, 3], 0);
    assert!(stats.memory_retreats > 0);
    for outcome in outcomes {
        let error = outcome.expect_err("no room").to_string();
        assert!(error.contains("out of memory") && error.contains("position(s) of 1 sequence(s)"), "{error}");
        assert!(error.contains("hint: a smaller --kv-memory"), "{error}");
    }
}
