"""Bring the disparity of a depth network, known per frame up to scale and shift, to the depth of a scene.

1 / depth = scale * disparity + shift, one scale and shift per frame, fitted robustly in disparity (Ranftl et al. 2022,
MiDaS; fitting after inverting is wrong), with a prior that both change slowly over time: frames in which little is
known borrow from their neighbors and depth does not flicker. Axis legend: f frames, h height, w width.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy.linalg import solveh_banded

from fw_geometry.align import fit_scale_shift_disparity

MIN_INLIERS = 0.3
"""A frame in which fewer of the pixels fit one line is not used; its neighbors give its fit."""
MIN_PIXELS = 32
_STEPS = 10
_TUKEY = 4.685
_SIGMA_OF_MAD = 1.4826
_INDEPENDENT = 100  # pixels whose errors count as independent: neighbors err together


@dataclass(frozen=True, kw_only=True)
class DisparityAlignment:
    """1 / depth = scale * disparity + shift for every frame."""

    scale: Float64[np.ndarray, " f"]
    """Above zero."""
    shift: Float64[np.ndarray, " f"]
    """In 1 / depth."""
    inlier_fraction: Float64[np.ndarray, " f"]
    """Fraction of the known pixels of each frame that fit; 0 without known pixels."""
    residual: Float64[np.ndarray, " f"]
    """Median relative depth error of each frame at its known pixels; NaN without known pixels."""
    own: Bool[np.ndarray, " f"]
    """Whether a frame's own pixels were used; the others are interpolated."""

    def depth(self, disparity: Float32[np.ndarray, "f h w"], depth_max: float) -> Float32[np.ndarray, "f h w"]:
        """Depth of every pixel, at most depth_max."""
        inverse = self.scale[:, None, None] * disparity + self.shift[:, None, None]
        return (1 / np.maximum(inverse, 1 / depth_max)).astype(np.float32)


