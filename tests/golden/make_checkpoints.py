"""Make checkpoints/: one tiny random LLaVA in every layout of released checkpoints, and the answers of transformers.

    pip install torch==2.15.0 transformers==5.23.0 sentencepiece==0.2.3 safetensors==0.8.0 pillow==12.3.0 numpy==2.4.6
    python tests/golden/make_checkpoints.py   # after make.py

All layouts hold the same values, rounded to f16 once and stored in f16 or f32:

llava-sharded/      LLaVA's config keys, two safetensors shards with an index, the tower in tower/.
llava-bin/          the same as one pytorch_model.bin with the tower's weights; tower/ has its config.json only.
llava-bin-sharded/  two .bin shards in f16 with an index and old rotary buffers; the tower in tower/ as .bin.
hf-4/               Hugging Face's config keys and tensor names as transformers 4 wrote them.
hf-5/               the output of `save_pretrained` of transformers 5.

frames/             three PNG frames. expected.json: for each question the 16 greedy ids over all frames (concatenated)
                    with the vicuna_v1 prompt, by LlavaForConditionalGeneration of transformers in f32 from hf-5/, and
                    the smallest gap between the two best logits.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

HERE = Path(__file__).resolve().parent
OUT = HERE / "checkpoints"
TOKENIZER = HERE / "sentencepiece/a.model"
SIDE, IMAGE_ID, VOCAB, SEED = 28, 600, 608, 5
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])
SYSTEM = ("A chat between a curious user and an artificial intelligence assistant. "
          "The assistant gives helpful, detailed, and polite answers to the user's questions.")
QUESTIONS = ["What is happening?", "Où est le café? 何が起きていますか。"]
VISION = dict(hidden_size=24, num_hidden_layers=4, num_attention_heads=2, intermediate_size=40, image_size=SIDE, patch_size=7,
              projection_dim=16, hidden_act="quick_gelu", layer_norm_eps=1e-5)
TEXT = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
            vocab_size=VOCAB, max_position_embeddings=512, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, hidden_act="silu")
PREPROCESSOR = dict(image_processor_type="CLIPImageProcessor", do_resize=True, size={"shortest_edge": SIDE}, resample=3,
                    do_center_crop=True, crop_size={"height": SIDE, "width": SIDE}, do_rescale=True, rescale_factor=1 / 255,
                    do_normalize=True, image_mean=MEAN.tolist(), image_std=STD.tolist())
LLAVA = TEXT | dict(architectures=["LlavaLlamaForCausalLM"], model_type="llava_llama", rope_theta=10000.0, rope_scaling=None,
                    tie_word_embeddings=False, mm_vision_tower="tower", mm_hidden_size=24, mm_projector_type="mlp2x_gelu",
                    mm_vision_select_layer=-2, mm_vision_select_feature="patch", image_aspect_ratio="square",
                    mm_use_im_start_end=False, tokenizer_model_max_length=512)


def build():
    torch.manual_seed(SEED)
    config = LlavaConfig(vision_config=CLIPVisionConfig(**VISION), text_config=LlamaConfig(**TEXT), image_token_index=IMAGE_ID,
                         vision_feature_layer=-2, vision_feature_select_strategy="default", tie_word_embeddings=False)
    model = LlavaForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.25)
            else:
                parameter.copy_(torch.randn_like(parameter) * 0.1 + (1.0 if "norm" in name and "weight" in name else 0.0))
            parameter.copy_(parameter.half().float())
    return model


def parts(model):
    """Return the weights of language model, projector and tower, each under the names of its own module."""
    language = {"model." + k: v for k, v in model.model.language_model.state_dict().items()}
    language["lm_head.weight"] = model.lm_head.weight
    projector = dict(model.model.multi_modal_projector.state_dict())
    tower = {k.removeprefix("vision_model."): v for k, v in model.model.vision_tower.state_dict().items()}
    tower = {k: v for k, v in tower.items() if "position_ids" not in k}
    clean = lambda d: {k: v.detach().clone().contiguous() for k, v in d.items()}
    return clean(language), clean(projector), clean(tower)


def folder(name):
    path = OUT / name
    path.mkdir(parents=True)
    shutil.copy(TOKENIZER, path / "tokenizer.model")
    return path


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def write_tower_config(path):
    path.mkdir(exist_ok=True)
    write_json(path / "config.json", VISION | dict(architectures=["CLIPVisionModel"], model_type="clip_vision_model", num_channels=3))
    write_json(path / "preprocessor_config.json", PREPROCESSOR)


def shards(weights):
    names = sorted(weights)
    half = len(names) // 2
    return [{k: weights[k] for k in names[:half]}, {k: weights[k] for k in names[half:]}]


def write_index(path, name, files):
    total = sum(v.numel() * v.element_size() for file in files.values() for v in file.values())
    weight_map = {k: file for file, weights in files.items() for k in weights}
    write_json(path / name, {"metadata": {"total_size": total}, "weight_map": weight_map})


def llava_names(language, projector):
    numbers = {"linear_1": "0", "linear_2": "2"}
    renamed = {f"model.mm_projector.{numbers[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in projector.items()}
    return language | renamed


def write_llava(language, projector, tower):
    weights = llava_names(language, projector)
    in_tower = {f"vision_model.{k}": v for k, v in tower.items()}

    path = folder("llava-sharded")
    write_json(path / "config.json", LLAVA | {"torch_dtype": "float32"})
    write_tower_config(path / "tower")
    save_file(in_tower, str(path / "tower/model.safetensors"))
    files = {f"model-0000{i + 1}-of-00002.safetensors": shard for i, shard in enumerate(shards(weights))}
    for name, shard in files.items():
        save_file(shard, str(path / name), metadata={"format": "pt"})
    write_index(path, "model.safetensors.index.json", files)

    path = folder("llava-bin")
    write_json(path / "config.json", LLAVA | {"torch_dtype": "float32"})
    write_tower_config(path / "tower")
    inside = {f"model.vision_tower.vision_tower.{k}": v for k, v in in_tower.items()}
    torch.save(weights | inside, path / "pytorch_model.bin")

    path = folder("llava-bin-sharded")
    write_json(path / "config.json", LLAVA | {"torch_dtype": "float16"})
    write_tower_config(path / "tower")
    half = lambda d: {k: v.half() for k, v in d.items()}
    torch.save(half(in_tower), path / "tower/pytorch_model.bin")
    buffers = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(2)}
    files = {f"pytorch_model-0000{i + 1}-of-00002.bin": shard for i, shard in enumerate(shards(half(weights) | buffers))}
    for name, shard in files.items():
        torch.save(shard, path / name)
    write_index(path, "pytorch_model.bin.index.json", files)


def write_hugging_face(model, language, projector, tower):
    path = folder("hf-4")
    text = TEXT | dict(model_type="llama", architectures=["LlamaForCausalLM"], torch_dtype="float32")
    vision = VISION | dict(model_type="clip_vision_model")
    write_json(path / "config.json", dict(
        architectures=["LlavaForConditionalGeneration"], model_type="llava", ignore_index=-100, image_token_index=IMAGE_ID,
        projector_hidden_act="gelu", text_config=text, vision_config=vision, vision_feature_layer=-2,
        vision_feature_select_strategy="default", tie_word_embeddings=False, torch_dtype="float16", transformers_version="4.36.0"))
    write_json(path / "preprocessor_config.json", PREPROCESSOR)
    weights = {f"language_model.{k}": v for k, v in language.items()}
    weights |= {f"multi_modal_projector.{k}": v for k, v in projector.items()}
    weights |= {f"vision_tower.vision_model.{k}": v for k, v in tower.items()}
    save_file({k: v.half() for k, v in weights.items()}, str(path / "model.safetensors"), metadata={"format": "pt"})

    path = folder("hf-5")
    model.save_pretrained(path)
    write_json(path / "preprocessor_config.json", PREPROCESSOR)


def write_frames():
    frames = []
    (OUT / "frames").mkdir()
    for t in range(3):
        rng = np.random.default_rng(100 + t)
        y, x = np.mgrid[0:30, 0:40]
        image = np.stack([x * 6, y * 8, (x * y + 40 * t) % 256], -1) * 0.7 + rng.integers(0, 60, (30, 40, 3))
        frames.append(Image.fromarray(image.clip(0, 255).astype(np.uint8)))
        frames[-1].save(OUT / f"frames/{t:03}.png")
    return frames


def pixels(image):
    width, height = image.size
    image = image.resize((int(SIDE * width / height), SIDE), Image.BICUBIC)
    left = (image.width - SIDE) // 2
    values = np.array(image.crop((left, 0, left + SIDE, SIDE)))
    return ((torch.tensor(values).float() / 255 - MEAN) / STD).permute(2, 0, 1)


@torch.no_grad()
def answer(model, frames, question):
    tokenizer = sentencepiece.SentencePieceProcessor(str(TOKENIZER))
    before = [1] + tokenizer.encode(f"{SYSTEM} USER: ")
    after = tokenizer.encode(f"\n{question} ASSISTANT:")
    states = model.model.vision_tower(torch.stack([pixels(f) for f in frames]), output_hidden_states=True).hidden_states
    visual = model.model.multi_modal_projector(states[-2][:, 1:]).flatten(0, 1)
    embed = model.get_input_embeddings()
    x = torch.cat([embed(torch.tensor(before)), visual, embed(torch.tensor(after))])[None]
    ids, margin = [], float("inf")
    while len(ids) < 16 and ids[-1:] != [2]:
        logits = model(inputs_embeds=x).logits[0, -1]
        best = logits.topk(2).values
        margin = min(margin, (best[0] - best[1]).item())
        ids.append(int(logits.argmax()))
        x = torch.cat([x, embed(torch.tensor([[ids[-1]]]))], 1)
    return {"question": question, "ids": ids, "n_text": len(before) + len(after), "n_visual": len(visual), "min_margin": round(margin, 4)}


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    model = build()
    weights = parts(model)
    write_llava(*weights)
    write_hugging_face(model, *weights)
    loaded = LlavaForConditionalGeneration.from_pretrained(OUT / "hf-5").float().eval()
    frames = write_frames()
    answers = [answer(loaded, frames, question) for question in QUESTIONS]
    write_json(OUT / "expected.json", {"answers": answers})
    print(answers)


if __name__ == "__main__":
    main()
