"""Camera paths: smooth moves with real parallax that keep clear of things.

Axis legend: f frames; world z up, meters; poses camera-to-world with OpenCV axes (x right, y down, z forward).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fw_toy.rendering.render import Renderer
from fw_toy.worlds.scene import ToyScene

MOVES = {
    "orbit-left": "the camera orbits to the left",
    "orbit-right": "the camera orbits to the right",
    "dolly-in": "the camera moves forward",
    "dolly-out": "the camera moves back",
    "truck-left": "the camera slides to the left",
    "truck-right": "the camera slides to the right",
    "pedestal-up": "the camera rises",
    "pedestal-down": "the camera lowers",
    "crane": "the camera rises and swings around",
    "walk": "the camera walks forward along a curve",
    "sweep": "the camera moves sideways while it turns",
}
_ATTEMPTS, _CHOICES = 90, 3
_PROBE = (24, 36)


@dataclass(frozen=True, kw_only=True)
class ToyPath:
    """A path found in a scene."""

    move: str
    """Key of `MOVES`."""
    K: Float[np.ndarray, "3 3"]
    """Intrinsics in pixels, shared by all frames."""
    pose_c2w: Float[np.ndarray, "f 4 4"]
    """World poses, one per frame."""
    median_depth_m: float
    """Median depth seen from the path's middle, over pixels that see something."""
    travel_ratio: float
    """Length of the path over the median depth."""


def find_path(
    scene: ToyScene, rng: np.random.Generator, *, frames: int, height: int, width: int, fov_deg: float
) -> ToyPath | None:
    """The most interesting of a few safe random paths; None when the scene gave none in many tries."""
    focal = width / 2 / np.tan(np.radians(fov_deg) / 2)
    K = np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    found: list[tuple[float, ToyPath]] = []
    for _ in range(_ATTEMPTS):
        path = _try_path(scene, rng, K, frames, height, width)
        if path is not None:
            found.append(path)
        if len(found) == _CHOICES:
            break
    return max(found, key=lambda item: item[0])[1] if found else None


def look_at(
    eye: Float[np.ndarray, " 3"], target: Float[np.ndarray, " 3"], roll_rad: float = 0.0
) -> Float[np.ndarray, "4 4"]:
    """Pose of a camera at `eye` that looks at `target`, its top towards world z before the roll."""
    ahead = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(ahead, right)
    c, s = np.cos(roll_rad), np.sin(roll_rad)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([c * right + s * down, c * down - s * right, ahead], -1)
    pose[:3, 3] = eye
    return pose


