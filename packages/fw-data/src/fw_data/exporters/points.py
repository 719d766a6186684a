"""Points of a clip for Gaussian splatting: a sample of the confident depth pixels, with the frames that see each.

Axis legend: n points, f frames, 3 = xyz or RGB; world = frame of the clip's first camera, OpenCV axes.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8

from fw_data.exporters.base import ExportClip

MAX_POINTS = 50_000
CONFIDENT = 0.3
TRACK_FRAMES = 6
"""Most frames in which a point is observed, spread over the clip."""
SAME_DEPTH = 0.02
"""Relative difference to a frame's depth up to which the frame sees the point."""

Observation = tuple[int, int, tuple[float, float]]
"""Point, frame and pixel (x, y), centers at +0.5."""


def sample_points(
    clip: ExportClip,
) -> tuple[Float64[np.ndarray, "n 3"], UInt8[np.ndarray, "n 3"], Float64[np.ndarray, " n"]]:
    """Points, colors, and the frame that each point is of; empty for clips without depth."""
    keep = np.flatnonzero((clip.clip.confidence >= CONFIDENT) & clip.clip.valid)
    if not len(keep):
        return np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0)
    keep = keep[np.unique(np.linspace(0, len(keep) - 1, min(MAX_POINTS, len(keep))).astype(np.int64))]
    frame = keep // clip.clip.valid[0].size
    points = clip.clip.points_world.reshape(-1, 3)[keep].astype(np.float64)
    return points, clip.clip.video.reshape(-1, 3)[keep], frame.astype(np.float64)


def observe(
    clip: ExportClip, points: Float64[np.ndarray, "n 3"], frame: Float64[np.ndarray, " n"]
) -> list[Observation]:
    """Observations of points: inside the image, at the frame's depth. At least two per point."""
    path, depth_m = clip.trajectory, clip.clip.depth_m
    count, height, width = depth_m.shape
    chosen = np.unique(np.linspace(0, count - 1, min(TRACK_FRAMES, count)).astype(int))
    seen: list[tuple[np.ndarray, int, np.ndarray]] = []
    for index in range(count):
        rows = np.arange(len(points)) if index in chosen else np.flatnonzero(frame == index)
        w2c = path.pose_w2c[index]
        camera = points[rows] @ w2c[:3, :3].T + w2c[:3, 3]
        front = camera[:, 2] > 0
        rows, camera = rows[front], camera[front]
        pixels = camera @ path.K[index].T
        pixels = pixels[:, :2] / pixels[:, 2:]
        inside = ((pixels >= 0) & (pixels < (width, height))).all(axis=1)
        rows, camera, pixels = rows[inside], camera[inside], pixels[inside]
        at = depth_m[index, pixels[:, 1].astype(int), pixels[:, 0].astype(int)]
        same = np.abs(at - camera[:, 2]) <= SAME_DEPTH * camera[:, 2]
        seen.append((rows[same], index, pixels[same]))
    views = np.zeros(len(points), dtype=np.int64)
    for rows, _, _ in seen:
        views[rows] += 1
    return [
        (row, index, (x, y))
        for rows, index, pixels in seen
        for row, (x, y) in zip(rows.tolist(), pixels.tolist(), strict=True)
        if views[row] > 1
    ]


def write_ply(path: Path, points: Float64[np.ndarray, "n 3"], colors: UInt8[np.ndarray, "n 3"]) -> None:
    """Binary PLY of colored points."""
    table = np.zeros(len(points), dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    table["xyz"], table["rgb"] = points, colors
    fields = [f"property float {axis}" for axis in "xyz"] + [
        f"property uchar {name}" for name in ("red", "green", "blue")
    ]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}", *fields, "end_header"]
    path.write_bytes("\n".join(header).encode() + b"\n" + table.tobytes())
