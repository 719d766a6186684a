"""Cheap scores of a clip, and the clips they turn away before any geometry is paid for.

Axis legend: f frames, h height, w width, 3 = RGB.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from fw_data.quality.image_scores import gray_thumbnail, overlay_fraction, sharpness, sky_fraction

LONG_SIDE = 160
"""Scores are taken on thumbnails of this long side, so that they do not depend on the stored size."""
_PAIRS = 10
_TEXTURE = 8.0


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Limits of the cheap filters; set one to 0 to switch it off."""

    min_brightness: float = 16.0
    """Mean luma (0-255) below which a clip is too dark."""
    min_contrast: float = 4.0
    """Standard deviation of luma (0-255) inside frames, below which a clip shows nothing."""
    min_motion_px: float = 0.4
    """Optical flow (pixels at 160 px long side) between frames a fifth of the clip apart, below which it is still."""
    min_sharpness: float = 0.008
    """Sharpness (see image_scores.sharpness) below which a clip is out of focus or smeared."""
    max_overlay: float = 0.03
    """Share of the image under captions and logos (see image_scores.overlay_fraction) above which it is covered."""


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """Why a clip is not wanted."""

    code: str
    """Short and stable."""
    reason: str
    """Measured value and limit."""


def score(frames: UInt8[np.ndarray, "f h w 3"]) -> dict[str, float]:
    """Brightness, contrast, motion, sharpness, overlay and sky of a clip (see dataset.schema.SCORES)."""
    gray = np.stack([gray_thumbnail(frame, LONG_SIDE) for frame in frames])
    return {
        "brightness": float(gray.mean()),
        "contrast": float(np.median(gray.reshape(len(gray), -1).std(axis=1))),
        "motion_px": _motion(gray),
        "sharpness": sharpness(frames),
        "overlay_fraction": overlay_fraction(frames),
        "sky_fraction": sky_fraction(frames),
    }


def reject(scores: dict[str, float], config: FilterConfig) -> Rejection | None:
    """The first filter that a clip with these scores does not pass."""
    if scores["brightness"] < config.min_brightness:
        return Rejection(
            code="too-dark", reason=f"mean brightness {scores['brightness']:.1f} is below {config.min_brightness:g}"
        )
    if scores["contrast"] < config.min_contrast:
        return Rejection(code="no-detail", reason=f"contrast {scores['contrast']:.1f} is below {config.min_contrast:g}")
    if scores["motion_px"] < config.min_motion_px:
        return Rejection(
            code="no-motion",
            reason=f"motion {scores['motion_px']:.2f} px is below {config.min_motion_px:g} px: the camera is still",
        )
    if scores["sharpness"] < config.min_sharpness:
        return Rejection(
            code="blurred", reason=f"sharpness {scores['sharpness']:.4f} is below {config.min_sharpness:g}"
        )
    if config.max_overlay and scores["overlay_fraction"] > config.max_overlay:
        share = f"{scores['overlay_fraction']:.1%} of the image"
        return Rejection(code="overlay", reason=f"{share} looks like captions or logos; {config.max_overlay:.1%} may")
    return None


def _motion(gray: UInt8[np.ndarray, "f h w"]) -> float:
    """Upper quintile over frame pairs of the median flow of textured pixels, in thumbnail pixels.

    The median ignores things that move in front of a camera at rest; the quintile accepts a camera that rests at times.
    """
    gap = max(1, (len(gray) - 1) // 5)
    flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    medians = []
    starts = np.linspace(0, len(gray) - 1 - gap, _PAIRS).round().astype(int)
    for first in np.unique(starts):
        before, after = gray[first], gray[first + gap]
        if min(before.shape) < 16:
            continue
        slope = np.hypot(cv2.Sobel(before, cv2.CV_32F, 1, 0), cv2.Sobel(before, cv2.CV_32F, 0, 1)) / 8
        textured = slope > _TEXTURE
        if textured.sum() < 32:
            textured = slope >= np.quantile(slope, 0.9)
        flow = flow_of.calc(before, after, np.zeros((*before.shape, 2), np.float32))
        medians.append(float(np.median(np.hypot(flow[..., 0], flow[..., 1])[textured])))
    return float(np.quantile(medians, 0.8)) if medians else 0.0
