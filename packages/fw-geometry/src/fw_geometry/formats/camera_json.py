"""Camera paths in JSON: the released FantasyWorld camera file and nerfstudio's transforms.json, read and written.

Axis legend: inside, poses are camera-to-world with OpenCV axes (x right, y down, z forward) and pixel centers at +0.5.
The released file is camera-to-world with OpenCV axes too, with K in the convention that pixel centers are whole
numbers. nerfstudio is camera-to-world with OpenGL axes (x right, y up, z backward) and pixel centers at +0.5.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from fw_geometry.camera import Trajectory, Units
from fw_geometry.checks import check_size
from fw_geometry.formats.names import portable_path
from fw_geometry.formats.nerfstudio_camera import read_lens, unused_fields
from fw_geometry.formats.rows import CameraFileError, json_list, json_number, json_pose, read_json_object
from fw_geometry.lenses import Lens, pinhole_view

OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
"""pose_c2w_opengl = pose_c2w_opencv @ OPENGL_FROM_OPENCV, and back with the same matrix."""


def released_intrinsics(focal_length: float | int, width: int, height: int) -> np.ndarray:
    """K (3, 3) as the released code makes it: square pixels, principal point ((W - 1) / 2, (H - 1) / 2).

    That is the image center where pixel centers are whole numbers. In this project's convention (centers at +0.5) the
    same ray is (W / 2, H / 2), which is also what the release ends with after its pose encoding.
    """
    check_size("released_intrinsics", width, height)
    return np.array([[focal_length, 0.0, (width - 1) / 2], [0.0, focal_length, (height - 1) / 2], [0.0, 0.0, 1.0]])


def read_camera_json(
    path: str | PathLike[str], *, width: int, height: int, frames: int | None = None, units: Units = "scene"
) -> Trajectory:
    """Read the released FantasyWorld camera file (FantasyWorld 2.11).

    `focal_length` (pixels of the output) and `cameras_interp` (4x4 camera-to-world per frame) are read; `cameras` and
    `scale` are not, as in the release.

    Args:
        path: the JSON file.
        width: output width in pixels.
        height: output height in pixels.
        frames: take the first `frames` cameras; all if None.
        units: unit of the translations.

    Raises:
        CameraFileError: (a ValueError) not JSON, missing keys, fewer cameras than frames, a matrix that is not rigid.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    data = read_json_object(path)
    focal = json_number(path, data, "focal_length")
    if focal <= 0:
        raise CameraFileError(
            path, "top level", f"'focal_length' is {focal}, expected pixels above zero", "give the focal length"
        )
    matrices = json_list(path, data, "cameras_interp")
    if frames is not None and not 1 <= frames <= len(matrices):
        raise CameraFileError(
            path,
            "cameras_interp",
            f"{len(matrices)} cameras, expected at least {frames}",
            "ask for fewer frames, or read all and use Trajectory.resampled",
        )
    poses = [json_pose(path, matrix, f"cameras_interp[{i}]") for i, matrix in enumerate(matrices[:frames])]
    K = released_intrinsics(focal, width, height)
    K[:2, 2] += 0.5
    return Trajectory(
        pose_c2w=np.stack(poses), K=np.repeat(K[None], len(poses), axis=0), width=width, height=height, units=units
    )


def write_camera_json(path: str | PathLike[str], trajectory: Trajectory) -> None:
    """Write the released FantasyWorld camera file: focal_length, scale 1, the end cameras and one camera per frame.

    Raises:
        ValueError: K changes over time, pixels are not square or the principal point is off the center by more than
            1e-6 of the size; the format has no place for that.
    """
    K = trajectory.K
    focal = float(K[0, 0, 0])
    wanted = released_intrinsics(focal, trajectory.width, trajectory.height)
    wanted[:2, 2] += 0.5
    if np.abs(K - wanted).max() > 1e-6 * max(trajectory.width, trajectory.height):
        raise ValueError(
            f"write_camera_json: {path}: the format stores one focal length; K must be constant with fx = fy and the "
            f"principal point at {wanted[:2, 2].tolist()}; use transforms.json or COLMAP, or crop to a centered view"
        )
    poses = trajectory.pose_c2w.tolist()
    data = {"focal_length": focal, "scale": 1, "cameras": [poses[0], poses[-1]], "cameras_interp": poses}
    Path(path).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True, eq=False)
class NerfstudioScene:
    """Contents of a transforms.json: cameras and their images."""

    trajectory: Trajectory
    """The cameras in the order of the file; units "scene"."""
    file_paths: tuple[str, ...]
    """Image path per frame, with / between folders."""
    lenses: tuple[Lens, ...] = ()
    """The camera model per frame if an image is distorted, else empty; `trajectory` is for undistorted images then."""
    unused: tuple[str, ...] = ()
    """Names of the fields that were not read."""


