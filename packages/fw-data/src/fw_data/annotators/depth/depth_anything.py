"""Depth Anything V2 (Yang et al. 2024) through transformers: frames in, disparity of every pixel out.

The network gives disparity up to scale and shift, or metric depth for the metric versions, which is inverted here so
that both go the same way. Axis legend: f frames, h height, w width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch.nn.functional import interpolate

from fw_data.annotators.checkpoints import Release, check_names, locate, read, settings_beside
from fw_data.annotators.depth.layouts import (
    HEAD_DIM,
    OUT_INDICES,
    DepthAnythingSizes,
    as_called,
    sizes_of,
    to_transformers,
)

if TYPE_CHECKING:
    from transformers import DepthAnythingForDepthEstimation

Resolution = Literal["native", "full"]

_OPEN = "Apache-2.0 (any use)"
_CLOSED = "CC BY-NC 4.0 (no commercial use)"


def _release(name: str, suffix: str) -> Release:
    small = name.endswith("small")
    return Release(
        name=name,
        hub_id=f"depth-anything/Depth-Anything-V2-{suffix}-hf",
        license=_OPEN if small else _CLOSED,
        permissive=small,
    )


RELEASES = {
    release.name: release
    for release in (
        _release("small", "Small"),
        _release("base", "Base"),
        _release("large", "Large"),
        *(
            _release(f"metric-{place}-{size}", f"Metric-{place.capitalize()}-{size.capitalize()}")
            for place in ("indoor", "outdoor")
            for size in ("small", "base", "large")
        ),
    )
}
"""By the name a person gives. Small is the default: the only one that any project may use."""

FULL_SHORT_SIDE = 518
"""Side of the images the network was trained on."""
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_TOKENS_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class InputSize:
    """Image size the network sees."""

    height: int
    """Rows."""
    width: int
    """Columns."""


def input_size(height: int, width: int, resolution: Resolution, patch: int = 14) -> InputSize:
    """The size at which a frame goes into the network, both sides multiples of the patch.

    full: the published policy, the short side at 518, the long side in proportion (592x336 becomes 910x518, 2405
    tokens). native: the frame's own size, at most 518 for the short side (592x336 becomes 588x336, 1008 tokens, three
    times faster): upscaling a small frame adds no detail.
    """
    scale = FULL_SHORT_SIDE / min(height, width)
    if resolution == "native":
        scale = min(1.0, scale)
    sides = (max(patch, patch * round(scale * side / patch)) for side in (height, width))
    return InputSize(height=next(sides), width=next(sides))


class DepthAnything:
    """A loaded network.

    `metric` is true if its disparity is 1 / meters.
    """

    def __init__(
        self, model: "DepthAnythingForDepthEstimation", sizes: DepthAnythingSizes, *, metric: bool, device: str
    ) -> None:
        self.model = model.eval()
        self.model.to(torch.device(device))  # pyright: ignore[reportArgumentType] - transformers wraps `to` untyped
        self.sizes = sizes
        self.metric = metric

    def disparity(
        self,
        frames: UInt8[np.ndarray, "f h w 3"],
        *,
        resolution: Resolution = "native",
        on_done: Callable[[float], None] | None = None,
    ) -> Float32[np.ndarray, "f h w"]:
        """Disparity (larger is nearer) of every pixel of sRGB frames, at their size; 1 / meters for metric networks."""
        count, height, width = frames.shape[:3]
        size = input_size(height, width, resolution, self.sizes.patch)
        tokens = size.height * size.width // self.sizes.patch**2
        batch = max(1, _TOKENS_AT_ONCE // tokens)
        result = np.empty((count, height, width), np.float32)
        for begin in range(0, count, batch):
            images = torch.from_numpy(np.stack([_prepare(frame, size) for frame in frames[begin : begin + batch]]))
            with torch.inference_mode():
                depth = self.model(pixel_values=images.to(self.model.device)).predicted_depth.float()
                depth = interpolate(depth[:, None], (height, width), mode="bilinear", align_corners=True)[:, 0]
            result[begin : begin + batch] = depth.cpu().numpy()
            if on_done is not None:
                on_done(min(1.0, (begin + batch) / count))
        return 1 / np.maximum(result, np.float32(1e-3)) if self.metric else result


def load_depth_anything(
    source: str | Path | None = None, *, release: str = "small", metric_max_m: float | None = None, device: str = "cpu"
) -> DepthAnything:
    """Load a network.

    Args:
        source: a safetensors file or folder (original or transformers layout) or a hub id; None is the release's own.
        release: which of RELEASES it is; decides where it is looked for, the license that is shown, and for original
            files without a config whether it is metric.
        metric_max_m: largest depth of a metric network, in meters, for original files; 20 indoors, 80 outdoors.
        device: as torch names it.

    Raises:
        WeightsMissing: no weights there, or weights of something else.
    """
    if release not in RELEASES:
        raise ValueError(f"depth network {release!r} is unknown; choose one of {', '.join(RELEASES)}")
    path = locate(RELEASES[release].hub_id if source is None else source, RELEASES[release])
    state = to_transformers(read(path))
    settings = settings_beside(path)
    if metric_max_m is None and release.startswith("metric"):
        metric_max_m = 20.0 if "indoor" in release else 80.0
    if settings.get("depth_estimation_type") == "metric":
        largest = settings.get("max_depth")
        metric_max_m = float(largest) if isinstance(largest, (int, float)) else metric_max_m
    sizes = sizes_of({name: tuple(value.shape) for name, value in state.items()})
    model = build(sizes, metric_max_m=metric_max_m)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state = as_called(state, set(wanted))
    check_names({name: tuple(value.shape) for name, value in state.items()}, wanted, path, "Depth Anything V2")
    model.load_state_dict(state)
    return DepthAnything(model, sizes, metric=metric_max_m is not None, device=device)


def build(sizes: DepthAnythingSizes, *, metric_max_m: float | None = None) -> "DepthAnythingForDepthEstimation":
    """The network of these sizes with weights that mean nothing yet."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    quarter = sizes.blocks // 4
    out_indices = OUT_INDICES.get(sizes.blocks, tuple(quarter * level for level in range(1, 5)))
    backbone = Dinov2Config(
        hidden_size=sizes.width,
        num_hidden_layers=sizes.blocks,
        num_attention_heads=max(1, sizes.width // HEAD_DIM),
        image_size=sizes.image_size,
        patch_size=sizes.patch,
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    backbone.out_indices = list(out_indices)
    config = DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=sizes.patch,
        reassemble_hidden_size=sizes.width,
        neck_hidden_sizes=list(sizes.neck),
        fusion_hidden_size=sizes.fusion,
        head_hidden_size=sizes.last,
        depth_estimation_type="relative" if metric_max_m is None else "metric",
        max_depth=1 if metric_max_m is None else round(metric_max_m),
    )
    return DepthAnythingForDepthEstimation(config)


def _prepare(frame: UInt8[np.ndarray, "h w 3"], size: InputSize) -> Float32[np.ndarray, "3 a b"]:
    image = frame.astype(np.float32) / 255
    if image.shape[:2] != (size.height, size.width):
        image = cv2.resize(image, (size.width, size.height), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(((image - _MEAN) / _STD).transpose(2, 0, 1))
