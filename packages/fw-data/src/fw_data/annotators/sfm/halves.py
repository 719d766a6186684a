"""Agreement of the two halves of a clip: each is adjusted on its own, and should find the cameras that both found.

A wrong camera model (a zoom, a bent lens, a thing that moves) fits each half in another way. A right one leaves each
half the same cameras, as far as they are determined at all.
"""

from dataclasses import dataclass, replace

import numpy as np

from fw_data.annotators.sfm.bundle import adjust, drop_outliers
from fw_data.annotators.sfm.calibration import LOSS_PX
from fw_data.annotators.sfm.scene import SparseScene
from fw_geometry.align import umeyama

MIN_POINTS = 30
MIN_FRAMES = 4


@dataclass(frozen=True, kw_only=True)
class Halves:
    """How far the halves are apart."""

    focal: float
    """Absolute logarithm of the ratio of their focal lengths."""
    path: float
    """Largest RMS distance of a half's cameras from those of the whole (after a similarity), over the half's path."""


def compare_halves(scene: SparseScene, threads: int) -> Halves | None:
    """The comparison; None for clips with too few frames or points for two halves."""
    posed = np.flatnonzero(scene.posed)
    if len(posed) < 2 * MIN_FRAMES:
        return None
    focals, paths = [], []
    for frames in (posed[: len(posed) // 2 + 1], posed[len(posed) // 2 :]):
        half = _part(scene, frames)
        if len(half.points) < MIN_POINTS:
            return None
        alone = adjust(half, loss_px=LOSS_PX, max_iterations=25, threads=threads)
        focals.append(alone.focal_px)
        found, whole = alone.centers[frames], scene.centers[frames]
        length = float(np.linalg.norm(np.diff(whole, axis=0), axis=1).sum())
        off = np.linalg.norm(umeyama(found, whole).apply(found) - whole, axis=1)
        paths.append(float(np.sqrt((off**2).mean())) / max(length, 1e-9))
    return Halves(focal=float(abs(np.log(focals[0] / focals[1]))), path=max(paths))


def _part(scene: SparseScene, frames: np.ndarray) -> SparseScene:
    """The observations of some frames, and the points that three of them see."""
    posed = np.zeros_like(scene.posed)
    posed[frames] = True
    keep = posed[scene.obs_frame]
    part = replace(
        scene,
        posed=posed,
        obs_frame=scene.obs_frame[keep],
        obs_point=scene.obs_point[keep],
        obs_xy=scene.obs_xy[keep],
    )
    return drop_outliers(part, max_error_px=np.inf)
