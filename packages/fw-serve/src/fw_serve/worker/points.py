"""The point cloud for viewers: ordered by frame, with the rank of every point's confidence, and all cameras.

GLB and PLY hold what a person keeps: points that passed one threshold. This file leaves the choice to whoever looks.
docs/reference/api.md describes the layout. Axes: F frames, H W pixels; OpenCV axes, world = first camera.
"""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from fw_geometry.camera import Trajectory
from fw_model.pipeline.result import World

MAGIC = b"FWPOINTS"
"""Magic bytes at the start of the file."""
VERSION = 1
"""Version of the layout."""
MAX_POINTS = 600_000
"""Maximum number of points, 16 bytes each."""


def write_points(path: Path, world: World, *, max_points: int = MAX_POINTS) -> Path:
    """Write every ``stride``-th pixel of every frame, the smallest stride that keeps within ``max_points``.

    Args:
        path: the file; replaced if it is there.
        world: points are those of depth and recovered cameras, as in GLB and PLY.
        max_points: at least 1.
    """
    frames, height, width = world.depth.shape
    stride = 1
    while frames * -(-height // stride) * -(-width // stride) > max_points and stride < max(height, width):
        stride += 1
    pick = (slice(None), slice(None, None, stride), slice(None, None, stride))
    points, confidence = world.points_from_depth()[pick], world.depth_confidence[pick]
    keep = np.isfinite(points).all(axis=-1)
    arrays = {
        "position": points[keep].astype("<f4"),
        "color": np.ascontiguousarray(world.video[pick][keep]),
        "confidence": rank_bytes(confidence[keep]),
    }
    header: dict[str, Any] = {
        "frames": frames,
        "height": height,
        "width": width,
        "fps": float(world.fps),
        "units": world.trajectory.units,
        "stride": stride,
        "points": int(keep.sum()),
        "points_of_frame": keep.reshape(frames, -1).sum(axis=1).tolist(),
        "cameras": _cameras(world.trajectory),
        "requested": _cameras(world.requested),
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)  # aligns the arrays
    with path.open("wb") as file:
        file.write(struct.pack("<8sII", MAGIC, VERSION, len(text)) + text)
        for array in arrays.values():
            file.write(array.tobytes())
    return path


def rank_bytes(values: np.ndarray) -> np.ndarray:
    """The share of values that are smaller, as 0..255: only the order of confidences has a meaning. (n,) to (n,)."""
    if values.size == 0:
        return np.zeros(0, dtype=np.uint8)
    below = np.searchsorted(np.sort(values), values, side="left")
    return np.floor(below * 256 / values.size).astype(np.uint8)


def _cameras(path: Trajectory) -> dict[str, Any]:
    """K (fx, fy, cx, cy) and camera-to-world (12 numbers, rows of 3 x 4) of every frame."""
    K = path.K
    lenses = np.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], axis=-1)
    return {
        "K": np.round(lenses, 4).tolist(),
        "pose_c2w": np.round(path.pose_c2w[:, :3].reshape(len(K), 12), 7).tolist(),
    }
