//! Description of a model and of a plan as text: parts, shapes, token budget, memory, devices.

use std::fmt::Write;

use candle_core::{DType, Device, DeviceLocation};
use vidense::device::{DeviceSpec, OpenedDevice};
use vidense::engine::default_kv_bytes;
use vidense::error::Kind;
use vidense::nn::QuantFormat;
use vidense::spec::Plan;
use vidense::temporal::{AggregationPoint, Temporal, Views};
use vidense::units::Tokens;
use vidense::vlm::{Blueprint, TextTokens, TowerSource};

use crate::cli::output;

pub(super) fn describe_parts(text: &mut String, blueprint: &Blueprint) -> std::fmt::Result {
    let (llama, tower) = (&blueprint.config.llama, &blueprint.tower);
    writeln!(text, "model       {}", output::printable(&blueprint.name))?;
    let frame = blueprint.frame_tokens();
    writeln!(text, "family      {}, {} tokens a frame from the projector", blueprint.config.family.name, frame.count)?;
    writeln!(
        text,
        "language    {} layers, width {}, {} heads ({} key-value), feed-forward {}, vocabulary {}, context {}",
        llama.n_layers,
        llama.d_hidden,
        llama.n_heads,
        llama.n_kv_heads,
        llama.d_intermediate,
        llama.vocab_size,
        blueprint.config.context
    )?;
    let source = match &blueprint.tower_source {
        TowerSource::Inside => "inside the checkpoint".to_owned(),
        TowerSource::Beside(checkpoint) => output::printable(&checkpoint.dir().to_string_lossy()).into_owned(),
    };
    writeln!(
        text,
        "tower       {:?}, {} layers, width {}, {} heads, image {} x {}, patch {} ({source})",
        tower.family,
        tower.n_layers,
        tower.d_hidden,
        tower.n_heads,
        tower.image_size,
        tower.image_size,
        tower.patch_size
    )?;
    writeln!(text, "connector   {}", blueprint.connector.describe())?;
    writeln!(text, "projector   {}", blueprint.config.projector)?;
    writeln!(text, "tokenizer   {}, {} ids", blueprint.tokenizer.kind(), blueprint.tokenizer.vocab_size())?;
    let origin = blueprint.template.origin().map(|origin| format!(" ({origin})")).unwrap_or_default();
    writeln!(text, "template    {}{origin}", blueprint.template.name())?;
    let own = Plan::default().resolved(blueprint);
    let temporal = own.temporal();
    let n_tokens = |n_frames| temporal.n_tokens(n_frames, frame).0;
    let each = n_tokens(2).saturating_sub(n_tokens(1));
    writeln!(text, "video       {}, {temporal}: {each} tokens with each frame more (by default)", own.sample())?;
    describe_single_image(text, blueprint)?;
    writeln!(text, "generation  {}", blueprint.config.generation)
}

/// Describes the family's handling of a single image, where it has one, with its maximum of tokens.
fn describe_single_image(text: &mut String, blueprint: &Blueprint) -> std::fmt::Result {
    if !blueprint.single_image.is_own() {
        return Ok(());
    }
    let single_image = match blueprint.single_image.usable() {
        Ok(single_image) => single_image,
        Err(error) => return writeln!(text, "image       refused: {error}"),
    };
    let (frame, side) = (blueprint.frame_tokens(), single_image.any_res().side());
    let most = single_image.packings().max_by_key(|packing| packing.n_tokens(1, frame));
    let most = most.map_or_else(String::new, |packing| {
        format!(", at most {} tokens: {}", packing.n_tokens(1, frame), packing.explain(1, frame))
    });
    writeln!(text, "image       any_res, views of {side} x {side}{most} (by default)")
}

pub(super) fn describe_shapes(
    text: &mut String,
    blueprint: &Blueprint,
    temporal: Temporal,
    frames: usize,
) -> std::fmt::Result {
    let (tower, connector) = (&blueprint.tower, &blueprint.connector);
    let frame = blueprint.frame_tokens();
    let n_tokens = frame.count;
    let n_state_tokens = tower.n_state_tokens();
    let images = match temporal.views() {
        Views::Frames => frames,
        Views::FramesAndThumbnail { .. } => frames + 1,
        Views::Grid { .. } => 1,
    };
    let projected = if temporal.aggregation_point() == AggregationPoint::BeforeProjector { 1 } else { images };
    writeln!(text, "\nshapes of {frames} frames")?;
    writeln!(text, "  pixels         ({images}, 3, {}, {})", tower.image_size, tower.image_size)?;
    writeln!(text, "  hidden states  {} of ({images}, {n_state_tokens}, {})", tower.n_layers + 1, tower.d_hidden)?;
    writeln!(
        text,
        "  connector      ({images}, {n_tokens}, {})",
        connector.width(blueprint.feature_selection().width(tower))
    )?;
    if blueprint.window > 1 {
        writeln!(text, "  window         lower groups averaged over {} frames", blueprint.window)?;
    }
    writeln!(text, "  projector      ({projected}, {n_tokens}, {})", blueprint.config.llama.d_hidden)?;
    writeln!(text, "  {temporal}     ({}, {})", temporal.n_tokens(frames, frame), blueprint.config.llama.d_hidden)
}

