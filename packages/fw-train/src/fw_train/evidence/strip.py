"""The images of an evidence report: a strip of the first clips, and one of the number of denoising steps.

Axis legend: F frames, H W pixels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fw_core.files import replacing
from fw_model.export.depth import colorize
from fw_model.pipeline.result import World
from fw_train.metrics.truth import TruthClip

STRIP, STEPS = "strip.png", "steps.png"
_GAP = 2


def write_strip(out: Path, rows: Sequence[tuple[World, TruthClip]]) -> Path:
    """Write strip.png, one row per clip.

    A row shows the first frame, the generated frames at a quarter, half, three quarters and the end, the true last
    frame, the depth of the generated last frame, and the true depth, both in one color scale.
    """
    return _write(out / STRIP, [_row(world, truth) for world, truth in rows])


def write_steps(out: Path, rows: Sequence[tuple[Mapping[int, World], TruthClip]]) -> Path:
    """Write steps.png, one row per clip: the first frame, the last frame by number of steps, the true last frame."""
    tiles = [
        [truth.video[0], *(worlds[steps].video[-1] for steps in sorted(worlds)), truth.video[-1]]
        for worlds, truth in rows
    ]
    return _write(out / STEPS, tiles)


def _row(world: World, truth: TruthClip) -> list[UInt8[np.ndarray, "H W 3"]]:
    last = len(world.video) - 1
    shown = [round(last * share / 4) for share in (1, 2, 3, 4)]
    generated, true = colorize(np.stack([world.depth[last], truth.depth[last]]))
    return [truth.video[0], *(world.video[frame] for frame in shown), truth.video[last], generated, true]


def _write(path: Path, rows: Sequence[Sequence[UInt8[np.ndarray, "H W 3"]]]) -> Path:
    height = rows[0][0].shape[0]
    between = np.full((height, _GAP, 3), 255, np.uint8)
    joined = [np.concatenate([part for tile in row for part in (tile, between)][:-1], axis=1) for row in rows]
    below = np.full((_GAP, joined[0].shape[1], 3), 255, np.uint8)
    with replacing(path) as partial:
        Image.fromarray(np.concatenate([part for row in joined for part in (row, below)][:-1])).save(partial, "PNG")
    return path
