//! Tests of keys that a file leaves out or sets to null: the model's class in transformers decides their meaning.

use serde_json::{Value, json};

use super::{Spelling, VlmConfig};
use crate::language::{AttentionBias, LlamaConfig};
use crate::vision::{Activation, Bias, TowerConfig, TowerFamily, TowerOutput};

fn read(config: &Value) -> VlmConfig {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("config.json"), config.to_string()).expect("written");
    VlmConfig::read(dir.path()).expect("a good file")
}

fn language(text: Value) -> (LlamaConfig, usize) {
    let config = read(&json!({"model_type": "llava", "text_config": text, "vision_config": {}}));
    (config.llama, config.context)
}

/// Returns a value of a language model, by the name of its key.
fn of(llama: &LlamaConfig, context: usize, key: &str) -> f64 {
    match key {
        "vocab_size" => llama.vocab_size as f64,
        "hidden_size" => llama.d_hidden as f64,
        "intermediate_size" => llama.d_intermediate as f64,
        "num_hidden_layers" => llama.n_layers as f64,
        "num_attention_heads" => llama.n_heads as f64,
        "num_key_value_heads" => llama.n_kv_heads as f64,
        "head_dim" => llama.d_head as f64,
        "rms_norm_eps" => llama.rms_norm_eps,
        "rope_theta" => f64::from(llama.rope_theta),
        "max_position_embeddings" => llama.context as f64,
        "tie_word_embeddings" => f64::from(u8::from(llama.tied_embeddings)),
        "attention_bias" => match llama.attention_bias {
            AttentionBias::None => 0.0,
            AttentionBias::QueryKeyValue => 3.0,
            AttentionBias::All => 4.0,
        },
        "context" => context as f64,
        key => panic!("{key}"),
    }
}

#[test]
fn a_language_model_has_the_defaults_of_its_class() {
    // Key, in LlamaConfig, in MistralConfig; `context` is what the window leaves of the positions.
    let table = [
        ("vocab_size", 32_000.0, 32_000.0),
        ("hidden_size", 4096.0, 4096.0),
        ("intermediate_size", 11_008.0, 14_336.0),
        ("num_hidden_layers", 32.0, 32.0),
        ("num_attention_heads", 32.0, 32.0),
        ("num_key_value_heads", 32.0, 8.0),
        ("head_dim", 128.0, 128.0),
        ("rms_norm_eps", 1e-6, 1e-6),
        ("rope_theta", 10_000.0, 10_000.0),
        ("max_position_embeddings", 2048.0, 131_072.0),
        ("tie_word_embeddings", 0.0, 0.0),
        ("attention_bias", 0.0, 0.0),
        ("context", 2048.0, 4096.0),
    ];
    let (llama, llama_context) = language(json!({"model_type": "llama"}));
    let (mistral, mistral_context) = language(json!({"model_type": "mistral"}));
    for (key, in_llama, in_mistral) in table {
        assert!((of(&llama, llama_context, key) - in_llama).abs() < 1e-9, "llama: {key}");
        assert!((of(&mistral, mistral_context, key) - in_mistral).abs() < 1e-9, "mistral: {key}");
    }
    // LlavaConfig's text model is a Llama where nothing says otherwise.
    assert_eq!(language(json!({})), (llama, llama_context));
}

#[test]
fn a_null_value_differs_from_an_absent_key() {
    let mistral = |key: &str, value: Value| language(json!({"model_type": "mistral", key: value}));
    assert_eq!(mistral("sliding_window", Value::Null).1, 131_072);
    assert_eq!(mistral("sliding_window", json!(1000)).1, 1000);
    assert_eq!(mistral("num_key_value_heads", Value::Null).0.n_kv_heads, 32);
    assert_eq!(mistral("head_dim", Value::Null).0.d_head, 128);
    // A given window is the cache's, whatever the class and `use_sliding_window`; `layer_types` speak for themselves.
    let llama = |keys: Value| language(keys).1;
    assert_eq!(llama(json!({"model_type": "llama", "sliding_window": 1000, "use_sliding_window": false})), 1000);
    assert_eq!(llama(json!({"model_type": "llama", "sliding_window": null})), 2048);
    let full = json!({"model_type": "llama", "sliding_window": 1000, "layer_types": ["full_attention"]});
    assert_eq!(llama(full), 2048);
}

