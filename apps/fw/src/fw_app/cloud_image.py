"""Images of worlds for the report: a point cloud and the camera path in it, seen from outside.

Axis legend: h height, w width, n points, f frames. Images are uint8 RGB arrays.
"""

import numpy as np
from jaxtyping import Float, UInt8

from fw_geometry import Trajectory

REQUESTED, RECOVERED = (215, 38, 61), (30, 100, 220)
"""Colors of the two camera paths: red and blue."""


def render_cloud(
    points: Float[np.ndarray, "n 3"],
    colors: UInt8[np.ndarray, "n 3"],
    path: Trajectory,
    *,
    recovered: Trajectory | None = None,
    height: int = 360,
    width: int = 560,
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """A point cloud and the camera path in it, seen from behind and above the first camera.

    The view looks half-way between the path and the median point, so that both are in it. The path is drawn in red on
    top, and `recovered`, a second one, in blue and thinner over it. Frame of the points and of both paths: the same.
    """
    image = np.full((height, width, 3), 250, dtype=np.uint8)
    finite = np.isfinite(points).all(axis=1)
    points, colors = points[finite], colors[finite]
    if len(points) == 0:
        return image
    center = np.median(points, axis=0)
    first = path.pose_c2w[0]
    distance = max(float(np.linalg.norm(center - first[:3, 3])), 1e-6)
    eye = (
        first[:3, 3] - 0.75 * distance * first[:3, 2] - 0.55 * distance * first[:3, 1] + 0.45 * distance * first[:3, 0]
    )
    middle = (center + path.pose_c2w[:, :3, 3].mean(axis=0)) / 2
    rotation = _look_at(eye, middle, down=first[:3, 1])
    focal = 0.9 * width

    def to_pixels(world: Float[np.ndarray, "m 3"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        local = (world - eye) @ rotation
        z = np.maximum(local[:, 2], 1e-6)
        u = (focal * local[:, 0] / z + width / 2).astype(int)
        v = (focal * local[:, 1] / z + height / 2).astype(int)
        inside = (local[:, 2] > 1e-3) & (u >= 1) & (u < width - 1) & (v >= 1) & (v < height - 1)
        return u, v, np.where(inside, local[:, 2], np.inf)

    u, v, z = to_pixels(points)
    order = np.argsort(-z)
    order = order[np.isfinite(z[order])]
    for du, dv in ((0, 0), (1, 0), (0, 1), (1, 1)):
        image[v[order] + dv, u[order] + du] = colors[order]
    lines = [(path, REQUESTED, 1)] if recovered is None else [(path, REQUESTED, 3), (recovered, RECOVERED, 1)]
    for cameras, color, radius in lines:
        u, v, z = to_pixels(_line(cameras.pose_c2w[:, :3, 3]))
        seen = np.isfinite(z)
        for du in range(-radius, radius + 1):
            for dv in range(-radius, radius + 1):
                row, column = (v[seen] + dv).clip(0, height - 1), (u[seen] + du).clip(0, width - 1)
                image[row, column] = color
    return image


def _line(centers: Float[np.ndarray, "f 3"], count: int = 400) -> Float[np.ndarray, "{count} 3"]:
    """Points at even steps along the camera centers."""
    steps = np.linspace(0, len(centers) - 1, count)
    return np.stack([np.interp(steps, np.arange(len(centers)), centers[:, axis]) for axis in range(3)], axis=1)


def _look_at(
    eye: Float[np.ndarray, "3"], target: Float[np.ndarray, "3"], *, down: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "3 3"]:
    """Camera-to-world rotation (columns x right, y down, z forward) of a camera at `eye` that looks at `target`."""
    forward = target - eye
    forward = forward / np.linalg.norm(forward)
    right = np.cross(down, forward)
    right = right / max(float(np.linalg.norm(right)), 1e-12)
    return np.stack([right, np.cross(forward, right), forward], axis=1)
