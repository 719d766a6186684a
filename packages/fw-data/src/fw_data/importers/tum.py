"""TUM RGB-D sequences: every folder with groundtruth.txt, rgb.txt and, if there, depth.txt.

In place of rgb.txt there may be one video, whose own time stamps are on the clock of groundtruth.txt then.
A frame's pose is interpolated at its time stamp between neighbors at most 0.1 s apart; frames outside the path end a
stretch. Its depth is the map nearest in time, at most 0.02 s off, 5000 a meter. K comes from calibration.txt ("fx fy cx
cy", one line or one per frame, with the center of the first pixel at 0.5) or from the command line.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np

from fw_core.files import read_text
from fw_data.errors import DataError
from fw_data.exporters.tum import DEPTH_PER_UNIT
from fw_data.importers.base import (
    DepthReader,
    Frames,
    ImageFrames,
    ImportedScene,
    ImportSettings,
    VideoFrames,
    check_size,
    read_depth_file,
)
from fw_data.media.probe import VIDEO_SUFFIXES
from fw_geometry.camera import Trajectory
from fw_geometry.formats import read_tum
from fw_geometry.formats.names import portable_path
from fw_geometry.rigid import interpolate_rigid

MAX_GAP_S = 0.1
MAX_DEPTH_OFF_S = 0.02
CALIBRATION = "calibration.txt"


def find(root: Path) -> list[Path]:
    """The sequence folders below a folder."""
    return sorted(path.parent for path in root.rglob("groundtruth.txt"))


def open_scene(path: Path, root: Path, settings: ImportSettings) -> ImportedScene:  # noqa: ARG001 - a folder is a scene
    """The scene of one sequence."""
    time_s, frames = _images(path)
    truth = read_tum(path / "groundtruth.txt")
    posed = _covered(time_s, truth.time_s)
    if not posed.any():
        raise DataError("no-poses", f"{path}: groundtruth.txt covers none of the {len(time_s)} images")
    K = _intrinsics(path / CALIBRATION, settings, len(time_s))
    cameras = Trajectory(
        pose_c2w=interpolate_rigid(truth.pose_c2w, truth.time_s, time_s),
        K=K,
        width=frames.width,
        height=frames.height,
        units="scene" if settings.units == "scene" else "metric",
    )
    check_size(frames, cameras, str(path))
    edges = [0, *(np.flatnonzero(np.diff(posed.astype(np.int8))) + 1).tolist(), len(posed)]
    return ImportedScene(
        frames=frames,
        cameras=cameras,
        time_s=time_s,
        depth=_depth(path / "depth.txt", time_s, settings.depth_unit or 1 / DEPTH_PER_UNIT),
        notes=[] if posed.all() else [f"{(~posed).sum()} of {len(posed)} images have no pose"],
        posed=[(start, end) for start, end in pairwise(edges) if posed[start]],
    )


def _images(path: Path) -> tuple[np.ndarray, Frames]:
    videos = sorted(file for file in path.iterdir() if file.suffix.lower() in VIDEO_SUFFIXES)
    if len(videos) == 1 and not (path / "rgb.txt").is_file():
        video = VideoFrames(videos[0])
        return video.time_s, video
    time_s, files = _read_list(path / "rgb.txt")
    return time_s, ImageFrames(files)


def _covered(time_s: np.ndarray, pose_s: np.ndarray) -> np.ndarray:
    right = np.searchsorted(pose_s, time_s, side="left").clip(0, len(pose_s) - 1)
    exact = np.abs(pose_s[right] - time_s) < 1e-6
    left = (right - 1).clip(0)
    inside = (pose_s[left] <= time_s) & (time_s <= pose_s[right])
    return exact | (inside & (pose_s[right] - pose_s[left] <= MAX_GAP_S))


def _depth(path: Path, time_s: np.ndarray, unit: float) -> DepthReader | None:
    if not path.is_file():
        return None
    depth_s, files = _read_list(path)

    def read(frame: int) -> np.ndarray | None:
        nearest = int(np.abs(depth_s - time_s[frame]).argmin())
        if abs(depth_s[nearest] - time_s[frame]) > MAX_DEPTH_OFF_S:
            return None
        return read_depth_file(files[nearest], unit)

    return read


def _intrinsics(path: Path, settings: ImportSettings, frames: int) -> np.ndarray:
    if settings.intrinsics is not None:
        rows = np.array([settings.intrinsics], np.float64)
    elif path.is_file():
        try:
            rows = np.loadtxt(read_text(path).splitlines(), dtype=np.float64, ndmin=2)
        except ValueError as error:
            raise DataError("no-intrinsics", f"{path}: {error}") from error
    else:
        raise DataError("no-intrinsics", f"{path} does not exist; write 'fx fy cx cy' there, or give --intrinsics")
    if rows.shape not in ((1, 4), (frames, 4)):
        raise DataError("no-intrinsics", f"{path}: {rows.shape} numbers, expected 4 in 1 or {frames} lines")
    K = np.zeros((frames, 3, 3))
    K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2] = np.broadcast_to(rows, (frames, 4)).T
    K[:, 2, 2] = 1
    return K


def _read_list(path: Path) -> tuple[np.ndarray, list[Path]]:
    if not path.is_file():
        raise DataError("no-frames", f"{path} does not exist")
    rows = [line.split() for line in read_text(path).splitlines()]
    rows = [row for row in rows if row and not row[0].startswith("#")]
    try:
        times = np.array([float(row[0]) for row in rows])
        files = [path.parent / portable_path(row[1]) for row in rows]
    except (ValueError, IndexError) as error:
        raise DataError("no-frames", f"{path} is not a list of time stamps and file names: {error}") from error
    if not files or (np.diff(times) <= 0).any():
        raise DataError("times", f"{path}: no files, or time stamps that do not increase")
    return times, files
