"""Large things that move on their own: found from pairs of key frames in which two motions exclude each other.

Where a plane (whatever one homography explains) and the rest of a pair each have a clear two-view geometry, but no
common one holds both, one of them moves. A thing that slides along the epipolar lines of a pair looks at rest in it, so
groups are followed through the matches of all pairs, and points in neither take the side of their neighbors. The group
that spreads less over the images is the moving one.
Image positions are (x, y) in pixels. Axis legend: m matches, n points.
"""

from collections import Counter

import numpy as np
import poselib
from jaxtyping import Bool, Int64
from scipy.spatial import KDTree

from fw_data.annotators.sfm.matching.features import Features
from fw_data.annotators.sfm.matching.matching import EPIPOLAR_ERROR, Matches

MIN_MATCHES = 40
"""Of a pair; each of its two groups has at least half as many."""
MAX_SHARED = 0.8
"""Largest fraction of the two groups that one common geometry explains. Static scenes have 0.85 and more."""
MAX_CROSS = 0.3
"""Largest fraction of the plane that the geometry of the rest explains."""
MIN_PAIRS = 3
"""Pairs with two motions; fewer can be wrong matches on repeated structures."""
NEIGHBORS = 5
"""Points of a known group that one of no group takes its side from."""

Node = tuple[int, int]
"""Key frame and point."""


def without_moving(features: list[Features], matches: Matches, seed: int) -> tuple[Matches, float]:
    """The matches without those of a large moving thing, and the fraction of all matches that it had."""
    votes: Counter[Node] = Counter()
    conflicts = 0
    spread = np.zeros(2)
    for (first, second), indices in sorted(matches.items()):
        groups = two_motions(features[first], features[second], indices, seed)
        if groups is None:
            continue
        conflicts += 1
        for index, (sign, group) in enumerate(zip((1, -1), groups, strict=True)):
            spread[index] += _spread(features[first].positions.numpy()[indices[group, 0]])
            for a, b in indices[group].tolist():
                votes[first, a] += sign
                votes[second, b] += sign
    if conflicts < MIN_PAIRS:
        return matches, 0.0
    moving = _side(features, matches, votes, 1 if spread[0] < spread[1] else -1)
    kept = {
        (i, j): indices[~(moving[i][indices[:, 0]] | moving[j][indices[:, 1]])] for (i, j), indices in matches.items()
    }
    before, after = (sum(map(len, part.values())) for part in (matches, kept))
    return kept, 1 - after / max(before, 1)


def two_motions(
    first: Features, second: Features, indices: Int64[np.ndarray, "m 2"], seed: int
) -> tuple[Bool[np.ndarray, " m"], Bool[np.ndarray, " m"]] | None:
    """Matches of a plane and of the rest where the two move against each other; None where one geometry holds both."""
    if len(indices) < MIN_MATCHES:
        return None
    a, b = (f.positions.double().numpy()[indices[:, i]] for i, f in enumerate((first, second)))
    error = max(0.5, EPIPOLAR_ERROR * max(first.size))
    options = {"seed": seed, "max_epipolar_error": error, "max_iterations": 1000, "min_iterations": 100}
    _, info = poselib.estimate_homography(a, b, options | {"max_reproj_error": 4 / 3 * error})
    plane = np.asarray(info["inliers"], bool)
    others = np.flatnonzero(~plane)
    if min(plane.sum(), len(others)) < MIN_MATCHES // 2:
        return None
    F, info = poselib.estimate_fundamental(a[others], b[others], options)
    rest = np.zeros(len(indices), bool)
    rest[others[np.asarray(info["inliers"], bool)]] = True
    if rest.sum() < max(MIN_MATCHES // 2, len(others) / 2):
        return None
    _, info = poselib.estimate_fundamental(a, b, options)
    shared = np.asarray(info["inliers"], bool)
    union = plane | rest
    crossing = (_sampson(F, a[plane], b[plane]) < 2 * error).mean()
    if (shared & union).sum() > MAX_SHARED * union.sum() or crossing > MAX_CROSS:
        return None
    return plane, rest


def _tracks(matches: Matches) -> dict[Node, Node]:
    """The representative of each point's track: points that matches connect."""
    parent: dict[Node, Node] = {}

    def root(node: Node) -> Node:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for (i, j), indices in sorted(matches.items()):
        for a, b in indices.tolist():
            parent[root((i, a))] = root((j, b))
    return {node: root(node) for node in list(parent)}


def _side(features: list[Features], matches: Matches, votes: Counter[Node], sign: int) -> list[Bool[np.ndarray, " n"]]:
    """Per key frame, the points on the side of the sign: by the votes of their track, or those of their neighbors."""
    tracks = _tracks(matches)
    total: Counter[Node] = Counter()
    for node, vote in votes.items():
        total[tracks[node]] += vote
    vote = [np.zeros(len(frame.positions)) for frame in features]
    for (frame, point), root in tracks.items():
        vote[frame][point] = np.sign(total[root])
    sides = []
    for frame, own in zip(features, vote, strict=True):
        known = np.flatnonzero(own)
        if len(known) >= NEIGHBORS:
            xy = frame.positions.numpy()
            _, near = KDTree(xy[known]).query(xy, k=NEIGHBORS)
            own = np.where(own == 0, own[known][near].sum(axis=1), own)
        sides.append(own * sign > 0)
    return sides


def _spread(xy: np.ndarray) -> float:
    """Area of the box that holds most of the points."""
    low, high = np.percentile(xy, (5, 95), axis=0)
    return float(np.prod(high - low))


def _sampson(F: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance of matches from a fundamental matrix, in pixels (first order)."""
    first, second = (np.c_[x, np.ones(len(x))] for x in (a, b))
    line, back = first @ F.T, second @ F
    slope = np.hypot(np.hypot(line[:, 0], line[:, 1]), np.hypot(back[:, 0], back[:, 1]))
    return np.abs((second * line).sum(axis=1)) / np.maximum(slope, 1e-12)
