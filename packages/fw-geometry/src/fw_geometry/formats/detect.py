"""Which format a camera file has, found from its content: the one place for the command line and the service.

Axis legend: none; the readers of the formats convert to camera-to-world, OpenCV axes.
"""

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from fw_geometry.camera import Trajectory
from fw_geometry.formats.camera_json import read_camera_json, read_transforms_json
from fw_geometry.formats.colmap import read_colmap
from fw_geometry.formats.pose_text import read_realestate10k
from fw_geometry.formats.rows import CameraFileError, read_lines

CameraFormat = Literal["camera-json", "nerfstudio", "realestate10k", "tum", "kitti", "colmap"]

_JSON_KEYS: dict[str, CameraFormat] = {"cameras_interp": "camera-json", "frames": "nerfstudio"}
_COLUMNS: dict[int, CameraFormat] = {19: "realestate10k", 8: "tum", 12: "kitti"}
KNOWN = (
    "the released camera JSON ('cameras_interp'), nerfstudio's transforms.json ('frames'), RealEstate10K text "
    "(19 columns), or a COLMAP model folder"
)
"""Formats with intrinsics, for error messages."""


def detect(path: str | PathLike[str]) -> CameraFormat:
    """The format of a camera file or COLMAP folder.

    Raises:
        CameraFileError: (a ValueError) the content fits no known format.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    if path.is_dir():
        return "colmap"
    text = "\n".join(read_lines(path))
    found = detect_content(_parsed(path, text) if text.lstrip().startswith("{") else text)
    if found is None:
        raise CameraFileError(path, "content", "not a camera file of a known format", f"give {KNOWN}")
    return found


def detect_content(content: str | Mapping[str, Any]) -> CameraFormat | None:
    """The format of the text or JSON object that a camera file holds; None if it fits none.

    Text with rows of numbers counts as RealEstate10K unless every row has the 8 columns of TUM or the 12 of KITTI, so
    that the reader of RealEstate10K names the first bad line.
    """
    if isinstance(content, Mapping):
        return next((found for key, found in _JSON_KEYS.items() if key in content), None)
    rows = [line.split() for line in content.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    columns = {len(row) for row in rows}
    if max(columns, default=0) < min(_COLUMNS):
        return None
    return _COLUMNS.get(columns.pop(), "realestate10k") if len(columns) == 1 else "realestate10k"


def read_trajectory(path: str | PathLike[str], *, width: int, height: int) -> Trajectory:
    """The cameras of a file or COLMAP folder of any format with intrinsics, for images of width x height.

    Cameras of another image size are fitted: the image is scaled to cover width x height and center-cropped.

    Raises:
        CameraFileError: (a ValueError) an unknown format, one without intrinsics (TUM, KITTI), or bad content.
        OSError: the file cannot be opened.
    """
    match detect(path):
        case "camera-json":
            return read_camera_json(path, width=width, height=height)
        case "realestate10k":
            return read_realestate10k(path, width=width, height=height).trajectory
        case "nerfstudio":
            return read_transforms_json(path).trajectory.fitted(width, height)
        case "colmap":
            return read_colmap(path).trajectory.fitted(width, height)
        case other:
            raise CameraFileError(Path(path), "line 1", f"{other.upper()} text has no intrinsics", f"give {KNOWN}")


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CameraFileError(path, f"line {error.lineno}", f"not JSON ({error.msg})", "fix the syntax") from error
