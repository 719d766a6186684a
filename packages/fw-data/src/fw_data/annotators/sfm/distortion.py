"""Lens distortion: guessed from matches before anything is reconstructed, and taken out of images and positions.

No focal length or pose is needed: a fundamental matrix fits straight-line images only, so the distortion that makes
most matches fit one is that of the lens (Fitzgibbon, CVPR 2001). His division model puts what is seen at radius r from
the image center (1 = half the diagonal) at r / (1 + k r^2). What it leaves is fitted with the cameras, as a polynomial.
Image positions are (x, y) in pixels with pixel centers at + 0.5. Axis legend: f frames, h height, w width, o positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import poselib
import torch
from jaxtyping import Float32, Float64, UInt8

from fw_data.annotators.sfm.matching.features import Features
from fw_data.annotators.sfm.matching.matching import Matches, PairMatches
from fw_data.annotators.sfm.scene import SparseScene
from fw_geometry.lenses import Lens, pinhole_view, undistortion_maps

GRID = (-0.6, -0.45, -0.3, -0.15, -0.05, 0.0, 0.05, 0.15, 0.3)
MAX_PAIRS = 10
MIN_MATCHES = 2500
"""Of all compared pairs together. With 1,300, the count for a straight lens moved by the MIN_GAIN below by chance."""
MIN_GAIN = 1.05
"""Inliers with the distortion over those without it: 1.06 and 1.07 for strong barrels, up to 1.04 (at the end of the
grid) for straight lenses. What is too weak to be told here is left to the adjustment."""
MIDDLE = 0.3
"""Squared radius at which positions keep their scale, so that one error limit serves all distortions."""
MAX_ERROR_PX = 0.75
"""At 640 pixels on the long side."""


@dataclass(frozen=True, kw_only=True)
class Distortion:
    """What bends straight lines in the recorded images; `image` and `ideal` take it out.

    Images keep their size and have no black borders: they are enlarged about the center as far as that needs.
    """

    division: float = 0.0
    """k of the division model."""
    lens: Lens | None = None
    """Polynomial that the division leaves, in pixels of images of `size`."""
    size: tuple[int, int] = (0, 0)
    """Width and height that `lens` is for."""

    @property
    def is_identity(self) -> bool:
        """Whether images stay as they are."""
        return self.division == 0 and self.lens is None

    def ideal(self, xy: Float64[np.ndarray, "o 2"], width: int, height: int) -> Float64[np.ndarray, "o 2"]:
        """Where recorded positions lie without the division part of the distortion."""
        center = np.array([width / 2, height / 2])
        offset = xy - center
        squared = (offset**2).sum(axis=1, keepdims=True) / (center @ center)
        return center + offset * _enlargement(self.division, width, height) / (1 + self.division * squared)

    def source(self, width: int, height: int) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
        """Recorded column and row of every pixel of a straightened image, for `cv2.remap` (pixel centers at 0)."""
        if self.lens is None:
            columns, rows = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
        else:
            scale = (width / self.size[0], height / self.size[1])
            K = pinhole_view(self.lens, *self.size).K * np.array([[scale[0]], [scale[1]], [1.0]])
            columns, rows = undistortion_maps(self.lens.resized(*scale), K, width, height)
        center = np.array([width / 2, height / 2])
        offset = np.stack([columns, rows], axis=-1) + 0.5 - center
        radius = np.linalg.norm(offset, axis=-1, keepdims=True) / np.linalg.norm(center)
        radius = radius / _enlargement(self.division, width, height)
        root = np.sqrt(np.maximum(1 - 4 * self.division * radius**2, 0))
        bent = offset / _enlargement(self.division, width, height) * 2 / (1 + root) + center - 0.5
        return bent[..., 0].astype(np.float32), bent[..., 1].astype(np.float32)

    def images(self, frames: UInt8[np.ndarray, "f h w *c"]) -> UInt8[np.ndarray, "f h w *c"]:
        """The frames without distortion."""
        if self.is_identity:
            return frames
        columns, rows = self.source(frames.shape[2], frames.shape[1])
        return np.stack(
            [cv2.remap(frame, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE) for frame in frames]
        )

    def features(self, features: Sequence[Features]) -> list[Features]:
        """The points without the division part of the distortion."""
        return [
            replace(f, positions=torch.from_numpy(self.ideal(f.positions.double().numpy(), *f.size)).float())
            for f in features
        ]


def guess_distortion(features: list[Features], matches: Matches, pairs: list[PairMatches], seed: int) -> Distortion:
    """The division that most matches agree with; none where a straight lens explains as many."""
    ranked = sorted(pairs, key=lambda pair: -len(pair.indices) * (1.0 - pair.homography_fraction))[:MAX_PAIRS]
    if sum(len(matches[pair.first, pair.second]) for pair in ranked) < MIN_MATCHES:
        return Distortion()
    width, height = features[0].size
    error_px = MAX_ERROR_PX * max(width, height) / 640
    options = {"seed": seed, "max_iterations": 300, "min_iterations": 100}
    agree = np.zeros(len(GRID))
    for index, division in enumerate(GRID):
        moved = Distortion(division=division).features(features)
        for pair in ranked:
            a, b = matches[pair.first, pair.second].T
            limit = error_px * _enlargement(division, width, height) / (1 + MIDDLE * division)
            first, second = moved[pair.first].positions.double().numpy(), moved[pair.second].positions.double().numpy()
            _, info = poselib.estimate_fundamental(first[a], second[b], options | {"max_epipolar_error": limit})
            agree[index] += info["num_inliers"] / len(a)
    best = int(np.argmax(agree))
    if best in (0, len(GRID) - 1) or agree[best] < MIN_GAIN * agree[GRID.index(0.0)]:
        return Distortion()
    near = slice(best - 1, best + 2)
    a, b, _ = np.polyfit(GRID[near], agree[near], 2)  # the maximum of the parabola through three points
    return Distortion(division=float(-b / (2 * a)))


def straighten(scene: SparseScene, distortion: Distortion) -> tuple[SparseScene, Distortion]:
    """The scene and the distortion of its images with the scene's radial term moved from the former to the latter."""
    if scene.radial == 0:
        return scene, distortion
    lens = Lens(
        fx=scene.focal_px, fy=scene.focal_px, cx=scene.principal_px[0], cy=scene.principal_px[1], radial=(scene.radial,)
    )
    K = pinhole_view(lens, scene.width, scene.height).K
    ray = lens.unproject(scene.obs_xy)
    flat = ray[:, :2] / ray[:, 2:]
    inside = np.isfinite(flat).all(axis=1)
    straight = replace(
        scene,
        focal_px=float(K[0, 0]),
        radial=0.0,
        obs_xy=(flat * K[0, 0] + K[:2, 2])[inside],
        obs_frame=scene.obs_frame[inside],
        obs_point=scene.obs_point[inside],
    )
    return straight, replace(distortion, lens=lens, size=(scene.width, scene.height))


def _enlargement(division: float, width: int, height: int) -> float:
    """Factor about the center after which a straightened image has no borders."""
    half = np.array([width, height]) / 2
    nearest = float(half.min() / np.linalg.norm(half)) if division < 0 else 1.0
    return 1 + division * nearest**2
