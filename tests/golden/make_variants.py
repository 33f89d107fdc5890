"""Make variants.json: answers of transformers with variants of checkpoints/hf-4.

tests/it/variants.rs builds the same variants.

    pip install torch==2.15.0 transformers==5.24.0 sentencepiece==0.2.3 safetensors==0.8.0 pillow==12.3.0 numpy==2.4.6
    python tests/golden/make_variants.py   # after make_checkpoints.py

A variant is the checkpoint with keys of config.json set (`top`, `text`; null removes a key) and tensors added or
removed. Element j of an added tensor, row-major, is scale * sin(1.7 j + b), where b is the sum of the bytes of its name
mod 100, in f32. The ids are the first 16 of greedy generate() in f32 with a cache, on which dynamic scaling depends.
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from make_checkpoints import OUT, QUESTIONS, SYSTEM, TOKENIZER, pixels
from PIL import Image
from safetensors.torch import load_file, save_file
import sentencepiece
from transformers import AutoConfig, LlavaForConditionalGeneration

HERE = Path(__file__).resolve().parent
MLP = [f"language_model.model.layers.{i}.mlp.{p}_proj.bias" for i in range(2) for p in ("gate", "up", "down")]
ATTENTION = [f"language_model.model.layers.{i}.self_attn.{p}_proj.bias" for i in range(2) for p in "qkvo"]
WIDTHS = dict(gate=48, up=48, down=32, q=32, k=16, v=16, o=32)
HEAD = "language_model.lm_head.weight"


def bias(names):
    return {name: [WIDTHS[name.split(".")[-2].removesuffix("_proj")]] for name in names}


def rope(**keys):
    return {"rope_scaling": keys}


QKV = [f"language_model.model.layers.{i}.self_attn.{p}_proj.bias" for i in range(2) for p in "qkv"]
NORMS = {f"language_model.model.layers.{i}.self_attn.{p}_norm.weight": [8] for i in range(2) for p in "qk"}
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
VARIANTS = {
    "mlp_bias": dict(text={"mlp_bias": True}, add=bias(MLP)),
    "attention_bias": dict(text={"attention_bias": True}, add=bias(ATTENTION)),
    "both_biases": dict(text={"attention_bias": True, "mlp_bias": True}, add=bias(MLP + ATTENTION)),
    "swish": dict(text={"hidden_act": "swish"}),
    "llama3_of_all_positions": dict(text={"max_position_embeddings": 200} | rope(**LLAMA3)),
    "yarn": dict(text=rope(type="yarn", factor=4.0, original_max_position_embeddings=64)),
    "yarn_of_a_ratio": dict(text=rope(rope_type="yarn", factor=None, original_max_position_embeddings=64)),
    "yarn_of_all_positions": dict(text={"max_position_embeddings": 64} | rope(rope_type="yarn", factor=4.0)),
    "yarn_exact": dict(text=rope(rope_type="yarn", factor=6.0, beta_fast=3, beta_slow=0.3, truncate=False, attention_factor=1.4,
                                 original_max_position_embeddings=50)),
    "yarn_mscale": dict(text=rope(rope_type="yarn", factor=4.0, mscale=1.5, mscale_all_dim=0.5, original_max_position_embeddings=64)),
    "yarn_top_level_original": dict(text={"original_max_position_embeddings": 40}
                                    | rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)),
    "dynamic_from_the_prompt_on": dict(text={"max_position_embeddings": 64} | rope(type="dynamic", factor=4.0)),
    "dynamic_within_the_answer": dict(text={"max_position_embeddings": 152} | rope(rope_type="dynamic", factor=2.0)),
    "dynamic_not_reached": dict(text=rope(rope_type="dynamic", factor=2.0)),
    "rope_scaling_before_rope_parameters": dict(text={"rope_theta": 500.0, "rope_parameters": {"rope_type": "default", "rope_theta": 70.0}}
                                                | rope(rope_type="linear", factor=2.0)),
    "rope_parameters": dict(text={"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 70.0}}),
    "tied_at_top_level": dict(top={"tie_word_embeddings": True}, remove=[HEAD]),
    "tied_in_text_config": dict(text={"tie_word_embeddings": True}, remove=[HEAD]),
    "tied_with_another_head": dict(top={"tie_word_embeddings": True}),
    "qwen2": dict(text={"model_type": "qwen2"}, add=bias(QKV)),
    "qwen2_with_a_window_that_is_off": dict(text={"model_type": "qwen2", "sliding_window": 16, "use_sliding_window": False}, add=bias(QKV)),
    "qwen3": dict(text={"model_type": "qwen3", "head_dim": 8}, add=NORMS),
    "qwen3_with_biases": dict(text={"model_type": "qwen3", "head_dim": 8, "attention_bias": True}, add=NORMS | bias(ATTENTION)),
    "tied_with_the_head_alone": dict(top={"tie_word_embeddings": True}, remove=["language_model.model.embed_tokens.weight"]),
}


def value(name, shape, scale):
    """Return the added tensor of a name, as defined above."""
    n = torch.Size(shape).numel()
    return (scale * torch.sin(1.7 * torch.arange(n, dtype=torch.float64) + sum(name.encode()) % 100)).float().reshape(shape)


def merge(config, keys):
    for key, value in keys.items():
        if value is None:
            config.pop(key, None)
        else:
            config[key] = value


def write(path, variant):
    config = json.loads((OUT / "hf-4/config.json").read_text())
    merge(config, variant.get("top", {}))
    merge(config["text_config"], variant.get("text", {}))
    weights = {k: v for k, v in load_file(OUT / "hf-4/model.safetensors").items() if k not in variant.get("remove", [])}
    weights |= {name: value(name, shape, 0.3) for name, shape in variant.get("add", {}).items()}
    (path / "config.json").write_text(json.dumps(config))
    save_file({k: v.float() for k, v in weights.items()}, str(path / "model.safetensors"), metadata={"format": "pt"})


@torch.no_grad()
def answer(model, question):
    tokenizer = sentencepiece.SentencePieceProcessor(str(TOKENIZER))
    before = [1] + tokenizer.encode(f"{SYSTEM} USER: ")
    after = tokenizer.encode(f"\n{question} ASSISTANT:")
    frames = [Image.open(OUT / f"frames/{t:03}.png") for t in range(3)]
    states = model.model.vision_tower(torch.stack([pixels(f) for f in frames]), output_hidden_states=True).hidden_states
    visual = model.model.multi_modal_projector(states[-2][:, 1:]).flatten(0, 1)
    embed = model.get_input_embeddings()
    x = torch.cat([embed(torch.tensor(before)), visual, embed(torch.tensor(after))])[None]
    out = model.generate(inputs_embeds=x, attention_mask=torch.ones(x.shape[:2]), max_new_tokens=16, do_sample=False,
                         eos_token_id=2, pad_token_id=0, return_dict_in_generate=True, output_logits=True)
    gaps = [float(s[0].topk(2).values.diff().abs()) for s in out.logits]
    return out.sequences[0].tolist(), round(min(gaps), 4)


def main():
    torch.set_num_threads(1)
    done = {}
    for name, variant in VARIANTS.items():
        path = Path(tempfile.mkdtemp())
        write(path, variant)
        model = LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32, config=AutoConfig.from_pretrained(path)).eval()
        ids, gap = answer(model, QUESTIONS[0])
        shutil.rmtree(path)
        done[name] = variant | {"ids": ids, "min_margin": gap}
        print(name, ids[:6], gap, flush=True)
    (HERE / "variants.json").write_text(json.dumps(done, indent=1) + "\n")


if __name__ == "__main__":
    main()
