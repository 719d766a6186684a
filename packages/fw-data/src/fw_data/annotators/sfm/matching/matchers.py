"""The two matchers: XFeat with LighterGlue for every clip, ALIKED with LightGlue for clips that would be refused.

ALIKED finds about twice as many true matches between views that lie far apart, and takes ten times the work.
Image positions are (x, y) in pixels with pixel centers at + 0.5. Axis legend: n points, m matches, h height, w width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int64, UInt8

from fw_data.annotators.sfm.matching.features import Features, extract_features
from fw_data.annotators.sfm.matching.lightglue import mutual_matches
from fw_data.annotators.sfm.matching.matching import MIN_POINTS, match_pair, select_pairs
from fw_data.annotators.sfm.matching.networks import load_aliked, load_lightglue

ALIKED_LONG_SIDE = 640
"""Smaller frames are enlarged to this, so that points lie dense enough."""
MAX_KEYFRAMES = 12
"""Key frames of which ALIKED and LightGlue match every pair; see all_near_pairs."""


@dataclass(frozen=True, kw_only=True)
class Matcher:
    """A way to find points and to match them."""

    extract: Callable[[UInt8[np.ndarray, "h w 3"], int], Features]
    """Points of a frame, at most the given number."""
    match: Callable[[Features, Features], Int64[np.ndarray, "m 2"]]
    """Indices of the points of two frames that match."""
    pairs: Callable[[list[Features], int], list[tuple[int, int]]]
    """Which frames to match, from their points and the number of pairs per frame."""
    nearest_first: bool = False
    """Whether pairs that nearest descriptors match well need no network."""


def extract_aliked(frame: UInt8[np.ndarray, "h w 3"], max_keypoints: int) -> Features:
    """At most `max_keypoints` points of one frame by ALIKED."""
    height, width = frame.shape[:2]
    scale = max(1.0, ALIKED_LONG_SIDE / max(height, width))
    image = rearrange(torch.from_numpy(np.ascontiguousarray(frame)), "h w c -> 1 c h w").float() / 255
    target = [round(side * scale) for side in (height, width)]
    if scale > 1:
        image = torch.nn.functional.interpolate(image, target, mode="bilinear", align_corners=False)
    with torch.inference_mode():
        positions, descriptors, _ = load_aliked()(image, max_keypoints)
    to_frame = torch.tensor([width / target[1], height / target[0]])
    return Features(
        positions=((positions + 0.5) * to_frame).clone(), descriptors=descriptors.clone(), size=(width, height)
    )


def match_lightglue(first: Features, second: Features) -> Int64[np.ndarray, "m 2"]:
    """Indices of matched points, by LightGlue."""
    if min(len(first.positions), len(second.positions)) < MIN_POINTS:
        return np.zeros((0, 2), np.int64)
    with torch.inference_mode():
        log_probability = load_lightglue()(
            (first.positions, second.positions), (first.descriptors, second.descriptors), (first.size, second.size)
        )
    return mutual_matches(log_probability).numpy()


def all_near_pairs(features: list[Features], pairs_per_keyframe: int) -> list[tuple[int, int]]:
    """Every pair of up to 12 frames; of more frames, the pairs at distance 1, 2, 4 and so on.

    Frames that lie far apart need not show the same things as their neighbors in time, and descriptors alone do not
    tell which others do.
    """
    count = len(features)
    if count <= MAX_KEYFRAMES:
        return [(i, j) for i in range(count) for j in range(i + 1, count)]
    steps = [2**power for power in range(pairs_per_keyframe) if 2**power < count]
    return [(i, i + step) for i in range(count) for step in steps if i + step < count]


XFEAT = Matcher(extract=extract_features, match=match_pair, pairs=select_pairs, nearest_first=True)
ALIKED = Matcher(extract=extract_aliked, match=match_lightglue, pairs=all_near_pairs)
