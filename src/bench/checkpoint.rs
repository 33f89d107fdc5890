//! Writing of a checkpoint with random weights and a released model's geometry, in the layout of LLaVA's code, for
//! timing whole commands where no released weights are at hand.
//!
//! Tokenizer and prompt template are those of the model inside the binary, whose vocabulary is a subset of the released
//! model's.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use serde::Serialize;
use serde_json::{Value, json};

use super::{BenchTarget, random};
use crate::error::Error;
use crate::exec::lock;
use crate::files::{self, Durability, output};
use crate::language::{Llama, LlamaConfig};
use crate::nn::Purpose;
use crate::projector::{Mlp, Projector, ProjectorKind};
use crate::vision::{Tower, TowerConfig, TowerFamily};

/// Limit of a weights file's size in bytes.
const SHARD_BYTES: usize = 4 << 30;
/// Directory of the vision tower, inside that of the checkpoint.
const TOWER: &str = "vision_tower";

/// Geometry of a checkpoint.
#[derive(Debug, Clone)]
pub struct CheckpointTask<'a> {
    /// The language model.
    pub llama: LlamaConfig,
    /// The vision tower.
    pub tower: TowerConfig,
    /// A new directory.
    pub out: &'a Path,
    /// Device on which the weights are made, and precision in which they are stored.
    pub target: BenchTarget,
}

/// Size of a written checkpoint.
#[derive(Debug, Clone, Serialize)]
pub struct WrittenCheckpoint {
    /// The directory.
    pub model: PathBuf,
    /// Number of parameters, including the tower's.
    pub parameters: usize,
    /// Bytes of the weights.
    pub bytes: usize,
}

/// Writes a checkpoint.
///
/// # Errors
/// When candle fails, a file cannot be written, or the build has no model inside whose tokenizer could be copied.
pub fn write_checkpoint(task: &CheckpointTask<'_>) -> Result<WrittenCheckpoint> {
    let CheckpointTask { llama, tower, out, target } = task;
    let config = adapted(builtin("config.json")?, llama, tower)?;
    std::fs::create_dir_all(out.join(TOWER))?;
    output::replace(&out.join("tokenizer.json"), builtin("tokenizer.json")?, Durability::Renamed)?;
    write_json(&out.join("config.json"), &config)?;
    write_json(&out.join(TOWER).join("config.json"), &tower_json(tower))?;
    write_json(&out.join(TOWER).join("preprocessor_config.json"), &processor_json(tower))?;

    let language = recorded(|vb| Llama::load(llama, vb, Purpose::Training).map(drop))?;
    let width = dci_width(tower);
    let projector =
        recorded(|vb| Projector::load(ProjectorKind::Mlp(Mlp::gelu(2)), width, llama.d_hidden, vb).map(drop))?;
    let projector = projector.into_iter().map(|(name, shape)| (format!("model.mm_projector.{name}"), shape));
    let vision = recorded(|vb| Tower::load(tower, tower.n_layers, vb, Purpose::Training).map(drop))?;
    let vision = vision.into_iter().map(|(name, shape)| (format!("vision_model.{name}"), shape)).collect();
    let main = language.into_iter().chain(projector).collect();
    let sizes = [write_weights(main, out, target)?, write_weights(vision, &out.join(TOWER), target)?];
    let parameters = sizes.iter().sum();
    Ok(WrittenCheckpoint { model: (*out).to_owned(), parameters, bytes: parameters * target.dtype.size_in_bytes() })
}

/// Width of DCI's tokens: the final layer and the means of two groups of the other layers, concatenated.
fn dci_width(tower: &TowerConfig) -> usize {
    3 * tower.d_hidden
}

/// Returns names and shapes of the tensors that a network reads.
fn recorded(load: impl FnOnce(&VarBuilder) -> Result<()>) -> Result<BTreeMap<String, Shape>> {
    let record = Arc::new(Mutex::new(BTreeMap::new()));
    let vb = VarBuilder::from_backend(Box::new(RequestRecorder(Arc::clone(&record))), DType::F32, Device::Cpu);
    load(&vb)?;
    drop(vb);
    let record = std::mem::take(&mut *lock(&record));
    Ok(record)
}

/// Backend that records requested tensors and returns zeros without memory of their own.
struct RequestRecorder(Arc<Mutex<BTreeMap<String, Shape>>>);

