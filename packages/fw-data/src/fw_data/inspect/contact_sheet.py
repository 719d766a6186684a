"""One image that shows a whole clip: RGB, depth, confidence and masks of some frames, and the camera path from above.

Axis legend: f frames, h height, w width, 3 = RGB. The plan view looks down the y axis of the first camera: x to the
right, z (where the first camera looks) upwards.
"""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

from fw_data.dataset.clip import Clip
from fw_data.dataset.schema import ClipRecord

COLUMNS = 6
_THUMBNAIL = 208
_LABELS = 104
_HEADER = 62
_GAP = 6
_Image = Callable[[int], np.ndarray]
_Pixel = Callable[[np.ndarray], np.ndarray]
_INK, _PAPER, _FAINT = (28, 28, 30), (255, 255, 255), (112, 112, 118)
_NIGHT, _LIGHT, _ACCENT = (38, 40, 48), (236, 236, 240), (255, 112, 67)
_SKY = (79, 163, 255)


def contact_sheet(clip: Clip, record: ClipRecord) -> Image.Image:
    """The sheet of a clip; frames are spread evenly over it."""
    frames, height, width = clip.depth_m.shape
    shown = np.unique(np.linspace(0, frames - 1, COLUMNS).round().astype(int))
    scale = _THUMBNAIL / max(height, width)
    cell = (max(1, round(width * scale)), max(1, round(height * scale)))
    near, far = depth_range(clip.depth_m)
    ramp = np.linspace(0, 1, 88, dtype=np.float32)[None]
    rows: list[tuple[str, str, _Image, np.ndarray | None]] = [
        ("RGB", "", lambda frame: clip.video[frame], None),
        (
            "Depth",
            f"{near:.3g} to {far:.3g}\n{unit_name(clip.units)}",
            lambda frame: color_depth(clip.depth_m[frame], near, far),
            color_depth(near * (far / near) ** ramp, near, far),
        ),
        (
            "Confidence",
            "0 to 1",
            lambda frame: color_confidence(clip.confidence[frame]),
            color_confidence(ramp),
        ),
    ]
    moving, sky = clip.moving, clip.sky
    if moving is not None and sky is not None:
        rows.append(
            (
                "Masks",
                "moving: orange\nsky: blue",
                lambda frame: color_masks(clip.video[frame], moving[frame], sky[frame]),
                None,
            )
        )
    plan_side = max(len(rows) * (cell[1] + _GAP) - _GAP, 260)
    total_width = _LABELS + COLUMNS * (cell[0] + _GAP) + plan_side + 2 * _GAP
    sheet = Image.new("RGB", (total_width, _HEADER + plan_side + 30), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _header(draw, record)
    for row, (name, note, image_of, legend) in enumerate(rows):
        top = _HEADER + row * (cell[1] + _GAP)
        draw.text((_GAP, top), name, fill=_INK, font=_font(15))
        draw.text((_GAP, top + 20), note, fill=_FAINT, font=_font(12))
        if legend is not None and cell[1] > 84:
            _paste(sheet, legend, (88, 10), (_GAP, top + 58))
        for column, frame in enumerate(shown):
            _paste(sheet, image_of(frame), cell, (_LABELS + column * (cell[0] + _GAP), top))
    for column, frame in enumerate(shown):
        left = _LABELS + column * (cell[0] + _GAP)
        draw.text((left, _HEADER + len(rows) * (cell[1] + _GAP)), f"frame {frame}", fill=_FAINT, font=_font(12))
    _plan(sheet, clip, (total_width - plan_side - _GAP, _HEADER), plan_side)
    return sheet


def color_depth(depth_m: Float32[np.ndarray, "h w"], near: float, far: float) -> UInt8[np.ndarray, "h w 3"]:
    """Depth in colors, logarithmic from near (red) to far (blue); gray = no depth."""
    span = max(np.log(far / near), 1e-6)
    position = 1 - np.clip(np.log(np.maximum(depth_m, 1e-12) / near) / span, 0, 1)
    colors = cv2.applyColorMap((position * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    return np.where((depth_m > 0)[..., None], colors, np.uint8(96)).astype(np.uint8)


def color_confidence(confidence: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Confidence in colors, from 0 (dark violet) to 1 (yellow)."""
    levels = (np.clip(confidence, 0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[..., ::-1])


def color_masks(
    frame: UInt8[np.ndarray, "h w 3"], moving: Bool[np.ndarray, "h w"], sky: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """A frame in dim gray, with what moves in orange and the sky in blue."""
    dim = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) // 2)[..., None].repeat(3, -1)
    dim[sky], dim[moving] = _SKY, _ACCENT
    return dim


def depth_range(depth_m: Float32[np.ndarray, "f h w"]) -> tuple[float, float]:
    """Near and far end of the colors: the 1st and 97th percentile of valid depth, (1, 2) without any."""
    valid = depth_m[depth_m > 0]
    if not valid.size:
        return 1.0, 2.0
    near, far = (float(value) for value in np.percentile(valid, (1, 97)))
    return near, max(far, near * 1.01)


def unit_name(units: str) -> str:
    """Label of a length."""
    return "m" if units == "metric" else "scene units"


def _header(draw: ImageDraw.ImageDraw, record: ClipRecord) -> None:
    end = record.start_frame + (record.source_frames or record.num_frames)
    tags = "   " + ", ".join(record.motion_tags) if record.motion_tags else ""
    first = f"{record.source}  [{record.start_frame}:{end}]   grade {record.grade}{tags}"
    scores = record.scores
    second = (
        f"{record.num_frames} frames, {record.width}x{record.height}, {record.fps:.4g} fps, {record.backend}"
        f"   reprojection error {scores.get('reprojection_error', float('nan')):.2%}"
        f"   coverage {scores.get('coverage', float('nan')):.0%}"
        f"   posed {scores.get('posed_fraction', float('nan')):.0%}"
        f"   motion {scores.get('motion_px', float('nan')):.1f} px"
    )
    draw.text((_GAP, 6), first, fill=_INK, font=_font(18))
    draw.text((_GAP, 34), second, fill=_FAINT, font=_font(13))


def _paste(sheet: Image.Image, image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], at: tuple[int, int]) -> None:
    stored = Image.fromarray(np.ascontiguousarray(image))
    smaller = size[0] < stored.width
    sheet.paste(stored.resize(size, Image.Resampling.LANCZOS if smaller else Image.Resampling.NEAREST), at)


def _plan(sheet: Image.Image, clip: Clip, corner: tuple[int, int], side: int) -> None:
    """The camera path and the colored points from above."""
    panel = Image.new("RGB", (side, side), _NIGHT)
    draw = ImageDraw.Draw(panel)
    centers = clip.pose_c2w[:, :3, 3]
    points, colors = _some_points(clip)
    reach = np.concatenate([centers[:, (0, 2)], np.percentile(points[:, (0, 2)], (4, 96), axis=0)])
    middle = (reach.max(0) + reach.min(0)) / 2
    extent = max(float((reach.max(0) - reach.min(0)).max()), 1e-9) * 1.12

    def pixel(ground: np.ndarray) -> np.ndarray:
        flat = (ground - middle) / extent * side
        return np.stack([side / 2 + flat[..., 0], side / 2 - flat[..., 1]], -1)

    at = pixel(points[:, (0, 2)]).astype(int)
    inside = ((at >= 0) & (at < side)).all(1)
    pixels = np.asarray(panel).copy()
    pixels[at[inside, 1], at[inside, 0]] = colors[inside]
    panel = Image.fromarray(pixels)
    draw = ImageDraw.Draw(panel)
    track = [tuple(map(float, xy)) for xy in pixel(centers[:, (0, 2)])]
    draw.line(track, fill=_ACCENT, width=3)
    for frame in np.unique(np.linspace(0, len(centers) - 1, COLUMNS).round().astype(int)):
        _frustum(draw, clip, int(frame), pixel, extent)
    draw.ellipse([track[0][0] - 4, track[0][1] - 4, track[0][0] + 4, track[0][1] + 4], fill=_ACCENT)
    _scale_bar(draw, side, extent, unit_name(clip.units))
    _note(draw, (8.0, 6.0), "from above (dot = first frame)")
    sheet.paste(panel, corner)


def _frustum(draw: ImageDraw.ImageDraw, clip: Clip, frame: int, pixel: _Pixel, extent: float) -> None:
    width = clip.video.shape[2]
    K, pose = clip.K[frame], clip.pose_c2w[frame]
    length = 0.07 * extent
    edges = np.array([[(u - K[0, 2]) / K[0, 0], 0.0, 1.0] for u in (0, width)]) * length
    corners = pixel((pose[:3, 3] + edges @ pose[:3, :3].T)[:, (0, 2)])
    tip = tuple(map(float, pixel(pose[(0, 2), 3])))
    outline = [tip, tuple(map(float, corners[0])), tuple(map(float, corners[1])), tip]
    draw.line(outline, fill=_LIGHT, width=1)


def _scale_bar(draw: ImageDraw.ImageDraw, side: int, extent: float, unit: str) -> None:
    rough = extent / 4
    step = 10.0 ** np.floor(np.log10(rough))
    length = step * max(n for n in (1, 2, 5) if n * step <= rough)
    left, top, right = 10.0, side - 12.0, 10.0 + length / extent * side
    draw.line([(left, top), (right, top)], fill=_LIGHT, width=2)
    _note(draw, (left, top - 19), f"{length:g} {unit}")


def _note(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str) -> None:
    left, top, right, bottom = draw.textbbox(at, text, font=_font(12))
    draw.rectangle([left - 3, top - 2, right + 3, bottom + 2], fill=_NIGHT)
    draw.text(at, text, fill=_LIGHT, font=_font(12))


def _some_points(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """A few ten thousand confident points of frames spread over the clip, and their colors."""
    frames = np.unique(np.linspace(0, len(clip) - 1, COLUMNS).round().astype(int))
    step = max(1, int(np.sqrt(clip.depth_m[0].size / 8000)))
    known = (clip.valid & (clip.confidence >= 0.3))[frames, ::step, ::step]
    if not known.any():
        return clip.pose_c2w[:, :3, 3], np.zeros((len(clip), 3), np.uint8)
    points = clip.points_world[frames, ::step, ::step][known]
    return points, clip.video[frames, ::step, ::step][known]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
