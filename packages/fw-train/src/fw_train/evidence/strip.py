"""The strip image of an evidence report: one row per clip, saved as soon as the clip is generated.

A row shows the first frame, the generated frames at a quarter, half, three quarters and the end, the true last frame,
the depth of the last frame, and the points of all frames from above and behind.
Axis legend: F frames, H W pixels, n points.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fw_core.files import replacing
from fw_geometry.trajectories import look_at
from fw_model.export.depth import colorize
from fw_model.pipeline.result import World
from fw_train.metrics.truth import TruthClip
from fw_train.metrics.warp import splat

STRIP = "strip.png"
_ROWS = "strip"
_GAP = 2
_MOST_POINTS = 200_000


def save_row(out: Path, clip: str, world: World, truth: TruthClip) -> Path:
    """Save a clip's row as `out`/strip/CLIP.png."""
    last = len(world.video) - 1
    shown = [round(last * share / 4) for share in (1, 2, 3, 4)]
    tiles = [truth.video[0], *(world.video[frame] for frame in shown), truth.video[last]]
    tiles += [colorize(world.depth[last]), cloud_image(world)]
    gap = np.full((tiles[0].shape[0], _GAP, 3), 255, np.uint8)
    row = np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1)
    path = out / _ROWS / f"{clip}.png"
    with replacing(path) as partial:
        Image.fromarray(row).save(partial, format="PNG")
    return path


def write_strip(out: Path, clips: Sequence[str]) -> Path:
    """Stack the rows of clips into `out`/strip.png."""
    rows = [_read_row(out / _ROWS / f"{clip}.png") for clip in clips]
    gap = np.full((_GAP, rows[0].shape[1], 3), 255, np.uint8)
    image = np.concatenate([part for row in rows for part in (row, gap)][:-1])
    Image.fromarray(image).save(out / STRIP)
    return out / STRIP


def cloud_image(world: World) -> UInt8[np.ndarray, "H W 3"]:
    """The world's points, from its depth and recovered cameras, seen from behind and above the first camera."""
    height, width = world.depth.shape[1:]
    points = world.points_from_depth().reshape(-1, 3).astype(np.float64)
    color = world.video.reshape(-1, 3)
    if len(points) > _MOST_POINTS:
        some = np.linspace(0, len(points) - 1, _MOST_POINTS).astype(int)
        points, color = points[some], color[some]
    far = float(np.median(world.depth))
    pose = look_at(np.array([0.4, -0.5, -0.6]) * far, np.array([0.0, 0.0, far]))
    image, filled = splat(points, color, world.requested.K[0], pose, height, width)
    return np.where(filled[..., None], image, np.uint8(255))


def _read_row(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
