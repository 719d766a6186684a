"""Pictures of worlds for the report: a point cloud and the camera path in it, seen from outside.

Axis legend: h height, w width, n points. Pictures are uint8 RGB arrays.
"""

import numpy as np
from jaxtyping import Float, UInt8

from fw_geometry import Trajectory


def render_cloud(
    points: Float[np.ndarray, "n 3"],
    colours: UInt8[np.ndarray, "n 3"],
    path: Trajectory,
    *,
    height: int = 360,
    width: int = 560,
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """A point cloud and the camera path in it, seen from behind and above the first camera.

    The view looks at the median point; the path is drawn in red on top. Frame of the points: that of `path`.
    """
    picture = np.full((height, width, 3), 250, dtype=np.uint8)
    finite = np.isfinite(points).all(axis=1)
    points, colours = points[finite], colours[finite]
    if len(points) == 0:
        return picture
    centre = np.median(points, axis=0)
    first = path.pose_c2w[0]
    distance = max(float(np.linalg.norm(centre - first[:3, 3])), 1e-6)
    eye = (
        first[:3, 3] - 0.75 * distance * first[:3, 2] - 0.55 * distance * first[:3, 1] + 0.45 * distance * first[:3, 0]
    )
    rotation = _look_at(eye, centre, down=first[:3, 1])
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
        picture[v[order] + dv, u[order] + du] = colours[order]
    centres = path.pose_c2w[:, :3, 3]
    steps = np.linspace(0, len(centres) - 1, 400)
    line = np.stack([np.interp(steps, np.arange(len(centres)), centres[:, axis]) for axis in range(3)], axis=1)
    u, v, z = to_pixels(line)
    seen = np.isfinite(z)
    for du in (-1, 0, 1):
        for dv in (-1, 0, 1):
            picture[v[seen] + dv, u[seen] + du] = (215, 38, 61)
    return picture


def _look_at(
    eye: Float[np.ndarray, "3"], target: Float[np.ndarray, "3"], *, down: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "3 3"]:
    """Camera-to-world rotation (columns x right, y down, z forward) of a camera at `eye` that looks at `target`."""
    forward = target - eye
    forward = forward / np.linalg.norm(forward)
    right = np.cross(down, forward)
    right = right / max(float(np.linalg.norm(right)), 1e-12)
    return np.stack([right, np.cross(forward, right), forward], axis=1)
