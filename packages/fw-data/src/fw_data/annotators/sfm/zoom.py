"""A focal length that changes within the shot: every frame gets its own, and the residuals must fall for it.

A camera that moves mimics a zoom only as far as the scene is flat. Axis legend: f frames.
"""

import numpy as np

from fw_data.annotators.sfm.bundle import adjust, adjust_focals
from fw_data.annotators.sfm.calibration import EVIDENCE, LOSS_PX, fit_lens, mean_cost, oddity, unlikeliness
from fw_data.annotators.sfm.scene import SparseScene

MAX_ZOOM = 0.1
"""Change of the focal length within a shot, as a logarithm, from which one focal length is wrong."""
ITERATIONS = 100
SMOOTH = 3
"""Frames of the running median that keeps one bad frame from being a zoom."""
MIN_FRAMES = 5


def fit_camera(scene: SparseScene, threads: int, loss_px: float = LOSS_PX) -> tuple[SparseScene, float]:
    """The scene with its lens and principal point (see `fit_lens`), and its zoom (see `fit_zoom`).

    Each of them can take up part of another, so they compete: whichever explains the footage best is there.
    """
    found = fit_lens(scene, threads, loss_px)
    zoom = fit_zoom(scene, threads, loss_px, rival=found)
    if found is scene or abs(zoom) > MAX_ZOOM:
        return scene, zoom
    return found, fit_zoom(found, threads, loss_px)


def fit_zoom(scene: SparseScene, threads: int, loss_px: float = LOSS_PX, *, rival: SparseScene | None = None) -> float:
    """Logarithm of the largest focal length over the smallest one; 0 where one of them explains the footage as well.

    The gain must outweigh the number of focal lengths; the `rival` explains the same observations with one of them.
    Positive where the last one is larger than the first.
    """
    if scene.posed.sum() < MIN_FRAMES:
        return 0.0
    shared = adjust(scene, loss_px=loss_px, max_iterations=ITERATIONS, threads=threads)
    own = adjust_focals(shared, loss_px=loss_px, max_iterations=ITERATIONS, threads=threads)
    focals = own.focals_px[scene.posed]
    steps = len(focals) - 1
    cost = EVIDENCE * len(scene.obs_xy) * mean_cost(own.residuals_px, loss_px) + oddity(scene) + steps
    if cost > min(unlikeliness(fit, loss_px) for fit in (shared, rival or shared)):
        return 0.0
    smooth = np.log(np.median(np.lib.stride_tricks.sliding_window_view(focals, SMOOTH), axis=1))
    whole = steps / (steps - SMOOTH + 1)  # the median loses the ends
    return float(whole * np.ptp(smooth) * (1 if smooth[-1] >= smooth[0] else -1))
