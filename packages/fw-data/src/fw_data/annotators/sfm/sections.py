"""Agreement of the sections of a clip: each is adjusted alone, and should find the cameras that the whole clip found.

A camera model that is wrong (a zoom, a bent lens, an image cut out of a corner, a thing that moves) fits each section
in another way. A right one leaves every section the same cameras, as far as its views determine them.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Int64

from fw_data.annotators.sfm.bundle import adjust, drop_outliers
from fw_data.annotators.sfm.calibration import LOSS_PX
from fw_data.annotators.sfm.scene import SparseScene
from fw_geometry.align import umeyama

MAX_SECTIONS = 3
MIN_FRAMES = 4
MIN_POINTS = 20
MIN_LENGTH = 0.3
"""Shortest path of a section that is compared, over the mean one: a camera that rests says nothing about its lens."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far the cameras of the sections are from those of the whole clip, in the worst section."""

    focal: float
    """Absolute logarithm of the ratio of the focal lengths."""
    path: float
    """RMS distance of the camera centers after a similarity, over the length of the section's path."""


def compare_sections(scene: SparseScene, threads: int) -> Drift | None:
    """The comparison over three sections (two below 12 posed frames), without those in which the camera rests.

    None where fewer than two are left, or one has too few points.
    """
    posed = np.flatnonzero(scene.posed)
    count = min(MAX_SECTIONS, len(posed) // MIN_FRAMES)
    if count < 2:
        return None
    bounds = np.linspace(0, len(posed) - 1, count + 1).round().astype(int)
    steps = np.linalg.norm(np.diff(scene.centers[posed], axis=0), axis=1)
    focal, path = [], []
    for first, last in pairwise(bounds):
        frames, length = posed[first : last + 1], steps[first:last].sum()
        if length < MIN_LENGTH * steps.sum() / count:
            continue
        section = _section(scene, frames)
        if len(section.points) < MIN_POINTS:
            return None
        alone = adjust(section, loss_px=LOSS_PX, max_iterations=25, threads=threads)
        focal.append(abs(np.log(max(alone.focal_px, 1e-3) / scene.focal_px)))
        found, whole = alone.centers[frames], scene.centers[frames]
        off = np.linalg.norm(umeyama(found, whole).apply(found) - whole, axis=1)
        path.append(np.sqrt((off**2).mean()) / max(length, 1e-9))
    return Drift(focal=float(max(focal)), path=float(max(path))) if len(focal) > 1 else None


def _section(scene: SparseScene, frames: Int64[np.ndarray, " n"]) -> SparseScene:
    """The observations of some frames, and the points that three of them see."""
    posed = np.zeros_like(scene.posed)
    posed[frames] = True
    keep = posed[scene.obs_frame]
    section = replace(
        scene,
        posed=posed,
        obs_frame=scene.obs_frame[keep],
        obs_point=scene.obs_point[keep],
        obs_xy=scene.obs_xy[keep],
    )
    return drop_outliers(section, max_error_px=np.inf)
