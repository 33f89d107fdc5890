#!/usr/bin/env python3
"""Renders samples/three_shapes.mp4, a clip of the world that samples/mini was trained on.

A large red circle and a yellow square move, a small blue star stays in the top right cell;
nothing overlaps and nothing leaves the canvas. There is no randomness: the same numpy and
ffmpeg give the same file.

Needs numpy, Pillow and the ffmpeg command with libx264.
Run: python samples/make_three_shapes.py [--sheet contact_sheet.png]
"""

import argparse
import math
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 128
FRAMES = 48
FPS = 12
BACKGROUND = (12, 12, 12)
OUTPUT = Path(__file__).with_name("three_shapes.mp4")


@dataclass(frozen=True)
class Thing:
    """One shape: `path` is a point (static) or three control points (quadratic Bezier), in pixels."""

    shape: str
    colour: tuple
    radius: float
    texture: str
    path: tuple

    def centre(self, t):
        """Where it is at `t` in 0..1."""
        if len(self.path) == 1:
            return self.path[0]
        (x0, y0), (x1, y1), (x2, y2) = self.path
        a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t**2
        return a * x0 + b * x1 + c * x2, a * y0 + b * y1 + c * y2


# The world's radii: small 14.7 to 16.6 px, large 23.0 to 26.9 px.
THINGS = (
    Thing("circle", (220, 40, 40), 25.0, "solid", ((32, 96), (56, 64), (30, 32))),
    Thing("star", (70, 110, 255), 16.0, "solid", ((103, 22),)),
    Thing("square", (245, 225, 50), 16.0, "striped", ((106, 64), (92, 84), (100, 106))),
)


def star_mask(u, v):
    """Five points, tip up, straight edges; `v` points down."""
    outer, inner = 1.1, 0.48
    # Fold the plane into half a point: 0 is the tip's direction, pi/5 the notch's.
    angle = np.abs((np.arctan2(u, -v) + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5)
    r = np.hypot(u, v)
    x, y = r * np.cos(angle), r * np.sin(angle)
    nx, ny = inner * math.cos(math.pi / 5), inner * math.sin(math.pi / 5)
    # Inside: on the centre's side of the edge from the tip (outer, 0) to the notch (nx, ny).
    return (nx - outer) * y - ny * (x - outer) >= 0


def shape_mask(shape, u, v):
    """The world's shapes in object coordinates (pixels / radius)."""
    if shape == "circle":
        return u**2 + v**2 <= 0.95**2
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) <= 0.82
    if shape == "star":
        return star_mask(u, v)
    raise ValueError(f"unknown shape {shape}")


def dark_mask(texture, dy):
    """Where the texture halves the colour; `dy` is in pixels from the centre."""
    if texture == "striped":
        return dy % 12 < 6
    return np.zeros(dy.shape, bool)


def render(t):
    """One RGB frame, without antialiasing: a pixel belongs to a shape if its centre does."""
    frame = np.empty((SIZE, SIZE, 3), np.uint8)
    frame[:] = BACKGROUND
    ys, xs = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    for thing in THINGS:
        cx, cy = thing.centre(t)
        dx, dy = xs - cx, ys - cy
        inside = shape_mask(thing.shape, dx / thing.radius, dy / thing.radius)
        colour = np.array(thing.colour)
        frame[inside] = colour
        frame[inside & dark_mask(thing.texture, dy)] = colour // 2
    return frame


def check_layout():
    """The clip's promise: shapes stay wholly inside and never touch."""
    for i in range(FRAMES):
        placed = [(thing.centre(i / (FRAMES - 1)), thing.radius) for thing in THINGS]
        for n, ((x, y), r) in enumerate(placed):
            # The farthest reach of any shape here is the square's corner, 1.16 radii.
            assert min(x, y, SIZE - x, SIZE - y) >= 1.1 * r, f"frame {i}: shape {n} leaves the canvas"
            for (x2, y2), r2 in placed[:n]:
                assert math.hypot(x - x2, y - y2) >= 1.16 * (r + r2), f"frame {i}: shape {n} is too close"


def encode(frames):
    """H.264 in BT.601, the matrix a reader assumes at this size when it ignores the tags."""
    bt601 = ["-colorspace", "smpte170m", "-color_primaries", "smpte170m", "-color_trc", "smpte170m"]
    command = ["ffmpeg", "-y", "-v", "error"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{SIZE}x{SIZE}", "-r", str(FPS), "-i", "-"]
    command += ["-vf", "scale=out_color_matrix=bt601:out_range=tv:flags=accurate_rnd+full_chroma_int"]
    command += ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "12", "-preset", "slow"]
    command += [*bt601, "-color_range", "tv"]
    # One thread and no version strings, so that the file can be reproduced.
    command += ["-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact"]
    command += ["-movflags", "+faststart", str(OUTPUT)]
    subprocess.run(command, input=b"".join(f.tobytes() for f in frames), check=True)


def contact_sheet(frames, path):
    """Every sixth frame, in two rows."""
    shown = frames[::6]
    rows = [np.concatenate(shown[i : i + 4], axis=1) for i in (0, 4)]
    Image.fromarray(np.concatenate(rows)).save(path)


def main():
    parser = argparse.ArgumentParser(description="render samples/three_shapes.mp4")
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet (PNG) of the frames before encoding")
    args = parser.parse_args()
    check_layout()
    frames = [render(i / (FRAMES - 1)) for i in range(FRAMES)]
    if args.sheet:
        contact_sheet(frames, args.sheet)
    encode(frames)
    print(f"{OUTPUT}: {FRAMES} frames, {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
