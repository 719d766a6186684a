"""A focal length that changes within the shot: every frame gets its own, and the residuals must fall for it.

A camera that moves mimics a zoom only as far as the scene is flat. Axis legend: f frames.
"""

from dataclasses import replace

import numpy as np

from fw_data.annotators.sfm.bundle import adjust, adjust_focals
from fw_data.annotators.sfm.calibration import (
    RADIAL_SPREAD,
    REFINED,
    LensFit,
    Noise,
    fit_lens,
    neg_log_posterior,
    neg_log_prior,
    residual_neg_log_likelihood,
)
from fw_data.annotators.sfm.scene import SparseScene

MAX_ZOOM = 0.1
"""Change of the focal length within a shot, as a logarithm, from which one focal length is wrong."""
ITERATIONS = 100
SMOOTH = 3
"""Frames of the running median that keeps one bad frame from being a zoom."""
MIN_FRAMES = 5


def fit_camera(scene: SparseScene, threads: int, noise: Noise = REFINED) -> tuple[LensFit, float]:
    """The scene with its lens and principal point (see `fit_lens`), and its zoom (see `fit_zoom`).

    Each of them can take up part of another, so they compete: whichever explains the footage best is there.
    """
    found = fit_lens(scene, threads, noise)
    zoom = fit_zoom(scene, threads, noise, rival=found.scene)
    if abs(zoom) > MAX_ZOOM:
        return replace(found, scene=scene), zoom
    if abs(found.scene.radial) < RADIAL_SPREAD and found.scene.principal_px == (0.0, 0.0):
        return found, zoom  # too weak to hide a zoom
    return found, fit_zoom(found.scene, threads, noise)


def fit_zoom(scene: SparseScene, threads: int, noise: Noise = REFINED, *, rival: SparseScene | None = None) -> float:
    """Logarithm of the largest focal length over the smallest one; 0 where one of them explains the footage as well.

    The gain must outweigh the number of focal lengths; the `rival` explains the same observations with one of them.
    Positive where the last one is larger than the first.
    """
    if scene.posed.sum() < MIN_FRAMES:
        return 0.0
    shared = adjust(scene, loss_px=noise.loss_px, max_iterations=ITERATIONS, threads=threads)
    own = adjust_focals(shared, loss_px=noise.loss_px, max_iterations=ITERATIONS, threads=threads)
    focals = own.focals_px[scene.posed]
    steps = len(focals) - 1
    cost = residual_neg_log_likelihood(own.residuals_px, noise) + neg_log_prior(scene) + steps
    if cost > min(neg_log_posterior(fit, noise) for fit in (shared, rival or shared)):
        return 0.0
    smooth = np.log(np.median(np.lib.stride_tricks.sliding_window_view(focals, SMOOTH), axis=1))
    whole = steps / (steps - SMOOTH + 1)  # the median loses the ends
    return float(whole * np.ptp(smooth) * (1 if smooth[-1] >= smooth[0] else -1))