def align_disparity(
    disparity: Float32[np.ndarray, "f h w"],
    depth: Float32[np.ndarray, "f h w"],
    weight: Float32[np.ndarray, "f h w"],
    *,
    step: float = 0.02,
) -> DisparityAlignment:
    """Scale and shift of every frame's disparity.

    Args:
        disparity: network output, larger is nearer, at least 0.
        depth: z-depth of the scene; 0 = unknown.
        weight: trust in each depth, 0 = leave out.
        step: how much scale and shift (as a part of the usual 1 / depth) may change from frame to frame, one standard
            deviation; 0.02 is far more than a steady camera needs and far less than a network's flicker.

    Raises:
        ValueError: no frame has enough known depth that agrees with the disparity.
    """
    if not step > 0:
        raise ValueError(f"step is {step}; give a relative change above 0, such as 0.02")
    frames = [_Frame.of(d, z, w) for d, z, w in zip(disparity, depth, weight, strict=True)]
    own = np.array([frame is not None for frame in frames])
    if not own.any():
        raise ValueError(
            "no frame has known depth that grows as disparity falls: is the first argument disparity (nearer is "
            "larger), and is the weight above zero somewhere?"
        )
    known = [frame for frame in frames if frame is not None]
    unit = np.array([np.median([f.scale for f in known]), np.median([np.median(f.inverse) for f in known])])
    lines = np.stack([np.array([f.scale, f.shift]) if f else np.full(2, np.nan) for f in frames])
    index = np.arange(len(frames))
    lines = np.stack([np.interp(index, index[own], lines[own, k]) for k in range(2)], axis=1)
    for _ in range(_STEPS):
        before = lines
        lines = _smoothed([f and f.information(line) for f, line in zip(frames, lines, strict=True)], unit, step)
        if np.abs((lines - before) / unit).max() < 1e-9:
            break
    lines[:, 0] = np.maximum(lines[:, 0], 1e-3 * unit[0])
    quality = [f.quality(line) if f else (0.0, float("nan")) for f, line in zip(frames, lines, strict=True)]
    return DisparityAlignment(
        scale=lines[:, 0],
        shift=lines[:, 1],
        inlier_fraction=np.array([q[0] for q in quality]),
        residual=np.array([q[1] for q in quality]),
        own=own,
    )


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """The known pixels of one frame, and the line that fits them alone."""

    disparity: Float64[np.ndarray, " n"]
    inverse: Float64[np.ndarray, " n"]
    weight: Float64[np.ndarray, " n"]
    scale: float
    shift: float

    @staticmethod
    def of(
        disparity: Float32[np.ndarray, "h w"], depth: Float32[np.ndarray, "h w"], weight: Float32[np.ndarray, "h w"]
    ) -> "_Frame | None":
        """None where nothing, or too little that agrees, is known."""
        use = (weight > 0) & (depth > 0) & np.isfinite(disparity)
        if use.sum() < MIN_PIXELS:
            return None
        d, z, w = (part[use].astype(np.float64) for part in (disparity, depth, weight))
        try:
            line = fit_scale_shift_disparity(d, z, w)
        except ValueError:  # constant or opposite disparity: the frame is not used, and `own` is false
            return None
        if line.inlier_fraction < MIN_INLIERS:
            return None
        return _Frame(disparity=d, inverse=1 / z, weight=w, scale=line.scale, shift=line.shift)

    def information(self, line: Float64[np.ndarray, " 2"]) -> tuple[np.ndarray, np.ndarray]:
        """Normal equations of the line at the robust weights of the present one."""
        robust, sigma = self._robust(line)
        w = self.weight * robust
        w = w / max(w.sum(), 1e-300) * min(_INDEPENDENT, len(w)) / sigma**2
        cross = (w * self.disparity).sum()
        matrix = np.array([[(w * self.disparity**2).sum(), cross], [cross, w.sum()]])
        return matrix, np.array([(w * self.disparity * self.inverse).sum(), (w * self.inverse).sum()])

    def quality(self, line: Float64[np.ndarray, " 2"]) -> tuple[float, float]:
        """Inlier fraction and median relative depth error."""
        robust, _ = self._robust(line)
        seen = np.maximum(line[0] * self.disparity + line[1], 1e-3 * self.inverse)
        inliers = (self.weight * (robust > 0)).sum() / self.weight.sum()
        return float(inliers), float(np.median(np.abs(self.inverse / seen - 1)))

    def _robust(self, line: Float64[np.ndarray, " 2"]) -> tuple[Float64[np.ndarray, " n"], float]:
        miss = line[0] * self.disparity + line[1] - self.inverse
        sigma = max(_SIGMA_OF_MAD * float(np.median(np.abs(miss))), 1e-4 * float(np.median(self.inverse)))
        ratio = miss / (_TUKEY * sigma)
        return np.where(np.abs(ratio) < 1, (1 - ratio**2) ** 2, 0.0), sigma


def _smoothed(
    information: list[tuple[np.ndarray, np.ndarray] | None], unit: Float64[np.ndarray, " 2"], step: float
) -> Float64[np.ndarray, "f 2"]:
    """All lines at once: each frame's own equations, and small changes from frame to frame (a banded system)."""
    count = len(information)
    bands = np.zeros((3, 2 * count))  # diagonal and two below it, unknowns in the order scale, shift, scale, shift, ...
    right = np.zeros(2 * count)
    for frame, own in enumerate(information):
        if own is not None:
            matrix, vector = own
            bands[0, 2 * frame : 2 * frame + 2] += np.diag(matrix)
            bands[1, 2 * frame] += matrix[1, 0]
            right[2 * frame : 2 * frame + 2] += vector
    stiffness = 1 / (step * unit) ** 2
    for k in range(2):
        bands[0, k : 2 * count - 2 : 2] += stiffness[k]
        bands[0, k + 2 :: 2] += stiffness[k]
        bands[2, k : 2 * count - 2 : 2] -= stiffness[k]
    return solveh_banded(bands, right, lower=True).reshape(count, 2)
