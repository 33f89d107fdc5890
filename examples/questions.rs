//! What further questions about one video cost.
//!
//! ```sh
//! make questions                                                                     # vidense-mini
//! cargo run --release --example questions -- --llama target/llama-1.1b --runs 3      # a random Llama of 1.1B
//! ```
//!
//! Runs `vidense batch` with one question and with twenty, in turns, and tells the medians; then what the first
//! question and the further ones cost in prefill. The Llama has TinyLlama's geometry and random weights, which are
//! written once (2 GB), behind `vidense-mini`'s tower and 2,304 visual tokens.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use clap::Parser;
use serde_json::{Value, json};

/// Questions of the longer run.
const MANY: usize = 20;

#[derive(Parser)]
struct Questions {
    /// Runs of each kind
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// A random Llama of 1.1B in place of vidense-mini; it is written here if it is not there
    #[arg(long, value_name = "DIR")]
    llama: Option<PathBuf>,
    /// The program
    #[arg(long, default_value = "target/release/vidense")]
    vidense: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Questions::parse();
    let mut flags: Vec<String> = vec!["--set".into(), "generate.max_new_tokens=8".into()];
    if let Some(dir) = &arguments.llama {
        if !dir.join("model.safetensors").exists() {
            write_llama(dir).with_context(|| dir.display().to_string())?;
        }
        // 36 frames of 64 tokens each.
        for set in [
            format!("model={}", dir.display()),
            "sample={uniform: {frames: 36, short: repeat_last}}".to_owned(),
            "temporal=concat".to_owned(),
        ] {
            flags.extend(["--set".to_owned(), set]);
        }
    }
    let dir = tempfile::tempdir()?;
    let (mut one, mut many, mut first, mut further) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.runs {
        one.push(arguments.run(1, &flags, dir.path())?);
        many.push(arguments.run(MANY, &flags, dir.path())?);
        let prefill = prefill(dir.path())?;
        first.push(prefill[0]);
        further.extend(&prefill[1..]);
    }
    let (one, many) = (median(one), median(many));
    let mut out = std::io::stdout().lock();
    writeln!(out, "1 question {one:.2} s, {MANY} questions {many:.2} s: {:.2} x", many / one)?;
    let (first, further) = (median(first), median(further));
    let share = 100.0 * further / first;
    writeln!(out, "prefill of the first {first:.1} ms, of a further one {further:.1} ms: {share:.1} %")?;
    Ok(())
}

impl Questions {
    /// Seconds of a whole run with so many questions.
    fn run(&self, n: usize, flags: &[String], dir: &Path) -> Result<f64> {
        let results = dir.join("results");
        let _ = fs::remove_dir_all(&results);
        let mut command = Command::new(&self.vidense);
        command.args(["batch", "pipelines/mini.yaml", "samples/three_shapes.mp4", "--no-cache", "--out"]).arg(results);
        for i in 1..=n {
            command.args(["-q", &format!("How many objects are there in picture {i}?")]);
        }
        let start = Instant::now();
        let status = command.args(flags).stderr(Stdio::null()).status().context("make build comes first")?;
        ensure!(status.success(), "vidense batch failed");
        Ok(start.elapsed().as_secs_f64())
    }
}

/// Milliseconds of each question's prefill, in the order in which they were asked.
fn prefill(dir: &Path) -> Result<Vec<f64>> {
    let text = fs::read_to_string(dir.join("results/timings.jsonl"))?;
    let time = |line: &str| {
        let line: Value = serde_json::from_str(line)?;
        line["timings_ms"]["prefill"].as_f64().context("no prefill")
    };
    text.lines().map(time).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// TinyLlama's numbers, but for the vocabulary, which is `vidense-mini`'s.
const D_HIDDEN: usize = 2048;
const D_WIDE: usize = 5632;
const N_LAYERS: usize = 22;
const N_HEADS: usize = 32;
const N_KV_HEADS: usize = 4;

/// Writes a checkpoint with random weights behind `vidense-mini`'s tower.
fn write_llama(dir: &Path) -> Result<()> {
    let mini = Path::new("samples/mini");
    fs::create_dir_all(dir.join("vision_tower"))?;
    for name in
        ["config.json", "model.safetensors", "preprocessor_config.json"].map(|name| format!("vision_tower/{name}"))
    {
        fs::copy(mini.join(&name), dir.join(&name))?;
    }
    fs::copy(mini.join("tokenizer.json"), dir.join("tokenizer.json"))?;
    let mut config: Value = serde_json::from_slice(&fs::read(mini.join("config.json"))?)?;
    let (n_vocabulary, d_tower) = (config["vocab_size"].as_u64().context("vocab_size")? as usize, 3 * 128);
    config["hidden_size"] = json!(D_HIDDEN);
    config["intermediate_size"] = json!(D_WIDE);
    config["num_hidden_layers"] = json!(N_LAYERS);
    config["num_attention_heads"] = json!(N_HEADS);
    config["num_key_value_heads"] = json!(N_KV_HEADS);
    config["max_position_embeddings"] = json!(4096);
    fs::write(dir.join("config.json"), config.to_string())?;

    let d_kv = D_HIDDEN / N_HEADS * N_KV_HEADS;
    let matrix = |rows: usize, columns: usize| {
        Tensor::randn(0f32, (columns as f32).powf(-0.5), (rows, columns), &Device::Cpu)?.to_dtype(DType::F16)
    };
    let ones = || Tensor::ones(D_HIDDEN, DType::F16, &Device::Cpu);
    let zeros = || Tensor::zeros(D_HIDDEN, DType::F16, &Device::Cpu);
    let mut weights = HashMap::from([
        ("model.embed_tokens.weight".to_owned(), matrix(n_vocabulary, D_HIDDEN)?),
        ("lm_head.weight".to_owned(), matrix(n_vocabulary, D_HIDDEN)?),
        ("model.norm.weight".to_owned(), ones()?),
        ("model.mm_projector.0.weight".to_owned(), matrix(D_HIDDEN, d_tower)?),
        ("model.mm_projector.0.bias".to_owned(), zeros()?),
        ("model.mm_projector.2.weight".to_owned(), matrix(D_HIDDEN, D_HIDDEN)?),
        ("model.mm_projector.2.bias".to_owned(), zeros()?),
    ]);
    for layer in 0..N_LAYERS {
        for (name, rows, columns) in [
            ("self_attn.q_proj", D_HIDDEN, D_HIDDEN),
            ("self_attn.k_proj", d_kv, D_HIDDEN),
            ("self_attn.v_proj", d_kv, D_HIDDEN),
            ("self_attn.o_proj", D_HIDDEN, D_HIDDEN),
            ("mlp.gate_proj", D_WIDE, D_HIDDEN),
            ("mlp.up_proj", D_WIDE, D_HIDDEN),
            ("mlp.down_proj", D_HIDDEN, D_WIDE),
        ] {
            weights.insert(format!("model.layers.{layer}.{name}.weight"), matrix(rows, columns)?);
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            weights.insert(format!("model.layers.{layer}.{name}.weight"), ones()?);
        }
    }
    Ok(candle_core::safetensors::save(&weights, dir.join("model.safetensors"))?)
}
