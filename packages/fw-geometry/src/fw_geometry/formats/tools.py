"""Camera files of recent tools: VGGT, VGGT-Long, Depth Anything 3, ViPE, SpatialVID, ReCamMaster, nerfstudio's viewer.

Axis legend: out of the readers come camera-to-world poses, OpenCV axes, K in pixels with centers at +0.5. ViPE and
VGGT-Long store camera-to-world; VGGT, Depth Anything 3 and SpatialVID world-to-camera; nerfstudio's camera_path.json
camera-to-world with OpenGL axes; ReCamMaster Unreal's axes (x forward, y right, z up, left-handed), row vectors, cm.
"""

import math
import re
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from fw_geometry.camera import Units, intrinsics_from_fov
from fw_geometry.formats.rows import (
    CameraFileError,
    json_list,
    json_number,
    json_pose,
    number_rows,
    read_json_object,
    read_text,
    rigid_pose,
)
from fw_geometry.rigid import compose_poses, invert_poses, rotations_from_quaternions

_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
_OPENCV_FROM_UNREAL = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
_UNREAL_UNITS_PER_METER = 100.0
_NPZ_POSES = {"extrinsics": "w2c", "extrinsic": "w2c", "data": "c2w"}
_NPZ_INTRINSICS = ("intrinsics", "intrinsic")


class ToolPath(NamedTuple):
    """Cameras of a tool's file; K, size and frame numbers where the tool writes them."""

    pose_c2w: np.ndarray
    """(f, 4, 4) float64, camera-to-world."""
    K: np.ndarray | None = None
    """(f, 3, 3) float64, pixels of images of `size`; None: the file has no intrinsics."""
    size: tuple[int, int] | None = None
    """(width, height) of the images that K is for."""
    frame_index: np.ndarray | None = None
    """(f,) frame of the video that each pose belongs to; None: the file does not contain them."""
    units: Units = "scene"
    depth: np.ndarray | None = None
    """(f, h, w) z-depth, 0 or not finite where there is none."""


def read_pose_matrices(path: str | PathLike[str]) -> ToolPath:
    """Read text with one 4x4 camera-to-world matrix (16 numbers) per line, as VGGT-Long's camera_poses.txt.

    K comes from intrinsic.txt or intrinsics.txt in the same folder, if it exists: fx fy cx cy, or 9 numbers, per line.

    Raises:
        CameraFileError: (a ValueError) wrong column count, a matrix that is not rigid, K for another number of poses.
    """
    path = Path(path)
    rows = number_rows(path, 16, "the 4x4 camera-to-world matrix, row by row")
    poses = np.stack([rigid_pose(path, f"line {line}", row.reshape(4, 4)) for line, row in rows])
    for name in ("intrinsic.txt", "intrinsics.txt"):
        if (file := path.with_name(name)).is_file():
            return _with_intrinsics(ToolPath(poses), _intrinsics_text(file), file)
    return ToolPath(poses)


def read_pose_arrays(path: str | PathLike[str]) -> ToolPath:
    """Read a .npz of Depth Anything 3 or VGGT (extrinsics, intrinsics, depth), or a pose file of ViPE (data, inds).

    ViPE's intrinsics are read from ../intrinsics/NAME.npz.

    Raises:
        CameraFileError: (a ValueError) not a .npz, other arrays or shapes, cameras that are not pinholes.
    """
    path = Path(path)
    arrays, names = _load_npz(path)
    key = next((name for name in _NPZ_POSES if name in arrays), None)
    if key is None or arrays[key].ndim < 3 or arrays[key].shape[-2:] not in ((3, 4), (4, 4)):
        problem = f"arrays {', '.join(names) or '(none)'}, expected extrinsics and intrinsics, or ViPE's data and inds"
        raise CameraFileError(path, "arrays", problem, "export with poses")
    matrices = arrays[key].reshape(-1, *arrays[key].shape[-2:]).astype(np.float64)
    poses = np.stack([_finite_pose(path, f"{key}[{i}]", matrix) for i, matrix in enumerate(matrices)])
    if _NPZ_POSES[key] == "c2w":
        return _vipe(path, poses, arrays.get("inds"))
    result = ToolPath(invert_poses(poses))
    depth = next((arrays[name] for name in ("depth", "depths") if name in arrays), None)
    if depth is not None:
        depth = depth.reshape(len(poses), *[side for side in depth.shape[1:] if side != 1][-2:])
        result = result._replace(depth=depth, size=(depth.shape[2], depth.shape[1]))
    inner = next((arrays[name] for name in _NPZ_INTRINSICS if name in arrays), None)
    if inner is None:
        return result
    return _with_intrinsics(result, inner.reshape(-1, 3, 3).astype(np.float64), path)