/// Describes the visual tokens of each plan's strategy, and the room that they leave in the context.
pub(super) fn describe_budget(
    text: &mut String,
    blueprint: &Blueprint,
    plans: &[Plan],
    frames: usize,
) -> std::fmt::Result {
    writeln!(text, "\nvisual tokens of {frames} frames, against a context of {}", blueprint.config.context)?;
    plans.iter().try_for_each(|plan| describe_strategy(text, blueprint, plan, frames))
}

/// Returns the plan once with each temporal strategy; `checkpoint` is the strategy that it stands for.
pub(super) fn with_each_strategy(plan: &Plan) -> Vec<Plan> {
    let all = Temporal::all().into_iter().filter(|&temporal| temporal != Temporal::Checkpoint);
    all.map(|temporal| Plan { temporal: Some(temporal), ..plan.clone() }).collect()
}

fn describe_strategy(text: &mut String, blueprint: &Blueprint, plan: &Plan, frames: usize) -> std::fmt::Result {
    let temporal = plan.temporal();
    let words = TextTokens { once: Tokens(0), ..plan.least_text(blueprint, 2) };
    let budget = blueprint.budget(temporal, frames, words);
    let room = match budget.room() {
        Ok(room) => format!("{room} left for question and answer"),
        Err(error) if error.kind() == Kind::TokenBudget => "over the context".to_owned(),
        Err(error) => error.to_string(),
    };
    let (name, visual) = (temporal.to_string(), budget.visual());
    let words = match words.each {
        Tokens(0) => String::new(),
        each => format!(" + {each} of text with each"),
    };
    writeln!(text, "  {name:<30} {visual:>6}  {}{words} ({room})", temporal.explain(frames, budget.frame))
}

pub(super) fn describe_memory(text: &mut String, blueprint: &Blueprint) -> std::fmt::Result {
    let stored = blueprint.stored_dtype();
    writeln!(text, "\nmemory ({} parameters, stored as {})", blueprint.n_parameters(), stored.as_str())?;
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let weights = blueprint.n_parameters() * dtype.size_in_bytes();
        let cache = blueprint.kv_bytes(dtype);
        let name = dtype.as_str();
        writeln!(text, "  {name}   weights {}, key-value cache of the whole context {}", bytes(weights), bytes(cache))?;
    }
    let llama = &blueprint.config.llama;
    let n_linear = llama.n_linear_weights().min(blueprint.n_parameters());
    // Beside quantized weights rows of the embedding table are read from the file. A tied one is counted as the head.
    let n_in_file = if llama.tied_embeddings { 0 } else { llama.vocab_size * llama.d_hidden };
    let n_rest = (blueprint.n_parameters() - n_linear).saturating_sub(n_in_file);
    for format in [QuantFormat::Q8_0, QuantFormat::Q4K] {
        let weights = format.bytes(n_linear) + n_rest * DType::F32.size_in_bytes();
        writeln!(
            text,
            "  {format}  weights {} for the language model's linear layers, the rest in f32",
            bytes(weights)
        )?;
    }
    describe_kv_budget(text, blueprint)
}

/// Describes the default budget of keys and values on this machine's CPU, and its positions: in f32, and in f16 as
/// beside quantized weights.
fn describe_kv_budget(text: &mut String, blueprint: &Blueprint) -> std::fmt::Result {
    let weights = blueprint.n_parameters() * DType::F32.size_in_bytes();
    let budget = default_kv_bytes(&Device::Cpu, weights as u64) as usize;
    writeln!(text, "  keys and values, here on the CPU: {} by default (--kv-memory)", bytes(budget))?;
    for (dtype, beside) in [(DType::F32, ""), (DType::F16, ", the default beside quantized weights")] {
        let context = blueprint.kv_bytes(dtype).max(1);
        let position = context / blueprint.config.context.max(1);
        writeln!(
            text,
            "    in {}: {} positions or {:.1} whole contexts{beside}",
            dtype.as_str(),
            budget / position.max(1),
            budget as f64 / context as f64
        )?;
    }
    Ok(())
}

/// Describes the devices to which a plan's `auto` resolves on this machine.
pub(super) fn describe_devices(text: &mut String, plan: &Plan) -> anyhow::Result<()> {
    let mut notes = Vec::new();
    let mut name = |spec: DeviceSpec| {
        let OpenedDevice { device, note } = spec.open_with_note()?;
        notes.extend(note);
        Ok::<_, anyhow::Error>(match device.location() {
            DeviceLocation::Cpu => "cpu".to_owned(),
            DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
            DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
        })
    };
    let mut devices = name(plan.device)?;
    if !plan.vision.is_default() {
        devices += &format!(", vision {}", name(plan.vision.device.unwrap_or(plan.device))?);
    }
    writeln!(text, "\ndevice      {devices}")?;
    notes.dedup();
    notes.iter().for_each(|note| output::note(note));
    Ok(())
}

fn bytes(n: usize) -> String {
    let mib = n as f64 / f64::from(1 << 20);
    if mib >= 1024.0 { format!("{:.1} GiB", mib / 1024.0) } else { format!("{mib:.1} MiB") }
}
