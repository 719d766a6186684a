"""Point maps of frame pairs made from true depth and poses, with the errors a pair network makes; for the benches.

Noise is relative to the depth. `along`: each point moves on its line of sight (smooth over the image, and a quarter
of it white), the second frame's points in their own camera before they are brought to the first one's: the model of
the recorded set `align_a`. `points`: the same, and points move across the line of sight as well, by a fifth of it.
`motion`: the same as along, and every pair has a motion error of its own (a tenth of the noise, in radians and as a
part of the depth). Axis legend: f frames, e pairs, h height, w width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from fw_geometry.rigid import nearest_rotations

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "redkitchen"
WIDTH, HEIGHT = 84, 48
SOURCE_FOCAL_PX, SOURCE_WIDTH = 585.0, 640
Noise = Literal["along", "points", "motion"]


@dataclass(frozen=True, kw_only=True)
class SceneTruth:
    """Depth and cameras of a stretch of the recording."""

    depth_m: np.ndarray
    """(f, h, w), 0 = unknown."""
    pose_c2w: np.ndarray
    """(f, 4, 4)."""
    focal_px: float
    """Focal length in pixels of the small images."""

    def offsets_px(self) -> np.ndarray:
        """(h, w, 2) of each pixel from the principal point."""
        _, height, width = self.depth_m.shape
        return np.stack(np.meshgrid(np.arange(width) - width / 2, np.arange(height) - height / 2), axis=-1)

    def points(self) -> np.ndarray:
        """(f, h, w, 3) in each camera."""
        rays = np.concatenate([self.offsets_px() / self.focal_px, np.ones((*self.depth_m.shape[1:], 1))], axis=-1)
        return rays * self.depth_m[..., None]

    @property
    def path_m(self) -> float:
        """Length of the camera's way."""
        return float(np.linalg.norm(np.diff(self.pose_c2w[:, :3, 3], axis=0), axis=1).sum())


@dataclass(frozen=True, kw_only=True)
class PairMaps:
    """What a pair network would give."""

    pairs: np.ndarray
    """(e, 2)."""
    first: np.ndarray
    """(e, h, w, 3) points of the first frame, in its camera, in the pair's unit."""
    second: np.ndarray
    """(e, h, w, 3) points of the second frame, in the first one's camera."""
    first_confidence: np.ndarray
    """(e, h, w), 1 = none."""
    second_confidence: np.ndarray
    """(e, h, w)."""
    outlier: np.ndarray
    """(e,) 0 sound, 1 wrong motion, 2 wrong shape."""


def redkitchen(start: int, count: int, step: int) -> SceneTruth:
    """Frames start, start + step, ... of the 81 recorded ones, at 84x48."""
    depth_files, pose_files = (sorted((DATA / kind).iterdir()) for kind in ("depth", "pose"))
    scale = SOURCE_WIDTH / WIDTH
    columns = np.clip(np.round((np.arange(WIDTH) - WIDTH / 2) * scale + 320).astype(int), 0, 639)
    rows = np.clip(np.round((np.arange(HEIGHT) - HEIGHT / 2) * scale + 240).astype(int), 0, 479)
    depth, pose = [], []
    for index in range(start, start + step * count, step):
        full = np.asarray(Image.open(depth_files[index])).astype(np.float64) / 1000
        small = full[np.ix_(rows, columns)]
        depth.append(np.where(small < 10, small, 0))
        pose.append(np.loadtxt(pose_files[index]))
    pose_c2w = np.stack(pose)
    pose_c2w[:, :3, :3] = nearest_rotations(pose_c2w[:, :3, :3])
    return SceneTruth(depth_m=np.stack(depth), pose_c2w=pose_c2w, focal_px=SOURCE_FOCAL_PX / scale)


def make_pairs(
    truth: SceneTruth, graph: list[tuple[int, int]], *, noise: float, outliers: float, seed: int, kind: Noise = "along"
) -> PairMaps:
    """Maps of all pairs of a graph; `outliers` is the share of unordered pairs that are wrong, both ways round."""
    rng = np.random.default_rng(seed)
    points, valid = truth.points(), truth.depth_m > 0
    unordered = sorted({tuple(sorted(pair)) for pair in graph})
    bad = rng.permutation(len(unordered))[: round(outliers * len(unordered))]
    kinds = {unordered[index]: 1 + number % 2 for number, index in enumerate(bad)}
    first, second, confidence = [], [], []
    for i, j in graph:
        wrong = kinds.get((min(i, j), max(i, j)), 0)
        scale = np.exp(rng.normal(0, 0.3))
        move = np.linalg.inv(truth.pose_c2w[i]) @ truth.pose_c2w[j]
        if wrong == 1:
            move = _motion(rng, np.radians(rng.uniform(15, 40)), rng.uniform(0.3, 0.8)) @ move
        if kind == "motion":
            typical = float(np.median(truth.depth_m[i][valid[i]]))
            move = _motion(rng, 0.1 * noise, 0.1 * noise * typical) @ move
        here = _disturb(rng, points[i], noise, kind)
        there = _disturb(rng, points[j], noise, kind)
        if wrong == 2:
            there = there * (1 + 0.5 * _smooth(rng, there.shape[:2]))[..., None]
        there = there @ move[:3, :3].T + move[:3, 3]
        level = np.exp(rng.normal(0, 0.15)) * (0.6 if wrong else 1)
        first.append(np.where(valid[i][..., None], here * scale, 0))
        second.append(np.where(valid[j][..., None], there * scale, 0))
        confidence.append((np.where(valid[i], 1 + 5 * level, 1.0001), np.where(valid[j], 1 + 4 * level, 1.0001)))
    return PairMaps(
        pairs=np.array(graph),
        first=np.stack(first).astype(np.float16),
        second=np.stack(second).astype(np.float16),
        first_confidence=np.stack([c[0] for c in confidence]).astype(np.float32),
        second_confidence=np.stack([c[1] for c in confidence]).astype(np.float32),
        outlier=np.array([kinds.get((min(i, j), max(i, j)), 0) for i, j in graph]),
    )


def _disturb(rng: np.random.Generator, points: np.ndarray, noise: float, kind: Noise) -> np.ndarray:
    size = points.shape[:2]
    moved = points * (1 + noise * _smooth(rng, size) + noise / 4 * rng.normal(size=size))[..., None]
    if kind == "points":
        across = np.stack([_smooth(rng, size) + rng.normal(size=size) / 4 for _ in range(2)], axis=-1)
        moved[..., :2] += 0.2 * noise * across * points[..., 2:]
    return moved


def _smooth(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    coarse = rng.normal(size=(6, 10))
    return cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)


def _motion(rng: np.random.Generator, angle_rad: float, shift: float) -> np.ndarray:
    axis, direction = rng.normal(size=(2, 3))
    motion = np.eye(4)
    motion[:3, :3] = cv2.Rodrigues(axis / np.linalg.norm(axis) * angle_rad)[0]
    motion[:3, 3] = direction / np.linalg.norm(direction) * shift
    return motion
