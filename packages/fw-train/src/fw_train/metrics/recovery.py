"""Recover the cameras of a video without the model, by optical flow from the first frame with its true depth.

The flow from the first frame to each frame is initialized with the flow to the frame before. Pixels with consistent
forward and backward flow are matched with their 3D points in the first frame, and a camera is fitted to the matches
(PnP with RANSAC, then least squares). The error of the estimator itself is measured on the true video.
Axis legend: F frames, H W pixels, n matches; OpenCV axes, camera-to-world.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from fw_geometry.rigid import invert_poses

ENLARGED = 4
"""Factor by which frames are enlarged for the flow, whose patches are 8 pixels wide."""
COMES_BACK_PX = 0.5
"""Largest difference of forward and backward flow, in pixels of the video."""
REPROJECTION_PX = 1.0
"""Largest reprojection error of an inlier, in pixels of the video."""
FEWEST = 24
"""Minimum number of matches for a camera."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RecoveredPath:
    """The camera path recovered from a video."""

    pose_c2w: Float[np.ndarray, "F 4 4"]
    """Poses relative to the first camera, in units of the depth."""
    found: Bool[np.ndarray, "F"]
    """Whether a camera was fitted; otherwise the pose repeats the one before."""


def recover_path(
    video: UInt8[np.ndarray, "F H W 3"], depth: Float[np.ndarray, "H W"], K: Float[np.ndarray, "F 3 3"]
) -> RecoveredPath:
    """Recover the camera path of a video of a static scene.

    Args:
        video: RGB frames.
        depth: z-depth of the first frame; 0 = unknown.
        K: intrinsics of each frame in pixels.

    Raises:
        ValueError: depth and video differ in size.
    """
    if depth.shape != video.shape[1:3]:
        raise ValueError(
            f"recover_path: depth of {depth.shape} for a video of {video.shape[1:3]}; sizes must be the same"
        )
    gray = [_enlarged(frame) for frame in video]
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    pixels, points = _known_points(depth, K[0])
    poses, found = [np.eye(4)], [True]
    forward = np.zeros((*gray[0].shape, 2), np.float32)
    for frame, intrinsics in zip(gray[1:], K[1:], strict=True):
        forward = np.asarray(flow.calc(gray[0], frame, forward.copy()), np.float32)
        backward = np.asarray(flow.calc(frame, gray[0], -forward), np.float32)
        there, returns = _matches(pixels, forward, backward)
        pose = _camera(points[returns], there[returns], intrinsics, poses[-1])
        found.append(pose is not None)
        poses.append(poses[-1] if pose is None else pose)
    return RecoveredPath(pose_c2w=np.stack(poses), found=np.array(found))


def _enlarged(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w"]:
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return cv2.resize(gray, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC)


def _known_points(
    depth: Float[np.ndarray, "H W"], K: Float[np.ndarray, "3 3"]
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 3"]]:
    """Centers of the pixels with known depth, and their 3D points in the axes of the first camera."""
    row, column = np.nonzero(depth > 0)
    pixels = np.stack([column + 0.5, row + 0.5], axis=-1)
    rays = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=-1) @ np.linalg.inv(K).T
    return pixels, rays * depth[row, column, None].astype(np.float64)


def _matches(
    pixels: Float[np.ndarray, "n 2"], forward: Float32[np.ndarray, "h w 2"], backward: Float32[np.ndarray, "h w 2"]
) -> tuple[Float[np.ndarray, "n 2"], Bool[np.ndarray, "n"]]:
    """Positions of first-frame pixels in another frame, and whether they are inside with consistent backward flow."""
    height, width = forward.shape[:2]
    start = pixels * ENLARGED - 0.5  # array positions of the enlarged frames
    there = start + _read(forward, start)
    inside = ((there >= 0) & (there <= np.array([width - 1, height - 1]))).all(axis=-1)
    back = there + _read(backward, there)
    returns = inside & (np.linalg.norm(back - start, axis=-1) <= COMES_BACK_PX * ENLARGED)
    return (there + 0.5) / ENLARGED, returns


def _read(flow: Float32[np.ndarray, "h w 2"], at: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Sample the flow bilinearly at array positions (x, y)."""
    x, y = (at[:, axis].astype(np.float32)[None] for axis in (0, 1))
    return cv2.remap(flow, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0].astype(np.float64)


def _camera(
    points: Float[np.ndarray, "n 3"],
    pixels: Float[np.ndarray, "n 2"],
    K: Float[np.ndarray, "3 3"],
    before: Float[np.ndarray, "4 4"],
) -> Float[np.ndarray, "4 4"] | None:
    """Fit a camera to points and their pixels, starting at the pose before; None if there are too few inliers."""
    if len(points) < FEWEST:
        return None
    start = invert_poses(before[None])[0]
    cv2.setRNGSeed(0)
    done, rotation, shift, agree = cv2.solvePnPRansac(
        points,
        pixels,
        K,
        None,
        rvec=cv2.Rodrigues(start[:3, :3])[0],
        tvec=start[:3, 3:].copy(),
        useExtrinsicGuess=True,
        iterationsCount=200,
        reprojectionError=REPROJECTION_PX,
        flags=cv2.SOLVEPNP_ITERATIVE,
    )
    if not done or agree is None or len(agree) < FEWEST:
        return None
    agree = np.asarray(agree[:, 0], np.int64)
    rotation, shift = cv2.solvePnPRefineLM(points[agree], pixels[agree], K, None, rotation, shift)
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3], world_to_camera[:3, 3] = cv2.Rodrigues(rotation)[0], shift[:, 0]
    return invert_poses(world_to_camera[None])[0]
