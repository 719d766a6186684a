"""nerfstudio (and instant-ngp, Blender) scenes: every transforms.json below a folder, with its images and depth.

Frames come in the natural order of their file names. Depth is read where frames name a depth_file_path: times 1e-3 by
default, as nerfstudio reads it.
"""

import json
import re
from pathlib import Path

import numpy as np

from fw_data.errors import DataError
from fw_data.exporters.nerfstudio import DEPTH_UNIT
from fw_data.importers.base import DepthReader, ImageFrames, ImportSettings, Scene, check_size, read_depth_file
from fw_geometry.camera import Trajectory
from fw_geometry.formats import read_transforms_json

_SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".PNG", ".JPG")


def find(root: Path) -> list[Path]:
    """The scene files."""
    return sorted(path for path in root.rglob("transforms*.json") if path.is_file())


def open_scene(path: Path, root: Path, settings: ImportSettings) -> Scene:  # noqa: ARG001 - a file stands for itself
    """The scene of one transforms.json."""
    width = height = None
    data = _read(path)
    listed = data.get("frames")
    rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    if rows and "w" not in data and "w" not in rows[0]:
        first = ImageFrames([_picture(path, rows[0])])
        width, height = first.width, first.height
    scene = read_transforms_json(path, width=width, height=height)
    order = sorted(range(len(rows)), key=lambda i: _natural(scene.file_paths[i]))
    rows = [rows[i] for i in order]
    units = data.get("units") if settings.units == "auto" else settings.units
    cameras = Trajectory(
        pose_c2w=scene.trajectory.pose_c2w[order],
        K=scene.trajectory.K[order],
        width=scene.trajectory.width,
        height=scene.trajectory.height,
        units="metric" if units == "metric" else "scene",
    )
    frames = ImageFrames([_picture(path, row) for row in rows])
    check_size(frames, cameras, str(path))
    fps = data.get("fps", settings.fps)
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1000:
        raise DataError("times", f"{path}: fps is {fps!r}, expected frames per second")
    return Scene(
        frames=frames,
        cameras=cameras,
        time_s=np.arange(len(rows)) / fps,
        depth=_depth(path.parent, [row.get("depth_file_path") for row in rows], settings.depth_unit or DEPTH_UNIT),
        caption=" ".join(str(data.get("caption", "")).split()),
        notes=["masks were not imported"] if any("mask_path" in row for row in rows) else [],
    )


def _depth(folder: Path, names: list[object], unit: float) -> DepthReader | None:
    if not any(names):
        return None

    def read(frame: int) -> np.ndarray | None:
        name = names[frame]
        if not isinstance(name, str):
            return None
        if not (folder / name).is_file():
            raise DataError("depth", f"{folder / name} is missing; bring it back, or drop depth_file_path")
        return read_depth_file(folder / name, unit)

    return read


def _read(path: Path) -> dict[str, object]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError("unreadable", f"{path} is not JSON: {error}") from error
    return data if isinstance(data, dict) else {}


def _picture(path: Path, row: dict[str, object]) -> Path:
    name = str(row.get("file_path"))
    for suffix in _SUFFIXES:
        found = path.parent / (name + suffix)
        if found.is_file():
            return found
    raise DataError("no-frames", f"{path}: there is no picture {name}")


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
