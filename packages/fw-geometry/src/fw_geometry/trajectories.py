"""Camera paths by name, and paths through keyframes. Every path is a true rigid motion: R stays a rotation throughout.

Axis legend: OpenCV axes (x right, y down, z forward), camera-to-world, first pose the identity. So the world frame is
the first camera's frame, "up" is -y, and the focus point is (0, 0, focus_distance).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from fw_geometry.camera import Trajectory, Units, intrinsics_from_fov
from fw_geometry.rigid import compose_poses, interpolate_rigid, rotations_from_vectors

DEFAULT_FOV_RAD = math.radians(50.0)
"""Full vertical field of view when neither K nor fov_rad is given."""

Easing = Literal["linear", "smooth"]
"""Distribution of the motion over time: constant speed, or a soft start and stop (3 t^2 - 2 t^3)."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named camera motion and how far it goes by default."""

    name: str
    """Name for `make_trajectory`."""
    description: str
    """One line for a person choosing a motion: what moves, and which way is positive."""
    angle_rad: float | None
    """Default total angle in radians; None if the motion has no angle."""
    distance: float | None
    """Default total distance as a share of focus_distance; None if the motion has no distance."""


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="orbit",
            description="circle to the right around the focus point, always looking at it",
            angle_rad=math.radians(30.0),
            distance=None,
        ),
        Preset(name="dolly", description="drive straight forward", angle_rad=None, distance=0.3),
        Preset(name="truck", description="slide to the right, view direction fixed", angle_rad=None, distance=0.3),
        Preset(name="pedestal", description="rise straight up, view direction fixed", angle_rad=None, distance=0.2),
        Preset(name="pan", description="turn to the right on the spot", angle_rad=math.radians(30.0), distance=None),
        Preset(name="tilt", description="turn upwards on the spot", angle_rad=math.radians(20.0), distance=None),
        Preset(
            name="roll",
            description="turn clockwise about the view direction on the spot",
            angle_rad=math.radians(20.0),
            distance=None,
        ),
        Preset(
            name="spiral",
            description="circle around the start with a growing radius, always looking at the focus point",
            angle_rad=2 * math.pi,
            distance=0.15,
        ),
        Preset(name="still", description="do not move", angle_rad=None, distance=None),
    )
}
"""Every motion `make_trajectory` knows, by name."""


def make_trajectory(
    name: str,
    frames: int,
    *,
    width: int,
    height: int,
    K: np.ndarray | None = None,
    fov_rad: float | int | None = None,
    angle_rad: float | int | None = None,
    distance: float | int | None = None,
    amount: float | int = 1.0,
    focus_distance: float | int = 1.0,
    easing: Easing = "linear",
    units: Units = "scene",
) -> Trajectory:
    """A camera path of one of the `PRESETS`; the first pose is the identity.

    Args:
        name: a key of `PRESETS`.
        frames: number of poses; one gives the identity alone.
        width: image width in pixels.
        height: image height in pixels.
        K: (3, 3) or (frames, 3, 3) intrinsics in pixels. Give K or fov_rad, not both.
        fov_rad: full vertical field of view in radians (`DEFAULT_FOV_RAD` if K is not given either).
        angle_rad: total angle in radians. orbit: + to the right; pan: + right; tilt: + up; roll: + clockwise for the
            person behind the camera; spiral: total turn of the circling.
        distance: total distance in the path's unit. dolly: + forward; truck: + right; pedestal: + up; spiral: the
            radius at the end. The default is a share of focus_distance.
        amount: multiplies the angle (of spiral: only the radius) and the distance; -1 reverses, 0 rests.
        focus_distance: distance of the focus point straight ahead of the first camera, above zero.
        easing: "linear" (constant speed) or "smooth" (soft start and stop).
        units: unit of the distances.

    Raises:
        ValueError: an unknown name, an angle or distance that the motion does not have, or numbers out of range.
    """
    preset = PRESETS.get(name)
    if preset is None:
        raise ValueError(f"make_trajectory: no motion {name!r}; choose one of {', '.join(PRESETS)}")
    if frames < 1:
        raise ValueError(f"make_trajectory: frames is {frames}; ask for at least one")
    if not (math.isfinite(focus_distance) and focus_distance > 0):
        raise ValueError(f"make_trajectory: focus_distance is {focus_distance}; it must be above zero")
    focus_distance, amount = float(focus_distance), float(amount)
    angle = _setting(name, "angle_rad", angle_rad, preset.angle_rad)
    reach = _setting(name, "distance", distance, None if preset.distance is None else preset.distance * focus_distance)
    if not math.isfinite(amount):
        raise ValueError(f"make_trajectory: amount is {amount}; give a finite number")
    angle = angle if name == "spiral" else angle * amount
    progress = _eased(np.linspace(0.0, 1.0, frames) if frames > 1 else np.zeros(1), easing)
    poses = _MOTIONS[name](progress, angle, reach * amount, focus_distance)
    poses[0] = np.eye(4)
    intrinsics = _intrinsics(K, fov_rad, width, height, frames)
    return Trajectory(pose_c2w=poses, K=intrinsics, width=width, height=height, units=units)