#[test]
fn a_mistral_in_llavas_spelling_has_its_classs_window_too() {
    let config = |window: Option<Value>| {
        let mut config = json!({
            "model_type": "llava_mistral", "mm_vision_tower": "openai/clip-vit-large-patch14-336",
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 8, "vocab_size": 100,
            "max_position_embeddings": 32_768,
        });
        if let Some(window) = window {
            config["sliding_window"] = window;
        }
        read(&config)
    };
    assert_eq!((config(None).context, config(None).llama.n_kv_heads), (4096, 8));
    assert_eq!(config(Some(Value::Null)).context, 32_768);
}

#[test]
fn a_tower_has_the_defaults_of_its_class() {
    let tower = |vision: Value| {
        let config = json!({"model_type": "llava", "text_config": {}, "vision_config": vision});
        read(&config).tower.expect("it is described")
    };
    let clip = TowerConfig {
        family: TowerFamily::Clip,
        d_hidden: 768,
        d_intermediate: 3072,
        n_layers: 12,
        n_heads: 12,
        image_size: 224,
        patch_size: 32,
        n_channels: 3,
        activation: Activation::QuickGelu,
        layer_norm_eps: 1e-5,
        qkv_bias: Bias::With,
        output: TowerOutput::Raw,
    };
    assert_eq!((tower(json!({"model_type": "clip_vision_model"})), tower(json!({}))), (clip.clone(), clip.clone()));
    let siglip = TowerConfig {
        family: TowerFamily::Siglip,
        patch_size: 16,
        activation: Activation::GeluTanh,
        layer_norm_eps: 1e-6,
        ..clip
    };
    assert_eq!(tower(json!({"model_type": "siglip_vision_model"})), siglip);
    assert_eq!(tower(json!({"image_size": [112, 112], "patch_size": [16, 16]})).grid(), 7);
    // Without any `vision_config` LlavaConfig brings the tower of LLaVA-1.5.
    let whole = read(&json!({"architectures": ["LlavaForConditionalGeneration"]}));
    let tower = whole.tower.expect("it is described");
    assert_eq!((tower.d_hidden, tower.n_layers, tower.image_size, tower.patch_size), (1024, 24, 336, 14));
}

fn n_dropped(config: &VlmConfig, family: TowerFamily) -> usize {
    config.feature_selection(family).n_leading_dropped
}

#[test]
fn the_model_around_them_has_the_defaults_of_its_class() {
    let config = read(&json!({"model_type": "llava", "text_config": {}, "vision_config": {}}));
    assert_eq!((config.spelling, config.select_layers.as_slice()), (Spelling::HuggingFace, &[-2][..]));
    assert_eq!((n_dropped(&config, TowerFamily::Clip), n_dropped(&config, TowerFamily::Siglip)), (1, 1));
    assert_eq!((config.image_token, config.projector.to_string().as_str()), (Some(32_000), "mlp2x_gelu"));
    let full = read(&json!({"text_config": {}, "vision_feature_select_strategy": "full"}));
    assert_eq!((n_dropped(&full, TowerFamily::Clip), n_dropped(&full, TowerFamily::Siglip)), (0, 0));
}

#[test]
fn derived_classes_of_llava_are_taken_with_a_warning_and_unknown_ones_refused() {
    let notes = |keys: Value| {
        let mut config = json!({
            "model_type": "llava_llama", "mm_vision_tower": "openai/clip-vit-large-patch14-336", "hidden_size": 64,
            "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 8, "vocab_size": 100,
        });
        keys.as_object().into_iter().flatten().for_each(|(key, value)| config[key] = value.clone());
        read(&config).notes
    };
    for (keys, n_refused, n_warnings) in [
        (json!({"architectures": ["LlavaLlamaForCausalLM"]}), 0, 0),
        (json!({"architectures": ["ShareGPT4VLlamaForCausalLM"], "model_type": "share4v"}), 0, 1),
        (json!({"architectures": ["TinyLlavaLlamaForCausalLM"], "model_type": "tiny_llava_llama"}), 0, 1),
        (json!({"model_type": "tiny_llava_llama"}), 0, 1),
        (json!({"architectures": ["OtherForCausalLM"]}), 1, 0),
        (json!({"model_type": "other"}), 1, 0),
        (json!({"image_aspect_ratio": "highres"}), 1, 0),
        (json!({"image_aspect_ratio": "anyres_max_9"}), 0, 0),
        (json!({"mm_resampler_type": "none"}), 0, 0),
        (json!({"mm_resampler_type": ""}), 0, 0),
        (json!({"mm_resampler_type": "perceiver"}), 1, 0),
        // LLaVA's own code has no such cache.
        (json!({"sliding_window": 16}), 0, 0),
    ] {
        let notes = notes(keys.clone());
        assert_eq!((notes.refused.len(), notes.warnings.len()), (n_refused, n_warnings), "{keys}: {notes:?}");
    }
}
