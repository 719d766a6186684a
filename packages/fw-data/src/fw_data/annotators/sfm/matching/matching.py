"""Which key frames to match, their matches, and the two-view geometry that the matches agree on.

Image positions are (x, y) in pixels with pixel centers at + 0.5. Axis legend: k key frames, m matches, i inliers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import poselib
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from fw_data.annotators.sfm.matching.features import Features
from fw_data.annotators.sfm.matching.networks import load_lighterglue
from fw_data.annotators.sfm.workers import map_parallel

MIN_COSINE = 0.82
MIN_POINTS = 8
"""Fewer points in a frame are not matched."""
MIN_INLIERS = 20
ENOUGH_MATCHES = 0.28
"""Part of the points of a frame: nearest descriptors that match so many need no network."""
ENOUGH_INLIERS = 0.65
"""Part of those that must fit one two-view geometry."""
EPIPOLAR_ERROR = 1.5 / 640
"""As a fraction of the long side of the frames."""


@dataclass(frozen=True, kw_only=True)
class PairMatches:
    """Verified matches of two key frames (indices into the list of key frames, first < second)."""

    first: int
    second: int
    indices: Int64[np.ndarray, "m 2"]
    """Indices of the points of both frames."""
    candidates: int
    """Matches before the check against one two-view geometry."""
    homography_fraction: float
    """Part of the matches that one homography explains as well: near 1 for a pure rotation or one plane."""


def match_keyframes(
    features: list[Features],
    pairs: list[tuple[int, int]],
    match: Callable[[Features, Features], Int64[np.ndarray, "m 2"]],
    *,
    seed: int,
    threads: int,
    nearest_first: bool = False,
    on_done: Callable[[float], None] | None = None,
) -> list[PairMatches]:
    """Verified matches of the given pairs of key frames, by the matcher `match`.

    With `nearest_first`, nearest descriptors alone match a pair where they find enough: frames that lie close together.
    """

    def verified(pair: tuple[int, int], indices: Int64[np.ndarray, "m 2"]) -> PairMatches | None:
        first, second = pair
        found = verify_pair(features[first], features[second], indices, seed)
        if found is None:
            return None
        return PairMatches(
            first=first, second=second, indices=found[0], candidates=len(indices), homography_fraction=found[1]
        )

    def work(pair: tuple[int, int]) -> PairMatches | None:
        first, second = (features[index] for index in pair)
        enough = ENOUGH_MATCHES * min(len(first.positions), len(second.positions))
        if nearest_first:
            indices = _mutual_nearest(first.descriptors, second.descriptors)
            near = verified(pair, indices) if len(indices) >= enough else None
            if near is not None and len(near.indices) >= max(enough, ENOUGH_INLIERS * near.candidates):
                return near
        return verified(pair, match(first, second))

    found = map_parallel(work, pairs, threads, on_done)
    return [pair for pair in found if pair is not None]


def select_pairs(features: list[Features], pairs_per_keyframe: int) -> list[tuple[int, int]]:
    """Neighbors at distance 1 and 2, then the most similar frames, spread over near and far ones."""
    similarity = similarity_matrix(features)
    count = len(features)
    pairs = {(i, i + step) for step in (1, 2) for i in range(count - step)}
    for i in range(count):
        own = {pair for pair in pairs if i in pair}
        others = sorted((j for j in range(count) if abs(i - j) > 2), key=lambda j: -similarity[i, j])
        # Near frames always look most alike: take every other one of the ranking, to reach further.
        for j in others[: 2 * max(0, pairs_per_keyframe - len(own) // 2) : 2]:
            if similarity[i, j] >= MIN_INLIERS // 2:
                pairs.add((min(i, j), max(i, j)))
    return sorted(pairs)


def similarity_matrix(features: list[Features], points: int = 384) -> Float64[np.ndarray, "k k"]:
    """Mutual nearest descriptors of the strongest points of each pair of frames."""
    count = len(features)
    similarity = np.zeros((count, count))
    for i in range(count):
        for j in range(i + 1, count):
            mutual = _mutual_nearest(features[i].descriptors[:points], features[j].descriptors[:points])
            similarity[i, j] = similarity[j, i] = len(mutual)
    return similarity


def match_pair(first: Features, second: Features) -> Int64[np.ndarray, "m 2"]:
    """Indices of matched points, by LighterGlue."""
    if min(len(first.positions), len(second.positions)) < MIN_POINTS:
        return np.zeros((0, 2), np.int64)
    with torch.inference_mode():
        result = load_lighterglue()({"image0": _network_input(first), "image1": _network_input(second)})
    return result["matches"][0].numpy().astype(np.int64).reshape(-1, 2)


def verify_pair(
    first: Features, second: Features, indices: Int64[np.ndarray, "m 2"], seed: int
) -> tuple[Int64[np.ndarray, "i 2"], float] | None:
    """The matches that fit one fundamental matrix, and how many of them a homography fits; None when too few do."""
    if len(indices) < MIN_INLIERS:
        return None
    a = first.positions.numpy()[indices[:, 0]].astype(np.float64)
    b = second.positions.numpy()[indices[:, 1]].astype(np.float64)
    error_px = max(0.5, EPIPOLAR_ERROR * max(first.size))
    options = {"seed": seed, "max_epipolar_error": error_px, "max_iterations": 5000, "min_iterations": 200}
    _, info = poselib.estimate_fundamental(a, b, options)
    inliers = np.asarray(info["inliers"], bool)
    if inliers.sum() < MIN_INLIERS:
        return None
    _, flat = poselib.estimate_homography(
        a, b, {"seed": seed, "max_reproj_error": 2 * error_px, "max_iterations": 2000, "min_iterations": 100}
    )
    on_plane = np.asarray(flat["inliers"], bool) & inliers
    return indices[inliers], float(on_plane.sum() / inliers.sum())


def _mutual_nearest(a: Tensor, b: Tensor) -> Int64[np.ndarray, "m 2"]:
    if not len(a) or not len(b):
        return np.zeros((0, 2), np.int64)
    cosine = a @ b.T
    best_b = cosine.argmax(dim=1)
    best_a = cosine.argmax(dim=0)
    index = torch.arange(len(a))
    keep = (best_a[best_b] == index) & (cosine[index, best_b] > MIN_COSINE)
    return torch.stack([index[keep], best_b[keep]], dim=1).numpy()


def _network_input(features: Features) -> dict[str, Tensor]:
    return {
        "keypoints": features.positions[None],
        "descriptors": features.descriptors[None],
        "image_size": torch.tensor([features.size]),
    }
