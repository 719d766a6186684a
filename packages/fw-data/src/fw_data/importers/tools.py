"""Output folders of geometry tools: ViPE, SpatialVID, VGGT, VGGT-Long and Depth Anything 3.

ViPE: pose/NAME.npz and intrinsics/NAME.npz with rgb/NAME.mp4 and, if there, depth/NAME.zip. SpatialVID: a folder per
clip with poses.npy and intrinsics.npy; its video is NAME.mp4 beside or in the folder, in videos/, or the only one in
the folder. The others: camera_poses.txt with intrinsic.txt, or a .npz with extrinsics and intrinsics (and depth), with
images/ or a video beside it. Frames without a pose are left out. Axis legend: f frames, h height, w width.
"""

from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np

from fw_data.errors import DataError
from fw_data.importers.base import (
    DepthReader,
    Frames,
    ImageFrames,
    ImportedScene,
    ImportSettings,
    VideoFrames,
    check_size,
)
from fw_data.importers.exr import decode_exr_depth
from fw_data.importers.files import numbered_times
from fw_data.media.numbered import IMAGE_SUFFIXES
from fw_data.media.probe import VIDEO_SUFFIXES
from fw_geometry.camera import Trajectory
from fw_geometry.formats.names import natural_key
from fw_geometry.formats.tools import ToolPath, read_pose_arrays, read_pose_matrices, read_spatialvid

SPATIALVID_STEP_S = 0.2
"""SpatialVID poses a frame every so many seconds."""
_IMAGE_FOLDERS = ("images", "rgb", "frames", "color", "extracted")


def find(root: Path) -> list[Path]:
    """The pose files below a folder."""
    vipe = [path for path in root.rglob("pose/*.npz") if path.is_file()]
    others = [path for name in ("poses.npy", "camera_poses.txt") for path in root.rglob(name)]
    arrays = [path for path in root.rglob("*.npz") if path.parent.name not in ("pose", "intrinsics", "depth", "mask")]
    return sorted({*vipe, *others, *arrays})


def open_scene(path: Path, root: Path, settings: ImportSettings) -> ImportedScene:
    """The scene of one pose file."""
    frames, names = _frames(path, root)
    if path.name == "poses.npy":
        tool = read_spatialvid(path, width=frames.width, height=frames.height)
    elif path.suffix == ".npz":
        tool = read_pose_arrays(path)
    else:
        tool = read_pose_matrices(path)
    if tool.K is None or tool.size is None:
        raise DataError("no-intrinsics", f"{path}: the poses have no intrinsics beside them; export both")
    units = tool.units if settings.units == "auto" else settings.units
    cameras = Trajectory(pose_c2w=tool.pose_c2w, K=tool.K, width=tool.size[0], height=tool.size[1], units=units)
    cameras, notes = _scaled(cameras, frames, path)
    index = _index(path, tool, frames)
    time_s, own = numbered_times(names, settings.fps) if names else (_times(frames, settings.fps), [])
    notes += own
    if index is not None and len(index) != frames.count:
        notes.append(f"{len(index)} of {frames.count} frames have a pose")
        if settings.interpolate:
            every = np.arange(index[0], index[-1] + 1)
            cameras, index = cameras.at(index.astype(np.float64), every.astype(np.float64)), every
        _pick(frames, index)
        time_s = time_s[index]
    check_size(frames, cameras, str(path))
    depth = None
    if index is None or len(index) == len(tool.pose_c2w):
        unit = settings.depth_unit or 1.0
        zipped = path.parent.parent / "depth" / f"{path.stem}.zip"
        depth = _zipped_depth(zipped, index, unit) if zipped.is_file() else _depth(tool, unit)
    return ImportedScene(frames=frames, cameras=cameras, time_s=time_s, depth=depth, notes=notes, frame_index=index)


