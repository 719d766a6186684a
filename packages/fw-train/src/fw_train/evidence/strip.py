"""The strip of an evidence report: one row per clip, first to last, each written when its clip is generated.

A row: first frame, generated frames at a quarter, half, three quarters and the end, the true last frame, the depth of
the last frame, and the points of all frames from above and behind. Axis legend: F frames, H W pixels, n points.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

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
    """Draw a clip's row into `out`/strip."""
    last = len(world.video) - 1
    shown = [round(last * share / 4) for share in (1, 2, 3, 4)]
    tiles = [truth.video[0], *(world.video[frame] for frame in shown), truth.video[last]]
    tiles += [colorize(world.depth[last]), cloud_picture(world)]
    gap = np.full((tiles[0].shape[0], _GAP, 3), 255, np.uint8)
    row = np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1)
    path = out / _ROWS / f"{clip}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    Image.fromarray(row).save(partial, format="PNG")
    partial.replace(path)
    return path


def write_strip(out: Path, clips: Sequence[str]) -> Path:
    """Put the rows of clips under each other into `out`/strip.png."""
    rows = [_picture(out / _ROWS / f"{clip}.png") for clip in clips]
    gap = np.full((_GAP, rows[0].shape[1], 3), 255, np.uint8)
    picture = np.concatenate([part for row in rows for part in (row, gap)][:-1])
    Image.fromarray(picture).save(out / STRIP)
    return out / STRIP


def cloud_picture(world: World) -> UInt8[np.ndarray, "H W 3"]:
    """The world's points, from its depth and recovered cameras, seen from behind and above the first camera."""
    height, width = world.depth.shape[1:]
    points = world.points_from_depth().reshape(-1, 3).astype(np.float64)
    colour = world.video.reshape(-1, 3)
    if len(points) > _MOST_POINTS:
        some = np.linspace(0, len(points) - 1, _MOST_POINTS).astype(int)
        points, colour = points[some], colour[some]
    far = float(np.median(world.depth))
    pose = look_at(np.array([0.4, -0.5, -0.6]) * far, np.array([0.0, 0.0, far]))
    picture, filled = splat(points, colour, world.requested.K[0], pose, height, width)
    return np.where(filled[..., None], picture, np.uint8(255))


def _picture(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
