"""Data of the 3D view of a clip, small enough for an HTML page: colored points and the cameras.

Axis legend: f frames, h height, w width, n points; OpenCV axes, camera-to-world, in the first camera's frame.
"""

import base64
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from fw_data.dataset.clip import Clip

POINTS = 14_000
_FRAMES = 12
_CONFIDENT = 0.3
_STEPS = 65535
_FAR = 2.5
"""Points farther from the cameras than this many times the median are background, and left out."""


def point_view(clip: Clip, points: int = POINTS) -> dict[str, Any]:
    """Plain values for JSON: quantized points (base64 of little-endian uint16 xyz), colors (uint8 rgb), cameras.

    `low` and `high` are the corners of the box that the uint16 values span; `poses` are float32 rows of 3x4 matrices;
    `view` is (width, height) / focal, which gives a camera its shape. Far outliers are left out.
    """
    xyz, rgb = some_points(clip, points)
    centers = clip.pose_c2w[:, :3, 3]
    if len(xyz):
        away = np.linalg.norm(xyz - centers.mean(0), axis=1)
        near = away <= _FAR * np.median(away)
        xyz, rgb = xyz[near], rgb[near]
        inner_low, inner_high = np.percentile(xyz, (2, 98), axis=0)
        margin = 0.25 * (inner_high - inner_low) + 1e-9
        near = ((xyz >= inner_low - margin) & (xyz <= inner_high + margin)).all(1)
        xyz, rgb = xyz[near], rgb[near]
    everything = np.concatenate([xyz, centers])
    low, high = everything.min(0), everything.max(0)
    scale = np.maximum(high - low, 1e-9)
    quantized = np.round((xyz - low) / scale * _STEPS).astype("<u2")
    _, height, width, _ = clip.video.shape
    return {
        "points": _text(quantized),
        "colors": _text(rgb),
        "low": [float(value) for value in low],
        "high": [float(value) for value in low + scale],
        "poses": _text(clip.pose_c2w[:, :3].astype("<f4")),
        "view": [float(width / np.median(clip.K[:, 0, 0])), float(height / np.median(clip.K[:, 1, 1]))],
        "units": "m" if clip.units == "metric" else "scene units",
        "middle": [float(value) for value in _middle(xyz, centers)],
    }


def some_points(clip: Clip, count: int) -> tuple[Float64[np.ndarray, "n 3"], UInt8[np.ndarray, "n 3"]]:
    """About `count` confident points of frames spread over the clip, always the same ones."""
    frames = np.unique(np.linspace(0, len(clip) - 1, _FRAMES).round().astype(int))
    known = np.argwhere((clip.valid & (clip.confidence >= _CONFIDENT))[frames])
    if not len(known):
        return np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    rng = np.random.default_rng(0)
    picked = known[np.sort(rng.choice(len(known), min(count, len(known)), replace=False))]
    frame, row, column = frames[picked[:, 0]], picked[:, 1], picked[:, 2]
    pixels = np.stack([column + 0.5, row + 0.5, np.ones(len(picked))], -1)
    rays = np.einsum("nij,nj->ni", np.linalg.inv(clip.K)[frame], pixels)
    local = rays * clip.depth_m[frame, row, column, None].astype(np.float64)
    pose = clip.pose_c2w[frame]
    return np.einsum("nij,nj->ni", pose[:, :3, :3], local) + pose[:, :3, 3], clip.video[frame, row, column]


def _middle(xyz: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Center of rotation of the view: between the points and the cameras, nearer to the points."""
    return 0.7 * np.median(xyz, axis=0) + 0.3 * centers.mean(0) if len(xyz) else centers.mean(0)


def _text(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