def _frames(path: Path, root: Path) -> tuple[Frames, list[str]]:
    """The images or the video that a pose file belongs to, and the names of the images."""
    folder = path.parent
    stem = folder.name if path.name in ("poses.npy", "camera_poses.txt") else path.stem
    places = [folder, folder.parent, folder.parent / "rgb", folder.parent / "videos", root / "videos", root]
    for place in places:
        for suffix in sorted(VIDEO_SUFFIXES):
            if (video := place / (stem + suffix)).is_file():
                return VideoFrames(video), []
    for place in (folder, folder.parent, folder.parent.parent):
        if not place.resolve().is_relative_to(root.resolve()):
            break
        for name in _IMAGE_FOLDERS:
            images = [file for file in (place / name).glob("*") if file.suffix.lower() in IMAGE_SUFFIXES]
            if images:
                images.sort(key=lambda file: natural_key(file.name))
                return ImageFrames(images), [file.name for file in images]
    videos = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in VIDEO_SUFFIXES]
    if len(videos) == 1:
        return VideoFrames(videos[0]), []
    raise DataError("no-frames", f"{path}: no video {stem}.mp4 and no folder {', '.join(_IMAGE_FOLDERS)} beside it")


def _scaled(cameras: Trajectory, frames: Frames, path: Path) -> tuple[Trajectory, list[str]]:
    """Cameras of the network's input as cameras of the frames; DataError if the frames have another aspect."""
    if (frames.width, frames.height) == (cameras.width, cameras.height):
        return cameras, []
    across, down = frames.width / cameras.width, frames.height / cameras.height
    if abs(across / down - 1) > 0.03:  # networks round sides to multiples of 14
        raise DataError(
            "size",
            f"{path}: the cameras are for {cameras.width}x{cameras.height}, the frames are {frames.width}x"
            f"{frames.height}, which is not that image scaled; give the images that the tool has used",
        )
    note = f"K was for {cameras.width}x{cameras.height} and is scaled to the frames"
    return cameras.resized(frames.width, frames.height), [note]


def _index(path: Path, tool: ToolPath, frames: Frames) -> np.ndarray | None:
    """The frame of every pose; None if there is one pose per frame."""
    poses = len(tool.pose_c2w)
    if tool.frame_index is not None:
        return tool.frame_index
    if poses == frames.count:
        return None
    if path.name == "poses.npy" and isinstance(frames, VideoFrames):
        step = max(1, round(SPATIALVID_STEP_S * frames.info.fps))
        if -(-frames.count // step) == poses:
            return np.arange(poses, dtype=np.int64) * step
    raise DataError("frame-count", f"{path}: {frames.count} frames and {poses} poses; they must pair up")


def _times(frames: Frames, fps: float) -> np.ndarray:
    return frames.time_s if isinstance(frames, VideoFrames) else np.arange(frames.count) / fps


def _pick(frames: Frames, index: np.ndarray) -> None:
    if isinstance(frames, VideoFrames):
        frames.pick(index)
    elif isinstance(frames, ImageFrames):
        if index[-1] >= frames.count:
            raise DataError("frame-count", f"pose of frame {index[-1]}, but there are {frames.count} images")
        frames.paths, frames.count = [frames.paths[i] for i in index.tolist()], len(index)


def _zipped_depth(path: Path, index: np.ndarray | None, unit: float) -> DepthReader:
    """ViPE's depth: a zip of 00000.exr, ... by frame of the video."""

    def read(frame: int) -> np.ndarray | None:
        name = f"{frame if index is None else int(index[frame]):05d}.exr"
        try:
            with ZipFile(path) as file:
                if name not in file.namelist():
                    return None
                content = file.read(name)
        except BadZipFile as error:
            raise DataError("depth", f"{path} is damaged: {error}") from error
        scaled = decode_exr_depth(content, f"{path.name}/{name}") * np.float32(unit)
        return np.where(np.isfinite(scaled) & (scaled > 0), scaled, np.float32(0))

    return read


def _depth(tool: ToolPath, unit: float) -> DepthReader | None:
    depth = tool.depth
    if depth is None:
        return None

    def read(frame: int) -> np.ndarray:
        scaled = depth[frame].astype(np.float64) * unit
        return np.where(np.isfinite(scaled) & (scaled > 0), scaled, 0).astype(np.float32)

    return read
