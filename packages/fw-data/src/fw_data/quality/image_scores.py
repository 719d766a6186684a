"""Sharpness, burned-in overlays and sky of a clip, from its images alone and without any trained weights.

Each is a heuristic with known limits, which its function states; they are measured on thumbnails, so that they hardly
depend on the stored size. Axis legend: f frames, h height, w width, 3 = RGB.
"""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

_SHARP_SIDE, _OVERLAY_SIDE = 256, 320
SKY_LONG_SIDE = 160
"""Image size for `sky_mask`."""
_LEAST_SIDE = 160
"""Shortest long side at which overlays differ from large soft shapes."""
_FRAMES = 17
"""Frames of a clip that are looked at, spread evenly."""
_EDGE = 10.0
"""Luma per pixel from which a slope counts as an edge of an overlay."""
_SAME_DIRECTION = 0.85
_MOVING = 10.0
"""Standard deviation of luma over time from which a pixel counts as changing."""
_NEIGHBORHOOD = 41
_COLORLESS = 8
"""Saturation (of 255) that 95 % of the pixels of black-and-white footage stay below."""
_BAR = 24.0
"""Luma below which rows and columns at the border count as black bars."""


def some_frames(frames: UInt8[np.ndarray, "f h w 3"], count: int = _FRAMES) -> UInt8[np.ndarray, "g h w 3"]:
    """Frames spread evenly over a clip."""
    return frames[np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int))]


def sharpness(frames: UInt8[np.ndarray, "f h w 3"]) -> float:
    """Median over frames of the variance of the Laplacian of luma, over the variance of luma, at 256 px long side.

    Fine focus errors (below about 2 px of a 640 px image) vanish in the thumbnail; sensor noise counts as detail; a
    sharp image of fog has little to measure.
    """
    values = []
    for frame in some_frames(frames):
        gray = gray_thumbnail(frame, _SHARP_SIDE).astype(np.float32)
        values.append(float(cv2.Laplacian(gray, cv2.CV_32F).var() / max(float(gray.var()), 1.0)))
    return float(np.median(values))


def overlay_fraction(frames: UInt8[np.ndarray, "f h w 3"]) -> float:
    """Share of the image where strong edges stand still while their surroundings change: captions, logos, frames.

    It finds what is bright, sharp and there for nearly the whole clip. It misses small or faint logos, captions that
    come and go, and everything in images under 160 px and before a camera at rest. It does not read: text in the
    scene does not count.
    """
    return float(overlay_mask(frames).mean())


def overlay_mask(frames: UInt8[np.ndarray, "f h w 3"]) -> UInt8[np.ndarray, "h2 w2"]:
    """1 on the overlays of a clip, at 320 px long side, see `overlay_fraction`; black bars are cut off."""
    mask = np.zeros(gray_thumbnail(frames[0], _OVERLAY_SIDE).shape, np.uint8)
    if max(frames.shape[1:3]) < _LEAST_SIDE:
        return mask
    gray = np.stack([gray_thumbnail(frame, _OVERLAY_SIDE) for frame in some_frames(frames)]).astype(np.float32)
    inside = _inside_bars(gray)
    gray = np.ascontiguousarray(gray[:, inside[0], inside[1]])
    if min(gray.shape[1:]) < 16 or len(gray) < 3:
        return mask
    soft = [cv2.GaussianBlur(image, (0, 0), 0.8) for image in gray]
    slope_x = np.stack([cv2.Sobel(image, cv2.CV_32F, 1, 0) / 8 for image in soft])
    slope_y = np.stack([cv2.Sobel(image, cv2.CV_32F, 0, 1) / 8 for image in soft])
    size = np.hypot(slope_x, slope_y)
    lasting = np.quantile(size, 0.1, axis=0) > _EDGE
    same = np.hypot(slope_x.mean(0), slope_y.mean(0)) > _SAME_DIRECTION * size.mean(0)
    changing = (np.stack(soft).std(0) > _MOVING).astype(np.float32)
    still_amid_change = lasting & same & (cv2.blur(changing, (_NEIGHBORHOOD, _NEIGHBORHOOD)) > 0.5)
    closed = cv2.morphologyEx(still_amid_change.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    mask[inside] = closed
    return mask


def sky_fraction(frames: UInt8[np.ndarray, "f h w 3"]) -> float:
    """Share of the image that looks like open sky: smooth, bright, blue or gray, and joined to the upper rim.

    White walls and ceilings that reach the upper rim count as sky; dusk, night and stormy skies do not.
    """
    return float(np.mean([sky_mask(color_thumbnail(frame, SKY_LONG_SIDE)).mean() for frame in some_frames(frames, 5)]))


def sky_mask(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """1 where an image looks like open sky, see `sky_fraction`."""
    soft = cv2.GaussianBlur(image, (0, 0), 1.0)
    hue, saturation, value = (soft_part.astype(int) for soft_part in cv2.split(cv2.cvtColor(soft, cv2.COLOR_RGB2HSV)))
    gray = cv2.cvtColor(soft, cv2.COLOR_RGB2GRAY)
    smooth = np.hypot(cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1)) / 8 < 4.0
    blue = (abs(hue - 105) < 20) & (saturation > 25) & (value > 90)
    limit = 165.0
    if np.quantile(saturation, 0.95) < _COLORLESS:
        # without colors, a blue sky is only brighter than the ground
        limit = max(80.0, 1.3 * float(np.median(value[len(value) // 2 :])))
    pale = (saturation <= 40) & (value > limit)
    candidate = (smooth & (blue | pale)).astype(np.uint8)
    candidate = cv2.morphologyEx(candidate, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(candidate, connectivity=4)
    rim = np.bincount(labels[:2].ravel(), minlength=count)
    keep = (rim > 0.1 * image.shape[1]) & (stats[:, cv2.CC_STAT_AREA] > 0.01 * labels.size)
    keep[0] = False
    return keep[labels].astype(np.uint8)


def gray_thumbnail(frame: UInt8[np.ndarray, "h w 3"], long_side: int) -> UInt8[np.ndarray, "h2 w2"]:
    """Luma of a frame, shrunk (never enlarged) to a long side."""
    return cv2.cvtColor(color_thumbnail(frame, long_side), cv2.COLOR_RGB2GRAY)


def color_thumbnail(frame: UInt8[np.ndarray, "h w 3"], long_side: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """A frame, shrunk (never enlarged) to a long side."""
    scale = long_side / max(frame.shape[:2])
    if scale >= 1:
        return frame
    size = (max(8, round(frame.shape[1] * scale)), max(8, round(frame.shape[0] * scale)))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def _inside_bars(gray: Float32[np.ndarray, "f h w"]) -> tuple[slice, slice]:
    """Rows and columns between black bars."""
    brightest = gray.max(0)
    spans = []
    for axis in (1, 0):
        lit = np.flatnonzero(np.quantile(brightest, 0.95, axis=axis) > _BAR)
        length = brightest.shape[1 - axis]
        if not len(lit):
            return slice(None), slice(None)
        first, last = int(lit[0]), int(lit[-1])
        spans.append(slice(first + 1 if first > 0 else 0, last if last < length - 1 else length))
    return spans[0], spans[1]
