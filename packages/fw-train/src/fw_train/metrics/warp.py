"""Splat points into an image, and the warp baseline: the first frame moved along the path with its true depth.

Axis legend: F frames, H W pixels, n points; OpenCV axes, camera-to-world, pixel centers at +0.5.
"""

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from fw_geometry import Trajectory, unproject
from fw_geometry.rigid import invert_poses

SKY = 1000.0
"""Pixels without depth get this multiple of the largest known depth."""
_NEAREST = 1e-6


def splat(
    points: Float[np.ndarray, "n 3"],
    color: UInt8[np.ndarray, "n 3"],
    K: Float[np.ndarray, "3 3"],
    pose_c2w: Float[np.ndarray, "4 4"],
    height: int,
    width: int,
) -> tuple[UInt8[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
    """Draw each point into the pixel that it projects to, nearest on top (z-buffer).

    Returns:
        The image, black in empty pixels, and a mask of the filled pixels.
    """
    move = invert_poses(pose_c2w[None])[0]
    seen = points @ move[:3, :3].T + move[:3, 3]
    front = seen[:, 2] > _NEAREST
    seen, color = seen[front], color[front]
    pixel = seen @ K.T
    column, row = (np.floor(pixel[:, axis] / pixel[:, 2] + 1e-6) for axis in (0, 1))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = (row[inside] * width + column[inside]).astype(np.int64)
    farthest_first = np.argsort(-seen[inside, 2], kind="stable")
    image, filled = np.zeros((height * width, 3), np.uint8), np.zeros(height * width, bool)
    image[place[farthest_first]] = color[inside][farthest_first]
    filled[place] = True
    return image.reshape(height, width, 3), filled.reshape(height, width)


def fill_holes(image: UInt8[np.ndarray, "H W 3"], filled: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Fill each empty pixel with the color of the nearest filled one; an image without filled pixels is unchanged."""
    if filled.all() or not filled.any():
        return image
    _, labels = cv2.distanceTransformWithLabels(
        (~filled).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    label = np.asarray(labels, np.int64)
    color_of = np.zeros((int(label.max()) + 1, 3), np.uint8)
    color_of[label[filled]] = image[filled]
    return color_of[label]


def warp_first_frame(
    first: UInt8[np.ndarray, "H W 3"], depth: Float[np.ndarray, "H W"], path: Trajectory
) -> UInt8[np.ndarray, "F H W 3"]:
    """Render the first frame along a path: splat it by its depth, and fill holes from the nearest pixel.

    Args:
        first: frame of the first camera of the path.
        depth: z-depth of this frame; 0 = unknown, see `SKY`.
        path: cameras relative to the first one, in units of the depth.
    """
    height, width = depth.shape
    known = depth > 0
    whole = np.where(known, depth, SKY * depth.max(initial=1e-3)).astype(np.float32)
    first_camera = (torch.from_numpy(path.K[:1]).float(), torch.from_numpy(path.pose_c2w[:1]).float())
    points = unproject(torch.from_numpy(whole)[None], *first_camera).numpy().reshape(-1, 3).astype(np.float64)
    color = first.reshape(-1, 3)
    cameras = zip(path.K, path.pose_c2w, strict=True)
    return np.stack([fill_holes(*splat(points, color, K, pose, height, width)) for K, pose in cameras])
