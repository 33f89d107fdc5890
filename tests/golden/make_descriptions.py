"""Make descriptions/expected.json: answers of transformers with changed JSON files of checkpoints/hf-5.

    pip install torch==2.15.0 transformers==5.24.0 sentencepiece==0.2.3 safetensors==0.8.0 pillow==12.3.0 numpy==2.4.6
    python tests/golden/make_descriptions.py   # after make_checkpoints.py

Each case is hf-5 with values set ([file, dotted key, value]) and removed ([file, key]), and optionally other tensors:

join    the projector's first matrix concatenated with half of itself, for two layers of the tower.
siglip  the CLIP tower as a SigLIP tower: no class token, and the bias of its first norm as that of the patches.
bare    no biases in the projector.
loud    the projector's matrices times three, so that its activation affects the answer.

The answer is that of `generate()` with all keys of generation_config.json, in f32, over all frames, after
AutoImageProcessor (PIL backend). With `base_view` the frames are the base views of LlavaNextImageProcessor, in a model
of the class Llava.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")

import sentencepiece
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, LlavaForConditionalGeneration

HERE = Path(__file__).resolve().parent
BASE, OUT = HERE / "checkpoints/hf-5", HERE / "descriptions"
IMAGE_ID, SIDE, N_NEW = 600, 28, 16
SYSTEM = ("A chat between a curious user and an artificial intelligence assistant. "
          "The assistant gives helpful, detailed, and polite answers to the user's questions.")
QUESTION = "What is happening?"
CONFIG, GENERATION, PREPROCESSOR, PROCESSOR = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json")
OWN = json.loads((BASE / PREPROCESSOR).read_text())


def case(name, set=(), removed=(), tensors=None, base_view=False):
    return dict(name=name, set=list(set), removed=list(removed), tensors=tensors, base_view=base_view)


def processor(name, **keys):
    return case(name, [[PREPROCESSOR, k, v] for k, v in keys.items()])


def generation(name, **keys):
    return case(name, [[GENERATION, k, v] for k, v in keys.items()])


def cases(plain):
    """Yield the cases; `plain` is the answer of the unchanged checkpoint."""
    llava = OWN | {"image_processor_type": "LlavaImageProcessor", "do_pad": True}
    untyped = [[PREPROCESSOR, "image_processor_type"]]
    old = [[PREPROCESSOR, "feature_extractor_type", "CLIPFeatureExtractor"], [PREPROCESSOR, "size", SIDE], [PREPROCESSOR, "crop_size", SIDE]]
    yield case("as it is")
    yield case("nested image processor before the other file", [[PROCESSOR, "image_processor", llava], [PREPROCESSOR, "resample", 0]])
    yield case("flat processor file says nothing of images", [[PROCESSOR, "processor_class", "LlavaProcessor"], [PREPROCESSOR, "resample", 0]])
    yield processor("do_pad of CLIP's class", do_pad=True)
    yield case("no class named, padded", [[PREPROCESSOR, "do_pad", True]], untyped)
    yield case("old feature extractor", old, untyped)
    for number in (0, 1, 2, 4, 5):
        yield processor(f"resample {number}", resample=number)
    yield processor("squeezed", size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    yield processor("larger than the crop", size={"shortest_edge": 37})
    yield processor("smaller than the crop", size={"shortest_edge": 21})
    yield processor("two edges", size={"shortest_edge": 28, "longest_edge": 33})
    yield processor("within", size={"max_height": 30, "max_width": 33})
    yield processor("rescaled otherwise", rescale_factor=1 / 127.5)
    yield processor("not normalised", do_normalize=False)
    yield processor("one mean for all channels", image_mean=0.4, image_std=0.3)
    yield case("ViT's class", [[PREPROCESSOR, "image_processor_type", "ViTImageProcessorFast"], [PREPROCESSOR, "size", SIDE]],
               [[PREPROCESSOR, key] for key in ("resample", "image_mean", "image_std", "crop_size", "do_center_crop")])
    yield processor("steps that are null", do_center_crop=None, crop_size=None, size={"height": SIDE, "width": SIDE}, do_rescale=None)
    yield case("LLaVA-NeXT's base view", [
        [PREPROCESSOR, "image_processor_type", "LlavaNextImageProcessor"], [PREPROCESSOR, "do_pad", True],
        [CONFIG, "model_type", "llava_next"], [CONFIG, "architectures", ["LlavaNextForConditionalGeneration"]]], base_view=True)
    siglip = [[CONFIG, "vision_config.model_type", "siglip_vision_model"], [CONFIG, "vision_config.vision_use_head", False]]
    yield case("SigLIP without its first token", siglip, tensors="siglip")
    yield case("SigLIP in full", siglip + [[CONFIG, "vision_feature_select_strategy", "full"]], tensors="siglip")
    yield case("CLIP in full", [[CONFIG, "vision_feature_select_strategy", "full"]])
    yield case("a list of one layer", [[CONFIG, "vision_feature_layer", [-3]]])
    yield case("two layers", [[CONFIG, "vision_feature_layer", [-2, 1]]], tensors="join")
    for name in ("gelu", "gelu_pytorch_tanh", "gelu_new", "quick_gelu", "relu", "swish"):
        yield case(f"projector {name}", [[CONFIG, "projector_hidden_act", name]], tensors="loud")
    yield case("no biases in the projector", [[CONFIG, "multimodal_projector_bias", False]], tensors="bare")
    yield case("no model types below", removed=[[CONFIG, "vision_config.model_type"], [CONFIG, "text_config.model_type"]])
    for key in ("hidden_act", "layer_norm_eps", "num_channels"):
        yield case(f"no {key} of the tower", removed=[[CONFIG, f"vision_config.{key}"]])
    end = plain[3]
    yield generation("another end", eos_token_id=end)
    yield generation("several ends", eos_token_id=[2, end])
    yield case("no end in the file", [[CONFIG, "text_config.eos_token_id", end]], [[GENERATION, "eos_token_id"]])
    everything = [[GENERATION, key] for key in json.loads((BASE / GENERATION).read_text())]
    yield case("an empty file", [[CONFIG, "text_config.eos_token_id", end]], everything)
    yield generation("a penalty", repetition_penalty=1.7)
    yield generation("no id twice", no_repeat_ngram_size=1)
    yield generation("no pair twice", no_repeat_ngram_size=2)
    yield generation("suppressed", suppress_tokens=[plain[0], plain[1]])
    yield generation("suppressed first", begin_suppress_tokens=[plain[0]])
    yield generation("a shortest answer", eos_token_id=end, min_new_tokens=9)
    yield generation("a shortest length", eos_token_id=end, min_length=170)
    yield generation("bad words", bad_words_ids=[[plain[1]], [plain[2], plain[3]]])
    yield generation("a bias", sequence_bias=[[[plain[0]], -1.5], [[plain[2], plain[3]], -2.0]])


def edit(directory, file, key, value):
    path = directory / file
    whole = json.loads(path.read_text()) if path.exists() else {}
    part = whole
    *outer, last = key.split(".")
    for name in outer:
        part = part[name]
    if value is ...:
        part.pop(last)
    else:
        part[last] = value
    path.write_text(json.dumps(whole))


def retensor(directory, kind):
    path = directory / "model.safetensors"
    weights = load_file(path)
    first = "multi_modal_projector.linear_1.weight"
    if kind == "join":
        weights[first] = torch.cat([weights[first], weights[first] / 2], 1)
    elif kind == "bare":
        weights = {k: v for k, v in weights.items() if not (k.startswith("multi_modal_projector.") and k.endswith(".bias"))}
    elif kind == "loud":
        weights |= {k: v * 3 for k, v in weights.items() if k.startswith("multi_modal_projector.")}
    elif kind == "siglip":
        (prefix,) = [k.removesuffix("embeddings.class_embedding") for k in weights if k.endswith("embeddings.class_embedding")]
        weights.pop(prefix + "embeddings.class_embedding"), weights.pop(prefix + "pre_layrnorm.weight")
        weights[prefix + "embeddings.patch_embedding.bias"] = weights.pop(prefix + "pre_layrnorm.bias")
        position = prefix + "embeddings.position_embedding.weight"
        weights[position] = weights[position][1:].contiguous()
    save_file(weights, path, metadata={"format": "pt"})


@torch.no_grad()
def answer(one, frames):
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "model"
        shutil.copytree(BASE, directory)
        for file, key, value in one["set"]:
            edit(directory, file, key, value)
        for file, key in one["removed"]:
            edit(directory, file, key, ...)
        retensor(directory, one["tensors"])
        pixels = AutoImageProcessor.from_pretrained(directory, backend="pil")(frames, return_tensors="pt").pixel_values
        if one["base_view"]:
            pixels = pixels[:, 0]
            edit(directory, CONFIG, "model_type", "llava"), edit(directory, CONFIG, "architectures", ["LlavaForConditionalGeneration"])
        model = LlavaForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
    if pixels.shape[-2:] != (SIDE, SIDE):
        return None
    n_visual = sum(len(part) for part in model.get_image_features(pixel_values=pixels).pooler_output)
    tokenizer = sentencepiece.SentencePieceProcessor(str(HERE / "sentencepiece/a.model"))
    before, after = [1] + tokenizer.encode(f"{SYSTEM} USER: "), tokenizer.encode(f"\n{QUESTION} ASSISTANT:")
    ids = torch.tensor([before + [IMAGE_ID] * n_visual + after])
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, max_new_tokens=N_NEW,
                         return_dict_in_generate=True, output_scores=True)
    gaps = [float(best[0] - best[1]) for best in (score[0].topk(2).values for score in out.scores)]
    return dict(ids=out.sequences[0, ids.shape[1]:].tolist(), n_visual=n_visual, min_margin=round(min(gaps), 4))


def main():
    torch.set_num_threads(1)
    frames = [Image.open(path).convert("RGB") for path in sorted((HERE / "checkpoints/frames").glob("*.png"))]
    plain = answer(case("as it is"), frames)["ids"]
    lines = []
    for one in cases(plain):
        found = answer(one, frames)
        assert found is None or found["min_margin"] > 3e-4, (one["name"], found)
        expected = found or dict(refused="the image processor makes frames of")
        lines.append({k: v for k, v in one.items() if v and k != "base_view"} | expected)
        print(one["name"], expected, flush=True)
    OUT.mkdir(exist_ok=True)
    body = ",\n".join(json.dumps(line) for line in lines)
    (OUT / "expected.json").write_text(f'{{"question": {json.dumps(QUESTION)}, "cases": [\n{body}\n]}}\n')


main()
