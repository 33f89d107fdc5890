"""Cases of options of Llama and Mistral, as transformers 5 writes them (`llm`) and as version 4 did (`llm4`)."""

from judge import Case
from tiny import edit, tensors, write


def rope(kind, **keys):
    """Return a text_config with rope_parameters of transformers 5."""
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=10000.0, **keys))


LLAMA_3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
OPTIONS = {
    "plain": {},
    "grouped_heads": dict(num_key_value_heads=2),
    "one_key_head": dict(num_key_value_heads=1),
    "head_dim": dict(head_dim=24),
    "head_dim_grouped": dict(head_dim=8, num_key_value_heads=2),
    "attention_bias": dict(attention_bias=True),
    "mlp_bias": dict(mlp_bias=True),
    "both_biases": dict(attention_bias=True, mlp_bias=True),
    "eps": dict(rms_norm_eps=1e-3),
    "deep": dict(num_hidden_layers=5),
    "theta": dict(rope_parameters=dict(rope_type="default", rope_theta=500000.0)),
    "rope_linear": rope("linear", factor=4.0),
    "rope_llama3": rope("llama3", **LLAMA_3),
    "rope_llama3_short": rope("llama3", **(LLAMA_3 | dict(original_max_position_embeddings=32))),
    "rope_dynamic_within": rope("dynamic", factor=4.0),
    "rope_dynamic_beyond": rope("dynamic", factor=8.0) | dict(max_position_embeddings=48),
    "rope_yarn": rope("yarn", factor=4.0, original_max_position_embeddings=64),
    "rope_yarn_all_keys": rope("yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=16.0, beta_slow=2.0,
                               attention_factor=0.8),
    "rope_yarn_mscale": rope("yarn", factor=4.0, original_max_position_embeddings=64, mscale=0.7, mscale_all_dim=1.2),
    "act_swish": dict(hidden_act="swish"),
    "dropout_in_training": dict(attention_dropout=0.3),
    "pretraining_tp": dict(pretraining_tp=2),
}
MISTRAL = {
    "plain": dict(sliding_window=None),
    "window_of_the_prompt": dict(sliding_window=4096),
    "grouped_heads": dict(sliding_window=None, num_key_value_heads=1),
    "head_dim": dict(sliding_window=None, head_dim=24),
}


def tie(workshop, name, at):
    """Build a checkpoint of tied embeddings, declared in text_config, at top level, or in both."""
    d = workshop.build(name, text=dict(tie_word_embeddings=True), whole=dict(tie_word_embeddings=True))
    weights = {key: value for key, value in tensors(d).items() if not key.endswith("lm_head.weight")}
    write(d, weights)

    def change(config):
        config["tie_word_embeddings"] = at in ("top", "both")
        config["text_config"]["tie_word_embeddings"] = at in ("text", "both")

    edit(d / "config.json", change)
    return d


def changed(workshop, name, change, **how):
    """Build a checkpoint and change its config.json."""
    d = workshop.build(name, **how)
    edit(d / "config.json", change)
    return d


def without(*keys):
    """Return a change that removes keys of text_config."""
    def change(config):
        for key in keys:
            config["text_config"].pop(key, None)
    return change


def cases(w):
    llm, llm4 = [], []
    for name, text in OPTIONS.items():
        llm.append(Case("llm", name, lambda n, text=text: w.build(n, text=text)))
        if name not in ("pretraining_tp", "dropout_in_training"):
            llm4.append(Case("llm4", name, lambda n, text=text: w.as_version_4(w.build(n, tokenizer="sp legacy", text=text))))
    for name, text in MISTRAL.items():
        llm.append(Case("llm", f"mistral_{name}", lambda n, text=text: w.build(n, llm="mistral", text=text)))
    # MistralConfig defaults to a sliding window of 4,096: a longer prompt would attend to its end alone.
    long = dict(max_position_embeddings=8192)
    llm.append(Case("llm", "mistral_window_absent", refused="over the model's context of 4096", n_frames=294,
                    make=lambda n: changed(w, n, without("sliding_window"), llm="mistral", text=long)))
    llm.append(Case("llm", "mistral_window_small", refused="over the model's context of 32",
                    make=lambda n: w.build(n, llm="mistral", text=dict(sliding_window=32))))
    for at in ("text", "top", "both"):
        llm.append(Case("llm", f"tied_{at}", lambda n, at=at: tie(w, n, at)))
    llm.append(Case("llm", "llama3_without_original_length", lambda n: changed(
        w, n, lambda c: c["text_config"]["rope_parameters"].pop("original_max_position_embeddings"),
        text=rope("llama3", **LLAMA_3))))
    llm.append(Case("llm", "act_gelu", lambda n: w.build(n, text=dict(hidden_act="gelu")), refused="hidden_act"))
    llm.append(Case("llm", "rope_longrope", refused="longrope", make=lambda n: changed(
        w, n, lambda c: c["text_config"].update(rope_parameters=dict(
            rope_type="longrope", rope_theta=10000.0, short_factor=[1.0] * 8, long_factor=[2.0] * 8,
            original_max_position_embeddings=64, factor=2.0)))))
    llm.append(Case("llm", "keys_absent", lambda n: changed(
        w, n, without("rms_norm_eps", "hidden_act", "num_key_value_heads", "attention_bias", "mlp_bias", "rope_parameters",
                      "head_dim", "tie_word_embeddings", "bos_token_id", "pad_token_id"), text=dict(rms_norm_eps=1e-6))))
    return llm + llm4
