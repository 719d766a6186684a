"""Camera motion of a clip as tags: "dolly-in", "pan-left", "orbit-right", "still", ...

Motions are added up in the camera's own frame, so driving round a bend is a dolly and a pan. Axis legend: OpenCV axes
(x right, y down, z forward), camera-to-world; f frames. Lengths are measured against the scene's median depth, so a tag
means the same in meters as in a scene of unknown scale.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

TAGS = (
    *("dolly-in", "dolly-out", "truck-left", "truck-right", "pedestal-up", "pedestal-down"),
    *("pan-left", "pan-right", "tilt-up", "tilt-down", "roll-clockwise", "roll-counterclockwise"),
    *("orbit-left", "orbit-right", "spiral", "still"),
)
"""Every tag there is."""


@dataclass(frozen=True, kw_only=True)
class TagLimits:
    """From where on a motion is named."""

    turn_deg: float = 4.0
    """Sum of turns about one axis."""
    shift: float = 0.04
    """Sum of shifts along one axis, as a share of the median depth."""
    share: float = 0.35
    """A motion is also named only when it is this large beside the largest one of its kind."""
    still_turn_deg: float = 1.5
    """A camera that never turns farther from its first view ..."""
    still_shift: float = 0.015
    """... and never moves farther, as a share of the median depth, counts as still."""
    circling_deg: float = 250.0
    """The direction of travel must turn by this much, seen along the view direction, for a spiral."""


def motion_tags(
    pose_c2w: Float64[np.ndarray, "f 4 4"], median_depth: float, limits: TagLimits | None = None
) -> list[str]:
    """The tags of a path, the strongest turns and shifts first; ["still"] for a camera at rest, [] when none fits.

    Args:
        pose_c2w: rigid camera-to-world poses of at least one frame.
        median_depth: of the scene, in the unit of the poses; above zero.
    """
    limits = limits or TagLimits()
    rotation, center = Rotation.from_matrix(pose_c2w[:, :3, :3]), pose_c2w[:, :3, 3] / max(median_depth, 1e-9)
    farthest_turn = np.degrees((rotation[0].inv() * rotation).magnitude().max())
    farthest_shift = np.linalg.norm(center - center[0], axis=1).max()
    if farthest_turn < limits.still_turn_deg and farthest_shift < limits.still_shift:
        return ["still"]
    turn = np.degrees((rotation[:-1].inv() * rotation[1:]).as_rotvec().sum(0))
    half_way = rotation[:-1] * Rotation.from_rotvec((rotation[:-1].inv() * rotation[1:]).as_rotvec() / 2)
    shift = half_way.inv().apply(np.diff(center, axis=0)).sum(0)
    if _circles(rotation[0].inv().apply(center - center[0]), limits):
        return ["spiral"]
    pan, truck = turn[1], shift[0]
    pivot = abs(truck) / max(np.radians(abs(pan)), 1e-9)
    around = pan * truck < 0 and abs(pan) > 2 * limits.turn_deg and 0.35 < pivot < 3 and abs(truck) > abs(shift[2])
    tags = ["orbit-right" if truck > 0 else "orbit-left"] if around else []
    names = (("tilt-up", "tilt-down"), ("pan-right", "pan-left"), ("roll-clockwise", "roll-counterclockwise"))
    tags += _named(turn, names, limits.turn_deg, limits.share, skip=1 if around else None)
    names = (("truck-right", "truck-left"), ("pedestal-down", "pedestal-up"), ("dolly-in", "dolly-out"))
    tags += _named(shift, names, limits.shift, limits.share, skip=0 if around else None)
    return tags


def _named(
    amounts: np.ndarray, names: tuple[tuple[str, str], ...], least: float, share: float, skip: int | None
) -> list[str]:
    largest = np.abs(amounts).max()
    order = np.argsort(-np.abs(amounts))
    fitting = [axis for axis in order if axis != skip and abs(amounts[axis]) >= max(least, share * largest)]
    return [names[axis][0] if amounts[axis] > 0 else names[axis][1] for axis in fitting]


def _circles(path: np.ndarray, limits: TagLimits) -> bool:
    """Whether the path winds across the view direction of the first camera."""
    across = np.diff(path[:, :2], axis=0)
    steps = np.linalg.norm(across, axis=1)
    moving = across[steps > 0.2 * np.median(steps)] if steps.any() else across[:0]
    extent = np.ptp(path, axis=0)
    if len(moving) < 8 or extent[:2].min() < max(limits.shift, 0.3 * extent.max()):
        return False
    heading = np.unwrap(np.arctan2(moving[:, 1], moving[:, 0]))
    return bool(abs(np.degrees(heading[-1] - heading[0])) > limits.circling_deg)
