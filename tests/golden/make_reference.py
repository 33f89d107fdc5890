"""Make reference.json: greedy ids of the released code's reference cases over *all* frames, by transformers.

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 pillow==12.3.0 numpy==2.4.6
    python tests/golden/make_reference.py REFERENCE    # directory of the cases and their towers/

The `generated_ids` of the reference come from the first frame alone, unpooled, as the number of rows of its
`inputs_embeds.sample` shows. This script computes tower, connector, projector, temporal aggregation, splice and
generation over all frames, and compares its visual tokens with `aggregated.sample` of the reference, which has all.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

HERE = Path(__file__).resolve().parent
CASES = ["clip-none", "clip-sti", "clip-sci", "clip-dci", "siglip-dci"]
CLIP_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
CLIP_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])
LLAMA_KEYS = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
              "max_position_embeddings", "rms_norm_eps", "rope_theta"]


def load(model, weights):
    own = set(model.state_dict())
    if not own & set(weights):
        weights = {name.removeprefix("vision_model."): value for name, value in weights.items()}
    found = model.load_state_dict({k: v.float() for k, v in weights.items() if k in own}, strict=False)
    unused = ("position_ids", "head.", "post_layernorm")
    assert all(any(part in name for part in unused) for name in found.missing_keys), found.missing_keys
    return model.float().eval()


def tower(reference, config, weights):
    """Load the tower; SigLIP without its last layer, as in the released code."""
    folder = reference / "towers" / config["mm_vision_tower"]
    described = json.loads((folder / "config.json").read_text())
    if "siglip" not in config["mm_vision_tower"]:
        return load(CLIPVisionModel(CLIPVisionConfig(**described)), load_file(folder / "model.safetensors"))
    model = SiglipVisionModel(SiglipVisionConfig(**described["vision_config"]))
    encoder = getattr(model, "vision_model", model).encoder
    encoder.layers = encoder.layers[:-1]
    inside = "vision_tower.vision_tower."
    return load(model, {k.split(inside)[1]: v for k, v in weights.items() if inside in k})


def pixels(path, siglip, pad):
    image = Image.open(path).convert("RGB")
    if pad:
        side = max(image.size)
        square = Image.new("RGB", (side, side), (127, 127, 127) if siglip else (122, 116, 104))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    if siglip:
        return ((torch.tensor(np.array(image.resize((384, 384), Image.BICUBIC))).float() / 255 - 0.5) / 0.5).permute(2, 0, 1)
    short = min(image.size)
    image = image.resize((int(336 * image.width / short), int(336 * image.height / short)), Image.BICUBIC)
    left, top = (image.width - 336) // 2, (image.height - 336) // 2
    values = np.array(image.crop((left, top, left + 336, top + 336)))
    return ((torch.tensor(values).float() / 255 - CLIP_MEAN) / CLIP_STD).permute(2, 0, 1)


def fuse(states, kind, siglip):
    final, group = (states[26], 13) if siglip else (states[23], 12)
    pool = lambda state: F.avg_pool1d(state.transpose(1, 2), 8, 8).transpose(1, 2)
    mean = lambda first: torch.stack(states[first:first + group]).mean(0)
    return {
        None: lambda: final,
        "sti": lambda: torch.cat([final, pool(states[7]), pool(states[15])], 1),
        "sci": lambda: torch.cat([final, states[7], states[15]], 2),
        "dci": lambda: torch.cat([final, mean(0), mean(group)], 2),
    }[kind]()


def generate(language, input_ids, visual):
    embed, at = language.get_input_embeddings(), input_ids.index(-200)
    before, after = embed(torch.tensor(input_ids[:at])), embed(torch.tensor(input_ids[at + 1:]))
    out = language(inputs_embeds=torch.cat([before, visual, after])[None], use_cache=True)
    ids, margin = [], float("inf")
    while len(ids) < 24 and ids[-1:] != [2]:
        best = out.logits[0, -1].topk(2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        ids.append(int(best.indices[0]))
        out = language(input_ids=torch.tensor([[ids[-1]]]), past_key_values=out.past_key_values, use_cache=True)
    return {"ids": ids, "min_margin": round(margin, 3)}


@torch.no_grad()
def answer(reference, case):
    folder = reference / case
    expected, config = (json.loads((folder / name).read_text()) for name in ("expected.json", "config.json"))
    weights, siglip = load_file(folder / "model.safetensors"), expected["tower"] == "siglip"
    frames = sorted((folder / "frames").glob("*.png"))
    batch = torch.stack([pixels(frame, siglip, config["image_aspect_ratio"] == "pad") for frame in frames])
    states = tower(reference, config, weights)(batch, output_hidden_states=True).hidden_states
    states = list(states) if siglip else [state[:, 1:] for state in states]
    p = {k.split("mm_projector.")[1]: v for k, v in weights.items() if "mm_projector" in k}
    fused = fuse(states, config["mm_dense_connector_type"], siglip)
    tokens = F.gelu(fused @ p["0.weight"].T + p["0.bias"]) @ p["2.weight"].T + p["2.bias"]
    if expected["pool"]:
        tokens = F.max_pool1d(tokens.transpose(1, 2), 2, 2).transpose(1, 2)
    visual = tokens.reshape(-1, tokens.shape[-1])
    difference = (visual[::13] - load_file(folder / "expected.safetensors")["aggregated.sample"]).abs().max().item()
    assert difference < 1e-4, (case, difference)
    language = LlamaForCausalLM(LlamaConfig(**{key: config[key] for key in LLAMA_KEYS}, tie_word_embeddings=False))
    language = load(language, {k: v for k, v in weights.items() if "mm_projector" not in k and "vision_tower" not in k})
    return generate(language, expected["input_ids"], visual)


if __name__ == "__main__":
    answers = {case: answer(Path(sys.argv[1]), case) for case in CASES}
    (HERE / "reference.json").write_text(json.dumps(answers, indent=1) + "\n")
    print({case: entry["min_margin"] for case, entry in answers.items()})
