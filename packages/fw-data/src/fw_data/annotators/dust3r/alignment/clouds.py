"""Input, settings and result of the global alignment.

A pair (i, j) has a point map of frame i and one of frame j, both in the camera of frame i (OpenCV axes), in a unit of
its own. Axis legend: e pairs, f frames, p pixels (one flat list of pixels, the same of every frame).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64


class AlignmentFailed(ValueError):  # noqa: N818 - an answer about the data, not a fault of the program
    """The point maps do not determine one scene."""


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """Settings of the alignment."""

    focal: Literal["shared", "per-frame"] = "shared"
    """One focal length for all frames, or one each."""
    max_points: int = 1000
    """Pixels of a frame that take part; maps are thinned out evenly to this many."""
    iterations: int = 15
    """Most joint Gauss-Newton steps; fewer when the cameras stop moving."""
    tolerance: float = 1e-4
    """Steps end when no camera moves by more than this (radians, and parts of the scene's depth)."""
    min_weight: float = 0.15
    """Part of a pair's weight that must survive the robust estimate for the pair to count as accepted."""

    def __post_init__(self) -> None:
        if self.focal not in ("shared", "per-frame"):
            raise ValueError(f"focal {self.focal!r}: give 'shared' or 'per-frame'")
        if self.max_points < 16 or self.iterations < 1:
            raise ValueError("max_points must be at least 16 and iterations at least 1")


@dataclass(frozen=True, kw_only=True)
class PairClouds:
    """The point maps of all pairs, thinned to one list of pixels."""

    pairs: Int64[np.ndarray, "e 2"]
    """(first, second) frame of each pair."""
    frames: int
    """Frames of the clip."""
    first: Float64[np.ndarray, "e p 3"]
    """Points of the first frame's pixels, in its camera."""
    second: Float64[np.ndarray, "e p 3"]
    """Points of the second frame's pixels, in the first one's camera."""
    first_weight: Float64[np.ndarray, "e p"]
    """Trust in each point, 0 = leave out; the logarithm of the network's confidence."""
    second_weight: Float64[np.ndarray, "e p"]
    """The same of the second frame."""
    offsets_px: Float64[np.ndarray, "p 2"]
    """(column, row) of each pixel's center minus the principal point."""

    def __post_init__(self) -> None:
        if not len(self.pairs):
            raise ValueError("no pairs to align")
        if self.pairs.min() < 0 or self.pairs.max() >= self.frames or (self.pairs[:, 0] == self.pairs[:, 1]).any():
            raise ValueError(f"pairs must name two different frames below {self.frames}")
        if not all(
            np.isfinite(part).all() for part in (self.first, self.second, self.first_weight, self.second_weight)
        ):
            raise ValueError("points or weights are not finite; give such points the place 0 and the weight 0")
        missing = sorted(set(range(self.frames)) - set(self.pairs[:, 0].tolist()))
        if missing:
            raise ValueError(
                f"frame {missing[0]} is never the first of a pair, so no pair gives its points in its own camera; "
                "use pairs in both directions (symmetric graphs)"
            )


@dataclass(frozen=True, kw_only=True)
class SceneAlignment:
    """One scene: cameras of all frames, scales of all pairs, and the depth they agree on at the listed pixels."""

    pose_c2w: Float64[np.ndarray, "f 4 4"]
    """Camera-to-world, the first one the identity."""
    focal_px: Float64[np.ndarray, " f"]
    """Focal length of every frame (all the same where it is shared)."""
    pair_scale: Float64[np.ndarray, " e"]
    """Factor from the unit of each pair to that of the scene."""
    accepted: Bool[np.ndarray, " e"]
    """Pairs that agree with the rest."""
    conspiring: Bool[np.ndarray, " e"]
    """Pairs that agree with each other on another scene than most."""
    depth: Float64[np.ndarray, "f p"]
    """Agreed z-depth of every pixel; 0 where no accepted pair knows it."""
    depth_spread: Float64[np.ndarray, "f p"]
    """Typical relative disagreement of the pairs about it."""
    frame_confidence: Float64[np.ndarray, " f"]
    """Trust in each camera, in [0, 1]: the part of its pairs that agree with the rest."""
    across_px: float
    """Typical error of the points across the line of sight, in pixels of the point maps."""
    along: float
    """Typical relative error of the points along the line of sight."""
    iterations: int
    """Joint steps that were made."""