def from_keyframes(
    poses: Float[np.ndarray, "k 4 4"],
    frames: int,
    *,
    width: int,
    height: int,
    K: np.ndarray | None = None,
    fov_rad: float | int | None = None,
    times: np.ndarray | None = None,
    easing: Easing = "linear",
    units: Units = "scene",
) -> Trajectory:
    """A path through key poses: slerp for the rotation (the shorter way round), straight lines for the camera center.

    Args:
        poses: (k, 4, 4) camera-to-world key poses, k >= 1. The world frame is kept as it is; call
            `.relative_to_first()` on the result to start at the identity.
        frames: number of poses wanted, spread evenly from the first to the last key time.
        width: image width in pixels.
        height: image height in pixels.
        K: (3, 3), or (frames, 3, 3), intrinsics in pixels. Give K or fov_rad, not both.
        fov_rad: full vertical field of view in radians.
        times: (k,) key times, strictly increasing; evenly spaced if None.
        easing: "linear", or "smooth" to start and stop softly over the whole path.
        units: unit of the translations.

    Raises:
        ValueError: no key pose, a pose that is not rigid, times that do not increase or do not match.
    """
    if frames < 1:
        raise ValueError(f"from_keyframes: frames is {frames}; ask for at least one")
    if len(poses) == 0:
        raise ValueError("from_keyframes: no key poses; give at least one (k, 4, 4)")
    key_times = np.arange(len(poses), dtype=np.float64) if times is None else np.asarray(times, dtype=np.float64)
    if key_times.shape != (len(poses),):
        raise ValueError(f"from_keyframes: {len(poses)} key poses but times of shape {key_times.shape}; give one each")
    key_K = np.repeat(intrinsics_from_fov(DEFAULT_FOV_RAD, width, height)[None], len(poses), axis=0)
    keys = Trajectory(pose_c2w=poses, K=key_K, width=width, height=height)  # checks that the key poses are rigid
    progress = _eased(np.linspace(0.0, 1.0, frames) if frames > 1 else np.zeros(1), easing)
    times_out = key_times[0] + progress * (key_times[-1] - key_times[0])
    return Trajectory(
        pose_c2w=interpolate_rigid(keys.pose_c2w, key_times, times_out),
        K=_intrinsics(K, fov_rad, width, height, frames),
        width=width,
        height=height,
        units=units,
    )


