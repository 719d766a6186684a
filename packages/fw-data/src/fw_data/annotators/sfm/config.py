"""Settings of the structure-from-motion backend: the values that were measured, in one place."""

import os
from dataclasses import dataclass, field
from typing import Literal

from fw_data.engine.threads import chosen_threads

Flow = Literal["none", "gmflow"]
SecondMatcher = Literal["none", "auto", "aliked"]

MIN_SIDE_PX = 64
"""Smallest height or width of frames."""


def share_of_cores() -> int:
    """OMP_NUM_THREADS, which workers that run side by side have for their share; without it, all cores."""
    return chosen_threads() or os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class SfmConfig:
    """Amount of work, and limits of refusals."""

    long_side: int = 640
    """Frames larger than this are reduced for the geometry work; the output has the size of the input."""
    max_keypoints: int = 896
    """Points per key frame given to the matcher."""
    max_keyframes: int = 28
    """Frames that are matched with the networks; the frames between them are posed against the points found."""
    pairs_per_keyframe: int = 4
    """Pairs of key frames matched, for each key frame (the nearest ones and the most similar ones)."""
    refine_points: int = 1000
    """Scene points whose image positions are refined below one pixel and adjusted together."""
    refine_rounds: int = 2
    """Times that positions are refined and the bundle adjusted."""
    depth_pixels: int = 320 * 240
    """Pixels per frame at which the dense depth is searched; the last step brings it to the size of the frames."""
    depth_planes: int = 64
    """Inverse-depth planes of the coarse search."""
    source_views: int = 6
    """Frames that each frame is compared with in the dense search."""
    min_posed_fraction: float = 1.0
    """Smallest part of the frames that must be posed; below it the clip is refused."""
    min_triangulation_angle_deg: float = 1.0
    """Clips whose points are seen under a smaller median angle than this have no usable parallax."""
    flow: Flow = "none"
    """Network whose optical flow gives depth where the search is unsure: "gmflow", with weights from the cache."""
    second_matcher: SecondMatcher = "none"
    """ALIKED with LightGlue for clips that are refused for their matches: "aliked" downloads its weights once, "auto"
    uses them where they are. It changes no clip that is annotated without it."""
    seed: int = 0
    """Seed of the random samples of the robust estimators."""
    threads: int = field(default_factory=share_of_cores)
    """Frames that are worked on at once, and threads of the bundle adjustment. No part of the settings of a dataset."""
