"""Colored point clouds: taken from a world with a confidence threshold, written as binary PLY and as GLB.

Axes: n points; F frames, H W pixels. Points are in the world frame: the first camera's, y down and z forward.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from fw_model.pipeline.result import World

GLTF_FROM_OPENCV = np.array([1.0, -1.0, -1.0], dtype=np.float32)
"""glTF viewers hold y up and look along -z: half a turn about x."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PointCloud:
    """Points and their colors."""

    points: Float[np.ndarray, "n 3"]
    """Positions, float32, finite."""
    colors: UInt8[np.ndarray, "n 3"]
    """RGB."""


def cloud_of_world(
    world: World,
    *,
    source: Literal["depth", "points"] = "depth",
    drop_percent: float | int = 25.0,
    stride: int = 2,
    frames: slice | None = None,
) -> PointCloud:
    """The points of all frames in one cloud.

    Args:
        world: the world.
        source: "depth" un-projects depth with the recovered cameras (as the release does), "points" takes the point
            head's map.
        drop_percent: share of the pixels, the least sure first, that is left out. A fixed threshold is of no use:
            confidences are 1 + exp(...), so "above 1" keeps everything.
        stride: take every ``stride``-th row and column.
        frames: which frames; all if None.

    Raises:
        ValueError: ``drop_percent`` outside 0..100, or a stride below 1.
    """
    if not 0 <= drop_percent <= 100:
        raise ValueError(f"drop_percent is a share from 0 to 100, got {drop_percent}.")
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}.")
    pick = (frames or slice(None), slice(None, None, stride), slice(None, None, stride))
    points = world.points_from_depth() if source == "depth" else world.points
    confidence = world.depth_confidence if source == "depth" else world.points_confidence
    points, confidence, colors = points[pick], confidence[pick], world.video[pick]
    keep = np.isfinite(points).all(axis=-1)
    if keep.any() and drop_percent > 0:
        # the rank decides, so that equal confidences neither all stay nor all go
        order = np.argsort(np.where(keep, confidence, -np.inf), axis=None, kind="stable")
        dropped = np.zeros(keep.size, dtype=bool)
        dropped[order[: (~keep).sum() + round(keep.sum() * drop_percent / 100)]] = True
        keep &= ~dropped.reshape(keep.shape)
    return PointCloud(points=points[keep].astype(np.float32), colors=np.ascontiguousarray(colors[keep]))


def write_ply(path: str | Path, cloud: PointCloud) -> Path:
    """Write a binary little-endian PLY with x y z (float) and red green blue (uchar); OpenCV axes, as they are."""
    path = Path(path)
    vertices = np.empty(len(cloud.points), dtype=[("position", "<f4", 3), ("color", "u1", 3)])
    vertices["position"], vertices["color"] = cloud.points, cloud.colors
    properties = [f"property float {axis}" for axis in "xyz"] + [
        f"property uchar {c}" for c in ("red", "green", "blue")
    ]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}", *properties, "end_header"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(("\n".join(header) + "\n").encode())
        file.write(vertices.tobytes())
    return path


def write_glb(path: str | Path, cloud: PointCloud) -> Path:
    """Write a glTF 2.0 binary with one point primitive; turned so that y is up, as glTF viewers hold it.

    Colors are linear light, as glTF defines them, in float32: 8 bits would merge dark colors, and some readers
    (trimesh) overflow on 16-bit integers.

    Raises:
        ValueError: no points; glTF has no empty arrays.
    """
    path = Path(path)
    count = len(cloud.points)
    if count == 0:
        raise ValueError(f"{path}: the cloud has no points; keep more of them (drop_percent).")
    positions = np.ascontiguousarray(cloud.points * GLTF_FROM_OPENCV, dtype="<f4")
    colors = np.ascontiguousarray(_LINEAR[cloud.colors], dtype="<f4")
    document = {
        "asset": {"version": "2.0", "generator": "fantasy-world"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "points"}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "COLOR_0": 1}, "mode": 0}]}],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": 5126,
                "count": count,
                "type": "VEC3",
                "min": positions.min(axis=0).tolist(),
                "max": positions.max(axis=0).tolist(),
            },
            {"bufferView": 1, "componentType": 5126, "count": count, "type": "VEC3"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": positions.nbytes, "target": 34962},
            {"buffer": 0, "byteOffset": positions.nbytes, "byteLength": colors.nbytes, "target": 34962},
        ],
        "buffers": [{"byteLength": positions.nbytes + colors.nbytes}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + positions.nbytes + colors.nbytes
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<4sII", b"glTF", 2, total))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text)
        file.write(struct.pack("<I4s", positions.nbytes + colors.nbytes, b"BIN\0"))
        file.write(positions.tobytes())
        file.write(colors.tobytes())
    return path


def _linear_light() -> np.ndarray:
    """Linear light, 0 to 1, of every 8-bit sRGB value (IEC 61966-2-1)."""
    value = np.arange(256) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


_LINEAR = _linear_light()
