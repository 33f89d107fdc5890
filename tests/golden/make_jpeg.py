"""Make jpeg/NAME.jpg and jpeg/NAME.png: JPEG images of each subsampling, and their pixels as decoded by Pillow.

    python tests/golden/make_jpeg.py

Requires Pillow 12.3 (libjpeg-turbo 3.1.4) and numpy. Pillow encodes 4:4:4, 4:2:2, 4:2:0, grayscale, RGB and CMYK. The
other files are made by editing the header of an image with the same number of blocks: 4:4:0 from 4:2:2, 4:1:1 from
4:2:0, YCCK from CMYK. Their content is meaningless but decodes.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

OUT = Path(__file__).resolve().parent / "jpeg"
SUBSAMPLINGS = {"444": 0, "422": 1, "420": 2}
# Chroma planes of 1, 2 and 3 columns and of 1 row, odd sizes, several blocks.
SIZES = [(1, 1), (3, 5), (5, 4), (17, 1), (16, 16), (37, 29)]


def random_image(width, height, seed):
    """Draw blobs of saturated colours with slight noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(height // 6, 2), max(width // 6, 2), 3), dtype=np.uint8)
    smooth = np.array(Image.fromarray(coarse).resize((width, height), Image.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(smooth + rng.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8))


def encode(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=options.pop("quality", 80), **options)
    return bytearray(file.getvalue())


def frame_header(data):
    """Return the offset of the marker SOF0 or SOF2."""
    at = 2
    while data[at + 1] not in (0xC0, 0xC2):
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at


def with_luma_sampling(data, sampling):
    """Replace the sampling factors of the first component."""
    data[frame_header(data) + 11] = sampling
    return data


def as_ycck(data):
    """Mark CMYK as YCCK: the transform of the Adobe segment, component ids 1 to 4 in frame and scan headers."""
    data[data.index(b"Adobe") + 11] = 2
    frame, scan = frame_header(data), data.index(b"\xff\xda\x00\x0e\x04")
    for component in range(4):
        data[frame + 10 + 3 * component] = data[scan + 5 + 2 * component] = component + 1
    return data


def main():
    files = {}
    for seed, (width, height) in enumerate(SIZES):
        for name, subsampling in SUBSAMPLINGS.items():
            source = random_image(width, height, seed)
            files[f"{name}_{width}x{height}"] = encode(source, subsampling=subsampling)
            if width > 16:
                options = {"subsampling": subsampling, "progressive": True}
                files[f"{name}_{width}x{height}_progressive"] = encode(source, **options)
    source = random_image(33, 35, 10)
    files["420_33x35_restarts"] = encode(source, subsampling=2, quality=95, restart_marker_rows=1)
    files["440_31x15"] = with_luma_sampling(encode(random_image(31, 15, 11), subsampling=1), 0x12)
    files["411_31x32"] = with_luma_sampling(encode(random_image(31, 32, 12), subsampling=2), 0x41)
    files["gray_33x35"] = encode(source.convert("L"))
    files["rgb_33x35"] = encode(source, keep_rgb=True)
    files["cmyk_33x35"] = encode(source.convert("CMYK"))
    files["ycck_33x35"] = as_ycck(encode(source.convert("CMYK")))
    OUT.mkdir(exist_ok=True)
    for name, data in files.items():
        (OUT / f"{name}.jpg").write_bytes(data)
        Image.open(io.BytesIO(data)).convert("RGB").save(OUT / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
