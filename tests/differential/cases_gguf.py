"""Cases of language models in GGUF files beside a checkpoint (`gguf`), in agreement with config.json and not."""

import json

import numpy
import torch

import gguf
from cases_llm import LLAMA_3, rope
from judge import Case
from tiny import edit, tensors

NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
         "post_attention_layernorm": "ffn_norm"}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
TYPES = {"f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16, "bf16": gguf.GGMLQuantizationType.BF16}


def gguf_name(name):
    """Return a tensor's name in GGUF."""
    stem, ending = name.removeprefix("language_model.").rsplit(".", 1)
    if stem in WHOLE:
        return f"{WHOLE[stem]}.{ending}"
    layer, rest = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{NAMES[rest]}.{ending}"


def interleaved(value, n_heads):
    """Return the rows of queries or keys in llama.cpp's order, the two halves of a head interleaved."""
    shape = value.shape
    return value.reshape(n_heads, 2, shape[0] // n_heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def llama3_factors(d_head, theta, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings):
    """Return rope_freqs.weight as llama.cpp's converter computes it (LlamaModel.generate_extra_tensors)."""
    base = theta ** -(numpy.arange(0, d_head, 2, dtype=numpy.float64) / d_head)
    found = []
    for frequency in base:
        length = 2 * numpy.pi / frequency
        if length < original_max_position_embeddings / high_freq_factor:
            found.append(1.0)
        elif length > original_max_position_embeddings / low_freq_factor:
            found.append(factor)
        else:
            smooth = (original_max_position_embeddings / length - low_freq_factor) / (high_freq_factor - low_freq_factor)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return numpy.array(found, dtype=numpy.float32)


def convert(d, kind="f32", facts=lambda writer: None, more={}, drop=(), architecture="llama"):
    """Convert the checkpoint's language model to d/language.gguf; `facts` adds metadata, `more` tensors."""
    text = json.loads((d / "config.json").read_text())["text_config"]
    heads, kv_heads = text["num_attention_heads"], text.get("num_key_value_heads") or text["num_attention_heads"]
    d_head = text.get("head_dim") or text["hidden_size"] // heads
    writer = gguf.GGUFWriter(str(d / "language.gguf"), architecture)
    writer.add_context_length(text["max_position_embeddings"])
    writer.add_embedding_length(text["hidden_size"])
    writer.add_block_count(text["num_hidden_layers"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    writer.add_rope_freq_base(text.get("rope_parameters", text).get("rope_theta", 10000.0))
    writer.add_rope_dimension_count(d_head)
    writer.add_vocab_size(text["vocab_size"])
    if d_head * heads != text["hidden_size"]:
        writer.add_key_length(d_head)
        writer.add_value_length(d_head)
    facts(writer)
    for name, value in tensors(d).items():
        if not name.startswith("language_model.") or any(part in name for part in drop):
            continue
        values = value.float().numpy()
        if ".q_proj." in name:
            values = interleaved(values, heads)
        if ".k_proj." in name:
            values = interleaved(values, kv_heads)
        form = TYPES[kind] if values.ndim > 1 else TYPES["f32"]
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(numpy.ascontiguousarray(values), form), raw_dtype=form)
    for name, values in more.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return d


def cases(w):
    def case(name, kind="f32", text={}, llm="llama", dtype=None, facts=lambda writer: None, refused=None, more=None, drop=(),
             architecture="llama", config=None):
        def make(n):
            d = w.build(n, text=text, llm=llm, dtype=dtype)
            convert(d, kind, facts, more(d) if more else {}, drop, architecture)
            if config:
                edit(d / "config.json", config)
            return d

        found = Case("gguf", name, make, refused=refused)
        found.arguments = ["--llm", str(w.root / "cases" / f"gguf-{name}" / "language.gguf")]
        return found

    def freqs(_):
        return {"rope_freqs.weight": llama3_factors(16, 10000.0, **LLAMA_3)}

    def linear(writer):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)

    def tied(config):
        config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True

    def forget(**keys):
        return lambda c: c["text_config"].update(keys)

    plain = dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0), rope_scaling=None)
    biases = dict(attention_bias=True)
    return [
        case("f32"), case("f16", "f16", dtype=torch.float16), case("bf16", "bf16", dtype=torch.bfloat16),
        case("grouped_heads", text=dict(num_key_value_heads=2)), case("head_dim", text=dict(head_dim=24)),
        case("theta", text=dict(rope_parameters=dict(rope_type="default", rope_theta=5e5))),
        case("mistral", llm="mistral"),
        case("llama3_rope", text=rope("llama3", **LLAMA_3), more=freqs),
        case("linear_rope", text=rope("linear", factor=4.0), facts=linear),
        case("tied", text=dict(tie_word_embeddings=True), drop=("lm_head",)),
        case("llama3_rope_unknown_to_config", text=rope("llama3", **LLAMA_3), more=freqs, config=forget(**plain), refused="rope"),
        case("llama3_rope_missing_in_the_file", text=rope("llama3", **LLAMA_3), refused="rope"),
        case("linear_rope_unknown_to_config", text=rope("linear", factor=4.0), facts=linear, config=forget(**plain), refused="rope"),
        case("linear_rope_missing_in_the_file", text=rope("linear", factor=4.0), refused="rope"),
        case("other_linear_factor", text=rope("linear", factor=2.0), facts=linear, refused="rope"),
        case("attention_bias_unknown_to_config", text=biases, config=forget(attention_bias=False), refused="attn_"),
        case("mlp_bias_unknown_to_config", text=dict(mlp_bias=True), config=forget(mlp_bias=False), refused="ffn_"),
        case("output_beside_tied_embeddings", config=tied, refused="output.weight"),
        case("more_tensors", more=lambda d: {"blk.0.attn_q_norm.weight": numpy.ones(16, numpy.float32)}, refused="attn_q_norm"),
        case("other_width", config=forget(intermediate_size=128), refused="feed_forward_length"),
        case("other_head_dim", text=dict(head_dim=24), config=forget(head_dim=16), refused="24"),
        case("other_vocabulary", config=forget(vocab_size=800), refused="vocab"),
        case("other_architecture", architecture="qwen2", refused="qwen2"),
        case("experts", facts=lambda writer: writer.add_expert_count(8), refused="expert_count"),
    ]
