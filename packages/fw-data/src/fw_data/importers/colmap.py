"""COLMAP workspaces: every sparse model (text or binary) below a folder, with images/ and, after dense stereo, depth.

A model in sparse/0, sparse or beside the images belongs to the workspace that has images/. Frames come in the order of
their names. Depth is COLMAP's stereo/depth_maps/NAME.geometric.bin, or .photometric.bin where that is missing.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from fw_data.errors import DataError
from fw_data.importers.base import DepthReader, ImageFrames, ImportedScene, ImportSettings
from fw_data.importers.files import DOWNSCALED, locate, numbered_times
from fw_data.importers.undistort import fit_cameras
from fw_geometry.formats import ColmapModel, read_colmap_rig


def find(root: Path) -> list[Path]:
    """The model folders; of a workspace with a dense/ folder only the undistorted model in it."""
    models = {path.parent for name in ("cameras.bin", "cameras.txt") for path in root.rglob(name)}
    models = {path for path in models if (path / "images.bin").is_file() or (path / "images.txt").is_file()}
    dense = {parent for path in models for parent in path.parents if parent.name == "dense" and root in parent.parents}
    return sorted(
        path
        for path in models
        if not any(folder.parent in path.parents and folder not in path.parents for folder in dense)
    )


def open_scene(path: Path, root: Path, settings: ImportSettings) -> list[ImportedScene]:
    """The scenes of one model: one per camera of a rig."""
    workspace = next((p for p in (path, *path.parents) if _image_folders(p)), None)
    if workspace is None or not workspace.resolve().is_relative_to(root.resolve()):
        raise DataError("no-frames", f"{path}: no images/ beside the model or above it")
    return [
        _scene(name, model, path, workspace, settings) for name, model in read_colmap_rig(path, undistort=True).items()
    ]


def _scene(name: str, model: ColmapModel, path: Path, workspace: Path, settings: ImportSettings) -> ImportedScene:
    cameras = replace(model.trajectory, units="metric" if settings.units == "metric" else "scene")
    # names are relative to images/; ViPE and some scripts write them relative to the workspace
    frames = ImageFrames(locate([*_image_folders(workspace), workspace], model.names))
    cameras, undistortion = fit_cameras(frames, cameras, model.lenses, str(path))
    time_s, notes = numbered_times(model.names, settings.fps)
    depth = _depth(workspace / "stereo" / "depth_maps", list(model.names), settings.depth_unit or 1.0)
    if undistortion is not None:
        notes.append(undistortion.note)
        depth = None if depth is None else undistortion.depth(depth)
    return ImportedScene(frames=frames, cameras=cameras, time_s=time_s, depth=depth, notes=notes, name=name)


def _image_folders(workspace: Path) -> list[Path]:
    return [folder for name in ("images", "input", *DOWNSCALED) if (folder := workspace / name).is_dir()]


def read_array(path: Path) -> np.ndarray:
    """COLMAP's array file as (h, w) float32; DataError when it is torn."""
    data = path.read_bytes()
    parts = data[:64].split(b"&", 3)
    try:
        width, height, channels = (int(part) for part in parts[:3])
    except ValueError as error:
        raise DataError("depth", f"{path} is not a COLMAP array file") from error
    start = sum(len(part) + 1 for part in parts[:3])
    if channels != 1 or len(data) - start != 4 * width * height:
        raise DataError("depth", f"{path} declares {width}x{height}x{channels}, but holds {len(data) - start} bytes")
    return np.frombuffer(data, "<f4", offset=start).reshape(height, width)


def _depth(folder: Path, names: list[str], unit: float) -> DepthReader | None:
    files = [
        next((p for kind in ("geometric", "photometric") if (p := folder / f"{name}.{kind}.bin").is_file()), None)
        for name in names
    ]
    if not any(files):
        return None

    def read(frame: int) -> np.ndarray | None:
        file = files[frame]
        if file is None:
            return None
        depth = read_array(file) * np.float32(unit)
        return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0)).astype(np.float32)

    return read
