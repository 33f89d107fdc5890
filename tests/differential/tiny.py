"""Tiny random checkpoints as transformers 4 and 5 write them, random frames, and edits of saved files."""

import json
import shutil
from pathlib import Path

import numpy
import torch
import transformers as t
from PIL import Image
from safetensors.torch import load_file, save_file

import tokens

VISION = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, image_size=56, patch_size=14)
TEXT = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=512,
            rms_norm_eps=1e-5)
PADDING_IDS = 3
"""Rows of the embedding beyond the tokenizer's last id."""
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
MODELS = {
    "llava": (t.LlavaConfig, t.LlavaForConditionalGeneration),
    "next": (t.LlavaNextConfig, t.LlavaNextForConditionalGeneration),
    "vip": (t.VipLlavaConfig, t.VipLlavaForConditionalGeneration),
}
TOWERS = {"clip": t.CLIPVisionConfig, "siglip": t.SiglipVisionConfig}


class Workshop:
    """Directory of checkpoints and tokenizers."""

    def __init__(self, root):
        self.root = Path(root)
        self.tokenizers = self.root / "tokenizers"
        tokens.train(self.tokenizers)

    def build(self, name, family="llava", tower="clip", llm="llama", tokenizer="llama3", seed=0, std=0.15, dtype=None,
              vision={}, text={}, whole={}, processor={}, image_processor=None, chat_template=None):
        """Build the checkpoint `name`; the dictionaries override keys of its parts."""
        d = self.root / "cases" / name
        shutil.rmtree(d, ignore_errors=True)
        d.mkdir(parents=True)
        words = tokens.load(self.tokenizers, tokenizer) if isinstance(tokenizer, str) else tokenizer
        image = words.convert_tokens_to_ids("<image>")
        config, model = self.model(family, tower, llm, dict(
            vision=vision, text=dict(vocab_size=len(words) + PADDING_IDS, bos_token_id=words.bos_token_id,
                                     eos_token_id=words.eos_token_id) | text, whole=whole, image=image))
        randomize(model, std, seed, dtype)
        (model.to(dtype) if dtype else model).save_pretrained(d)
        self.processor(family, tower, config, image_processor, processor)(words, chat_template).save_pretrained(d)
        return d

    def model(self, family, tower, llm, keys):
        """Return the configuration and the model with the overridden keys."""
        vision = VISION | keys["vision"]
        size = vision["image_size"]
        if tower in TOWERS:
            rest = {"vision_use_head": False} if tower == "siglip" else {"projection_dim": 32}
            vision = TOWERS[tower](**(vision | rest | keys["vision"]))
        else:
            vision = tower(vision)
        text = TEXT | keys["text"]
        if "rope_parameters" in text and t.__version__.startswith("4."):
            text.update(old_rope(text.pop("rope_parameters")))
        if llm == "llama":
            text = t.LlamaConfig(**text)
        elif llm == "mistral":
            text = t.MistralConfig(**({"num_key_value_heads": 2, "sliding_window": None} | text))
        else:
            text = llm(text)
        make_config, make_model = MODELS[family]
        extra = dict(image_token_index=keys["image"])
        if family == "llava":
            extra["image_seq_length"] = (size // vision.patch_size) ** 2
        if family == "next":
            extra["image_grid_pinpoints"] = [[size, 2 * size], [2 * size, size], [2 * size, 2 * size]]
        config = make_config(vision_config=vision, text_config=text, **(extra | keys["whole"]))
        return config, make_model(config).float().eval()

    def processor(self, family, tower, config, image_processor, keys):
        """Return a function that builds the processor of a tokenizer and a chat template."""
        size = config.vision_config.image_size
        kind = image_processor or (t.SiglipImageProcessor if tower == "siglip" else t.CLIPImageProcessor)
        sides = dict(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
        if family == "next":
            kind, keys = t.LlavaNextImageProcessor, dict(image_grid_pinpoints=config.image_grid_pinpoints) | keys
        if tower == "siglip" and kind is t.SiglipImageProcessor:
            sides = dict(size={"height": size, "width": size})
        images = kind(**(sides | keys))
        whole = t.LlavaNextProcessor if family == "next" else t.LlavaProcessor
        strategy = getattr(config, "vision_feature_select_strategy", "default")
        return lambda words, chat_template: whole(
            image_processor=images, tokenizer=words, chat_template=chat_template, patch_size=config.vision_config.patch_size,
            vision_feature_select_strategy=strategy, num_additional_image_tokens=1 if tower == "clip" else 0)

    def as_version_4(self, d, rewrite_tokenizer=True):
        """Rewrite a checkpoint with an sp tokenizer as transformers 4.36 wrote it: files, keys and tensor names."""
        split_processor(d)
        old_config(d)
        rename(d, old_name)
        if rewrite_tokenizer:
            tokens.as_version_4(d, self.tokenizers)
        return d


def randomize(model, std, seed, dtype):
    """Initialize a model with random weights whose activations do not vanish over the layers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(values * std)
            else:
                parameter.copy_(values * 0.1 + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
            if dtype:
                parameter.copy_(parameter.to(dtype).float())


def random_image(width, height, seed):
    """Draw waves of colour, four discs and noise."""
    r = numpy.random.default_rng(seed)
    y, x = numpy.mgrid[0:height, 0:width].astype(float)
    waves = [numpy.sin(x / width * 6 * r.random() + r.random() * 6 + y / height * 3),
             numpy.cos(y / height * 7 * r.random() + x / width * 4 * r.random()),
             numpy.sin((x / width + y / height) * 5 * r.random() + r.random() * 6)]
    values = 127 + 120 * numpy.stack(waves, -1)
    for _ in range(4):
        cx, cy, radius = r.random() * width, r.random() * height, (0.1 + 0.2 * r.random()) * min(width, height)
        values[(x - cx) ** 2 + (y - cy) ** 2 < radius * radius] = r.integers(0, 256, 3)
    values += r.integers(-12, 13, values.shape)
    return Image.fromarray(values.clip(0, 255).astype(numpy.uint8))


def frames(d, n=1, size=(100, 72), seed=0, mode="RGB"):
    """Write `n` frames of a Pillow `mode` to d/frames and open them."""
    folder = Path(d) / "frames"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for i in range(n):
        image = random_image(*size, seed * 100 + i)
        if mode == "RGBA":
            alpha = numpy.random.default_rng(i).integers(0, 256, (size[1], size[0])).astype(numpy.uint8)
            image.putalpha(Image.fromarray(alpha))
        elif mode != "RGB":
            image = image.convert(mode)
        image.save(folder / f"{i:03}.png")
    return [Image.open(path) for path in sorted(folder.iterdir())]


def edit(path, change):
    """Change a JSON file in place: `change` mutates its object; its return value is ignored."""
    path = Path(path)
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value, indent=1))


def copy(d, ending):
    """Copy a checkpoint to a directory beside it and return the path."""
    twin = d.parent / f"{d.name}-{ending}"
    shutil.rmtree(twin, ignore_errors=True)
    shutil.copytree(d, twin)
    return twin


def tensors(d):
    """Load all tensors of a checkpoint."""
    found = {}
    for path in sorted(Path(d).glob("*.safetensors")):
        found.update(load_file(path))
    return found


def write(d, weights, form="safetensors", shards=1, zipped=True):
    """Replace a checkpoint's weights."""
    d = Path(d)
    for path in list(d.glob("model*.safetensors*")) + list(d.glob("pytorch_model*")):
        path.unlink()
    stem, ending = ("model", "safetensors") if form == "safetensors" else ("pytorch_model", "bin")

    def save(part, path):
        if form == "safetensors":
            save_file({name: value.contiguous().clone() for name, value in part.items()}, str(path), metadata={"format": "pt"})
        else:
            torch.save(part, path, _use_new_zipfile_serialization=zipped)

    if shards == 1:
        save(weights, d / f"{stem}.{ending}")
        return
    names, index = list(weights), {}
    for i in range(shards):
        part = {name: weights[name] for name in names[i::shards]}
        file = f"{stem}-{i + 1:05}-of-{shards:05}.{ending}"
        save(part, d / file)
        index.update({name: file for name in part})
    (d / f"{stem}.{ending}.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}))


def rename(d, new, **how):
    """Rename tensors by `new`, which returns None for tensors to remove."""
    named = ((new(name), value) for name, value in tensors(d).items())
    write(d, {name: value for name, value in named if name is not None}, **how)


def old_name(name):
    """Return a tensor's name in transformers 4."""
    is_tower = name.startswith("vision_tower.") and "vision_model" not in name
    return name.replace("vision_tower.", "vision_tower.vision_model.", 1) if is_tower else name


def new_name(name):
    """Return a tensor's name in the modules of transformers 5, as some tools save it."""
    for old, new in (("language_model.model.", "model.language_model."), ("language_model.lm_head", "lm_head")):
        if name.startswith(old):
            return new + name[len(old):]
    return f"model.{name}"


def image_processor_of(d):
    """Load the image processor's description from processor_config.json or preprocessor_config.json."""
    whole = json.loads((d / "processor_config.json").read_text())
    return whole.get("image_processor") or json.loads((d / "preprocessor_config.json").read_text())


def split_processor(d, kind=None, **keys):
    """Move the image processor to preprocessor_config.json, as in transformers 4, with another class and keys."""
    path = d / "processor_config.json"
    whole = json.loads(path.read_text())
    images = whole.pop("image_processor") if "image_processor" in whole else image_processor_of(d)
    images.update(processor_class="LlavaProcessor", **keys)
    if kind:
        images["image_processor_type"] = kind
    (d / "preprocessor_config.json").write_text(json.dumps(images, indent=1))
    path.write_text(json.dumps(whole, indent=1))


LLAMA_DEFAULTS = dict(
    rope_theta=10000.0, rope_scaling=None, attention_bias=False, attention_dropout=0.0, bos_token_id=1, eos_token_id=2,
    hidden_act="silu", initializer_range=0.02, mlp_bias=False, pretraining_tp=1, tie_word_embeddings=False, use_cache=True,
    rms_norm_eps=1e-6, max_position_embeddings=2048, pad_token_id=None)
CLIP_DEFAULTS = dict(attention_dropout=0.0, hidden_act="quick_gelu", initializer_factor=1.0, initializer_range=0.02,
                     layer_norm_eps=1e-5, num_channels=3)


def old_rope(parameters):
    """Convert rope_parameters of transformers 5 to rope_theta and rope_scaling of version 4."""
    parameters = dict(parameters)
    theta, kind = parameters.pop("rope_theta", 10000.0), parameters.pop("rope_type", "default")
    name = "type" if kind in ("linear", "dynamic") else "rope_type"
    return dict(rope_theta=theta, rope_scaling=None if kind == "default" else {name: kind, **parameters})


def old_config(d):
    """Rewrite config.json with the keys of transformers 4, which omits values equal to the class's defaults."""

    def without(section, defaults):
        for key, default in defaults.items():
            if section.get(key, "absent") == default:
                section.pop(key)

    def change(config):
        config["torch_dtype"] = config.pop("dtype", config.get("torch_dtype"))
        config["transformers_version"] = "4.36.0"
        text, vision = config["text_config"], config["vision_config"]
        if "rope_parameters" in text:
            text.update(old_rope(text.pop("rope_parameters")))
        text["torch_dtype"] = config["torch_dtype"]
        if text["model_type"] == "llama":
            without(text, LLAMA_DEFAULTS)
        if text.get("head_dim") == text["hidden_size"] // text["num_attention_heads"]:
            text.pop("head_dim", None)
        if vision["model_type"].startswith("clip"):
            without(vision, CLIP_DEFAULTS)

    edit(d / "config.json", change)
