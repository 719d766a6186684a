"""nerfstudio (and instant-ngp, Blender) scenes: every transforms.json below a folder, with its images and depth.

Frames come in the natural order of their file names. Depth is read where frames name a depth_file_path: times 1e-3 by
default, as nerfstudio reads it.
"""

import json
from pathlib import Path

import numpy as np

from fw_core.files import read_text
from fw_data.errors import DataError
from fw_data.exporters.nerfstudio import DEPTH_UNIT
from fw_data.importers.base import DepthReader, ImageFrames, ImportedScene, ImportSettings, read_depth_file
from fw_data.importers.files import locate, numbered_times
from fw_data.importers.undistort import fit_cameras
from fw_geometry.camera import Trajectory
from fw_geometry.formats import read_transforms_json
from fw_geometry.formats.names import natural_key, portable_path


def find(root: Path) -> list[Path]:
    """Every transforms*.json below a folder."""
    return sorted(path for path in root.rglob("transforms*.json") if path.is_file())


def open_scene(path: Path, root: Path, settings: ImportSettings) -> ImportedScene:  # noqa: ARG001
    """The scene of one transforms.json."""
    width = height = None
    data = _read(path)
    listed = data.get("frames")
    rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    if rows and "w" not in data and "w" not in rows[0]:
        first = ImageFrames(locate([path.parent], [str(rows[0].get("file_path"))]))
        width, height = first.width, first.height
    scene = read_transforms_json(path, width=width, height=height, undistort=True)
    order = sorted(range(len(rows)), key=lambda i: natural_key(scene.file_paths[i]))
    rows = [rows[i] for i in order]
    names = [scene.file_paths[i] for i in order]
    units = data.get("units") if settings.units == "auto" else settings.units
    cameras = Trajectory(
        pose_c2w=scene.trajectory.pose_c2w[order],
        K=scene.trajectory.K[order],
        width=scene.trajectory.width,
        height=scene.trajectory.height,
        units="metric" if units == "metric" else "scene",
    )
    frames = ImageFrames(locate([path.parent], names))
    cameras, undistortion = fit_cameras(frames, cameras, [scene.lenses[i] for i in order if scene.lenses], str(path))
    fps = data.get("fps", settings.fps)
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1000:
        raise DataError("times", f"{path}: fps is {fps!r}, expected frames per second")
    time_s, notes = numbered_times(names, fps)
    if any("mask_path" in row for row in rows):
        notes.append("masks were not imported")
    if scene.unused:
        notes.append(f"fields that were not used: {', '.join(scene.unused)}")
    depth = _depth(path.parent, rows, settings.depth_unit or _depth_unit(path, data))
    if undistortion is not None:
        notes.append(undistortion.note)
        depth = None if depth is None else undistortion.depth(depth)
    return ImportedScene(
        frames=frames,
        cameras=cameras,
        time_s=time_s,
        depth=depth,
        caption=" ".join(str(data.get("caption", "")).split()),
        notes=notes,
    )


def _depth_unit(path: Path, data: dict[str, object]) -> float:
    """instant-ngp's integer_depth_scale, else nerfstudio's thousandths."""
    scale = data.get("integer_depth_scale", DEPTH_UNIT)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < float("inf"):
        raise DataError("depth", f"{path}: integer_depth_scale is {scale!r}, expected scene units per stored unit")
    return float(scale)


def _depth(folder: Path, rows: list[dict[str, object]], unit: float) -> DepthReader | None:
    names = [row.get("depth_file_path", row.get("depth_path")) for row in rows]
    if not any(names):
        return None

    def read(frame: int) -> np.ndarray | None:
        name = names[frame]
        if not isinstance(name, str):
            return None
        file = folder / portable_path(name)
        if not file.is_file():
            raise DataError("depth", f"{file} is missing; bring it back, or drop depth_file_path")
        return read_depth_file(file, unit)

    return read


def _read(path: Path) -> dict[str, object]:
    try:
        data = json.loads(read_text(path))
    except ValueError as error:
        raise DataError("unreadable", f"{path} is not JSON: {error}") from error
    return data if isinstance(data, dict) else {}
