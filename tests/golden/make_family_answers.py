"""Make expected.json and expected.safetensors of the tiny checkpoints in families/: answers of transformers.

    python tests/golden/make_family_answers.py [CASE ...]

Requires transformers 5.24, torch, torchvision 0.27 or later (for its u8 Lanczos on the CPU), num2words, and ffmpeg.
The checkpoints were saved by the classes of the families with random weights (`save_pretrained` of 5.24); hub4x/ has
their JSON files with the keys of transformers 4. ffmpeg decodes the video; the processor of the family and
`generate()` do the rest, in f32 on the CPU.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.video_utils import VideoMetadata

HERE = Path(__file__).parent / "families"
# Number of frames, for a family whose processor has no default.
FRAMES = {"llava_onevision": 6}
# Frames per second of the videos.
RATE = 8.0
QUESTION = "What is happening in the video?"
N_NEW = 24


def decode(path):
    """Decode all frames of a video: (T, H, W, 3), u8."""
    probe = ["ffprobe", "-v", "error", "-select_streams", "v", "-show_entries", "stream=width,height", "-of", "csv=p=0"]
    width, height = map(int, subprocess.check_output([*probe, path], text=True).strip().split(","))
    raw = subprocess.check_output(["ffmpeg", "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def inputs_of(processor, frames, n_frames):
    """Return the prompt, the processor's inputs for a question about a video, and the sampled indices."""
    total = len(frames)
    metadata = VideoMetadata(total_num_frames=total, fps=RATE, duration=total / RATE)
    wanted = {"num_frames": n_frames} if n_frames else {}
    indices = np.asarray(processor.video_processor.sample_frames(metadata=metadata, **wanted)).astype(int)
    metadata.frames_indices = indices
    content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(
        text=prompt,
        videos=[torch.from_numpy(frames[indices].copy()).permute(0, 3, 1, 2)],
        video_metadata=[metadata],
        do_sample_frames=False,
        return_tensors="pt",
    )
    return prompt, inputs, indices


@torch.no_grad()
def make(case):
    """Answer with one checkpoint and write its expected files."""
    directory = HERE / case
    processor = AutoProcessor.from_pretrained(directory)
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
    frames = decode(directory / "video.mkv")
    prompt, inputs, indices = inputs_of(processor, frames, FRAMES.get(case))
    ids = inputs["input_ids"]
    placeholder = getattr(model.config, "video_token_id", None) if case in FRAMES else model.config.image_token_id

    embeds = []
    hook = model.model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: embeds.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    logits = model(**inputs).logits[0, -1]
    hook.remove()
    generated = model.generate(**inputs, max_new_tokens=N_NEW, do_sample=False)[0, ids.shape[1] :]
    visual = embeds[0][0][ids[0] == placeholder]
    pixels = next(inputs[key] for key in ("pixel_values_videos", "pixel_values") if key in inputs)

    expected = {
        "question": QUESTION,
        "sampling": {"indices": indices.tolist(), "times": [i / RATE for i in indices.tolist()]},
        "prompt": prompt,
        "input_ids": ids[0].tolist(),
        "n_visual_tokens": len(visual),
        "generated_ids": generated.tolist(),
        "also": {},
    }
    (directory / "expected.json").write_text(json.dumps(expected) + "\n")
    tensors = {
        "pixel_values.frame0.sample": pixels[0, 0, :, ::8, ::8],
        "projected.sample": visual[::5],
        "logits.last": logits,
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "expected.safetensors")
    (directory / "frames").mkdir(exist_ok=True)
    Image.fromarray(frames[indices[0]]).save(directory / "frames" / "000.png")
    levels = (pixels[0, 0] * 0.5 + 0.5) * 255
    Image.fromarray(levels.round().byte().permute(1, 2, 0).numpy()).save(directory / "frame0_resized.png")
    print(case, "frames", indices.tolist(), "ids", generated.tolist())


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or ["smolvlm", "llava_onevision"]:
        make(name)
