"""Make families.json: results of transformers for tiny models of each family.

tests/it/family_arithmetic.rs builds the same models.

    pip install torch==2.15.0 transformers==5.24.0 torchvision==0.29.2
    python tests/golden/make_families.py

Only shapes are stored. Element j of a tensor, row-major, derives from s = sin(0.37 j^2 + 1.7 j + b), where b is the sum
of the bytes of its name mod 100, in f64: 1 + 0.2 s in the weight of a norm or a layer scale, 0.1 s in other tensors of
one dimension, s in an embedding table, s sqrt(2 / n) elsewhere, where n is the product of the dimensions after the
first. Pixels are s of the name `pixels`. Tensor names are those of save_pretrained, in one of two layouts. `projected`
is every 3rd visual token as spliced into the prompt, `logits` every 4th logit after BEFORE, the visual tokens, AFTER.
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
BEFORE, AFTER = [1, 17, 301], [44, 205, 99, 7]
PLACEHOLDER = 599
TEXT = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=608,
            max_position_embeddings=512, bos_token_id=1, eos_token_id=2)
LLAMA = TEXT | dict(model_type="llama", rms_norm_eps=1e-5)
QWEN2 = TEXT | dict(model_type="qwen2")
QWEN3 = TEXT | dict(model_type="qwen3", head_dim=16)
TOWER = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, patch_size=4)
SMOL = TOWER | dict(image_size=32, hidden_act="gelu_pytorch_tanh")
SIGLIP = TOWER | dict(image_size=28, model_type="siglip_vision_model", vision_use_head=False)
CLIP = TOWER | dict(image_size=16, model_type="clip_vision_model", projection_dim=8)
INTERN = TOWER | dict(image_size=[32, 32], patch_size=[4, 4], attention_bias=True)
TOKENS = dict(image_token_id=PLACEHOLDER)
INDEX = dict(image_token_index=PLACEHOLDER)

CASES = {
    "smolvlm": ("SmolVLM", dict(model_type="smolvlm", scale_factor=4, text_config=LLAMA, vision_config=SMOL) | TOKENS, 4),
    "idefics3": ("Idefics3", dict(model_type="idefics3", scale_factor=2, text_config=LLAMA, vision_config=SMOL) | TOKENS, 16),
    "vipllava": ("VipLlava", dict(model_type="vipllava", vision_feature_layer=[-2, 1, -4], text_config=LLAMA, vision_config=CLIP,
                                  projector_layernorm_eps=1e-3) | INDEX, 16),
    "llava_layers": ("Llava", dict(model_type="llava", vision_feature_layer=[-1, 2], text_config=QWEN2, vision_config=SIGLIP,
                                   vision_feature_select_strategy="full", multimodal_projector_bias=False) | INDEX, 49),
    "llava_qwen3": ("Llava", dict(model_type="llava", text_config=QWEN3 | dict(attention_bias=True), vision_config=CLIP) | INDEX, 16),
    "llava_onevision": ("LlavaOnevision", dict(model_type="llava_onevision", text_config=QWEN2 | dict(tie_word_embeddings=True),
                                               vision_config=SIGLIP, tie_word_embeddings=True, video_token_index=PLACEHOLDER,
                                               image_token_index=598), 16),
    "internvl": ("InternVL", dict(model_type="internvl", tie_word_embeddings=False, text_config=QWEN2, vision_config=INTERN) | TOKENS, 16),
    "internvl_qwen3": ("InternVL", dict(model_type="internvl", tie_word_embeddings=False, downsample_ratio=0.25, text_config=QWEN3,
                                        vision_config=INTERN | dict(attention_bias=False)) | TOKENS, 4),
}


def value(name, shape):
    """Return the tensor of a name, as defined above."""
    j = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    s = torch.sin(0.37 * j * j + 1.7 * j + sum(name.encode()) % 100).reshape(shape)
    if len(shape) == 1:
        is_scale = name.endswith("weight") or "lambda" in name
        return (1 + 0.2 * s if is_scale else 0.1 * s).float()
    if "embed_tokens" in name or name == "pixels":
        return s.float()
    return (s * (2 / torch.Size(shape[1:]).numel()) ** 0.5).float()


@torch.no_grad()
def answer(name, family, config, n_frame, layout):
    model_class = getattr(transformers, f"{family}ForConditionalGeneration")
    made = model_class(getattr(transformers, f"{family}Config")(**config))
    path = Path(tempfile.mkdtemp())
    made.save_pretrained(path, save_original_format=layout == "hub")
    weights = {key: value(key, tensor.shape) for key, tensor in load_file(path / "model.safetensors").items()}
    save_file(weights, str(path / "model.safetensors"), metadata={"format": "pt"})
    model = model_class.from_pretrained(path, dtype=torch.float32).eval()
    written = json.loads((path / "config.json").read_text())
    shutil.rmtree(path)

    side = config["vision_config"]["image_size"]
    side = side[0] if isinstance(side, list) else side
    pixels = value("pixels", (2, 3, side, side))
    n_visual = 2 * n_frame + (family == "LlavaOnevision")
    ids = torch.tensor([BEFORE + [PLACEHOLDER] * n_visual + AFTER])
    batched = family in ("SmolVLM", "Idefics3", "LlavaOnevision")
    key = "pixel_values_videos" if family == "LlavaOnevision" else "pixel_values"
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), key: pixels[None] if batched else pixels}
    spliced = []
    hook = model.model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: spliced.append(kwargs["inputs_embeds"]), with_kwargs=True)
    logits = model(**inputs).logits[0, -1]
    hook.remove()
    visual = spliced[0][0, len(BEFORE):len(BEFORE) + n_visual]
    return {
        "config": written,
        "shapes": {key: list(tensor.shape) for key, tensor in weights.items()},
        "image_size": side,
        "n_visual": n_visual,
        "projected": [[round(float(x), 6) for x in row] for row in visual[::3]],
        "logits": [round(float(x), 5) for x in logits[::4]],
    }


def main():
    torch.set_num_threads(1)
    done = {"before": BEFORE, "after": AFTER, "cases": {}}
    for i, (name, (family, config, n_frame)) in enumerate(CASES.items()):
        case = answer(name, family, config, n_frame, "hub" if i % 2 == 0 else "new")
        done["cases"][name] = case
        print(name, max(map(abs, case["logits"])), list(case["shapes"])[:2], flush=True)
    (HERE / "families.json").write_text(json.dumps(done, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
