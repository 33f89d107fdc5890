"""Compare the time and memory of `vidense ask` with a plain transformers script on the same checkpoint and clip.

    python benches/ask_peers.py MODEL CLIP [--frames 16] [--new 64] [--rounds 3]

Requires torch, torchvision, transformers, ffmpeg, and target/release/vidense. MODEL is a directory written by
benches/make_models.py (random weights). The peer decodes the same number of frames with ffmpeg, resizes and normalizes
them with torchvision, loads the model in f32 and generates greedily. Its prompt has arbitrary ids of the same length:
only the length affects the time. The two processes alternate. Prints one line per round: seconds, peak resident
memory, and their ratios.
"""

import argparse
import json
import os
import subprocess
import sys
import time

VIDENSE = "target/release/vidense"
QUESTION = "What is happening?"
BEFORE, BETWEEN, AFTER = [300] * 20, [301] * 18, [302] * 40  # ids of ordinary tokens


def frames_of(clip, n_wanted):
    """Decode the frames in the middle of n equal segments: (n, height, width, 3), u8."""
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
    """Return the prompt's ids and the pixel tensors of `generate`."""
    import torch
    import torchvision.transforms.v2.functional as F

    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    onevision = config.model_type == "llava_onevision"
    mode = F.InterpolationMode.BICUBIC if onevision else F.InterpolationMode.BILINEAR
    channels_first = [torch.from_numpy(frame.copy()).permute(2, 0, 1) for frame in frames]
    resized = [F.resize(frame, [side, side], interpolation=mode, antialias=True) for frame in channels_first]
    pixels = torch.stack(resized) / 127.5 - 1
    if onevision:
        ids = BEFORE + [config.video_token_id] * (196 * len(frames) + 1) + AFTER
        return ids, {"pixel_values_videos": pixels[None]}
    n_tokens = (side // patch // config.scale_factor) ** 2
    ids = [1] + BEFORE
    for _ in frames:
        ids += BETWEEN + [config.image_token_id] * n_tokens
    return ids + AFTER, {"pixel_values": pixels[None]}


def peer(arguments):
    """Answer with transformers, in this process."""
    import torch
    from transformers import AutoModelForImageTextToText

    torch.set_num_threads(os.cpu_count())
    frames = frames_of(arguments.clip, arguments.frames)
    model = AutoModelForImageTextToText.from_pretrained(arguments.model, dtype=torch.float32).eval()
    ids, pixels = inputs(model.config, frames)
    ids = torch.tensor([ids])
    n_new = arguments.new
    length = {"max_new_tokens": n_new, "min_new_tokens": n_new, "do_sample": False}
    with torch.no_grad():
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **pixels, **length)


def measure(command):
    """Run a process that must succeed and return its seconds and peak resident memory in MiB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(command)}: exit status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("clip")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        return peer(arguments)
    model, clip, n_frames, n_new = arguments.model, arguments.clip, str(arguments.frames), str(arguments.new)
    options = ["--sample", f"uniform:frames={n_frames}", "--max-new-tokens", n_new, "--device", "cpu", "--dtype", "f32"]
    ask = [VIDENSE, "ask", clip, QUESTION, "--model", model, *options]
    peer_command = [sys.executable, __file__, "--peer", model, clip, "--frames", n_frames, "--new", n_new]
    for _ in range(arguments.rounds):
        ours, our_memory = measure(ask)
        theirs, their_memory = measure(peer_command)
        print(
            f"vidense {ours:.1f} s, {our_memory:.0f} MiB; transformers {theirs:.1f} s, {their_memory:.0f} MiB; "
            f"ratios {ours / theirs:.3f}, {our_memory / their_memory:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