def look_at(
    position: Float[np.ndarray, "*n 3"],
    target: Float[np.ndarray, "*n 3"],
    up: Float[np.ndarray, "3"] | None = None,
) -> Float[np.ndarray, "*n 4 4"]:
    """Camera-to-world poses at `position` that look at `target` with the image's up side towards `up`.

    Args:
        position: (..., 3) camera centers.
        target: (..., 3) points to look at.
        up: (3,) world direction that is up in the image; -y if None (the first camera's own up).

    Raises:
        ValueError: a target at the camera, or straight above or below it, where the roll is not defined.
    """
    forward = target - position
    length = np.linalg.norm(forward, axis=-1, keepdims=True)
    if (length == 0).any():
        raise ValueError("look_at: the target is at the camera center; move one of them")
    forward = forward / length
    up = np.array([0.0, -1.0, 0.0]) if up is None else up
    right = np.cross(forward, up)
    length = np.linalg.norm(right, axis=-1, keepdims=True)
    if (length < 1e-9 * np.linalg.norm(up)).any():
        raise ValueError("look_at: the view direction is parallel to up, so the roll is undefined; give another up")
    right = right / length
    rotation = np.stack([right, np.cross(forward, right), forward], axis=-1)
    return compose_poses(rotation, position)


def _orbit(progress: np.ndarray, angle: float, _distance: float, focus: float) -> np.ndarray:
    rotation = _turn(progress * -angle, axis=1)
    back = np.array([0.0, 0.0, -focus])
    return compose_poses(rotation, rotation @ back - back)


def _spiral(progress: np.ndarray, angle: float, distance: float, focus: float) -> np.ndarray:
    radius, phase = progress * distance, progress * angle
    position = np.stack([radius * np.cos(phase), radius * np.sin(phase), np.zeros_like(phase)], axis=-1)
    return look_at(position, np.broadcast_to(np.array([0.0, 0.0, focus]), position.shape))


def _straight(x: float, y: float, z: float) -> Callable[[np.ndarray, float, float, float], np.ndarray]:
    def motion(progress: np.ndarray, _angle: float, distance: float, _focus: float) -> np.ndarray:
        rotation = np.broadcast_to(np.eye(3), (len(progress), 3, 3))
        return compose_poses(rotation, progress[:, None] * distance * np.array([x, y, z]))

    return motion


def _turning(axis: int) -> Callable[[np.ndarray, float, float, float], np.ndarray]:
    def motion(progress: np.ndarray, angle: float, _distance: float, _focus: float) -> np.ndarray:
        return compose_poses(_turn(progress * angle, axis), np.zeros((len(progress), 3)))

    return motion


_MOTIONS: dict[str, Callable[[np.ndarray, float, float, float], np.ndarray]] = {
    "orbit": _orbit,
    "dolly": _straight(0.0, 0.0, 1.0),
    "truck": _straight(1.0, 0.0, 0.0),
    "pedestal": _straight(0.0, -1.0, 0.0),
    "pan": _turning(axis=1),
    "tilt": _turning(axis=0),
    "roll": _turning(axis=2),
    "spiral": _spiral,
    "still": _straight(0.0, 0.0, 0.0),
}


def _turn(angle_rad: np.ndarray, axis: int) -> np.ndarray:
    vector = np.zeros((len(angle_rad), 3))
    vector[:, axis] = angle_rad
    return rotations_from_vectors(vector)


def _setting(name: str, what: str, value: float | int | None, default: float | int | None) -> float:
    if value is None:
        return 0.0 if default is None else float(default)
    if default is None:
        has = [preset.name for preset in PRESETS.values() if getattr(preset, what) is not None]
        raise ValueError(f"make_trajectory: {name!r} has no {what}; leave it out, or choose one of {', '.join(has)}")
    if not math.isfinite(value):
        raise ValueError(f"make_trajectory: {what} is {value}; give a finite number")
    return float(value)


def _eased(progress: np.ndarray, easing: Easing) -> np.ndarray:
    if easing not in get_args(Easing):
        raise ValueError(f"easing is {easing!r}; use one of {', '.join(get_args(Easing))}")
    return progress if easing == "linear" else progress**2 * (3 - 2 * progress)


def _intrinsics(K: np.ndarray | None, fov_rad: float | int | None, width: int, height: int, frames: int) -> np.ndarray:
    if K is not None and fov_rad is not None:
        raise ValueError("give K or fov_rad, not both")
    if K is None:
        K = intrinsics_from_fov(DEFAULT_FOV_RAD if fov_rad is None else fov_rad, width, height)
    return np.repeat(K[None], frames, axis=0) if K.ndim == 2 else K