def read_spatialvid(path: str | PathLike[str], *, width: int, height: int) -> ToolPath:
    """Read SpatialVID's poses.npy (translation and quaternion x y z w, world-to-camera) with intrinsics.npy beside it.

    The intrinsics are divided by the image size; they are returned for width x height.

    Raises:
        CameraFileError: (a ValueError) other shapes, a quaternion that is not of length 1.
    """
    path = Path(path)
    rows = _load_npy(path)
    if rows.ndim != 2 or rows.shape[1] != 7 or not np.isfinite(rows).all() or not len(rows):
        raise CameraFileError(
            path, "array", f"shape {rows.shape}, expected finite (f, 7)", "give SpatialVID's poses.npy"
        )
    length = np.linalg.norm(rows[:, 3:], axis=-1)
    if np.abs(length - 1).max() > 0.01:
        problem = f"a quaternion has length {length[np.abs(length - 1).argmax()]:.4g}, expected 1"
        raise CameraFileError(path, "array", problem, "give translation, then quaternion x y z w")
    result = ToolPath(invert_poses(compose_poses(rotations_from_quaternions(rows[:, 3:]), rows[:, :3])))
    file = path.with_name("intrinsics.npy")
    if not file.is_file():
        return result
    values = _load_npy(file)
    if values.ndim != 2 or values.shape[1] != 4:
        raise CameraFileError(file, "array", f"shape {values.shape}, expected (f, 4): fx fy cx cy", "export it again")
    if values[:, 2:].max() <= 1.5:  # divided by the image size
        values = values * (width, height, width, height)
        return _with_intrinsics(result._replace(size=(width, height)), _matrices(values), file)
    return _with_intrinsics(result, _matrices(values), file)


def read_recammaster(path: str | PathLike[str], *, camera: str | None = None) -> tuple[ToolPath, list[str]]:
    """Read ReCamMaster's camera_extrinsics.json: the path of one camera (the first by default), and all their names.

    Raises:
        CameraFileError: (a ValueError) another layout, a camera that the file does not have.
    """
    path = Path(path)
    data = read_json_object(path)
    frames = sorted((key for key in data if re.fullmatch(r"frame\d+", key)), key=lambda key: int(key[5:]))
    if not frames or not all(isinstance(data[key], dict) and data[key] for key in frames):
        raise CameraFileError(path, "top level", "no 'frame0', ... with cameras", "give a camera_extrinsics.json")
    cameras = sorted(data[frames[0]])
    name = cameras[0] if camera is None else camera
    poses = []
    for key in frames:
        text = data[key].get(name)
        if not isinstance(text, str):
            raise CameraFileError(path, key, f"no camera {name!r}", f"choose one of {', '.join(cameras)}")
        rows = [row.split() for row in re.findall(r"\[([^\[\]]*)\]", text)]
        # rows are the images of the axes: row vectors, so the matrix is transposed
        matrix = json_pose(path, [list(column) for column in zip(*_numbers(path, key, rows), strict=True)], key)
        pose = np.eye(4)
        pose[:3, :3] = _OPENCV_FROM_UNREAL @ matrix[:3, :3] @ _OPENCV_FROM_UNREAL.T
        pose[:3, 3] = _OPENCV_FROM_UNREAL @ matrix[:3, 3] / _UNREAL_UNITS_PER_METER
        poses.append(pose)
    return ToolPath(np.stack(poses), units="metric"), cameras


def read_camera_path(path: str | PathLike[str]) -> ToolPath:
    """Read camera_path.json, which nerfstudio's viewer exports: a pose and a vertical field of view per frame.

    Raises:
        CameraFileError: (a ValueError) another layout, a camera that is not perspective.
    """
    path = Path(path)
    data = read_json_object(path)
    kind = data.get("camera_type", "perspective")
    if kind != "perspective":
        raise CameraFileError(path, "camera_type", f"{kind!r}, expected 'perspective'", "export a perspective path")
    size = (round(json_number(path, data, "render_width")), round(json_number(path, data, "render_height")))
    poses, intrinsics = [], []
    for i, entry in enumerate(json_list(path, data, "camera_path")):
        place = f"camera_path[{i}]"
        if not isinstance(entry, dict) or "camera_to_world" not in entry:
            raise CameraFileError(path, place, "no 'camera_to_world'", "export the path again")
        flat = np.array(entry["camera_to_world"], dtype=np.float64)
        matrix = flat.reshape(4, 4).tolist() if flat.size == 16 else entry["camera_to_world"]
        poses.append(json_pose(path, matrix, place) @ _OPENGL_FROM_OPENCV)
        fov_rad = math.radians(json_number(path, entry, "fov", place))
        try:
            intrinsics.append(intrinsics_from_fov(fov_rad, *size))
        except ValueError as error:
            raise CameraFileError(path, place, str(error), "export the path again") from error
    return ToolPath(np.stack(poses), np.stack(intrinsics), size)


