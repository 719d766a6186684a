"""How far predicted depth tells worlds apart: its correlation with true depth after removing the average scene.

A model that predicts the average scene for every input has a fair depth error and a correlation of 0. The average is
taken over the measured worlds, so coarse maps of all clips are kept and the correlation is computed at the end.
Axis legend: n clips, F frames, h w coarse pixels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float16

from fw_core.files import replacing
from fw_geometry import abs_rel, fit_scale
from fw_train.metrics.statistics import Summary, summarize, summarize_correlation

BLOCK = 4
"""Side of the square of pixels that one coarse pixel stands for, its middle."""
LEAST_WORLDS = 3
"""Minimum number of worlds for an average scene."""
_ROUNDING = 1e-6
"""Log depths that differ by less are equal."""


def coarse_log_depth(
    depth: Float[np.ndarray, "F H W"], truth: Float[np.ndarray, "F H W"]
) -> Float16[np.ndarray, "F h w"]:
    """Natural logarithm of every fourth pixel of depth, at the scale of the truth; NaN where the truth is unknown."""
    some = (slice(None), slice(BLOCK // 2, None, BLOCK), slice(BLOCK // 2, None, BLOCK))
    pred, true = depth[some].astype(np.float64), truth[some].astype(np.float64)
    known = true > 0
    scale = fit_scale(pred[known], true[known])
    return np.where(known, np.log(scale * np.maximum(pred, 1e-6)), np.nan).astype(np.float16)


def save_maps(path: Path, maps: Mapping[str, Any]) -> None:
    """Write the maps of one clip, .npz."""
    with replacing(path) as partial:
        np.savez_compressed(partial, **dict(maps))


def load_maps(path: Path) -> dict[str, np.ndarray]:
    """Read the maps of one clip; empty if the file is missing."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def correlation(
    predicted: Sequence[Float[np.ndarray, "F h w"]], true: Sequence[Float[np.ndarray, "F h w"]], groups: Sequence[str]
) -> Summary | None:
    """Correlation of both log depths over all pixels and clips, each without its mean over the worlds.

    None with fewer than `LEAST_WORLDS` worlds, or if either does not differ between worlds.
    """
    if len(set(groups)) < LEAST_WORLDS:
        return None
    p, t = (_deviations(maps) for maps in (predicted, true))
    if any(np.nanmax(np.abs(deviations)) < _ROUNDING for deviations in (p, t)):
        return None
    sums = np.stack([np.nansum(x, axis=(1, 2, 3)) for x in (p * t, p * p, t * t)], axis=-1)
    return summarize_correlation(sums, groups)


def average_scene_error(true: Sequence[Float[np.ndarray, "F h w"]], groups: Sequence[str]) -> Summary | None:
    """AbsRel of the average scene as the prediction for every clip, after one scale per clip."""
    if len(set(groups)) < LEAST_WORLDS:
        return None
    stack = np.stack(true).astype(np.float64)
    average = np.exp(_mean(stack))
    errors = []
    for log_depth in stack:
        known = np.isfinite(log_depth) & np.isfinite(average)
        depth = np.exp(log_depth[known])
        errors.append(abs_rel(fit_scale(average[known], depth) * average[known], depth))
    return summarize(errors, groups)


def _deviations(maps: Sequence[np.ndarray]) -> Float[np.ndarray, "n F h w"]:
    stack = np.stack(maps).astype(np.float64)
    return stack - _mean(stack)


def _mean(stack: Float[np.ndarray, "n F h w"]) -> Float[np.ndarray, "F h w"]:
    """Mean over the clips that know a pixel; NaN where none does."""
    count = np.isfinite(stack).sum(axis=0)
    return np.where(count > 0, np.nansum(stack, axis=0) / np.maximum(count, 1), np.nan)