def read_transforms_json(
    path: str | PathLike[str], *, width: int | None = None, height: int | None = None, undistort: bool = False
) -> NerfstudioScene:
    """Read nerfstudio's (or instant-ngp's, or Blender's) transforms.json.

    Intrinsics are at the top or per frame: fl_x and fl_y, or camera_angle_x and camera_angle_y (one serves for both),
    cx, cy (default: the center), w, h, and the distortion of `camera_model`.

    Args:
        path: the JSON file.
        width: image width in pixels for files that do not have w (Blender's).
        height: image height in pixels for files that do not have h.
        undistort: accept lens distortion: `trajectory` then is the pinhole view (see
            `fw_geometry.lenses.pinhole_view`) and `lenses` undistort the images.

    Raises:
        CameraFileError: (a ValueError) not JSON, missing or contradictory keys, frames of different sizes, lens
            distortion without `undistort`, a camera model that is not supported, a matrix that is not rigid; names the
            frame.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    data = read_json_object(path)
    defaults: dict[str, Any] = {} if width is None else {"w": width}
    defaults |= {} if height is None else {"h": height}
    poses, lenses, sizes, names = [], [], [], []
    unused = unused_fields(data)
    for i, frame in enumerate(json_list(path, data, "frames")):
        place = f"frames[{i}]"
        if not isinstance(frame, dict) or "transform_matrix" not in frame:
            raise CameraFileError(path, place, "no 'transform_matrix', expected an object with one", "drop the frame")
        name = frame.get("file_path")
        if not isinstance(name, str):
            raise CameraFileError(path, place, f"'file_path' is {name!r}, expected a text", "name the image")
        lens, size = read_lens(path, defaults | data, frame, place)
        if not lens.is_pinhole and not undistort:
            numbers = ", ".join(f"{value:g}" for value in (*lens.radial, *lens.tangential))
            problem = f"lens distortion ({lens.kind}: {numbers})"
            raise CameraFileError(path, place, problem, "undistort the images, or import them with fw-data import")
        poses.append(json_pose(path, frame["transform_matrix"], place) @ OPENGL_FROM_OPENCV)
        lenses.append(lens)
        sizes.append(size)
        names.append(portable_path(name))
        unused |= unused_fields(frame)
        if size != sizes[0]:
            problem = f"size {size}, the first frame has {sizes[0]}"
            raise CameraFileError(path, f"{place} ({name})", problem, "make all images one size first")
    try:
        intrinsics = np.stack([pinhole_view(lens, *sizes[0]).K for lens in lenses])
    except ValueError as error:
        raise CameraFileError(path, "intrinsics", str(error), "calibrate the camera again") from error
    trajectory = Trajectory(
        pose_c2w=np.stack(poses), K=intrinsics, width=sizes[0][0], height=sizes[0][1], units="scene"
    )
    return NerfstudioScene(
        trajectory=trajectory,
        file_paths=tuple(names),
        lenses=() if all(lens.is_pinhole for lens in lenses) else tuple(lenses),
        unused=tuple(sorted(unused)),
    )


def write_transforms_json(
    path: str | PathLike[str],
    trajectory: Trajectory,
    *,
    file_paths: Sequence[str] | None = None,
    ply_file_path: str | None = None,
) -> None:
    """Write nerfstudio's transforms.json: intrinsics at the top if they are constant, else per frame.

    Args:
        path: the JSON file to write.
        trajectory: the cameras. The unit is not stored.
        file_paths: image path per frame, relative to the file; images/frame_00001.png, ... if None.
        ply_file_path: point cloud that starts a Gaussian splatting, relative to the file.

    Raises:
        ValueError: not one file path per frame.
    """
    if file_paths is None:
        file_paths = [f"images/frame_{i:05d}.png" for i in range(1, len(trajectory) + 1)]
    if len(file_paths) != len(trajectory):
        raise ValueError(f"write_transforms_json: {len(file_paths)} file paths for {len(trajectory)} frames; give each")
    constant = bool((trajectory.K[0] == trajectory.K).all())
    cameras = [{"fl_x": K[0][0], "fl_y": K[1][1], "cx": K[0][2], "cy": K[1][2]} for K in trajectory.K.tolist()]
    data: dict[str, Any] = {"camera_model": "OPENCV", "w": trajectory.width, "h": trajectory.height}
    data |= cameras[0] if constant else {}
    data |= {} if ply_file_path is None else {"ply_file_path": ply_file_path}
    data["frames"] = [
        {"file_path": name, "transform_matrix": pose} | ({} if constant else camera)
        for name, pose, camera in zip(
            file_paths, (trajectory.pose_c2w @ OPENGL_FROM_OPENCV).tolist(), cameras, strict=True
        )
    ]
    Path(path).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
