"""Pose files with one row of numbers per frame: RealEstate10K, TUM and KITTI, read and written.

Axis legend: inside, poses are camera-to-world with OpenCV axes (x right, y down, z forward) and pixel centers at +0.5.
RealEstate10K stores world-to-camera and K divided by the image size; TUM and KITTI store camera-to-world, without K.
"""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fw_geometry.camera import Trajectory, Units
from fw_geometry.checks import check_size, checked_poses
from fw_geometry.formats.rows import (
    CameraFileError,
    number_rows,
    number_text,
    parse_numbers,
    read_lines,
    rigid_pose,
)
from fw_geometry.rigid import (
    compose_poses,
    invert_poses,
    quaternions_from_rotations,
    rotations_from_quaternions,
)

_RE10K_COLUMNS = 19
_RE10K_LAYOUT = "timestamp fx fy cx cy k1 k2 and the 3x4 world-to-camera matrix, K divided by width and height"
_TUM_LAYOUT = "timestamp tx ty tz qx qy qz qw, camera-to-world"
_KITTI_LAYOUT = "the 3x4 camera-to-world matrix, row by row"
_LARGEST_NORMALISED_FOCAL = 50.0


@dataclass(frozen=True, kw_only=True, eq=False)
class RealEstate10KClip:
    """Contents of a RealEstate10K text file: one clip."""

    trajectory: Trajectory
    """The cameras, K in pixels of the size that was asked for."""
    timestamps_us: np.ndarray
    """(f,) int64, first column: microseconds in the source video (some tools write the frame number)."""
    source: str
    """The header line, in the dataset the address of the video; "" if there is none."""


class TumPath(NamedTuple):
    """Contents of a TUM file: times and poses."""

    time_s: np.ndarray
    """(f,) float64, seconds, increasing."""
    pose_c2w: np.ndarray
    """(f, 4, 4) float64, camera-to-world."""


