//! Tables of the keys of `generation_config.json`, by their effect. Reference: `generation/configuration_utils.py` of
//! transformers 5.24.

use super::keys::{Key, Meaning};

/// Keys that are implemented, and the limits on length, which `--max-new-tokens` replaces.
pub(super) const IMPLEMENTED: &[Key] = &[
    ("bad_words_ids", Meaning::Neutral),
    ("begin_suppress_tokens", Meaning::Neutral),
    ("do_sample", Meaning::Neutral),
    ("eos_token_id", Meaning::Neutral),
    ("max_length", Meaning::Neutral),
    ("max_new_tokens", Meaning::Neutral),
    ("min_length", Meaning::Neutral),
    ("min_new_tokens", Meaning::Neutral),
    ("no_repeat_ngram_size", Meaning::Neutral),
    ("repetition_penalty", Meaning::Neutral),
    ("sequence_bias", Meaning::Neutral),
    ("suppress_tokens", Meaning::Neutral),
    ("temperature", Meaning::Neutral),
    ("top_k", Meaning::Neutral),
    ("top_p", Meaning::Neutral),
];

/// Keys that change sampling, and leave greedy decoding as it is.
pub(super) const SAMPLING: &[Key] = &[
    ("epsilon_cutoff", Meaning::Neutral),
    ("eta_cutoff", Meaning::Neutral),
    ("min_p", Meaning::Neutral),
    ("top_h", Meaning::Neutral),
    ("typical_p", Meaning::Neutral),
];

/// Keys that change greedy decoding and are not implemented.
pub(super) const NOT_IMPLEMENTED: &[Key] = &[
    ("constraints", Meaning::Only(&["[]"])),
    ("dola_layers", Meaning::Only(&[])),
    ("encoder_no_repeat_ngram_size", Meaning::Only(&["0"])),
    ("encoder_repetition_penalty", Meaning::Only(&["1"])),
    ("exponential_decay_length_penalty", Meaning::Only(&[])),
    ("force_words_ids", Meaning::Only(&["[]"])),
    ("forced_decoder_ids", Meaning::Only(&["[]"])),
    ("forced_eos_token_id", Meaning::Only(&[])),
    ("guidance_scale", Meaning::Only(&["1"])),
    ("num_beams", Meaning::Only(&["1"])),
    ("penalty_alpha", Meaning::Only(&["0"])),
    ("stop_strings", Meaning::Only(&["[]"])),
    ("token_healing", Meaning::Only(&[])),
    ("watermarking_config", Meaning::Only(&[])),
];

/// Keys without effect on the text of an answer: computation, returned values, beam search.
pub(super) const NEUTRAL: &[Key] = &[
    ("_from_model_config", Meaning::Neutral),
    ("assistant_confidence_threshold", Meaning::Neutral),
    ("assistant_early_exit", Meaning::Neutral),
    ("assistant_lookbehind", Meaning::Neutral),
    ("cache_config", Meaning::Neutral),
    ("cache_implementation", Meaning::Only(&["\"static\"", "\"dynamic\"", "\"hybrid\"", "\"offloaded\""])),
    ("compile_config", Meaning::Neutral),
    ("continuous_batching_config", Meaning::Neutral),
    ("custom_generate", Meaning::Neutral),
    ("disable_compile", Meaning::Neutral),
    ("is_assistant", Meaning::Neutral),
    ("low_memory", Meaning::Neutral),
    ("max_matching_ngram_size", Meaning::Neutral),
    ("max_time", Meaning::Neutral),
    ("num_assistant_tokens", Meaning::Neutral),
    ("num_assistant_tokens_schedule", Meaning::Neutral),
    ("output_logits", Meaning::Neutral),
    ("prefill_chunk_size", Meaning::Neutral),
    ("prompt_lookup_num_tokens", Meaning::Neutral),
    ("renormalize_logits", Meaning::Neutral),
    ("return_legacy_cache", Meaning::Neutral),
    ("target_lookbehind", Meaning::Neutral),
    ("trust_remote_code", Meaning::Neutral),
    ("use_model_defaults", Meaning::Neutral),
    ("use_mtp", Meaning::Neutral),
];
