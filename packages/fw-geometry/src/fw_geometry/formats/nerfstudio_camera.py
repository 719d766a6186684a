"""The camera model and intrinsics in a transforms.json, as nerfstudio, instant-ngp and Blender scripts write them.

Axis legend: pixel centers at +0.5, K in pixels.
"""

import math
from pathlib import Path
from typing import Any

from fw_geometry.formats.rows import CameraFileError, json_number
from fw_geometry.lenses import Lens

_PERSPECTIVE = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
_FISHEYE = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
_COEFFICIENTS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
_CAMERA = {"camera_model", "is_fisheye", "fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x", "camera_angle_y"}
_SCENE = {"frames", "fps", "caption", "units", "ply_file_path", "integer_depth_scale", "file_path", "transform_matrix"}
_SCENE |= {"depth_file_path", "depth_path", "mask_path"}
# Placement in another program's unit cube, splits and statistics: cameras and images do not depend on them.
_WITHOUT_EFFECT = {
    "applied_transform",
    "applied_scale",
    "aabb_scale",
    "scale",
    "offset",
    "up",
    "from_na",
    "render_aabb",
}
_WITHOUT_EFFECT |= {"train_filenames", "val_filenames", "test_filenames", "orientation_override", "sharpness"}
_WITHOUT_EFFECT |= {"enable_depth_loading", "n_extra_learnable_dims", "colmap_im_id", "aabb", "name"}
_KNOWN = _CAMERA | _SCENE | _WITHOUT_EFFECT | set(_COEFFICIENTS)
_SAME_FOV = 0.05  # relative difference of the focal lengths up to which two fields agree


def read_lens(path: Path, top: dict[str, Any], frame: dict[str, Any], place: str) -> tuple[Lens, tuple[int, int]]:
    """Lens and image size (width, height) of one frame, whose own fields override those at the top of the file.

    Raises:
        CameraFileError: fields that are missing, contradict each other, or describe a camera that is not supported.
    """
    data = top | frame
    width, height = (json_number(path, data, key, place) for key in ("w", "h"))
    if min(width, height) < 1 or width != round(width) or height != round(height):
        raise CameraFileError(path, place, f"size is {width} x {height}, expected whole pixels", "correct w and h")
    fx, fy = _focal(path, top, frame, place, "x", width), _focal(path, top, frame, place, "y", height)
    if fx is None and fy is None:
        raise CameraFileError(path, place, "no 'fl_x', expected a focal length", "add 'fl_x' or 'camera_angle_x'")
    fx, fy = fx or fy, fy or fx
    assert fx is not None
    assert fy is not None
    cx = json_number(path, data, "cx", place) if "cx" in data else width / 2
    cy = json_number(path, data, "cy", place) if "cy" in data else height / 2
    kind, radial, tangential = _distortion(path, data, place)
    lens = Lens(kind=kind, fx=fx, fy=fy, cx=cx, cy=cy, radial=radial, tangential=tangential)
    return lens, (round(width), round(height))


def unused_fields(data: dict[str, Any]) -> set[str]:
    """Fields of the file or of a frame that are not read."""
    return {key for key in data if key not in _KNOWN and not key.startswith("_")}


def _focal(path: Path, top: dict[str, Any], frame: dict[str, Any], place: str, axis: str, size: float) -> float | None:
    """Focal length along one axis in pixels, from fl_x or camera_angle_x; None if the file has neither."""
    key, angle_key = f"fl_{axis}", f"camera_angle_{axis}"
    focal = json_number(path, top | frame, key, place) if key in top or key in frame else None
    if focal is not None and focal <= 0:
        raise CameraFileError(path, place, f"{key!r} is {focal}, expected pixels above zero", f"correct {key}")
    source = frame if angle_key in frame else top
    if angle_key not in source:
        return focal
    angle = json_number(path, source, angle_key, place)
    if not 0 < angle < math.pi:
        problem = f"{angle_key!r} is {angle}, expected 0 to pi"
        raise CameraFileError(path, place, problem, "give the full angle in radians")
    of_angle = size / 2 / math.tan(angle / 2)
    if focal is None:
        return of_angle
    if key in source and abs(of_angle / focal - 1) > _SAME_FOV:
        problem = (
            f"{key} = {focal:g} and {angle_key} = {angle:g} (a focal length of {of_angle:g}) contradict each other"
        )
        raise CameraFileError(path, place, problem, "keep the one that fits the images")
    return focal


def _distortion(path: Path, data: dict[str, Any], place: str) -> tuple[Any, tuple[float, ...], tuple[float, float]]:
    """Kind of the lens, radial and tangential coefficients."""
    model = data.get("camera_model")
    fisheye = bool(data.get("is_fisheye"))
    if model is None:
        model = "OPENCV_FISHEYE" if fisheye else "OPENCV"
    if model not in _PERSPECTIVE + _FISHEYE:
        known = ", ".join(_PERSPECTIVE + _FISHEYE)
        raise CameraFileError(path, place, f"camera_model {model!r}, expected one of {known}", "undistort the images")
    if fisheye and model in _PERSPECTIVE:
        problem = f"is_fisheye is true, camera_model is {model}"
        raise CameraFileError(path, place, problem, "use OPENCV_FISHEYE, or drop is_fisheye")
    value = {key: json_number(path, data, key, place) if key in data else 0.0 for key in _COEFFICIENTS}
    for key in ("distortion_params", "rolling_shutter"):
        given = data.get(key)
        if given is not None and any(given if isinstance(given, list) else [given]):
            raise CameraFileError(path, place, f"{key!r} is {given}, which is not supported", "write k1, k2, p1, p2")
    radial = [value[f"k{i}"] for i in range(1, 7)]
    allowed = 4 if model in _FISHEYE else 6 if model == "FULL_OPENCV" else 3
    extra = [key for i, key in enumerate(_COEFFICIENTS[:6]) if i >= allowed and radial[i]]
    if model in _FISHEYE:
        extra += [key for key in ("p1", "p2") if value[key]]
    if extra:
        problem = f"{extra[0]} = {value[extra[0]]}, which has no fixed meaning for {model}"
        raise CameraFileError(path, place, problem, "use FULL_OPENCV for OpenCV's k4 to k6, or undistort the images")
    while radial and radial[-1] == 0:
        radial.pop()
    return "fisheye" if model in _FISHEYE else "perspective", tuple(radial), (value["p1"], value["p2"])
