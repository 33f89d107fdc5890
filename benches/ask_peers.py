"""Time `vidense ask` beside a plain transformers script on the same checkpoint and clip, whole processes in turns.

    python benches/ask_peers.py MODEL CLIP [--frames 16] [--new 64] [--rounds 3]

It wants torch, torchvision and transformers, ffmpeg, and target/release/vidense. MODEL is a directory that
benches/make_models.py wrote (random weights). The script takes the same number of frames with ffmpeg, resizes and normalises
them with torchvision, loads the model in f32 and generates greedily; its prompt is random ids of the same length, as
only its length costs time. A line a round: seconds, the most resident memory, and the ratios.
"""

import argparse
import json
import os
import subprocess
import sys
import time

VIDENSE = "target/release/vidense"
QUESTION = "What is happening?"
BEFORE, BETWEEN, AFTER = [300] * 20, [301] * 18, [302] * 40  # ids of words


def frames_of(clip, n_wanted):
    """Frames (n, height, width, 3) in the middles of n equal parts, by index."""
    import numpy as np

    entries = "stream=nb_read_packets,width,height"
    probe = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-count_packets", "-show_entries", entries, "-of", "json", clip]
    stream = json.loads(subprocess.run(probe, capture_output=True, check=True).stdout)["streams"][0]
    total = int(stream["nb_read_packets"])
    chosen = [min(total - 1, int((i + 0.5) * total / n_wanted)) for i in range(n_wanted)]
    select = "select='" + "+".join(f"eq(n,{i})" for i in chosen) + "'"
    decode = ["ffmpeg", "-v", "error", "-i", clip, "-vf", select, "-vsync", "0", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(decode, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, stream["height"], stream["width"], 3)


def inputs(config, frames):
    import torch
    import torchvision.transforms.v2.functional as F

    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    onevision = config.model_type == "llava_onevision"
    mode = F.InterpolationMode.BICUBIC if onevision else F.InterpolationMode.BILINEAR
    picture = lambda frame: torch.from_numpy(frame.copy()).permute(2, 0, 1)
    pixels = torch.stack([F.resize(picture(f), [side, side], interpolation=mode, antialias=True) for f in frames]) / 127.5 - 1
    if onevision:
        ids = BEFORE + [config.video_token_id] * (196 * len(frames) + 1) + AFTER
        return ids, {"pixel_values_videos": pixels[None]}
    n_tokens = (side // patch // config.scale_factor) ** 2
    ids = [1] + BEFORE
    for _ in frames:
        ids += BETWEEN + [config.image_token_id] * n_tokens
    return ids + AFTER, {"pixel_values": pixels[None]}


def peer(a):
    import torch
    from transformers import AutoModelForImageTextToText

    torch.set_num_threads(os.cpu_count())
    frames = frames_of(a.clip, a.frames)
    model = AutoModelForImageTextToText.from_pretrained(a.model, dtype=torch.float32).eval()
    ids, pixels = inputs(model.config, frames)
    ids = torch.tensor([ids])
    length = {"max_new_tokens": a.new, "min_new_tokens": a.new, "do_sample": False}
    with torch.no_grad():
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **pixels, **length)


def measured(command):
    """Seconds and the most resident memory, in MiB, of a process that must succeed."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"failed: {' '.join(command)}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("clip")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.peer:
        return peer(a)
    sample, place = f"uniform:frames={a.frames}", ["--device", "cpu", "--dtype", "f32"]
    ask = [VIDENSE, "ask", a.clip, QUESTION, "--model", a.model, "--sample", sample, "--max-new-tokens", str(a.new), *place]
    rest = [a.model, a.clip, "--frames", str(a.frames), "--new", str(a.new)]
    for _ in range(a.rounds):
        ours, ours_memory = measured(ask)
        theirs, their_memory = measured([sys.executable, __file__, "--peer", *rest])
        print(
            f"vidense {ours:.1f} s, {ours_memory:.0f} MiB; transformers {theirs:.1f} s, {their_memory:.0f} MiB; "
            f"ratios {ours / theirs:.3f}, {ours_memory / their_memory:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
