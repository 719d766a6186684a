"""Which pixels move by themselves, where the optical flow is not what depth and cameras make of a scene at rest; and
which are sky.

No trained weights: the other frame is brought to the first one as a scene at rest would be, and what flow is left
(OpenCV's DIS, on thumbnails) is motion. Flow is compared both ways, so most of what is covered up does not count.
Axis legend: f frames, h height, w width; OpenCV axes, camera-to-world, pixel centers at (i + 0.5, j + 0.5).
"""

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from fw_data.annotators.base import ClipGeometry
from fw_data.dataset.clip import MOVING, SKY
from fw_data.quality.image_scores import SKY_LONG_SIDE, color_thumbnail, gray_thumbnail, overlay_mask, sky_mask

_LONG_SIDE = 160
_PAIRS = 8
_CONFIDENT = 0.3
_LEAST_PX = 1.0
"""Smallest distance between flow and rigid flow that counts, in thumbnail pixels ..."""
_LEAST_OVERLAY = 0.002
"""Share of the image under overlays from which they are masked: less is noise of the detector."""
_SHARE = 0.25
"""... and as a share of the rigid flow, since depth has errors too."""


def dynamic_fraction(frames: UInt8[np.ndarray, "f h w 3"], geometry: ClipGeometry) -> float:
    """Share of the pixels with known depth that move against the scene; 0 when nothing can be compared.

    Reflections, shadows and wrong depth count too; things that move along the epipolar line may hide.
    """
    count = len(frames)
    if count < 2:
        return 0.0
    gap = _gap(count)
    moving = compared = 0
    for first in np.unique(np.linspace(0, count - 1 - gap, min(_PAIRS, count - gap)).round().astype(int)):
        mask, known = dynamic_mask(frames, geometry, int(first), int(first) + gap)
        moving, compared = moving + int(mask.sum()), compared + int(known.sum())
    return moving / compared if compared else 0.0


def overlay_pixels(frames: UInt8[np.ndarray, "f h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Pixels under a logo or caption that is there in every frame, with a margin; see `image_scores.overlay_mask`."""
    height, width = frames.shape[1:3]
    mask = overlay_mask(frames)
    if mask.mean() < _LEAST_OVERLAY:
        return np.zeros((height, width), bool)
    filled = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((11, 11), np.uint8))
    return _enlarged(cv2.dilate(filled, np.ones((5, 5), np.uint8)), height, width).astype(bool)


def pixel_labels(
    frames: UInt8[np.ndarray, "f h w 3"], geometry: ClipGeometry, overlay: Bool[np.ndarray, "h w"] | None = None
) -> UInt8[np.ndarray, "f h w"]:
    """The bits MOVING and SKY of every pixel, found at 160 px long side and enlarged without smoothing.

    A pixel moves when it does so against the frame before and the frame after (one or two frames away), or against the
    one of them in which it can be followed. What has no trusted depth, or can be followed in neither, is not marked.
    Sky is what looks like it (see `image_scores.sky_mask`) and has no trusted depth: a white ceiling that was
    measured is none. Pixels of `overlay` count as moving.
    """
    count, height, width, _ = frames.shape
    labels = np.empty((count, height, width), np.uint8)
    for index, frame in enumerate(frames):
        moving = _moves(frames, geometry, index).astype(np.uint8) * np.uint8(MOVING)
        trusted = (geometry.depth_m[index] > 0) & (geometry.confidence[index] >= _CONFIDENT)
        sky = _enlarged(sky_mask(color_thumbnail(frame, SKY_LONG_SIDE)), height, width) * np.uint8(SKY)
        labels[index] = _enlarged(moving, height, width) | np.where(trusted, np.uint8(0), sky)
    if overlay is not None:
        labels[:, overlay] |= np.uint8(MOVING)
    return labels


def dynamic_mask(
    frames: UInt8[np.ndarray, "f h w 3"], geometry: ClipGeometry, first: int, second: int
) -> tuple[Bool[np.ndarray, "h2 w2"], Bool[np.ndarray, "h2 w2"]]:
    """(moving, comparable) pixels of a thumbnail of one frame, seen against another frame."""
    before, after = (gray_thumbnail(frames[index], _LONG_SIDE) for index in (first, second))
    height, width = before.shape
    size = (width, height)
    depth = cv2.resize(geometry.depth_m[first], size, interpolation=cv2.INTER_NEAREST_EXACT)
    confidence = cv2.resize(geometry.confidence[first], size, interpolation=cv2.INTER_NEAREST_EXACT)
    scale = np.array([width / frames.shape[2], height / frames.shape[1]])
    rigid = _rigid_flow(depth, geometry, first, second, scale)
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    target = np.stack([columns, rows], -1) + np.nan_to_num(rigid).astype(np.float32)
    inside = (target >= 0).all(-1) & (target[..., 0] <= width - 1) & (target[..., 1] <= height - 1)
    expected = cv2.remap(after, target[..., 0], target[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    there = flow_of.calc(before, expected, np.zeros((height, width, 2), np.float32))
    back = flow_of.calc(expected, before, np.zeros((height, width, 2), np.float32))
    place = np.stack([columns, rows], -1) + there
    returned = cv2.remap(back, place[..., 0], place[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    agree = np.linalg.norm(there + returned, axis=-1) < 1.0
    known = (depth > 0) & (confidence >= _CONFIDENT) & inside & agree & np.isfinite(rigid).all(-1)
    off = np.linalg.norm(there, axis=-1)
    limit = np.maximum(_LEAST_PX, _SHARE * np.linalg.norm(np.nan_to_num(rigid), axis=-1))
    mask = cv2.morphologyEx((known & (off > limit)).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return mask.astype(bool), known


def _moves(frames: UInt8[np.ndarray, "f h w 3"], geometry: ClipGeometry, index: int) -> Bool[np.ndarray, "h2 w2"]:
    """Moving pixels in the thumbnail of a frame, against the frames before and after it."""
    gap = _gap(len(frames))
    found = [
        dynamic_mask(frames, geometry, index, other) for other in (index - gap, index + gap) if 0 <= other < len(frames)
    ]
    if not found:
        return np.zeros(gray_thumbnail(frames[index], _LONG_SIDE).shape, bool)
    followed = np.any([known for _, known in found], axis=0)
    return followed & np.all([mask | ~known for mask, known in found], axis=0)


def _gap(count: int) -> int:
    """Distance in frames between compared frames."""
    return max(1, min(2, (count - 1) // 8))


def _enlarged(mask: UInt8[np.ndarray, "h2 w2"], height: int, width: int) -> UInt8[np.ndarray, "h w"]:
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def _rigid_flow(depth: np.ndarray, geometry: ClipGeometry, first: int, second: int, scale: np.ndarray) -> np.ndarray:
    """Flow of a static scene in thumbnail pixels; NaN for points behind the camera."""
    height, width = depth.shape
    K = [np.diag([*scale, 1.0]) @ geometry.K[index] for index in (first, second)]
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    pixels = np.stack([columns, rows, np.ones_like(columns)], -1)
    move = np.linalg.inv(geometry.pose_c2w[second]) @ geometry.pose_c2w[first]
    points = (pixels @ np.linalg.inv(K[0]).T * depth[..., None]) @ move[:3, :3].T + move[:3, 3]
    seen = points @ K[1].T
    front = seen[..., 2] > 1e-6
    place = seen[..., :2] / np.where(front, seen[..., 2], np.nan)[..., None]
    return place - pixels[..., :2]
