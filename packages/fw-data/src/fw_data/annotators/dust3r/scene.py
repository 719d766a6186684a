"""From the point maps of a clip to one scene: windows aligned one by one, joined, and depth at the images' size.

Axis legend: f frames, e pairs, p thinned pixels, h w images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from fw_data.annotators.dust3r.alignment import AlignmentConfig, PairClouds, SceneAlignment, align
from fw_data.annotators.dust3r.pairs import Window
from fw_data.annotators.dust3r.predictor import PairPointmaps
from fw_geometry.rigid import nearest_rotations

DEPTH_MAPS = 4
"""Maps of each frame that are kept at full size for its dense depth: those of the pairs nearest in time."""
NO_CONFIDENCE = 1.01
"""Network confidence below which a point has no weight."""
FARTHEST = 1e6
"""Points farther away than this, in the unit of their pair, are left out."""


@dataclass(frozen=True, kw_only=True)
class PairScene:
    """Cameras of all frames and dense depth, at the size of the images."""

    pose_c2w: Float64[np.ndarray, "f 4 4"]
    """Camera-to-world, the first one the identity."""
    focal_px: Float64[np.ndarray, " f"]
    """In pixels of the images."""
    frame_confidence: Float64[np.ndarray, " f"]
    """Trust in each camera, in [0, 1]."""
    depth: Float32[np.ndarray, "f h w"]
    """z-depth; 0 = unknown."""
    confidence: Float32[np.ndarray, "f h w"]
    """Trust in it, in [0, 1]."""
    accepted: float
    """Fraction of the pairs that agree."""
    conspiring: float
    """Fraction of the pairs that agree on another scene."""
    across_px: float
    """Typical error of points across the line of sight, in pixels of the images."""
    along: float
    """Typical relative error of their depth."""


class WindowMaps:
    """Collects the maps of one window as they come, keeping only what is needed of each."""

    def __init__(self, frames: int, height: int, width: int, pairs: Sequence[tuple[int, int]], points: int) -> None:
        self.frames, self.pairs = frames, np.array(pairs, np.int64)
        step = max(1.0, np.sqrt(height * width / points))
        rows, columns = (((np.arange(int(size / step)) + 0.5) * step).astype(int) for size in (height, width))
        self.chosen: Int64[np.ndarray, " p"] = (rows[:, None] * width + columns).reshape(-1)
        centers = np.stack([self.chosen % width + 0.5 - width / 2, self.chosen // width + 0.5 - height / 2], axis=-1)
        self.offsets_px: Float64[np.ndarray, "p 2"] = centers
        self._points: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        self._weights: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        self._dense: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._kept = _nearest_pairs(self.pairs, frames)

    def add(self, maps: PairPointmaps) -> None:
        """The next pair, in the order of `pairs`."""
        index = len(self._points[0])
        if (maps.first, maps.second) != tuple(self.pairs[index]):
            raise ValueError(
                f"the predictor gave pair {(maps.first, maps.second)} where {tuple(self.pairs[index])} was asked for"
            )
        sides = ((maps.first_points, maps.first_confidence), (maps.second_points, maps.second_confidence))
        for side, (points, confidence) in enumerate(sides):
            cloud, trust = points.reshape(-1, 3)[self.chosen].astype(np.float64), confidence.reshape(-1)[self.chosen]
            trust = trust.astype(np.float64)
            sound = np.isfinite(cloud).all(-1) & (np.abs(cloud).max(-1) < FARTHEST) & np.isfinite(trust)
            self._points[side].append(np.where(sound[:, None], cloud, 0))
            self._weights[side].append(
                np.where(sound & (trust > NO_CONFIDENCE), np.log(np.where(sound, np.maximum(trust, 1), 1)), 0.0)
            )
        if index in self._kept:
            z = maps.first_points[..., 2]
            sound = np.isfinite(z) & (z < FARTHEST) & np.isfinite(maps.first_confidence)
            self._dense[index] = (np.where(sound, z, 0), np.where(sound, maps.first_confidence, 1))

    def align(self, config: AlignmentConfig) -> SceneAlignment:
        """The cameras of this window."""
        clouds = PairClouds(
            pairs=self.pairs,
            frames=self.frames,
            first=np.stack(self._points[0]),
            second=np.stack(self._points[1]),
            first_weight=np.stack(self._weights[0]),
            second_weight=np.stack(self._weights[1]),
            offsets_px=self.offsets_px,
        )
        return align(clouds, config)

    def depth(self, frame: int, found: SceneAlignment) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
        """Dense depth of one frame and trust in it: the weighted mean of its maps' log-depths.

        Trust grows with the network's confidence c as (c - 1) / (c + 1) and falls as the maps of the frame differ.
        """
        its = [index for index in self._dense if self.pairs[index, 0] == frame]
        its = [index for index in its if found.accepted[index]] or its
        z = np.stack([self._dense[index][0] for index in its])
        confidence = np.stack([self._dense[index][1] for index in its])
        known = z > 0
        weight = np.where(known, np.log(np.maximum(confidence, 1)), 0)
        shift = np.log(found.pair_scale[its])[:, None, None]
        log_depth = np.log(np.where(known, z, 1)) + shift
        total = np.maximum(weight.sum(0), 1e-12)
        mean = (weight * log_depth).sum(0) / total
        spread = (weight * np.abs(log_depth - mean)).sum(0) / total
        best = np.where(known, confidence, 1).max(0)
        trust = (best - 1) / (best + 1) * np.exp(-spread / 0.1)
        seen = weight.sum(0) > 0
        return (np.exp(mean) * seen).astype(np.float32), (trust * seen).astype(np.float32)


def join(
    windows: Sequence[Window], maps: Sequence[WindowMaps], found: Sequence[SceneAlignment], height: int, width: int
) -> PairScene:
    """One scene from the windows of a clip, each brought to the one before by the frames they share.

    Scale comes from the depths of the shared frames, rotation and place from their cameras; a shared frame is taken
    from the window in which it is further from the end. Where windows found different focal lengths, their mean is
    kept.
    """
    frames = windows[-1].stop
    pose = np.repeat(np.eye(4)[None], frames, 0)
    depth = np.zeros((frames, height, width), np.float32)
    confidence = np.zeros_like(depth)
    trust, log_focal, count = np.zeros(frames), np.zeros(frames), np.zeros(frames)
    thin: np.ndarray | None = None
    for number, (window, part, scene) in enumerate(zip(windows, maps, found, strict=True)):
        # 1. similarity onto the scene so far, from the shared frames
        scale, turn, shift = 1.0, np.eye(3), np.zeros(3)
        begin = window.start
        if number and thin is not None:
            shared = range(window.start, windows[number - 1].stop)
            begin = (window.start + windows[number - 1].stop) // 2
            scale, turn, shift = _onto(pose, thin, scene, window.start, shared)
        if thin is None:
            thin = np.zeros((frames, scene.depth.shape[1]))
        # 2. cameras and depth of the frames that are further from the end in this window
        for frame in range(window.start, window.stop):
            local = frame - window.start
            log_focal[frame] += np.log(scene.focal_px[local])
            count[frame] += 1
            if frame < begin:
                continue
            pose[frame, :3, :3] = turn @ scene.pose_c2w[local, :3, :3]
            pose[frame, :3, 3] = scale * (turn @ scene.pose_c2w[local, :3, 3]) + shift
            thin[frame] = scale * scene.depth[local]
            trust[frame] = scene.frame_confidence[local]
            depth[frame], confidence[frame] = part.depth(local, scene)
            depth[frame] *= scale
    # 3. one focal length if every window shares one
    log_focal /= count
    if all(np.ptp(scene.focal_px) == 0 for scene in found):
        log_focal[:] = log_focal.mean()
    return PairScene(
        pose_c2w=np.linalg.inv(pose[0]) @ pose,
        focal_px=np.exp(log_focal),
        frame_confidence=trust,
        depth=depth,
        confidence=confidence,
        accepted=float(np.concatenate([scene.accepted for scene in found]).mean()),
        conspiring=float(np.concatenate([scene.conspiring for scene in found]).mean()),
        across_px=float(np.median([scene.across_px for scene in found])),
        along=float(np.median([scene.along for scene in found])),
    )


def _onto(
    pose: Float64[np.ndarray, "f 4 4"],
    thin: Float64[np.ndarray, "f p"],
    scene: SceneAlignment,
    start: int,
    shared: range,
) -> tuple[float, Float64[np.ndarray, "3 3"], Float64[np.ndarray, " 3"]]:
    """Similarity from a window's scene to the one so far."""
    before, local = np.array(shared), np.array(shared) - start
    both = (thin[before] > 0) & (scene.depth[local] > 0)
    scale = 1.0
    if both.any():
        scale = float(np.exp(np.median(np.log(thin[before][both] / scene.depth[local][both]))))
    turn = nearest_rotations((pose[before, :3, :3] @ scene.pose_c2w[local, :3, :3].swapaxes(1, 2)).sum(0))
    shift = np.median(pose[before, :3, 3] - scale * scene.pose_c2w[local, :3, 3] @ turn.T, axis=0)
    return scale, turn, shift


def _nearest_pairs(pairs: Int64[np.ndarray, "e 2"], frames: int) -> set[int]:
    """For each frame the pairs it is first in whose other frame is nearest in time."""
    kept: set[int] = set()
    for frame in range(frames):
        its = np.flatnonzero(pairs[:, 0] == frame)
        kept |= set(its[np.argsort(np.abs(pairs[its, 1] - frame), kind="stable")][:DEPTH_MAPS].tolist())
    return kept