impl SimpleBackend for RequestRecorder {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        lock(&self.0).insert(name.to_owned(), shape.clone());
        Tensor::zeros(1, dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("{name}: unknown shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// Writes random weights of these names and shapes, in files of at most [`SHARD_BYTES`]; returns the number of weights.
fn write_weights(shapes: BTreeMap<String, Shape>, dir: &Path, target: &BenchTarget) -> Result<usize> {
    let weights = random::weights(target);
    let (mut index, mut shard, mut bytes, mut n) = (serde_json::Map::new(), HashMap::new(), 0, 0);
    let mut files = 0;
    let mut flush = |shard: &mut HashMap<String, Tensor>| {
        files += 1;
        let file = format!("model-{files:05}.safetensors");
        index.extend(shard.keys().map(|name| (name.clone(), Value::from(file.clone()))));
        candle_core::safetensors::save(&std::mem::take(shard), dir.join(file))
    };
    for (name, shape) in shapes {
        let tensor = weights.get(&shape, &name)?.to_device(&Device::Cpu)?;
        let more = shape.elem_count() * target.dtype.size_in_bytes();
        if bytes + more > SHARD_BYTES && !shard.is_empty() {
            flush(&mut shard)?;
            bytes = 0;
        }
        (bytes, n) = (bytes + more, n + shape.elem_count());
        shard.insert(name, tensor);
    }
    flush(&mut shard)?;
    write_json(&dir.join("model.safetensors.index.json"), &json!({ "metadata": {}, "weight_map": index }))?;
    Ok(n)
}

/// Returns a file of the model inside the binary.
fn builtin(name: &str) -> io::Result<&'static [u8]> {
    let file = files::builtin_directory().and_then(|dir| files::builtin(&dir.join(name)));
    file.ok_or_else(|| {
        let error = Error::invalid("no model inside this build, whose tokenizer would be copied");
        io::Error::other(error.with_hint("--features mini"))
    })
}

/// Returns the configuration of the model inside the binary, with another geometry.
fn adapted(config: &[u8], llama: &LlamaConfig, tower: &TowerConfig) -> Result<Value> {
    let mut config: Value = serde_json::from_slice(config).map_err(candle_core::Error::wrap)?;
    for (key, value) in [
        ("vocab_size", json!(llama.vocab_size)),
        ("hidden_size", json!(llama.d_hidden)),
        ("intermediate_size", json!(llama.d_intermediate)),
        ("num_hidden_layers", json!(llama.n_layers)),
        ("num_attention_heads", json!(llama.n_heads)),
        ("num_key_value_heads", json!(llama.n_kv_heads)),
        ("max_position_embeddings", json!(llama.context)),
        ("rms_norm_eps", json!(llama.rms_norm_eps)),
        ("rope_theta", json!(llama.rope_theta)),
        ("mm_hidden_size", json!(dci_width(tower))),
        ("mm_vision_select_layer", json!(-2)),
        ("mm_vision_tower", json!(TOWER)),
        ("torch_dtype", json!("bfloat16")),
    ] {
        config[key] = value;
    }
    Ok(config)
}

fn tower_json(tower: &TowerConfig) -> Value {
    let (kind, activation) = match tower.family {
        TowerFamily::Clip => ("clip_vision_model", "quick_gelu"),
        TowerFamily::Siglip => ("siglip_vision_model", "gelu_pytorch_tanh"),
        TowerFamily::InternVit => ("internvl_vision", "gelu"),
    };
    json!({
        "model_type": kind,
        "image_size": tower.image_size,
        "patch_size": tower.patch_size,
        "num_channels": tower.n_channels,
        "hidden_size": tower.d_hidden,
        "intermediate_size": tower.d_intermediate,
        "num_hidden_layers": tower.n_layers,
        "num_attention_heads": tower.n_heads,
        "hidden_act": activation,
        "layer_norm_eps": tower.layer_norm_eps,
    })
}

fn processor_json(tower: &TowerConfig) -> Value {
    let class = match tower.family {
        TowerFamily::Clip | TowerFamily::InternVit => "CLIPImageProcessor",
        TowerFamily::Siglip => "SiglipImageProcessor",
    };
    let side = tower.image_size;
    json!({
        "image_processor_type": class,
        "do_resize": true,
        "size": { "height": side, "width": side },
        "do_center_crop": false,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "resample": 3,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    })
}

fn write_json(path: &Path, value: &Value) -> io::Result<()> {
    output::replace(path, &serde_json::to_vec_pretty(value)?, Durability::Renamed)
}

#[cfg(all(test, feature = "mini"))]
mod tests {
    use super::*;
    use crate::bench::LanguageSize;
    use crate::pipeline::{encode_video, open};
    use crate::spec::Plan;

    #[test]
    fn a_written_checkpoint_answers_a_question_about_a_video() {
        let dir = tempfile::tempdir().expect("a directory");
        let clip = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/three_shapes.mp4");
        for family in [TowerFamily::Clip, TowerFamily::Siglip] {
            let llama = LlamaConfig {
                vocab_size: 600,
                d_hidden: 32,
                d_intermediate: 48,
                n_layers: 2,
                n_heads: 2,
                n_kv_heads: 2,
                d_head: 16,
                ..LanguageSize::Large.config()
            };
            let clip_l = crate::vlm::config::clip_l_336();
            let tower = TowerConfig {
                family,
                d_hidden: 32,
                d_intermediate: 48,
                n_layers: 5,
                n_heads: 2,
                image_size: 28,
                ..clip_l
            };
            let out = dir.path().join(format!("{family:?}"));
            let target = BenchTarget { dtype: DType::BF16, ..BenchTarget::cpu() };
            let written =
                write_checkpoint(&CheckpointTask { llama, tower, out: &out, target }).expect("a new directory");
            let plan = Plan {
                model: out.to_string_lossy().into_owned(),
                device: crate::device::DeviceSpec::Cpu,
                ..Plan::default()
            };
            let model = open(plan).unwrap_or_else(|error| panic!("{family:?}: {error}"));
            assert_eq!(model.vlm.warnings(), [""; 0]);
            let video = encode_video(&model.vlm, &clip, &model.plan, &|_| {}).expect("a small clip");
            // Four patches a frame, of which max_pool of stride 2 leaves two; eight frames.
            assert_eq!(video.visual.dims(), [16, 32]);
            assert_eq!(written.bytes, 2 * written.parameters);
        }
    }
}
