"""Which pixels move by themselves, which are sky, and which lie under a logo.

A pixel moves where the optical flow leads away from the place at which the cameras put it: the one of its depth where
that is trusted, otherwise the nearest place on its epipolar line. Moving things have no depth that frames agree on, so
most of them are found by their epipolar lines.
Axis legend: f frames, h height, w width; OpenCV axes, camera-to-world, pixel centers at (i + 0.5, j + 0.5).
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from fw_data.annotators.base import ClipGeometry
from fw_data.dataset.clip import MOVING, SKY
from fw_data.quality.flow import FlowMethod, flow_between, flow_thumbnail
from fw_data.quality.image_scores import SKY_LONG_SIDE, color_thumbnail, gray_thumbnail, overlay_mask, sky_mask

_CONFIDENT = 0.3
_LEAST_MISS = 1 / 160
"""Smallest distance between flow and expected place that counts, in long sides ..."""
_SHARE = 0.25
"""... and as a share of the parallax, since depth has errors too."""
_SAME_WAY_BACK = 0.5
"""Flow there and back may miss the start by this part of the smallest distance."""
_UNLIKE = 0.5
"""By how much (luma, mean over a window) all places of a thing at rest must differ more than the end of the flow."""
_MOST_STEPS = 48
"""Places looked at on an epipolar line."""
_OPEN, _CLOSE = 1 / 96, 1 / 32
"""Specks up to this size are dropped, gaps up to that size are filled; in long sides."""
_LEAST_OVERLAY = 0.002
"""Share of the image under overlays from which they are masked: less is noise of the detector."""
_OVERLAY_PAIRS = 6
_REMAP_ROWS = 30_000
"""Rows that OpenCV samples at once; its limit is 32,767."""


def moving_pixels(
    frames: UInt8[np.ndarray, "f h w 3"], geometry: ClipGeometry, method: FlowMethod = "dis"
) -> Bool[np.ndarray, "f h2 w2"]:
    """Pixels that move against the scene, at the size of the flow.

    A pixel moves when it does so against the frame before and the frame after (one or two frames away), or against the
    one of them in which it can be followed. What can be followed in neither is not marked. Things without trusted depth
    that move along their epipolar line, such as a car ahead, cannot be told from a scene at rest. Reflections and
    shadows move, too.

    Raises:
        WheelFileMissing: the weights of GMFlow are not in the cache.
    """
    small = np.stack([flow_thumbnail(frame, method) for frame in frames])
    found: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in frames]
    gap = max(1, min(2, (len(frames) - 1) // 8))
    for first in range(len(frames) - gap):
        second = first + gap
        flow = flow_between(small[first], small[second], method)
        found[first].append(_moves(small, geometry, first, second, flow.there, flow.back))
        found[second].append(_moves(small, geometry, second, first, flow.back, flow.there))
    moving = np.zeros(small.shape[:3], bool)
    for index, views in enumerate(found):
        if views:
            followed = np.any([known for _, known in views], axis=0)
            moving[index] = _solid(followed & np.all([mask | ~known for mask, known in views], axis=0))
    return moving


def pixel_labels(
    frames: UInt8[np.ndarray, "f h w 3"],
    geometry: ClipGeometry,
    overlay: Bool[np.ndarray, "h w"] | None = None,
    method: FlowMethod = "dis",
) -> UInt8[np.ndarray, "f h w"]:
    """The bits MOVING and SKY of every pixel, found on smaller images and enlarged without smoothing.

    Sky is what looks like it (see `image_scores.sky_mask`) and has no trusted depth: a white ceiling that was
    measured is none. Sky does not move; pixels of `overlay` count as moving.

    Raises:
        WheelFileMissing: the weights of GMFlow are not in the cache.
    """
    count, height, width, _ = frames.shape
    labels = np.empty((count, height, width), np.uint8)
    moving = moving_pixels(frames, geometry, method).astype(np.uint8)
    for index, frame in enumerate(frames):
        trusted = (geometry.depth_m[index] > 0) & (geometry.confidence[index] >= _CONFIDENT)
        sky = _enlarged(sky_mask(color_thumbnail(frame, SKY_LONG_SIDE)), height, width).astype(bool) & ~trusted
        moves = _enlarged(moving[index], height, width).astype(bool) & ~sky
        labels[index] = moves * np.uint8(MOVING) | sky * np.uint8(SKY)
    if overlay is not None:
        labels[:, overlay] |= np.uint8(MOVING)
    return labels


def overlay_pixels(frames: UInt8[np.ndarray, "f h w 3"], geometry: ClipGeometry) -> Bool[np.ndarray, "h w"]:
    """Pixels under a logo or caption that is there in every frame, with a margin.

    Candidates are the edges that stand still (see `image_scores.overlay_mask`). Those that follow the scene better than
    they stand still are none: edges along the motion of the camera, and things that hardly move.
    """
    height, width = frames.shape[1:3]
    mask = overlay_mask(frames)
    if mask.mean() >= _LEAST_OVERLAY:
        mask = _without_scene(mask, frames, geometry)
    if mask.mean() < _LEAST_OVERLAY:
        return np.zeros((height, width), bool)
    filled = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((11, 11), np.uint8))
    return _enlarged(cv2.dilate(filled, np.ones((5, 5), np.uint8)), height, width).astype(bool)


def _moves(
    images: UInt8[np.ndarray, "f h w 3"],
    geometry: ClipGeometry,
    first: int,
    second: int,
    there: Float32[np.ndarray, "h w 2"],
    back: Float32[np.ndarray, "h w 2"],
) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """(moving, followed) pixels of one frame, seen against another one."""
    height, width = images.shape[1:3]
    least = _LEAST_MISS * max(height, width)
    here = _centers(height, width)
    end = here + there
    followed = _is_inside(end, height, width) & (_length(there + _sample(back, end)) < _SAME_WAY_BACK * least)

    # A pixel at inverse depth q lands at turned + q * moved, in homogeneous coordinates.
    turned, moved = _epipolar(geometry, first, second, height, width)
    infinite = turned[..., :2] / np.maximum(turned[..., 2:], 1e-9)
    slope, offset = end * moved[2] - moved[:2], turned[..., :2] - end * turned[..., 2:]
    nearest = np.maximum(_dot(slope, offset) / np.maximum(_dot(slope, slope), 1e-12), 0)
    depth, trusted = _depth_thumbnail(geometry, first, height, width)
    inverse = np.where(trusted, 1 / np.maximum(depth, 1e-9), nearest)
    landed = turned + inverse[..., None] * moved
    place = landed[..., :2] / np.maximum(landed[..., 2:], 1e-9)
    miss, parallax = _length(place - end), _length(place - infinite)

    moving = followed & (miss > np.maximum(least, _SHARE * parallax))
    if moving.any():
        near = 1 / np.quantile(depth[trusted], 0.01) if trusted.any() else np.quantile(nearest[followed], 0.99)
        closest = np.float32(2 * near)
        candidates = np.nonzero(moving)
        lowest = np.where(trusted, inverse, np.float32(0))[candidates]
        highest = np.where(trusted, inverse, closest)[candidates]
        before, after = (cv2.cvtColor(images[i], cv2.COLOR_RGB2GRAY).astype(np.float32) for i in (first, second))
        views = _Views(before=before, after=after, at=here[candidates], spacing=2 * least / 3)
        at_rest = views.best_at_rest(turned[candidates], moved, lowest, highest)
        nudges = (least / 3 * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])).astype(np.float32)
        moved_there = np.min([views.unlikeness(end[candidates] + nudge) for nudge in nudges], axis=0)
        moving[candidates] = at_rest > moved_there + _UNLIKE
    return moving, followed


@dataclass(frozen=True, kw_only=True)
class _Views:
    """Some pixels of one image, with the ones around them, looked for in another image."""

    before: Float32[np.ndarray, "h w"]
    after: Float32[np.ndarray, "h w"]
    at: Float32[np.ndarray, "n 2"]
    spacing: float
    """Between the nine places of a window, in pixels."""

    def unlikeness(self, places: Float32[np.ndarray, "n 2"]) -> Float32[np.ndarray, " n"]:
        """Mean absolute difference of the windows, in units of luma."""
        offsets = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), -1).reshape(9, 2).astype(np.float32) * np.float32(
            self.spacing
        )
        parts = []
        for start in range(0, len(places), _REMAP_ROWS):
            rows = slice(start, start + _REMAP_ROWS)
            here = _sample(self.before, self.at[rows, None] + offsets)
            parts.append(np.abs(_sample(self.after, places[rows, None] + offsets) - here).mean(axis=1))
        return np.concatenate(parts)

    def best_at_rest(
        self,
        turned: Float32[np.ndarray, "n 3"],
        moved: Float32[np.ndarray, "3"],
        lowest: Float32[np.ndarray, " n"],
        highest: Float32[np.ndarray, " n"],
    ) -> Float32[np.ndarray, " n"]:
        """The least unlikeness over the inverse depths in a range."""

        def place(share: float) -> np.ndarray:
            landed = turned + (lowest + share * (highest - lowest))[:, None] * moved
            return landed[:, :2] / np.maximum(landed[:, 2:], 1e-9)

        length = float(np.quantile(_length(place(1) - place(0)), 0.9))
        steps = int(np.clip(length / self.spacing, 1, _MOST_STEPS))
        return np.min([self.unlikeness(place(share)) for share in np.linspace(0, 1, steps + 1).tolist()], axis=0)


def _solid(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Without specks and gaps."""
    side = max(mask.shape)
    result = mask.astype(np.uint8)
    for operation, size in ((cv2.MORPH_OPEN, _OPEN), (cv2.MORPH_CLOSE, _CLOSE)):
        kernel = np.ones((max(3, 2 * round(size * side / 2) + 1),) * 2, np.uint8)
        result = cv2.morphologyEx(result, operation, kernel)
    return result.astype(bool)


