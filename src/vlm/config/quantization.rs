//! Reader of `quantization_config`: FP8 formats are supported, every other method is refused by its name.
//!
//! Reference: `quantization_config.py` of transformers, `quant_config.py` and `quant_args.py` of compressed-tensors.

use super::JsonFile;
use crate::error::Error;
use crate::weights::{Fp8Format, ScaleBlock, ScaleProduct};

/// Keys of the configuration: `compression_config` is the name in old files of compressed-tensors.
const KEYS: [&str; 2] = ["quantization_config", "compression_config"];
const SUPPORTED: &str = "supported are fp8, and compressed-tensors with weights of 8-bit floats";
const HINT: &str = "the checkpoint in full precision, or its language model as a GGUF file with --llm";
const MAX_BLOCK: usize = 1 << 16;

/// Reads how the weights are quantized; `None` for a checkpoint in full precision.
///
/// # Errors
/// [`Error`] naming a method or an option that is not supported.
pub(crate) fn read(file: &JsonFile) -> Result<Option<Fp8Format>, Error> {
    let mut found: Option<JsonFile> = None;
    let parts = ["text_config", "vision_config"].map(|key| file.section(key).ok());
    for part in [Some(file.clone())].into_iter().chain(parts).flatten() {
        for key in KEYS.into_iter().filter(|key| part.get(key).is_some()) {
            let section = part.section(key)?;
            if found.as_ref().is_some_and(|first| first.json() != section.json()) {
                return Err(part.wrong(key, "it differs from the configuration before it in the file"));
            }
            found.get_or_insert(section);
        }
    }
    found.map(|section| format(&section)).transpose()
}

/// Makes the error of a key that asks for another method or format.
fn unsupported(section: &JsonFile, key: &str) -> Error {
    section.wrong(key, SUPPORTED).with_hint(HINT)
}

fn format(config: &JsonFile) -> Result<Fp8Format, Error> {
    match config.string("quant_method")? {
        Some("fp8") => fine_grained(config),
        Some("compressed-tensors") => compressed_tensors(config),
        _ => Err(unsupported(config, "quant_method")),
    }
}

/// Reads transformers' `FineGrainedFP8Config`. A null `weight_block_size` is one scale per weight; an absent one is 128
/// x 128.
fn fine_grained(config: &JsonFile) -> Result<Fp8Format, Error> {
    let block = match config.json().get("weight_block_size") {
        None => ScaleBlock::Block(128, 128),
        Some(serde_json::Value::Null) => ScaleBlock::Tensor,
        Some(_) => rectangle(config, "weight_block_size")?,
    };
    if !matches!(config.string("expert_dtype")?, None | Some("fp8")) {
        return Err(config.wrong("expert_dtype", "only fp8 is supported"));
    }
    Ok(Fp8Format { scale: "weight_scale_inv", blocks: vec![block], product: ScaleProduct::F32 })
}

fn compressed_tensors(config: &JsonFile) -> Result<Fp8Format, Error> {
    if config.string("quantization_status")?.is_some_and(|status| status != "compressed") {
        return Err(config.wrong("quantization_status", "only compressed weights are supported"));
    }
    for key in ["sparsity_config", "transform_config"] {
        let Some(value) = config.get(key).filter(|value| value.as_object().is_none_or(|map| !map.is_empty())) else {
            continue;
        };
        let is_dense = value["format"] == "dense";
        let is_empty = value["config_groups"].as_object().is_some_and(serde_json::Map::is_empty);
        if !is_dense && !is_empty {
            return Err(unsupported(config, key));
        }
    }
    let groups = config.section("config_groups")?;
    let names: Vec<&String> = groups.json().as_object().into_iter().flat_map(|map| map.keys()).collect();
    let mut blocks = Vec::new();
    for name in names {
        let group = groups.section(name)?;
        check_packing(&group)?;
        blocks.push(scale_block(&group.section("weights")?)?);
    }
    check_packing(config)?;
    blocks.dedup();
    Ok(Fp8Format { scale: "weight_scale", blocks, product: ScaleProduct::OfScales })
}

fn check_packing(config: &JsonFile) -> Result<(), Error> {
    const READ: [&str; 4] = ["float-quantized", "naive-quantized", "mxfp8-quantized", "mixed-precision"];
    match config.string("format")? {
        Some(format) if !READ.contains(&format) => Err(unsupported(config, "format")),
        _ => Ok(()),
    }
}

fn scale_block(weights: &JsonFile) -> Result<ScaleBlock, Error> {
    if weights.string("type")? != Some("float") {
        return Err(unsupported(weights, "type"));
    }
    if weights.integer("num_bits")? != Some(8) {
        return Err(unsupported(weights, "num_bits"));
    }
    if weights.flag("symmetric")? == Some(false) {
        return Err(weights.wrong("symmetric", "weights with zero points are not supported"));
    }
    let group =
        || weights.count("group_size", 1..=MAX_BLOCK)?.ok_or_else(|| weights.wrong("group_size", "it is needed"));
    match weights.string("strategy")? {
        Some("tensor") | None => Ok(ScaleBlock::Tensor),
        Some("channel") => Ok(ScaleBlock::Row),
        Some("group") => Ok(ScaleBlock::Group(group()?)),
        Some("block") => rectangle(weights, "block_structure"),
        Some(_) => Err(weights.wrong("strategy", "expected tensor, channel, group or block")),
    }
}

/// Reads a list of rows and columns; in old files of compressed-tensors a text such as `128x128`.
fn rectangle(config: &JsonFile, key: &str) -> Result<ScaleBlock, Error> {
    let sides: Vec<u64> = match config.get(key) {
        Some(serde_json::Value::String(text)) => text.split('x').filter_map(|side| side.parse().ok()).collect(),
        Some(value) => value.as_array().into_iter().flatten().filter_map(serde_json::Value::as_u64).collect(),
        None => Vec::new(),
    };
    let side = |n: u64| usize::try_from(n).ok().filter(|n| (1..=MAX_BLOCK).contains(n));
    match sides[..] {
        [rows, columns] => side(rows).zip(side(columns)).map(|(rows, columns)| ScaleBlock::Block(rows, columns)),
        _ => None,
    }
    .ok_or_else(|| config.wrong(key, "expected two whole numbers above 0"))
}
