"""Make single_image.json, single_image.safetensors and single_image/ of families/: answers about single images.

    python tests/golden/make_single_image_answers.py [CASE ...]

LLaVA-NeXT and LLaVA-OneVision encode a single image by AnyRes. Requires transformers 5.24, torch and torchvision (its
u8 kernels resize the images). Images are drawn with seeds from their names, until no step of the answer is a near-tie;
the processor of the family and `generate()` answer in f32 on the CPU. An image with an `aspect` uses the same weights
with this `vision_aspect_ratio` in both files. `packed.NAME` is every STEP-th visual token as spliced into the prompt,
`mean.NAME` the mean of all, `logits.NAME` the logits of the first answer token.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

HERE = Path(__file__).parent / "families"
QUESTION = "What is shown in this image?"
N_NEW = 24
STEP = 29
# Smallest allowed gap between the two best logits of a step.
MIN_GAP = 0.03
# Width, height, and a `vision_aspect_ratio` other than the checkpoint's.
IMAGES = {
    "llava_next": {
        "wide": (611, 150, None),
        "tall": (133, 402, None),
        "square": (199, 199, None),
        "large": (1030, 777, None),
        "hairline": (700, 9, None),
    },
    "llava_onevision": {
        "wide": (611, 150, None),
        "tall": (133, 402, None),
        "square": (401, 401, None),
        "bounded": (790, 801, "anyres_max_2"),
        "within": (425, 765, "anyres_max_2"),
    },
}


def draw(name, seed, width, height):
    """Draw gradients, rectangles and discs: sharp edges and flat areas, which PNG compresses well."""
    rng = np.random.default_rng(sum(name.encode()) * 1000 + seed)
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=-1).astype(np.uint8)
    for _ in range(12):
        colour = rng.integers(0, 256, 3, dtype=np.uint8)
        left, top = rng.integers(0, width), rng.integers(0, height)
        size = rng.integers(4, max(width, height) // 3)
        if rng.random() < 0.5:
            image[top : top + size, left : left + size] = colour
        else:
            image[(x - left) ** 2 + (y - top) ** 2 < (size // 2) ** 2] = colour
    return Image.fromarray(image)


def checkpoint(directory, aspect):
    """Return the checkpoint, or a copy of it with another `vision_aspect_ratio`."""
    if aspect is None:
        return directory
    copy = Path(tempfile.mkdtemp())
    for path in directory.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    for name in ["config.json", "processor_config.json"]:
        settings = json.loads((copy / name).read_text())
        settings["vision_aspect_ratio"] = aspect
        (copy / name).write_text(json.dumps(settings))
    return copy


@torch.no_grad()
def answer(directory, image):
    processor = AutoProcessor.from_pretrained(directory)
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=prompt, images=[image], return_tensors="pt")
    ids = inputs["input_ids"]
    embeds = []
    hook = model.model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: embeds.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    logits = model(**inputs).logits[0, -1]
    hook.remove()
    made = model.generate(
        **inputs, max_new_tokens=N_NEW, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    gaps = torch.stack(made.logits)[:, 0].topk(2).values
    visual = embeds[0][0][ids[0] == model.config.image_token_id]
    facts = {
        "prompt": prompt,
        # A single placeholder for all visual tokens.
        "input_ids": [int(i) for n, i in enumerate(ids[0]) if i != model.config.image_token_id or ids[0][n - 1] != i],
        "placeholder_id": model.config.image_token_id,
        "n_visual_tokens": len(visual),
        "n_views": int(inputs["pixel_values"].shape[1]),
        "generated_ids": made.sequences[0, ids.shape[1] :].tolist(),
        "min_gap": round(float((gaps[:, 0] - gaps[:, 1]).min()), 4),
    }
    return facts, {"packed": visual[::STEP], "mean": visual.mean(0), "logits": logits}


def make(case):
    directory = HERE / case
    expected = {"question": QUESTION, "step": STEP, "images": {}}
    tensors = {}
    for name, (width, height, aspect) in IMAGES[case].items():
        path = directory / "single_image" / name / "image.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        for seed in range(100):
            draw(name, seed, width, height).save(path, optimize=True)
            facts, found = answer(checkpoint(directory, aspect), Image.open(path))
            if facts["min_gap"] >= MIN_GAP and len(facts["generated_ids"]) == N_NEW:
                break
        else:
            raise SystemExit(f"{case} {name}: every image has a near-tie")
        expected["images"][name] = {"size": [width, height], "vision_aspect_ratio": aspect} | facts
        tensors |= {f"{kind}.{name}": tensor.contiguous() for kind, tensor in found.items()}
        print(case, name, facts["n_views"], "views", facts["n_visual_tokens"], "tokens, gap", facts["min_gap"], flush=True)
    (directory / "single_image.json").write_text(json.dumps(expected, indent=1) + "\n")
    save_file(tensors, directory / "single_image.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or IMAGES:
        make(name)
