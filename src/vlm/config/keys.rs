//! Audit of the keys of a checkpoint's JSON files: obeyed, without effect, or refused.
//!
//! A key that changes the arithmetic and is not implemented is refused with its name and value. A key that no class of
//! transformers knows is named in a warning. Values are read elsewhere; the tables here only list the keys of each
//! class and the values that are neutral.

use serde_json::Value;

use super::JsonFile;

/// Keys of a file that are not used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyNotes {
    /// Keys that would change the answers, with file, value and reason.
    pub refused: Vec<String>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

impl KeyNotes {
    /// Adds the notes of another file.
    pub fn extend(&mut self, other: Self) {
        self.refused.extend(other.refused);
        self.warnings.extend(other.warnings);
    }

    /// Checks every key of `file` against the tables of its classes.
    pub(in crate::vlm) fn audit(file: &JsonFile, tables: &[&[Key]]) -> Self {
        let mut notes = Self::default();
        let mut unknown = Vec::new();
        for (key, value) in file.json().as_object().into_iter().flatten() {
            let known = tables.iter().flat_map(|table| table.iter()).find(|known| known.0 == key);
            match known.map(|known| known.1) {
                Some(Neutral) => {}
                Some(Only(neutral)) if is_neutral(value, neutral) => {}
                Some(Only(_)) => notes.refused.push(file.wrong(key, "this key is not obeyed").to_string()),
                None => unknown.push(file.full_key(key)),
            }
        }
        notes.warn_of_unknown(file, &unknown);
        notes
    }

    /// Adds one warning that names all unknown keys.
    pub(in crate::vlm) fn warn_of_unknown(&mut self, file: &JsonFile, unknown: &[String]) {
        if !unknown.is_empty() {
            let (path, names) = (file.path().display(), unknown.join(", "));
            self.warnings.push(format!("{path}: unknown keys have no effect: {names}"));
        }
    }
}

/// Accepted values of a key.
#[derive(Debug, Clone, Copy)]
pub(in crate::vlm) enum Meaning {
    /// Any value: the key is read elsewhere, or changes no answer.
    Neutral,
    /// Null, false, or one of these JSON values; any other value changes the answers.
    Only(&'static [&'static str]),
}
use Meaning::{Neutral, Only};

