//! Geometries of published models: vision towers and language models, by the repository that they were published in.
//!
//! One table for the defaults of configuration classes ([`super::tower`], [`super::llama`]), for towers whose own
//! repository is not at hand, and for the benchmarks of [`crate::bench`], which give them random weights.

use crate::language::{AttentionBias, LlamaConfig, QueryKeyNorm, RopeScaling};
use crate::vision::{Activation, Bias, TowerConfig, TowerFamily, TowerOutput};

/// Returns the geometry of a tower that released checkpoints name, for a tower whose weights are in its checkpoint
/// while the tower's own repository is not at hand.
pub(in crate::vlm) fn published_tower(name: &str) -> Option<TowerConfig> {
    match name {
        "openai/clip-vit-large-patch14-336" => Some(clip_l_336()),
        "google/siglip-so400m-patch14-384" => Some(siglip_so400m()),
        _ => None,
    }
}

/// Geometry of `openai/clip-vit-large-patch14-336`.
pub(crate) fn clip_l_336() -> TowerConfig {
    TowerConfig {
        family: TowerFamily::Clip,
        d_hidden: 1024,
        d_intermediate: 4096,
        n_layers: 24,
        n_heads: 16,
        image_size: 336,
        patch_size: 14,
        n_channels: 3,
        activation: Activation::QuickGelu,
        layer_norm_eps: 1e-5,
        qkv_bias: Bias::With,
        output: TowerOutput::Raw,
    }
}

/// Geometry of `openai/clip-vit-base-patch32`: the defaults of `CLIPVisionConfig`.
pub(super) fn clip_b_32() -> TowerConfig {
    TowerConfig {
        d_hidden: 768,
        d_intermediate: 3072,
        n_layers: 12,
        n_heads: 12,
        image_size: 224,
        patch_size: 32,
        ..clip_l_336()
    }
}

/// Geometry of `google/siglip-so400m-patch14-384`.
pub(crate) fn siglip_so400m() -> TowerConfig {
    TowerConfig {
        family: TowerFamily::Siglip,
        d_hidden: 1152,
        d_intermediate: 4304,
        n_layers: 27,
        image_size: 384,
        activation: Activation::GeluTanh,
        layer_norm_eps: 1e-6,
        ..clip_l_336()
    }
}

/// Geometry of [`siglip_so400m`] without its last layer, which LLaVA's code deletes and LLaVA-OneVision's
/// configuration leaves out.
pub(crate) fn siglip_so400m_llava() -> TowerConfig {
    TowerConfig { n_layers: 26, ..siglip_so400m() }
}

/// Geometry of `google/siglip-base-patch16-224`: the defaults of `SiglipVisionConfig`.
pub(super) fn siglip_b_16() -> TowerConfig {
    TowerConfig {
        family: TowerFamily::Siglip,
        patch_size: 16,
        activation: Activation::GeluTanh,
        layer_norm_eps: 1e-6,
        ..clip_b_32()
    }
}

/// Geometry of `meta-llama/Llama-2-7b-hf` and `lmsys/vicuna-7b-v1.5`.
pub(crate) fn llama_2_7b() -> LlamaConfig {
    LlamaConfig {
        vocab_size: 32_000,
        d_hidden: 4096,
        d_intermediate: 11_008,
        n_layers: 32,
        n_heads: 32,
        n_kv_heads: 32,
        d_head: 128,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        context: 4096,
        tied_embeddings: false,
        attention_bias: AttentionBias::None,
        qk_norm: QueryKeyNorm::None,
        mlp_bias: false,
    }
}

/// Geometry of `TinyLlama/TinyLlama-1.1B-Chat-v1.0`, with the context of [`llama_2_7b`].
pub(crate) fn tiny_llama_1b() -> LlamaConfig {
    LlamaConfig { d_hidden: 2048, d_intermediate: 5632, n_layers: 22, n_kv_heads: 4, d_head: 64, ..llama_2_7b() }
}
