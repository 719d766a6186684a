"""Depth to things one can look at and things one can compute with: a colored video, 16-bit PNGs, arrays.

Axes: F frames, H W pixels. z-depth, 0 or not finite = invalid.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from fw_model.export.video import write_video

ColorMap = Literal["turbo", "inferno", "gray"]

PNG_MAX = 65535


def write_depth_video(
    path: str | Path, depth: Float[np.ndarray, "F H W"], fps: float | int = 16.0, *, color_map: ColorMap = "turbo"
) -> Path:
    """Write depth as a colored video: near is warm, far is cold, one scale for the whole clip."""
    return write_video(path, colorize(depth, color_map=color_map), fps)


def colorize(depth: Float[np.ndarray, "*b H W"], *, color_map: ColorMap = "turbo") -> UInt8[np.ndarray, "*b H W 3"]:
    """Colors of depth by its inverse, from the 2nd to the 98th percentile of the valid pixels; invalid is black."""
    valid = np.isfinite(depth) & (depth > 0)
    inverse = np.where(valid, 1 / np.where(valid, depth, 1.0), 0.0)
    low, high = np.percentile(inverse[valid], (2, 98)) if valid.any() else (0.0, 1.0)
    level = np.clip((inverse - low) / max(high - low, 1e-12 * max(abs(high), 1.0)), 0, 1)
    table = color_table(color_map)
    colors = table[np.round(level * (len(table) - 1)).astype(np.int64)]
    return np.where(valid[..., None], colors, 0).astype(np.uint8)


def write_depth_png(folder: str | Path, depth: Float[np.ndarray, "F H W"]) -> list[Path]:
    """Write one 16-bit PNG per frame and ``scale.txt``: depth = value * scale, 0 = invalid.

    The scale is the same for all frames, so that the clip's largest depth is the largest value; the step is at most
    1/65535 of it.
    """
    from PIL import Image

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    valid = np.isfinite(depth) & (depth > 0)
    scale = float(depth[valid].max()) / PNG_MAX if valid.any() else 1.0
    values = np.where(valid, np.clip(np.round(np.where(valid, depth, 0) / scale), 1, PNG_MAX), 0).astype(np.uint16)
    written = []
    for i, frame in enumerate(values):
        written.append(folder / f"frame_{i:05d}.png")
        Image.fromarray(frame).save(written[-1])
    note = f"{scale:.9g}\n# depth = PNG value * this number; 0 = invalid; z-depth in the unit of the camera path\n"
    (folder / "scale.txt").write_text(note, encoding="utf-8")
    return [*written, folder / "scale.txt"]


def color_table(name: str) -> UInt8[np.ndarray, "256 3"]:
    """256 colors of a map, from low to high. ValueError for an unknown name."""
    x = np.linspace(0, 1, 256)
    if name == "gray":
        rgb = np.repeat(x[:, None], 3, axis=1)
    elif name in _ANCHORS:
        anchors = np.array(_ANCHORS[name], dtype=np.float64) / 255
        places = np.linspace(0, 1, len(anchors))
        rgb = np.stack([np.interp(x, places, anchors[:, c]) for c in range(3)], axis=-1)
    else:
        raise ValueError(f"Unknown color map {name!r}; choose one of {sorted([*_ANCHORS, 'gray'])}.")
    return np.round(rgb * 255).astype(np.uint8)


_ANCHORS = {
    "turbo": (
        (48, 18, 59), (65, 69, 171), (69, 117, 240), (57, 162, 252), (27, 207, 212), (36, 236, 166), (97, 252, 108),
        (164, 252, 59), (209, 232, 52), (243, 198, 58), (254, 155, 45), (243, 99, 21), (217, 56, 6), (177, 25, 1),
        (122, 4, 2),
    ),
    "inferno": (
        (0, 0, 4), (11, 7, 36), (32, 12, 74), (60, 9, 101), (87, 16, 110), (114, 25, 110), (140, 41, 99),
        (165, 44, 96), (188, 55, 84), (209, 70, 67), (227, 89, 51), (241, 113, 31), (249, 142, 9), (251, 181, 26),
        (246, 215, 70), (252, 255, 164),
    ),
}  # fmt: skip
"""Evenly spaced colors along two well-known maps (Google's Turbo, matplotlib's inferno); in between is linear."""
