"""A start for the alignment: focal length, motion of each pair, and a tree of trusted pairs through all frames.

Axis legend: e pairs, f frames, p pixels. Motions map points of the first frame's camera into the second's.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from fw_data.annotators.dust3r.alignment.clouds import PairClouds
from fw_data.annotators.dust3r.alignment.motions import masked_median, pair_motions

MIN_FOCAL, MAX_FOCAL = 0.5, 3.5
"""Bounds on the focal length, over that of a 60 degree view."""
_FOCAL_STEPS = 10
CYCLE_RAD = np.radians(3.0)
"""Rotations of three pairs around a cycle agree within this angle."""


@dataclass(kw_only=True)
class State:
    """The unknowns of the alignment: cameras, scales of the pairs, focal lengths. Changed in place."""

    rotation_w2c: Float64[np.ndarray, "f 3 3"]
    translation_w2c: Float64[np.ndarray, "f 3"]
    log_scale: Float64[np.ndarray, " e"]
    log_focal: Float64[np.ndarray, " f"]
    pair_rotation: Float64[np.ndarray, "e 3 3"]
    """Rotation of each pair alone, first camera to second; constant."""


def start(clouds: PairClouds, *, shared_focal: bool) -> State:
    """Cameras, scales and focal lengths, good enough to be refined."""
    # 1. from each pair alone: focal lengths, depth up to one factor per frame, motion, trust
    focal = focal_lengths(clouds, shared=shared_focal)
    shape = depth_shapes(clouds)
    rotation, translation, fitted = pair_motions(clouds, focal, shape)
    trust = cycle_trust(clouds.pairs, clouds.frames, rotation) * np.clip(fitted, 0.05, 1) * _confidence(clouds)
    first, second = clouds.pairs.T
    seen_second = (clouds.second @ rotation.swapaxes(1, 2) + translation[:, None])[..., 2]
    # 2. log-factor from the unit of each pair to the depth shape of its first and its second frame
    to_first = _offset(shape[first], clouds.first[..., 2], clouds.first_weight)
    to_second = _offset(shape[second], seen_second, clouds.second_weight)
    state = State(
        rotation_w2c=np.repeat(np.eye(3)[None], clouds.frames, 0),
        translation_w2c=np.zeros((clouds.frames, 3)),
        log_scale=np.zeros(len(first)),
        log_focal=np.log(focal),
        pair_rotation=rotation,
    )
    # 3. place the cameras along the tree, from the most central frame outwards
    unit = np.zeros(clouds.frames)  # log-factor from each depth shape to the scene
    for before, frame in spanning_tree(clouds, trust):
        forward, backward = (
            np.flatnonzero((first == a) & (second == b)) for a, b in ((before, frame), (frame, before))
        )
        both = np.concatenate([forward, backward])
        pair = both[np.argmax(trust[both])]  # the better of the two directions
        if first[pair] == before:
            unit[frame] = unit[before] + to_first[pair] - to_second[pair]
            turn, shift = rotation[pair], translation[pair] * np.exp(unit[before] + to_first[pair])
        else:
            unit[frame] = unit[before] + to_second[pair] - to_first[pair]
            turn = rotation[pair].T
            shift = -turn @ translation[pair] * np.exp(unit[before] + to_second[pair])
        state.rotation_w2c[frame] = turn @ state.rotation_w2c[before]
        state.translation_w2c[frame] = turn @ state.translation_w2c[before] + shift
    # 4. scale of a pair: mean of the estimates through its two frames
    state.log_scale[:] = (unit[first] + to_first + unit[second] + to_second) / 2
    return state


def spanning_tree(clouds: PairClouds, trust: Float64[np.ndarray, " e"]) -> list[tuple[int, int]]:
    """(parent, frame) steps from the most central frame to all others along the shortest ways, parents first.

    A pair is the longer the less it is trusted, so a way avoids bad pairs, and errors add up over few steps.
    """
    first, second = clouds.pairs.T
    best = np.zeros((clouds.frames, clouds.frames))
    np.maximum.at(best, (first, second), trust)
    best = np.maximum(best, best.T)
    graph = csr_matrix(np.where(best > 0, 1 / np.maximum(best, 1e-4), 0))
    length, parents = dijkstra(graph, directed=False, return_predecessors=True)
    root = int(np.argmin(length.sum(1)))
    if not np.isfinite(length[root]).all():
        lost = int(np.flatnonzero(~np.isfinite(length[root]))[0])
        raise ValueError(f"the pairs do not connect frame {lost} with frame {root}; use a connected pair graph")
    order = np.argsort(length[root], kind="stable")
    return [(int(parents[root, frame]), int(frame)) for frame in order if frame != root]


def focal_lengths(clouds: PairClouds, *, shared: bool) -> Float64[np.ndarray, " f"]:
    """Focal length in pixels from the points each frame sees in its own camera: argmin_f sum w |offset - f (x, y) / z|.

    The sum of distances (not of squares) is minimized by reweighting, pair by pair; the answer is the median over all
    pairs, or over the pairs of each frame.
    """
    z = clouds.first[..., 2]
    slope = clouds.first[..., :2] / np.where(z > 0, z, 1)[..., None]
    base = clouds.first_weight * (z > 0)
    weight = base
    along = (slope * clouds.offsets_px).sum(-1)
    square = (slope**2).sum(-1)
    focal = np.ones(len(slope))
    for _ in range(_FOCAL_STEPS):
        focal = (weight * along).sum(-1) / np.maximum((weight * square).sum(-1), 1e-12)
        miss = np.linalg.norm(clouds.offsets_px - focal[:, None, None] * slope, axis=-1)
        weight = base / np.maximum(miss, 1e-3)
    size = np.ptp(clouds.offsets_px, axis=0).max()
    usual = size / (2 * np.tan(np.radians(30)))
    focal = np.clip(focal, MIN_FOCAL * usual, MAX_FOCAL * usual)
    if shared:
        return np.full(clouds.frames, np.median(focal))
    return np.array([np.median(focal[clouds.pairs[:, 0] == frame]) for frame in range(clouds.frames)])


def depth_shapes(clouds: PairClouds) -> Float64[np.ndarray, "f p"]:
    """Log-depth of each frame up to one constant: the median over its pairs; NaN without a known depth."""
    known = (clouds.first[..., 2] > 0) & (clouds.first_weight > 0)
    log_depth = np.log(np.where(known, clouds.first[..., 2], 1))
    log_depth = log_depth - masked_median(log_depth, known, axis=1)[:, None]
    shapes = np.full((clouds.frames, log_depth.shape[1]), np.nan)
    for frame in range(clouds.frames):
        its = clouds.pairs[:, 0] == frame
        some = known[its].any(0)
        shapes[frame, some] = masked_median(log_depth[its], known[its], axis=0)[some]
    return shapes


def cycle_trust(
    pairs: Int64[np.ndarray, "e 2"], frames: int, rotation: Float64[np.ndarray, "e 3 3"]
) -> Float64[np.ndarray, " e"]:
    """Fraction of the ways through a third frame that turn as each pair does; pairs without such a way get 0.5."""
    direct = np.zeros((frames, frames, 3, 3))
    have = np.zeros((frames, frames), bool)
    first, second = pairs.T
    direct[second, first], have[second, first] = rotation.swapaxes(1, 2), True
    direct[first, second], have[first, second] = rotation, True
    trust = np.full(len(pairs), 0.5)
    for index, (i, j) in enumerate(pairs):
        via = np.flatnonzero(have[i] & have[:, j])
        if len(via):
            round_trip = direct[via, j] @ direct[i, via] @ rotation[index].T
            trust[index] = (turn_angles(round_trip) < CYCLE_RAD).mean()
    return np.clip(trust, 0.02, 1)


def _confidence(clouds: PairClouds) -> Float64[np.ndarray, " e"]:
    """Product of the two mean weights, over the largest."""
    product = clouds.first_weight.mean(1) * clouds.second_weight.mean(1)
    return np.clip(product / max(product.max(), 1e-12), 0.01, 1)


def _offset(
    shape: Float64[np.ndarray, "e p"], depth: Float64[np.ndarray, "e p"], weight: Float64[np.ndarray, "e p"]
) -> Float64[np.ndarray, " e"]:
    """Median of shape - log(depth) where both are known."""
    known = (weight > 0) & (depth > 0) & np.isfinite(shape)
    return masked_median(shape - np.log(np.where(known, depth, 1)), known, axis=1)


def turn_angles(rotation: Float64[np.ndarray, "n 3 3"]) -> Float64[np.ndarray, " n"]:
    """Angles of rotations, in radians."""
    skew = rotation - rotation.swapaxes(1, 2)
    sine = np.sqrt(skew[:, 2, 1] ** 2 + skew[:, 0, 2] ** 2 + skew[:, 1, 0] ** 2) / 2
    return np.arctan2(sine, (np.trace(rotation, axis1=1, axis2=2) - 1) / 2)