def _vipe(path: Path, poses: np.ndarray, index: np.ndarray | None) -> ToolPath:
    result = ToolPath(poses, frame_index=None if index is None else index.astype(np.int64), units="metric")
    file = path.parent.parent / "intrinsics" / path.name
    kinds = file.with_name(f"{path.stem}_camera.txt")
    if kinds.is_file():
        other = {line.partition(":")[2].strip() for line in read_text(kinds).splitlines()} - {"PINHOLE", ""}
        if other:
            raise CameraFileError(
                kinds, "camera type", f"{other.pop()}, expected PINHOLE", "run ViPE with pinhole cameras"
            )
    if not file.is_file():
        return result
    arrays, _ = _load_npz(file)
    values = arrays.get("data", np.zeros(0))
    if values.ndim != 2 or values.shape[1] < 4:
        raise CameraFileError(file, "data", f"shape {values.shape}, expected (f, 4): fx fy cx cy", "run ViPE again")
    if index is not None and "inds" in arrays:
        row = {int(frame): i for i, frame in enumerate(arrays["inds"].tolist())}
        missing = [int(frame) for frame in index if int(frame) not in row]
        if missing:
            raise CameraFileError(file, "inds", f"no intrinsics of frame {missing[0]}", "use files of one run")
        values = values[[row[int(frame)] for frame in index]]
    return _with_intrinsics(result, _matrices(values[:, :4]), file)


def _with_intrinsics(result: ToolPath, K: np.ndarray, path: Path) -> ToolPath:
    """Add K, one for all poses or one per pose; the image size is that of depth, else twice the principal point."""
    poses = len(result.pose_c2w)
    if len(K) not in (1, poses):
        raise CameraFileError(path, "intrinsics", f"{len(K)} for {poses} poses", "use files of one run")
    if not (np.isfinite(K).all() and (K[:, [0, 1], [0, 1]] > 0).all()):
        raise CameraFileError(path, "intrinsics", "focal lengths must be finite and above zero", "export again")
    K = np.broadcast_to(K, (poses, 3, 3)).copy()
    size = result.size or (round(2 * float(np.median(K[:, 0, 2]))), round(2 * float(np.median(K[:, 1, 2]))))
    return result._replace(K=K, size=size)


def _intrinsics_text(path: Path) -> np.ndarray:
    lines = [line.split() for line in read_text(path).splitlines() if line.strip() and not line.startswith("#")]
    if lines and len(lines[0]) == 9:
        rows = number_rows(path, 9, "the 3x3 intrinsics, row by row")
        return np.stack([row.reshape(3, 3) for _, row in rows])
    return _matrices(np.stack([row for _, row in number_rows(path, 4, "fx fy cx cy in pixels")]))


def _matrices(values: np.ndarray) -> np.ndarray:
    K = np.zeros((len(values), 3, 3))
    K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2] = values.astype(np.float64).T
    K[:, 2, 2] = 1
    return K


def _finite_pose(path: Path, place: str, matrix: np.ndarray) -> np.ndarray:
    if not np.isfinite(matrix).all():
        raise CameraFileError(path, place, "a number is NaN or infinite, expected finite ones", "drop this frame")
    return rigid_pose(path, place, matrix)


def _numbers(path: Path, place: str, rows: list[list[str]]) -> list[list[float]]:
    try:
        values = [[float(word) for word in row] for row in rows]
    except ValueError as error:
        raise CameraFileError(path, place, f"not a matrix of numbers: {error}", "export it again") from error
    if [len(row) for row in values] != [4, 4, 4, 4]:
        raise CameraFileError(path, place, f"{len(values)} rows, expected 4 of 4 numbers", "export it again")
    return values


def _load_npz(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays that are read, and the names of all."""
    try:
        with np.load(path, allow_pickle=False) as file:
            wanted = {*_NPZ_POSES, *_NPZ_INTRINSICS, "inds", "depth", "depths"}
            return {name: file[name] for name in file.files if name in wanted}, file.files
    except (ValueError, BadZipFile, EOFError) as error:
        raise CameraFileError(path, "arrays", f"not a .npz file of arrays: {error}", "export it again") from error


def _load_npy(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
    except (ValueError, EOFError) as error:
        raise CameraFileError(path, "array", f"not a .npy array: {error}", "export it again") from error


def is_recammaster(data: dict[str, Any]) -> bool:
    """Whether a JSON object has the layout of ReCamMaster's camera_extrinsics.json."""
    return isinstance(data.get("frame0"), dict)