def read_realestate10k(
    path: str | PathLike[str], *, width: int, height: int, units: Units = "scene"
) -> RealEstate10KClip:
    """Read a RealEstate10K / CameraCtrl pose file: a header line (may be missing), then 19 columns per frame.

    Args:
        path: the text file.
        width: image width in pixels that K is wanted in. K in the file is divided by the size of the *whole* frame: if
            your frames are cropped, read with the size of the whole frame and use `.cropped`.
        height: image height in pixels.
        units: unit of the translations; the dataset's own are up to scale.

    Raises:
        CameraFileError: (a ValueError) empty file, wrong column count, a word that is no number, NaN, a rotation that
            is not orthonormal to 1e-3, lens distortion, focal lengths in pixels; names file and line.
        OSError: the file cannot be opened.
    """
    check_size("read_realestate10k", width, height)
    path = Path(path)
    lines = list(enumerate(read_lines(path), start=1))
    source = ""
    words = lines[0][1].split()
    if len(words) == 1 or (len(words) != _RE10K_COLUMNS and not all(_is_number([word]) for word in words)):
        source = lines[0][1].strip()
        lines = lines[1:]
    poses, intrinsics, stamps = [], [], []
    for line, text in lines:
        if not text.strip():
            continue
        row = parse_numbers(path, line, text.split(), _RE10K_COLUMNS, _RE10K_LAYOUT)
        place = f"line {line}"
        if row[0] != round(row[0]):
            raise CameraFileError(
                path, place, f"timestamp {row[0]} is no whole number", "give microseconds or the frame number"
            )
        if not (0 < row[1] < _LARGEST_NORMALISED_FOCAL and 0 < row[2] < _LARGEST_NORMALISED_FOCAL):
            raise CameraFileError(
                path,
                place,
                f"focal lengths are {row[1]} and {row[2]}, expected a share of width and height (about 0.4 to 2)",
                "divide fx, cx by the width and fy, cy by the height",
            )
        if row[5] != 0 or row[6] != 0:
            raise CameraFileError(
                path, place, f"lens distortion k1, k2 is {row[5]}, {row[6]}, expected 0 0", "undistort the frames first"
            )
        poses.append(rigid_pose(path, place, row[7:].reshape(3, 4)))
        fx, fy, cx, cy = row[1:5] * (width, height, width, height)
        intrinsics.append([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
        stamps.append(round(row[0]))
    if not poses:
        raise CameraFileError(path, "line 2", f"no frames after the header, expected {_RE10K_LAYOUT}", "write it again")
    trajectory = Trajectory(
        pose_c2w=invert_poses(np.stack(poses)), K=np.array(intrinsics), width=width, height=height, units=units
    )
    return RealEstate10KClip(trajectory=trajectory, timestamps_us=np.array(stamps, dtype=np.int64), source=source)


def write_realestate10k(
    path: str | PathLike[str],
    trajectory: Trajectory,
    *,
    timestamps_us: np.ndarray | None = None,
    source: str = "fantasy-world",
) -> None:
    """Write a RealEstate10K / CameraCtrl pose file. Loses the image size and the unit, which it has no place for.

    Args:
        path: the text file to write.
        trajectory: the cameras.
        timestamps_us: (f,) whole numbers for the first column; the frame numbers if None.
        source: the header line, in the dataset the address of the video.

    Raises:
        ValueError: not one timestamp per frame, or a header that would be read as data.
    """
    stamps = np.arange(len(trajectory)) if timestamps_us is None else np.asarray(timestamps_us)
    if stamps.shape != (len(trajectory),) or not np.issubdtype(stamps.dtype, np.integer):
        raise ValueError(
            f"write_realestate10k: timestamps_us is {stamps.dtype} of shape {stamps.shape}; "
            f"give {len(trajectory)} integers, one per frame"
        )
    if len(source.splitlines()) != 1 or not source.strip() or _is_number(source.split()[:1]):
        raise ValueError(
            f"write_realestate10k: source is {source!r}; give one line of text that does not start with a number"
        )
    size = (trajectory.width, trajectory.height, trajectory.width, trajectory.height)
    lines = [source.strip()]
    for stamp, K, pose in zip(stamps.tolist(), trajectory.K, trajectory.pose_w2c, strict=True):
        normalized = np.array([K[0, 0], K[1, 1], K[0, 2], K[1, 2]]) / size
        lines.append(f"{stamp} {number_text(normalized)} 0 0 {number_text(pose[:3].reshape(-1))}")
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_tum(path: str | PathLike[str]) -> TumPath:
    """Read a TUM RGB-D trajectory: `timestamp tx ty tz qx qy qz qw` per line, # comments. The file has no K.

    Raises:
        CameraFileError: (a ValueError) empty file, wrong column count, NaN, a quaternion whose length is off by more
            than 1 %, times that do not increase; names file and line.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    rows = number_rows(path, 8, _TUM_LAYOUT)
    for line, row in rows:
        length = float(np.linalg.norm(row[4:]))
        if abs(length - 1) > 0.01:
            raise CameraFileError(
                path,
                f"line {line}",
                f"the quaternion has length {length:.4g}, expected 1 ({_TUM_LAYOUT})",
                "are the columns in another order?",
            )
    values = np.stack([row for _, row in rows])
    late = np.flatnonzero(np.diff(values[:, 0]) <= 0)
    if len(late):
        line = rows[late[0] + 1][0]
        raise CameraFileError(
            path, f"line {line}", "the timestamp does not increase, expected later times", "sort the lines by time"
        )
    return TumPath(values[:, 0], compose_poses(rotations_from_quaternions(values[:, 4:]), values[:, 1:4]))


def write_tum(path: str | PathLike[str], pose_c2w: np.ndarray, time_s: np.ndarray | None = None) -> None:
    """Write a TUM RGB-D trajectory.

    Args:
        path: the text file to write.
        pose_c2w: (f, 4, 4) camera-to-world.
        time_s: (f,) increasing seconds; the frame numbers if None.

    Raises:
        ValueError: poses that are not rigid, not one time per pose, times that do not increase.
    """
    poses = checked_poses("write_tum: pose_c2w", pose_c2w, ("f", 4, 4))
    times = np.arange(len(poses), dtype=np.float64) if time_s is None else np.asarray(time_s, dtype=np.float64)
    if times.shape != (len(poses),) or not (np.diff(times) > 0).all() or not np.isfinite(times).all():
        raise ValueError(f"write_tum: time_s of shape {times.shape} must hold {len(poses)} finite, increasing seconds")
    rows = np.concatenate([times[:, None], poses[:, :3, 3], quaternions_from_rotations(poses[:, :3, :3])], axis=-1)
    _write_rows(path, f"# {_TUM_LAYOUT}", rows)


def read_kitti(path: str | PathLike[str]) -> np.ndarray:
    """Read a KITTI odometry file, 12 numbers per line: (f, 4, 4) float64 camera-to-world. The file has no K.

    Raises:
        CameraFileError: (a ValueError) empty file, wrong column count, NaN, a rotation that is not orthonormal to
            1e-3; names file and line.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    rows = number_rows(path, 12, _KITTI_LAYOUT)
    return np.stack([rigid_pose(path, f"line {line}", row.reshape(3, 4)) for line, row in rows])


def write_kitti(path: str | PathLike[str], pose_c2w: np.ndarray) -> None:
    """Write a KITTI odometry file from (f, 4, 4) camera-to-world poses. ValueError if they are not rigid."""
    poses = checked_poses("write_kitti: pose_c2w", pose_c2w, ("f", 4, 4))
    _write_rows(path, None, poses[:, :3].reshape(len(poses), 12))


def _write_rows(path: str | PathLike[str], header: str | None, rows: np.ndarray) -> None:
    lines = ([] if header is None else [header]) + [number_text(row) for row in rows]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _is_number(words: list[str]) -> bool:
    try:
        float(words[0])
    except (ValueError, IndexError):
        return False
    return True
