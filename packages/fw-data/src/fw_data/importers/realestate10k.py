"""RealEstate10K and CameraCtrl folders: pose texts with their videos or images; no depth.

A pose text NAME.txt (19 columns) is in cameras/ or anywhere below; its frames are the first of these that exists:
videos/NAME.mp4, NAME.mp4 beside it, frames/NAME/ or NAME/ beside it, with images named by the time stamp or in order.
clips.json gives captions, as CameraCtrl and `fw-data export` write it.
"""

import json
from pathlib import Path

import numpy as np

from fw_core.files import read_text
from fw_data.errors import DataError
from fw_data.importers.base import (
    Frames,
    ImageFrames,
    ImportedScene,
    ImportSettings,
    VideoFrames,
    check_size,
)
from fw_data.media.numbered import IMAGE_SUFFIXES
from fw_data.media.probe import VIDEO_SUFFIXES
from fw_geometry.formats import read_realestate10k

_MICROSECONDS = 1000
"""Steps of the first column from which it holds microseconds, not frame numbers."""


def find(root: Path) -> list[Path]:
    """The pose texts below a folder."""
    folder = root / "cameras" if (root / "cameras").is_dir() else root
    return sorted(path for path in folder.rglob("*.txt") if path.is_file())


def open_scene(path: Path, root: Path, settings: ImportSettings) -> ImportedScene:
    """The scene of one pose text."""
    frames, names = _frames(path, root)
    clip = read_realestate10k(path, width=frames.width, height=frames.height)
    stamps = clip.timestamps_us
    steps = np.diff(stamps)
    if (steps <= 0).any():
        raise DataError("times", f"{path.name}: the time stamps do not increase")
    timed = len(steps) > 0 and float(np.median(steps)) >= _MICROSECONDS
    cameras, index, notes = clip.trajectory, None, []
    numbered = {int(name): row for row, name in enumerate(names) if name.isdecimal()}
    if isinstance(frames, ImageFrames) and set(stamps.tolist()) <= set(numbered):
        frames = ImageFrames([frames.paths[numbered[stamp]] for stamp in stamps.tolist()])
    elif isinstance(frames, VideoFrames) and frames.count != len(cameras):
        total = frames.count
        index = _posed_frames(path, frames, stamps, timed=timed)
        notes.append(f"{len(index)} of {total} frames of the video have a pose")
        if settings.interpolate:
            every = np.arange(index[0], index[-1] + 1)
            cameras, index = cameras.at(index.astype(np.float64), every.astype(np.float64)), every
            notes[0] += "; the poses between are interpolated"
        frames.pick(index)
    check_size(frames, cameras, path.name)
    if isinstance(frames, VideoFrames) and index is not None:
        time_s = frames.time_s
    elif timed:
        time_s = stamps / 1e6
    else:
        fps = frames.info.fps if isinstance(frames, VideoFrames) else settings.fps
        time_s = (stamps - stamps[0]) / (_usual_step(steps)) / fps
    caption = _captions(root).get(path.stem, "")
    return ImportedScene(
        frames=frames, cameras=cameras, time_s=time_s, depth=None, caption=caption, notes=notes, frame_index=index
    )


def _usual_step(steps: np.ndarray) -> int:
    """Most frequent distance of two frame numbers."""
    values, counts = np.unique(steps, return_counts=True)
    return int(values[counts.argmax()]) if len(steps) else 1


def _posed_frames(path: Path, frames: VideoFrames, stamps: np.ndarray, *, timed: bool) -> np.ndarray:
    """The frames of a longer video that the time stamps, or frame numbers, name; DataError if they name none."""
    if timed:
        tolerance = 0.5 * float(np.median(np.diff(frames.time_s)))
        for start in (0.0, stamps[0] / 1e6 - frames.time_s[0]):  # on the clock of the video, or from its first frame
            wanted = stamps / 1e6 - start
            nearest = np.abs(frames.time_s[None] - wanted[:, None]).argmin(axis=1)
            if np.abs(frames.time_s[nearest] - wanted).max() <= tolerance and (np.diff(nearest) > 0).all():
                return nearest.astype(np.int64)
    elif len(stamps) > 1 and _usual_step(np.diff(stamps)) > 1 and stamps[-1] < frames.count:
        return stamps.astype(np.int64)
    problem = f"{path.name}: {frames.count} frames and {len(stamps)} cameras; they must pair up"
    raise DataError("frame-count", f"{problem}, or the first column must hold the times of the posed frames")


def _frames(path: Path, root: Path) -> tuple[Frames, list[str]]:
    beside = path.parent
    for folder in (root / "videos", beside):
        for suffix in sorted(VIDEO_SUFFIXES):
            video = folder / (path.stem + suffix)
            if video.is_file():
                return VideoFrames(video), []
    for folder in (root / "frames" / path.stem, beside / path.stem):
        if folder.is_dir():
            images = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
            numeric = all(file.stem.isdecimal() for file in images)
            images.sort(key=lambda file: (int(file.stem) if numeric else 0, file.name))
            return ImageFrames(images), [file.stem for file in images]
    raise DataError("no-frames", f"{path.name}: no videos/{path.stem}.mp4 and no frames/{path.stem}/ with its images")


def _captions(root: Path) -> dict[str, str]:
    path = root / "clips.json"
    if not path.is_file():
        return {}
    try:
        rows = json.loads(read_text(path))
        return {str(row["clip_name"]): str(row.get("caption", "")) for row in rows}
    except (ValueError, TypeError, KeyError) as error:
        raise DataError("captions", f"{path} is not a list of objects with clip_name and caption: {error}") from error
