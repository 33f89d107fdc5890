"""Make legacy*.bin, state dicts in the format of torch.save before PyTorch 1.6, and strided*.bin, a strided view.

The state dict has shared storages, views at an offset, transposed views, half precision and parameters. The strided
view is in either format.

    pip install torch==2.15.0
    python tests/golden/make_legacy.py
"""

from collections import OrderedDict
from pathlib import Path

import torch

shared = torch.arange(10.0, 18.0).reshape(4, 2)
state = OrderedDict(
    whole=torch.arange(6.0).reshape(2, 3),
    part=shared[1:3],
    turned=shared.t(),
    half=torch.tensor([0.5, -2.0], dtype=torch.float16),
    parameter=torch.nn.Parameter(torch.tensor([7.0])),
)
here = Path(__file__).resolve().parent
torch.save(state, here / "legacy.bin", _use_new_zipfile_serialization=False)
# A tensor of an unsupported type before a supported one.
masked = OrderedDict(mask=torch.tensor([True, False, True]), whole=state["whole"])
torch.save(masked, here / "legacy_mask.bin", _use_new_zipfile_serialization=False)
# The state dict inside another, as training scripts save it.
torch.save({"state_dict": state, "epoch": 3}, here / "legacy_nested.bin", _use_new_zipfile_serialization=False)
# Every second row of a tensor.
strided = OrderedDict(rows=torch.arange(8.0).reshape(4, 2)[::2])
torch.save(strided, here / "strided.bin")
torch.save(strided, here / "strided_legacy.bin", _use_new_zipfile_serialization=False)