def _try_path(
    scene: ToyScene, rng: np.random.Generator, K: np.ndarray, frames: int, height: int, width: int
) -> tuple[float, ToyPath] | None:
    plan = scene.blueprint
    move = list(MOVES)[int(rng.integers(len(MOVES)))]
    eye, target = _start(scene, rng)
    ratio, phases = float(rng.uniform(0.16, 0.5)), rng.uniform(0, 2 * np.pi, (2, 3))
    sway, roll, turn = rng.uniform(0.0, 0.012), rng.normal(0, 0.02), rng.uniform(0.12, 0.4) * rng.choice([-1, 1])
    probe = _Probe(scene, K, height, width)
    first = probe.view(look_at(eye, target))
    if first is None:
        return None
    length = ratio * first[0]
    if plan.kind == "indoor":
        length = min(length, 2.2)
    u = np.linspace(0.0, 1.0, frames)
    ease = 0.65 * u + 0.35 * u * u * (3 - 2 * u)
    eyes, targets = _trace(move, eye, target, ease, length, turn)
    for k in range(3):
        wave = np.sin(2 * np.pi * (0.5 + 0.45 * k) * u + phases[0, k])
        eyes[:, k] += sway * first[0] * (wave - wave[0]) * 0.5
        other = np.sin(2 * np.pi * (0.4 + 0.4 * k) * u + phases[1, k])
        targets[:, k] += sway * first[0] * (other - other[0])
    poses = np.stack(
        [look_at(e, t, roll * np.sin(3 * a + phases[0, 0])) for e, t, a in zip(eyes, targets, u, strict=True)]
    )
    checks = np.unique(np.linspace(0, frames - 1, 7).round().astype(int))
    if not probe.clear(eyes[checks]):
        return None
    views = [probe.view(poses[i]) for i in checks]
    if any(view is None for view in views):
        return None
    seen = [view for view in views if view is not None]
    median, interest = seen[len(seen) // 2][0], float(np.mean([view[1] for view in seen]))
    travel = float(np.linalg.norm(np.diff(eyes, axis=0), axis=1).sum())
    if not 0.1 <= travel / median <= 0.7:
        return None
    return interest, ToyPath(move=move, K=K, pose_c2w=poses, median_depth_m=median, travel_ratio=travel / median)


def _start(scene: ToyScene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Camera position at the middle of the path, and the point it looks at."""
    plan = scene.blueprint
    if plan.kind == "indoor":
        target = plan.focus + rng.normal(0, 0.5, 3) * [1.4, 1.2, 0.35]
        eye = rng.uniform(plan.low, plan.high)
        eye[2] = rng.uniform(1.0, 1.75)
        away = np.hypot(*(eye - target)[:2])
        if away < 1.6:
            eye[:2] = target[:2] + (eye - target)[:2] / max(away, 1e-3) * 1.6
            eye = np.clip(eye, plan.low, plan.high)
        return eye, target
    target = plan.focus + rng.normal(0, 1.0, 3) * [1.5, 1.0, 0.3]
    azimuth, distance = rng.normal(-np.pi / 2, 0.55), rng.uniform(4.5, 11.0)
    eye = np.array(
        [target[0] + distance * np.cos(azimuth), target[1] + distance * np.sin(azimuth), rng.uniform(1.1, 2.6)]
    )
    return np.clip(eye, plan.low, plan.high), target


def _trace(
    move: str, eye: np.ndarray, target: np.ndarray, ease: np.ndarray, length: float, turn: float
) -> tuple[np.ndarray, np.ndarray]:
    """Eye and target of every frame; the given eye is the path's middle."""
    span = (ease - 0.5)[:, None] * length
    ahead = target - eye
    distance = float(np.linalg.norm(ahead))
    ahead = ahead / distance
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    up = np.array([0.0, 0.0, 1.0])
    fixed = np.repeat(target[None], len(ease), axis=0)
    level = np.array([ahead[0], ahead[1], 0.0]) / max(float(np.hypot(ahead[0], ahead[1])), 1e-6)
    if move.startswith("orbit") or move == "crane":
        sign = 1.0 if move == "orbit-right" or (move == "crane" and turn > 0) else -1.0
        swing = 0.8 if move == "crane" else 1.0
        angle = sign * span[:, 0] * swing / max(float(np.hypot(*(eye - target)[:2])), 1.0)
        offset = eye - target
        c, s = np.cos(angle), np.sin(angle)
        eyes = target + np.stack([c * offset[0] - s * offset[1], s * offset[0] + c * offset[1], 0 * c + offset[2]], -1)
        if move == "crane":
            eyes = eyes + (span + length / 2) * 0.55 * up
        return eyes, fixed
    if move.startswith("dolly"):
        return eye + span * level * (1.0 if move.endswith("in") else -1.0), fixed + span * 0.5 * level
    if move.startswith("truck"):
        shift = span * right * (1.0 if move.endswith("right") else -1.0)
        return eye + shift, fixed + shift * (0.5 + abs(turn))
    if move.startswith("pedestal"):
        shift = span * up * (0.7 if move.endswith("up") else -0.7)
        return eye + shift, fixed + 0.4 * shift
    if move == "walk":
        bow = np.sin(np.pi * ease)[:, None] * length * turn * 0.8
        return eye + span * level + bow * right, fixed + span * level + bow * right * 0.3
    pan = (ease - 0.5)[:, None] * turn * distance
    return eye + span * right * np.sign(turn), fixed + (span * np.sign(turn) * 0.6 + pan * 0.6) * right


class _Probe:
    """Quick looks into the scene with few rays."""

    def __init__(self, scene: ToyScene, K: np.ndarray, height: int, width: int):
        self._scene, self._renderer = scene, Renderer(scene)
        rows, columns = _PROBE
        self._K = np.diag([columns / width, rows / height, 1.0]) @ K
        index = np.arange(96) + 0.5
        polar, azimuth = np.arccos(1 - 2 * index / 96), np.pi * (1 + 5**0.5) * index
        self._sphere = np.stack([np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)], -1)
        self._indoor = scene.blueprint.kind == "indoor"

    def view(self, pose: np.ndarray) -> tuple[float, float] | None:
        """Median depth and number of things seen; None for a poor view (blocked, empty, inside something)."""
        rows, columns = _PROBE
        depth = self._renderer.depth(self._K, pose, rows, columns)
        valid = depth > 0
        if valid.mean() < (0.85 if self._indoor else 0.55):
            return None
        near, median = float(np.quantile(depth[valid], 0.03)), float(np.median(depth[valid]))
        if near < (0.55 if self._indoor else 0.9) or not (1.5 if self._indoor else 2.5) < median < 18.0:
            return None
        labels = self._renderer.labels(self._K, pose, rows, columns)
        named = np.array([bool(name) for name in self._scene.mesh.labels] + [False])
        count = np.bincount(labels[labels >= 0], minlength=len(named))
        return median, float(((count > 0.006 * depth.size) & named).sum() + 3.0 * named[labels].mean())

    def clear(self, eyes: np.ndarray) -> bool:
        """Whether every place keeps its distance from things, is outside of them, and each sees the next."""
        tracer, mesh = self._scene.tracer, self._scene.mesh
        clearance = 0.33 if self._indoor else 0.5
        plan = self._scene.blueprint
        if (eyes < plan.low - 0.3).any() or (eyes > plan.high + 0.3).any():
            return False
        origin = np.repeat(eyes, len(self._sphere), axis=0)
        direction = np.tile(self._sphere, (len(eyes), 1))
        if tracer.occluded(origin, direction, clearance).any():
            return False
        hit = tracer.first_hit(origin, direction)
        behind = ((mesh.face_normals[hit] * direction).sum(-1) > 0) & (hit >= 0)
        if behind.reshape(len(eyes), -1).mean(1).max() > 0.35:
            return False
        return not tracer.occluded(eyes[:-1], np.diff(eyes, axis=0), 1.0).any()
