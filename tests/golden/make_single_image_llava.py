"""Make single_image_llava.json and .safetensors of families/llava_onevision: single images by LLaVA-NeXT's code.

    python tests/golden/make_single_image_llava.py LLAVA_NEXT

LLAVA_NEXT is a checkout of github.com/LLaVA-VL/LLaVA-NeXT. Its functions (`process_anyres_image` and the merging of
views) run unchanged; tower and projector are those of transformers 5.24, in f32 on the CPU. The images are those of
make_single_image_answers.py, and one whose padding LLaVA-NeXT crops differently than transformers.
"""

import ast
import importlib
import json
import math
import re
import sys
from functools import partial, reduce
from pathlib import Path
from types import SimpleNamespace
from typing import Dict

import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from make_single_image_answers import HERE, IMAGES, STEP, draw

CASE = HERE / "llava_onevision"
SIZES = {"cut": (423, 188)}
TILES = "(1x1),...,(6x6)"
# Resolutions (width, height), in the form of a list.
LIST = [[384, 768], [768, 384], [768, 768], [1152, 384], [384, 1152]]
RUNS = {name: (name, aspect or "anyres_max_9", TILES) for name, (_, _, aspect) in IMAGES["llava_onevision"].items()} | {
    "cut": ("cut", "anyres_max_9", TILES),
    "unbounded": ("tall", "anyres", LIST),
}


def functions(path, names, scope):
    """Execute the definitions of the given names in a file, at any nesting."""
    tree = ast.parse(path.read_text())
    found = [node for node in ast.walk(tree) if getattr(node, "name", None) in names]
    assert {node.name for node in found} == set(names), path
    exec(compile(ast.Module(found, []), str(path), "exec"), scope)
    return scope


def code(checkout):
    """Return a scope with the image processor, the making of views, and the merging of their features."""
    scope = {"Image": Image, "math": math, "ast": ast, "re": re, "torch": torch, "nn": nn, "Dict": Dict, "reduce": reduce, "partial": partial}
    scope |= {"IGNORE_INDEX": -100, "IMAGE_TOKEN_INDEX": -200, "rank0_print": print, "rank_print": print}
    for module, names in [("image_transforms", ["convert_to_rgb", "normalize", "rescale", "resize", "to_channel_dimension_format"]),
                          ("image_utils", ["PILImageResampling", "ChannelDimension", "to_numpy_array"]),
                          ("image_processing_utils", ["BatchFeature", "get_size_dict"])]:
        found = importlib.import_module(f"transformers.{module}")
        scope |= {name: getattr(found, name) for name in names}
    views = ["select_best_resolution", "resize_and_pad_image", "divide_to_patches", "get_anyres_image_grid_shape", "process_anyres_image"]
    functions(checkout / "llava/mm_utils.py", views, scope)
    functions(checkout / "llava/model/llava_arch.py", ["unpad_image", "prepare_inputs_labels_for_multimodal"], scope)
    return functions(checkout / "llava/model/multimodal_encoder/siglip_encoder.py", ["SigLipImageProcessor"], scope)


@torch.no_grad()
def merged(scope, model, image, aspect, pinpoints):
    """Return the visual tokens of an image."""
    views = scope["process_anyres_image"](image, scope["SigLipImageProcessor"](), pinpoints)
    inner = model.model
    tower = SimpleNamespace(num_patches_per_side=27, image_size=384)

    def encode(pixels):
        return inner.multi_modal_projector(inner.vision_tower(pixels, output_hidden_states=True).hidden_states[-1])

    embed = inner.language_model.embed_tokens
    config = SimpleNamespace(image_aspect_ratio=aspect, image_grid_pinpoints=pinpoints, mm_patch_merge_type="spatial_unpad",
                             tokenizer_model_max_length=None, tokenizer_padding_side="right")
    code = SimpleNamespace(get_vision_tower=lambda: tower, encode_images=encode, config=config, device="cpu",
                           model=inner, get_model=lambda: SimpleNamespace(embed_tokens=embed))
    ids = torch.tensor([[1, -200, 2]])
    made = scope["prepare_inputs_labels_for_multimodal"](code, ids, None, None, None, None, [views.float()], ["image"], [image.size])
    return views, made[4][0, 1:-1]


def main():
    scope = code(Path(sys.argv[1]))
    model = transformers.AutoModelForImageTextToText.from_pretrained(CASE, dtype=torch.float32).eval()
    for name, (width, height) in SIZES.items():
        path = CASE / "single_image" / name / "image.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(name, 0, width, height).save(path, optimize=True)
    expected, tensors = {"step": STEP, "runs": {}}, {}
    for run, (name, aspect, pinpoints) in RUNS.items():
        image = Image.open(CASE / "single_image" / name / "image.png")
        views, visual = merged(scope, model, image, aspect, pinpoints)
        expected["runs"][run] = {"image": name, "image_aspect_ratio": aspect, "image_grid_pinpoints": pinpoints,
                                 "n_views": len(views), "n_visual_tokens": len(visual)}
        tensors |= {f"packed.{run}": visual[::STEP].contiguous(), f"mean.{run}": visual.mean(0)}
        print(run, len(views), "views", len(visual), "tokens", flush=True)
    (CASE / "single_image_llava.json").write_text(json.dumps(expected, indent=1) + "\n")
    save_file(tensors, CASE / "single_image_llava.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
