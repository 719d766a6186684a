"""Folders that the earlier 1.3B reproduction of FantasyWorld trains from; `fw-data export --format legacy` writes them.

metadata.json lists videos with a prompt, depth and cameras; see fw_data.exporters.legacy for the files. The arrays of
points are not read: depth and cameras give them. K is taken as divided by the size of the frames.
Axis legend: f frames, h height, w width.
"""

from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from fw_core.files import read_text
from fw_data.errors import DataError
from fw_data.importers.base import DepthReader, ImportedScene, ImportSettings, VideoFrames, check_size
from fw_geometry.formats import read_realestate10k
from fw_geometry.formats.names import portable_path

LIST_NAME = "metadata.json"
_Path = Annotated[str, Field(min_length=1)]


class LegacyRow(BaseModel):
    """One video of metadata.json; paths are relative to its folder."""

    video: _Path
    camera_params: _Path
    depth: _Path | None = None
    prompt: str = ""


def find(root: Path) -> list[Path]:
    """The videos of the list; raises DataError when it is not one, or names a video twice or outside the folder."""
    path = root / LIST_NAME
    if not path.is_file():
        return []
    found = list(_rows(path, path.stat().st_mtime_ns))
    return [root / name for name in found]


def open_scene(path: Path, root: Path, settings: ImportSettings) -> ImportedScene:
    """The scene of one video."""
    listed = root / LIST_NAME
    row = _rows(listed, listed.stat().st_mtime_ns)[path.relative_to(root).as_posix()]
    if not path.is_file():
        raise DataError("no-frames", f"{path} is missing; bring it back, or take it out of {LIST_NAME}")
    frames = VideoFrames(path)
    units = "metric" if settings.units == "metric" else "scene"
    file = root / _inside(root, row.camera_params)
    cameras = read_realestate10k(file, width=frames.width, height=frames.height, units=units).trajectory
    check_size(frames, cameras, row.video)
    return ImportedScene(
        frames=frames,
        cameras=cameras,
        time_s=frames.time_s,
        depth=None
        if row.depth is None
        else _depth(root / _inside(root, row.depth), frames, settings.depth_unit or 1.0),
        caption=" ".join(row.prompt.split()),
    )


def _depth(path: Path, frames: VideoFrames, unit: float) -> DepthReader:
    """One frame after another of a (f, h, w) array, which may be larger than memory."""
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError("depth", f"{path} does not read: {error}") from error
    expected = (frames.count, frames.height, frames.width)
    if stored.shape != expected:
        raise DataError("depth", f"{path} has shape {stored.shape}, expected one number per pixel of {expected}")

    def read(frame: int) -> np.ndarray:
        scaled = stored[frame].astype(np.float64) * unit
        return np.where(np.isfinite(scaled) & (scaled > 0), scaled, 0).astype(np.float32)

    return read


@lru_cache(maxsize=1)
def _rows(path: Path, changed_ns: int) -> dict[str, LegacyRow]:  # noqa: ARG001 - read again when it has changed
    try:
        rows = TypeAdapter(list[LegacyRow]).validate_json(read_text(path))
    except ValidationError as error:
        raise DataError("unreadable", f"{path} is no list of videos: {' '.join(str(error).split())}") from error
    found: dict[str, LegacyRow] = {}
    for row in rows:
        name = _inside(path.parent, row.video)
        if name in found:
            raise DataError("unreadable", f"{path} lists {name} twice; list every video once")
        found[name] = row
    return found


def _inside(root: Path, name: str) -> str:
    """A path of the list relative to the folder; DataError when it leads out of it."""
    full = (root / portable_path(name)).resolve()
    if root.resolve() not in full.parents:
        raise DataError("outside", f"{root / LIST_NAME}: {name} leads out of the folder")
    return full.relative_to(root.resolve()).as_posix()