/// Key with its accepted values.
pub(in crate::vlm) type Key = (&'static str, Meaning);

fn is_neutral(value: &Value, neutral: &[&str]) -> bool {
    let same = |text: &&str| match (value.as_f64(), text.parse::<f64>()) {
        (Some(found), Ok(wanted)) => (found - wanted).abs() < f64::EPSILON,
        _ => serde_json::from_str::<Value>(text).is_ok_and(|neutral| neutral == *value),
    };
    matches!(value, Value::Null | Value::Bool(false)) || neutral.iter().any(same)
}

/// Keys of every configuration (`PreTrainedConfig`), and what `save_pretrained` adds.
pub(in crate::vlm) const BASE: &[Key] = &[
    ("_attn_implementation", Neutral),
    ("_attn_implementation_autoset", Neutral),
    ("_attn_implementation_internal", Neutral),
    ("_commit_hash", Neutral),
    ("_experts_implementation", Neutral),
    ("_flash_attn_2_enabled", Neutral),
    ("_name_or_path", Neutral),
    ("_pad_token_id", Neutral),
    ("add_cross_attention", Only(&[])),
    ("architectures", Neutral),
    ("attn_implementation", Neutral),
    ("auto_map", Neutral),
    ("base_model_name_or_path", Neutral),
    ("begin_suppress_tokens", Neutral),
    ("bos_token_id", Neutral),
    ("chunk_size_feed_forward", Neutral),
    ("compression_config", Neutral),
    ("cross_attention_hidden_size", Only(&[])),
    ("decoder_start_token_id", Neutral),
    ("dtype", Neutral),
    ("eos_token_id", Neutral),
    ("finetuning_task", Neutral),
    ("gradient_checkpointing", Neutral),
    ("id2label", Neutral),
    ("initializer_factor", Neutral),
    ("initializer_range", Neutral),
    ("is_composition", Neutral),
    ("is_decoder", Neutral),
    ("is_encoder_decoder", Only(&[])),
    ("label2id", Neutral),
    ("max_new_tokens", Neutral),
    ("model_type", Neutral),
    ("num_labels", Neutral),
    ("output_attentions", Neutral),
    ("output_hidden_states", Neutral),
    ("pad_token_id", Neutral),
    ("prefix", Neutral),
    ("problem_type", Neutral),
    ("pruned_heads", Only(&["{}"])),
    ("quantization_config", Neutral),
    ("return_dict", Neutral),
    ("sep_token_id", Neutral),
    ("task_specific_params", Neutral),
    ("tf_legacy_loss", Neutral),
    ("tie_encoder_decoder", Neutral),
    ("tie_word_embeddings", Neutral),
    ("tokenizer_class", Neutral),
    ("torch_dtype", Neutral),
    ("torchscript", Neutral),
    ("transformers.js_config", Neutral),
    ("transformers_version", Neutral),
    ("use_bfloat16", Neutral),
    ("use_cache", Neutral),
    ("use_return_dict", Neutral),
    ("unsloth_fixed", Neutral),
    ("unsloth_version", Neutral),
];

/// Keys of `generation_config.json` that transformers 4 copied into every configuration, the towers' too.
pub(in crate::vlm) const GENERATION: &[Key] = &[
    ("bad_words_ids", Neutral),
    ("begin_suppress_tokens", Neutral),
    ("diversity_penalty", Neutral),
    ("do_sample", Neutral),
    ("early_stopping", Neutral),
    ("encoder_no_repeat_ngram_size", Neutral),
    ("exponential_decay_length_penalty", Neutral),
    ("forced_bos_token_id", Neutral),
    ("forced_eos_token_id", Neutral),
    ("length_penalty", Neutral),
    ("max_length", Neutral),
    ("min_length", Neutral),
    ("no_repeat_ngram_size", Neutral),
    ("num_beam_groups", Neutral),
    ("num_beams", Neutral),
    ("num_return_sequences", Neutral),
    ("output_scores", Neutral),
    ("remove_invalid_values", Neutral),
    ("repetition_penalty", Neutral),
    ("return_dict_in_generate", Neutral),
    ("suppress_tokens", Neutral),
    ("temperature", Neutral),
    ("top_k", Neutral),
    ("top_p", Neutral),
    ("typical_p", Neutral),
];

/// Keys of the known language models' classes, and those of their relatives that change the arithmetic.
pub(in crate::vlm) const LANGUAGE: &[Key] = &[
    ("attention_bias", Neutral),
    ("attention_dropout", Neutral),
    ("embd_pdrop", Neutral),
    ("head_dim", Neutral),
    ("hidden_act", Neutral),
    ("hidden_dropout", Neutral),
    ("hidden_size", Neutral),
    ("intermediate_size", Neutral),
    ("is_llama_config", Neutral),
    ("max_position_embeddings", Neutral),
    ("max_window_layers", Neutral),
    ("max_sequence_length", Neutral),
    ("mlp_bias", Neutral),
    ("num_attention_heads", Neutral),
    ("num_hidden_layers", Neutral),
    ("num_key_value_heads", Neutral),
    ("original_max_position_embeddings", Neutral),
    ("pretraining_tp", Neutral),
    ("resid_pdrop", Neutral),
    ("rms_norm_eps", Neutral),
    ("rope_parameters", Neutral),
    ("rope_scaling", Neutral),
    ("rope_theta", Neutral),
    ("sliding_window", Neutral),
    ("use_sliding_window", Neutral),
    ("neftune_noise_alpha", Neutral),
    ("perceiver_config", Neutral),
    ("pixel_shuffle_factor", Neutral),
    ("qk_layer_norms", Only(&[])),
    ("use_resampler", Only(&[])),
    ("vocab_size", Neutral),
    ("alibi", Only(&[])),
    ("attention_multiplier", Only(&[])),
    ("attention_chunk_size", Only(&[])),
    ("attn_logit_softcapping", Only(&[])),
    ("attn_temperature_tuning", Only(&[])),
    ("clip_qkv", Only(&[])),
    ("embedding_multiplier", Only(&["1"])),
    ("final_logit_softcapping", Only(&[])),
    ("first_k_dense_replace", Only(&[])),
    ("hidden_activation", Only(&["\"silu\""])),
    ("interleave_moe_layer_step", Only(&[])),
    ("kv_lora_rank", Only(&[])),
    ("layer_types", Neutral),
    ("logit_scale", Only(&["1"])),
    ("logits_scaling", Only(&["1"])),
    ("moe_intermediate_size", Only(&[])),
    ("n_routed_experts", Only(&["0"])),
    ("n_shared_experts", Only(&["0"])),
    ("no_rope_layer_interval", Only(&[])),
    ("no_rope_layers", Only(&["[]"])),
    ("num_experts", Only(&["0"])),
    ("num_experts_per_tok", Only(&["0"])),
    ("num_local_experts", Only(&["0"])),
    ("parallel_attn", Only(&[])),
    ("partial_rotary_factor", Only(&["1"])),
    ("q_lora_rank", Only(&[])),
    ("qk_layernorm", Only(&[])),
    ("qk_norm", Only(&[])),
    ("query_pre_attn_scalar", Only(&[])),
    ("residual_multiplier", Only(&["1"])),
    ("rope_interleaved", Only(&[])),
    ("rope_local_base_freq", Only(&[])),
    ("rotary_pct", Only(&["1"])),
    ("scale_emb", Only(&["1"])),
    ("sliding_window_pattern", Only(&[])),
    ("use_parallel_residual", Only(&[])),
    ("use_qk_norm", Only(&[])),
];

/// Keys of the known towers' classes; old files of SmolVLM give the tower sizes that its image processor reads.
pub(in crate::vlm) const TOWER: &[Key] = &[
    ("attention_dropout", Neutral),
    ("dropout", Neutral),
    ("hidden_act", Neutral),
    ("hidden_size", Neutral),
    ("image_size", Neutral),
    ("intermediate_size", Neutral),
    ("layer_norm_eps", Neutral),
    ("num_attention_heads", Neutral),
    ("num_channels", Neutral),
    ("num_hidden_layers", Neutral),
    ("patch_size", Neutral),
    ("projection_dim", Neutral),
    ("num_image_tokens", Neutral),
    ("num_positions", Neutral),
    ("projector_hidden_act", Neutral),
    ("vision_use_head", Neutral),
    ("vocab_size", Neutral),
    ("use_head", Neutral),
    ("attention_bias", Neutral),
    ("hidden_dropout_prob", Neutral),
    ("max_image_size", Neutral),
    ("norm_type", Neutral),
    ("projection_dropout", Neutral),
    ("size", Neutral),
    ("use_absolute_position_embeddings", Neutral),
    ("use_base_siglip", Neutral),
    ("use_mask_token", Neutral),
    ("use_qk_norm", Neutral),
    ("num_patches", Only(&[])),
    ("layer_scale_init_value", Neutral),
    ("qkv_bias", Only(&["true"])),
    ("use_mean_pooling", Neutral),
];

/// Keys of a tower's own repository, around its `vision_config`.
pub(in crate::vlm) const WHOLE_TOWER: &[Key] = &[
    ("logit_scale_init_value", Neutral),
    ("text_config", Neutral),
    ("text_config_dict", Neutral),
    ("vision_config", Neutral),
    ("vision_config_dict", Neutral),
    ("projection_dim", Neutral),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_change_nothing_are_recognised_however_they_are_written() {
        let value = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        for (text, neutral) in [("null", &[][..]), ("false", &[]), ("1", &["1"]), ("1.0", &["1"]), ("{}", &["{}"])] {
            assert!(is_neutral(&value(text), neutral), "{text}");
        }
        for (text, neutral) in [("true", &[][..]), ("0.5", &["1"]), ("[]", &["{}"]), ("\"gelu\"", &["\"silu\""])] {
            assert!(!is_neutral(&value(text), neutral), "{text}");
        }
    }
}
