"""Which format a camera file has, found from its content: the one place for the command line and the service.

Axis legend: none; the readers of the formats convert to camera-to-world, OpenCV axes.
"""

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fw_geometry.camera import Trajectory, intrinsics_from_fov
from fw_geometry.formats.camera_json import read_camera_json, read_transforms_json
from fw_geometry.formats.colmap import read_colmap
from fw_geometry.formats.plausible import foreign_size
from fw_geometry.formats.pose_text import read_kitti, read_realestate10k, read_tum
from fw_geometry.formats.rows import CameraFileError, read_lines
from fw_geometry.formats.tools import (
    ToolPath,
    is_recammaster,
    read_camera_path,
    read_pose_arrays,
    read_pose_matrices,
    read_recammaster,
    read_spatialvid,
)
from fw_geometry.trajectories import DEFAULT_FOV_RAD

CameraFormat = Literal[
    "camera-json",
    "nerfstudio",
    "camera-path",
    "recammaster",
    "realestate10k",
    "tum",
    "kitti",
    "matrices",
    "npz",
    "spatialvid",
    "colmap",
]

_JSON_KEYS: dict[str, CameraFormat] = {
    "cameras_interp": "camera-json",
    "frames": "nerfstudio",
    "camera_path": "camera-path",
}
_COLUMNS: dict[int, CameraFormat] = {19: "realestate10k", 8: "tum", 12: "kitti", 16: "matrices"}
_ARRAYS: dict[str, CameraFormat] = {".npz": "npz", ".npy": "spatialvid"}
KNOWN = (
    "the released camera JSON ('cameras_interp'), nerfstudio's transforms.json ('frames') or camera_path.json "
    "('camera_path'), ReCamMaster's camera_extrinsics.json ('frame0'), text with the 19 columns of RealEstate10K, 8 of "
    "TUM, 12 of KITTI or 16 of a 4x4 matrix (VGGT-Long), a .npz of VGGT, Depth Anything 3 or ViPE, SpatialVID's "
    "poses.npy, or a COLMAP model folder"
)
"""Formats that `read_trajectory` reads, for error messages."""


def detect(path: str | PathLike[str]) -> CameraFormat:
    """The format of a camera file or COLMAP folder.

    Raises:
        CameraFileError: (a ValueError) the content fits no known format.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    if path.is_dir():
        if _model_folder(path) is None:
            raise CameraFileError(path, "folder", "no cameras.bin or cameras.txt", f"give {KNOWN}")
        return "colmap"
    if path.suffix.lower() in _ARRAYS:
        return _ARRAYS[path.suffix.lower()]
    text = "\n".join(read_lines(path))
    found = detect_content(_parsed(path, text) if text.lstrip().startswith("{") else text)
    if found is None:
        widths = _widths(text)
        if len(widths) == 1 and min(widths) > 1:
            raise CameraFileError(path, "content", f"{widths.pop()} columns are no known format", f"give {KNOWN}")
        raise CameraFileError(path, "content", "not a camera file of a known format", f"give {KNOWN}")
    return found


def detect_content(content: str | Mapping[str, Any]) -> CameraFormat | None:
    """The format of the text or JSON object that a camera file holds; None if it fits none.

    Text with rows of different lengths counts as RealEstate10K, whose reader then names the first bad line.
    """
    if isinstance(content, Mapping):
        if is_recammaster(dict(content)):
            return "recammaster"
        return next((found for key, found in _JSON_KEYS.items() if key in content), None)
    columns = _widths(content)
    if max(columns, default=0) < min(_COLUMNS):
        return None
    return _COLUMNS.get(columns.pop()) if len(columns) == 1 else "realestate10k"


def _widths(text: str) -> set[int]:
    """Numbers of columns of the rows, without comments."""
    lines = [line for line in text.removeprefix("\ufeff").splitlines() if not line.lstrip().startswith("#")]
    return {len(line.split()) for line in lines if line.strip()}


def read_trajectory(
    path: str | PathLike[str], *, width: int, height: int, camera: str | None = None, notes: list[str] | None = None
) -> Trajectory:
    """The cameras of a file or COLMAP folder of any known format, for images of width x height.

    Cameras of another image size are fitted: the image is scaled to cover width x height and center-cropped. Distorted
    cameras become the pinhole view of their undistorted images. Files without intrinsics get a vertical field of view
    of `DEFAULT_FOV_RAD`.

    Args:
        path: the file or folder.
        width: image width in pixels.
        height: image height in pixels.
        camera: name of the camera in a file of several (ReCamMaster's); the first if None.
        notes: list to which assumptions are added, such as the field of view.

    Raises:
        CameraFileError: (a ValueError) an unknown format, bad content, or K that belongs to another image size.
        OSError: the file cannot be opened.
    """
    notes = [] if notes is None else notes
    match detect(path):
        case "camera-json":
            return read_camera_json(path, width=width, height=height)
        case "realestate10k":
            found = read_realestate10k(path, width=width, height=height).trajectory
        case "nerfstudio":
            found = read_transforms_json(path, undistort=True).trajectory
        case "colmap":
            folder = _model_folder(Path(path))
            assert folder is not None
            found = read_colmap(folder, undistort=True).trajectory
        case "tum":
            return _without_intrinsics(read_tum(path).pose_c2w, width, height, notes)
        case "kitti":
            return _without_intrinsics(read_kitti(path), width, height, notes)
        case other:
            tool = _tool_path(other, path, width, height, camera, notes)
            if tool.K is None or tool.size is None:
                return _without_intrinsics(tool.pose_c2w, width, height, notes, tool)
            found = Trajectory(
                pose_c2w=tool.pose_c2w, K=tool.K, width=tool.size[0], height=tool.size[1], units=tool.units
            )
    if (problem := foreign_size(found.K, found.width, found.height)) is not None:
        raise CameraFileError(Path(path), "intrinsics", problem, "scale K to the image size in the file")
    return found if (found.width, found.height) == (width, height) else found.fitted(width, height)


def _tool_path(
    kind: str, path: str | PathLike[str], width: int, height: int, camera: str | None, notes: list[str]
) -> ToolPath:
    match kind:
        case "camera-path":
            return read_camera_path(path)
        case "matrices":
            return read_pose_matrices(path)
        case "npz":
            return read_pose_arrays(path)
        case "spatialvid":
            return read_spatialvid(path, width=width, height=height)
    found, names = read_recammaster(path, camera=camera)
    if len(names) > 1:
        notes.append(f"camera {camera or names[0]} of {len(names)} ({', '.join(names)})")
    return found


def _without_intrinsics(
    pose_c2w: np.ndarray, width: int, height: int, notes: list[str], tool: ToolPath | None = None
) -> Trajectory:
    notes.append(f"the file has no intrinsics: a vertical field of view of {np.rad2deg(DEFAULT_FOV_RAD):.0f}° is used")
    K = intrinsics_from_fov(DEFAULT_FOV_RAD, width, height)
    return Trajectory(
        pose_c2w=pose_c2w,
        K=np.repeat(K[None], len(pose_c2w), axis=0),
        width=width,
        height=height,
        units="scene" if tool is None else tool.units,
    )


def _model_folder(path: Path) -> Path | None:
    """The COLMAP model in a folder or in its sparse/0 or sparse."""
    for folder in (path, path / "sparse" / "0", path / "sparse"):
        if any((folder / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt")):
            return folder
    return None


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CameraFileError(path, f"line {error.lineno}", f"not JSON ({error.msg})", "fix the syntax") from error