def _without_scene(
    mask: UInt8[np.ndarray, "h2 w2"], frames: UInt8[np.ndarray, "f h w 3"], geometry: ClipGeometry
) -> UInt8[np.ndarray, "h2 w2"]:
    """Without the pieces that look more like the place where the scene moves to than like the place where they were."""
    height, width = mask.shape
    pieces, found = cv2.connectedComponents(cv2.dilate(mask, np.ones((3, 3), np.uint8)))
    piece = np.asarray(found, np.int64)
    still, follows = np.zeros(pieces), np.zeros(pieces)
    here = _centers(height, width)
    apart = max(1, len(frames) // 3)
    for first in np.unique(np.linspace(0, len(frames) - 1 - apart, _OVERLAY_PAIRS).round().astype(int)).tolist():
        before, after = (gray_thumbnail(frames[i], max(mask.shape)).astype(np.float32) for i in (first, first + apart))
        turned, moved = _epipolar(geometry, first, first + apart, height, width)
        depth, _ = _depth_thumbnail(geometry, first, height, width)
        landed = turned * depth[..., None] + moved
        place = landed[..., :2] / np.maximum(landed[..., 2:], 1e-9)
        comparable = (mask > 0) & (depth > 0) & (landed[..., 2] > 0) & _is_inside(place, height, width)
        for total, at in ((still, here), (follows, place)):
            error = np.abs(_sample(after, at) - before)[comparable]
            total += np.bincount(piece[comparable], error, minlength=pieces)
    return mask * (still <= follows)[piece].astype(np.uint8)


def _epipolar(
    geometry: ClipGeometry, first: int, second: int, height: int, width: int
) -> tuple[Float32[np.ndarray, "h w 3"], Float32[np.ndarray, "3"]]:
    """Where each pixel would be seen at infinity, and what an inverse depth of 1 adds; homogeneous, in pixels."""
    scale = np.diag([width / geometry.depth_m.shape[2], height / geometry.depth_m.shape[1], 1.0])
    K = [scale @ geometry.K[index] for index in (first, second)]
    move = np.linalg.inv(geometry.pose_c2w[second]) @ geometry.pose_c2w[first]
    pixels = np.dstack([_centers(height, width), np.ones((height, width), np.float32)])
    turn, shift = K[1] @ move[:3, :3] @ np.linalg.inv(K[0]), K[1] @ move[:3, 3]
    return pixels @ turn.T.astype(np.float32), shift.astype(np.float32)


def _depth_thumbnail(
    geometry: ClipGeometry, index: int, height: int, width: int
) -> tuple[Float32[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """Depth of a frame at another size, and where it is trusted."""
    depth, confidence = (
        cv2.resize(values[index], (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        for values in (geometry.depth_m, geometry.confidence)
    )
    return depth, (depth > 0) & (confidence >= _CONFIDENT)


def _centers(height: int, width: int) -> Float32[np.ndarray, "h w 2"]:
    columns, rows = (np.arange(side, dtype=np.float32) + np.float32(0.5) for side in (width, height))
    columns, rows = np.meshgrid(columns, rows)
    return np.stack([columns, rows], -1)


def _is_inside(at: np.ndarray, height: int, width: int) -> np.ndarray:
    return (at[..., 0] >= 0) & (at[..., 1] >= 0) & (at[..., 0] <= width) & (at[..., 1] <= height)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1]


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(_dot(vectors, vectors))


def _sample(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values at image positions, linear between pixels."""
    place = np.clip(at - 0.5, -1e4, 1e4).astype(np.float32)
    return cv2.remap(values, place[..., 0], place[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _enlarged(mask: UInt8[np.ndarray, "h2 w2"], height: int, width: int) -> UInt8[np.ndarray, "h w"]:
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
