//! Harness of the integration tests: paths, tensors from files, comparisons, runs of the binary.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use tempfile::TempDir;
use vidense::engine::{Completion, Engine, EngineConfig, PromptPart, Request, RequestEvent};
use vidense::error::Error;
use vidense::exec::Stop;
use vidense::kernels::kv::{PageId, StepRows, pages_for};
use vidense::language::{Llama, SequenceRows};
use vidense::pipeline::{Answer, Asking, EncodedVideo, Limits, VideoChat};
use vidense::video::{Flow, Frame, FrameRequest, ReadEvent, ReadLimits, ReadReport, read_frames};

/// A directory with a clip in it that `ffmpeg` made.
pub struct Clip {
    _dir: TempDir,
    pub path: PathBuf,
}

/// Runs `ffmpeg` with these arguments; the last names the file.
pub fn ffmpeg(arguments: &str) -> Clip {
    let dir = tempfile::tempdir().unwrap();
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let (name, arguments) = arguments.split_last().unwrap();
    let path = dir.path().join(name);
    let run = Command::new("ffmpeg").args(["-v", "error", "-y"]).args(arguments).arg(&path).output();
    let run = run.expect("the ffmpeg command; `make setup` installs it");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    Clip { _dir: dir, path }
}

/// A path below the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The material beside the repository that is not part of it, or `None`, said plainly, where it is absent.
pub fn shared(path: &str) -> Option<PathBuf> {
    let found = repository("../shared").join(path);
    if !found.exists() {
        // Not `eprintln!`, which the test runner would swallow.
        let _ = writeln!(std::io::stderr(), "skipped: {} is not here", found.display());
        return None;
    }
    Some(found)
}

/// The tensors of a safetensors file.
pub fn tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A JSON file.
pub fn json(path: &Path) -> serde_json::Value {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The largest difference of two tensors, relative to the largest value of `expected`.
pub fn relative_difference(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(found.dims(), expected.dims());
    largest(&(found - expected).unwrap()) / largest(expected).max(f32::MIN_POSITIVE)
}

/// The largest absolute value of a tensor.
pub fn largest(tensor: &Tensor) -> f32 {
    tensor.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_dtype(DType::F32).unwrap().to_scalar().unwrap()
}

/// Fails unless two tensors agree to `tolerance`, relative to the largest value.
pub fn assert_close(name: &str, found: &Tensor, expected: &Tensor, tolerance: f32) {
    let difference = relative_difference(found, expected);
    assert!(difference <= tolerance, "{name}: relative difference {difference:e} over {tolerance:e}");
}

/// Reads the frames of a request; those before a restart do not count.
pub fn read_video(path: &Path, request: &FrameRequest, limits: &ReadLimits) -> Result<(Vec<Frame>, ReadReport), Error> {
    let mut frames = Vec::new();
    let report = read_frames(path, request, limits, &mut |event| {
        match event {
            ReadEvent::Frame(frame) => frames.push(frame),
            ReadEvent::Restart => frames.clear(),
            ReadEvent::Expected { .. } | ReadEvent::Progress { .. } | ReadEvent::Waiting => {}
        }
        Flow::Continue
    })?;
    Ok((frames, report))
}

/// The name in a GGUF file (llama.cpp's `gguf-py/gguf/tensor_mapping.py`) of a language model's tensor.
pub fn llama_cpp_name(name: &str) -> String {
    const PARTS: [(&str, &str); 13] = [
        ("lm_head", "output"),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("model.layers.", "blk."),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attn_norm"),
    ];
    PARTS.iter().fold(name.to_owned(), |name, (theirs, new)| name.replace(theirs, new))
}

/// Every `step`-th row of a tensor along `dim`, from the first.
pub fn every(tensor: &Tensor, dim: usize, step: u32) -> Tensor {
    let rows = tensor.dim(dim).unwrap() as u32;
    let picked = Tensor::from_iter((0..rows).step_by(step as usize), &Device::Cpu).unwrap();
    tensor.contiguous().unwrap().index_select(&picked, dim).unwrap()
}

/// A list of ids in a JSON value.
pub fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap() as u32).collect()
}

/// The hidden states of a prompt before the final norm, read in chunks through pages of key-value memory.
pub fn hidden_states(llama: &Llama, embeds: &Tensor, chunk: usize) -> Tensor {
    let n = embeds.dim(0).unwrap();
    let mut store = llama.new_kv_store().unwrap();
    let pages: Arc<[PageId]> = (0..pages_for(n) as u32).map(PageId).collect();
    pages.iter().for_each(|page| store.allocate(*page).unwrap());
    let parts = (0..n).step_by(chunk).map(|start| {
        let rows = StepRows { pages: pages.clone(), start, n: chunk.min(n - start) };
        let part = embeds.narrow(0, start, rows.n).unwrap();
        llama.forward(&part, &[SequenceRows { rows, n_prompt: n }], &mut *store).unwrap()
    });
    Tensor::cat(&parts.collect::<Vec<_>>(), 0).unwrap()
}

/// The logits at the end of a prompt.
pub fn last_logits(llama: &Llama, embeds: &Tensor, chunk: usize) -> Tensor {
    let hidden = hidden_states(llama, embeds, chunk);
    let last = hidden.narrow(0, hidden.dim(0).unwrap() - 1, 1).unwrap();
    llama.logits(&last).unwrap().squeeze(0).unwrap()
}

/// A request for so many greedy tokens, whose completion goes into `to`.
pub fn request<'l>(
    prompt: Vec<PromptPart>,
    max_new_tokens: usize,
    to: &'l RefCell<Option<Result<Completion, Error>>>,
) -> Request<'l> {
    let listener = Box::new(move |event: RequestEvent<'_>| {
        if let RequestEvent::Done(outcome) = event {
            assert!(to.replace(Some(outcome)).is_none(), "done twice");
        }
        ControlFlow::Continue(())
    });
    Request::greedy(prompt, max_new_tokens, listener)
}

/// The greedy tokens after a prompt, from an engine of these sizes.
pub fn generate(llama: &Llama, prompt: Vec<PromptPart>, n: usize, config: EngineConfig) -> Vec<u32> {
    let done = RefCell::new(None);
    let mut engine = Engine::new(llama, None, config).unwrap();
    engine.submit(request(prompt, n, &done));
    engine.run(&Stop::new());
    drop(engine);
    done.take().unwrap().unwrap().ids
}

/// One answer about a video.
pub fn ask(asking: Asking<'_>, video: &EncodedVideo, question: &str) -> Result<Answer, Error> {
    VideoChat::new(asking, video, &Limits::default())?.ask(question, &mut |_| ControlFlow::Continue(()))
}
