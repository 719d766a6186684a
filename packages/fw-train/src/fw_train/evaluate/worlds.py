"""Read the world folders that `fw generate` and `fw-train evaluate` write.

Axis legend: F frames, H W pixels.
"""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from fw_geometry import Trajectory, camera_error
from fw_model.pipeline.result import World
from fw_train.config.schema import ConfigError
from fw_train.metrics.truth import TruthClip

ARRAYS = "geometry.npz"
SUMMARY = "world.json"
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


def read_world(folder: Path) -> World:
    """Read a world from its folder.

    Raises:
        ConfigError: files are missing, unreadable, or differ in length or size.
    """
    try:
        with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
            geometry = {name: arrays[name] for name in arrays.files}
        about = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        frames = [np.asarray(Image.open(path).convert("RGB")) for path in sorted((folder / "images").glob("*.png"))]
        depth = geometry["depth"]
        height, width = depth.shape[1:]
        paths = {
            kind: Trajectory(
                pose_c2w=geometry[f"{kind}pose_c2w"],
                K=geometry[f"{kind}K"],
                width=width,
                height=height,
                units=about["units"],
            )
            for kind in ("", "requested_")
        }
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{folder} is not a complete world ({error}); generate it again") from None
    shapes = {frame.shape for frame in frames}
    if len(frames) != len(depth) or shapes != {(height, width, 3)}:
        raise ConfigError(
            f"{folder}: {len(frames)} images in images/ of sizes {sorted(shapes)}, but depth of {depth.shape}; "
            "generate it again"
        )
    if {len(path) for path in paths.values()} != {len(depth)} or geometry["points"].shape != (*depth.shape, 3):
        raise ConfigError(f"{folder}: depth, points and cameras differ in frames or size; generate it again")
    return World(
        video=np.stack(frames),
        depth=depth,
        depth_confidence=geometry["depth_confidence"].astype(np.float32),
        points=geometry["points"],
        points_confidence=geometry["points_confidence"].astype(np.float32),
        trajectory=paths[""],
        requested=paths["requested_"],
        fps=about["fps"],
        settings=about["settings"],
    )


def common_shape(folder: Path, names: Sequence[str]) -> tuple[int, int, int]:
    """Frames, height and width of worlds, read from world.json; ConfigError if they differ."""
    shapes: dict[tuple[int, ...], str] = {}
    for name in names:
        try:
            about = json.loads((folder / name / SUMMARY).read_text(encoding="utf-8"))
            shape = (int(about["frames"]), int(about["height"]), int(about["width"]))
        except (OSError, KeyError, ValueError) as error:
            raise ConfigError(f"{folder / name / SUMMARY} is unreadable ({error}); generate the world again") from None
        shapes.setdefault(shape, name)
    if len(shapes) > 1:
        (first, one), (second, other) = list(shapes.items())[:2]
        raise ConfigError(
            f"{folder} has worlds of different frames or size: {one} is {_text(first)}, {other} is {_text(second)}; "
            "measure them in separate folders"
        )
    frames, height, width = next(iter(shapes))
    return frames, height, width


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


def _text(shape: tuple[int, ...]) -> str:
    frames, height, width = shape
    return f"{frames} frames of {height}x{width}"
