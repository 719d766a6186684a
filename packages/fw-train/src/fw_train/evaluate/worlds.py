"""Find world folders and check that they fit their clips."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fw_geometry import camera_error
from fw_model.export.reader import ARRAYS, read_shape
from fw_model.pipeline.result import World
from fw_train.config.schema import ConfigError
from fw_train.metrics.truth import TruthClip

_OTHER_PATH_DEG = (1.0, 5.0)
"""Largest rotation and direction error between a world's requested path and the path of its clip."""


def find_worlds(folder: Path) -> list[str]:
    """Sorted names of the world folders in `folder`.

    Raises:
        ConfigError: the folder does not exist or has no worlds.
    """
    if not folder.is_dir():
        raise ConfigError(f"--worlds {folder} is not a folder")
    names = sorted(path.parent.name for path in folder.glob(f"*/{ARRAYS}") if not path.parent.name.startswith("."))
    if not names:
        one = " (it is a single world: give its parent folder)" if (folder / ARRAYS).is_file() else ""
        raise ConfigError(f"--worlds {folder} has no folder with a {ARRAYS}{one}; name each folder by its clip id")
    return names


def common_shape(folder: Path, names: Sequence[str]) -> tuple[int, int, int]:
    """Frames, height and width of worlds; ConfigError if they differ."""
    shapes: dict[tuple[int, int, int], str] = {}
    for name in names:
        try:
            shapes.setdefault(read_shape(folder / name), name)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    if len(shapes) > 1:
        (first, one), (second, other) = list(shapes.items())[:2]
        raise ConfigError(
            f"{folder} has worlds of different frames or size: {one} is {_text(first)}, {other} is {_text(second)}; "
            "measure them in separate folders"
        )
    return next(iter(shapes))


def in_scene_units(world: World) -> World:
    """The world with lengths divided by the `scene_scale` of its generation."""
    scale = float(world.settings.get("scene_scale", 1.0))
    return replace(
        world,
        depth=world.depth / np.float32(scale),
        points=world.points / np.float32(scale),
        trajectory=world.trajectory.scaled(1 / scale),
        requested=world.requested.scaled(1 / scale),
    )


def check_same_path(folder: Path, world: World, truth: TruthClip) -> None:
    """Raise ConfigError if the requested path of a world is not the path of its clip."""
    if len(world.requested) < 2:
        return
    error = camera_error(world.requested.pose_c2w, truth.trajectory.pose_c2w)
    rotation, direction = _OTHER_PATH_DEG
    if error.rotation_deg > rotation or error.translation_deg > direction:
        raise ConfigError(
            f"{folder} was not generated for the camera path of clip {truth.record.id} (rotation differs by "
            f"{error.rotation_deg:.1f} deg, direction by {error.translation_deg:.1f} deg), so frames cannot match; "
            "generate it for the clip's cameras, or rename its folder to the right clip id"
        )


def _text(shape: tuple[int, int, int]) -> str:
    frames, height, width = shape
    return f"{frames} frames of {height}x{width}"
