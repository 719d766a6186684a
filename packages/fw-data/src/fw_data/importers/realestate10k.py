"""RealEstate10K and CameraCtrl folders: pose texts with their videos or pictures; no depth.

A pose text NAME.txt (19 columns) lies in cameras/ or anywhere below; its frames are the first of these that exists:
videos/NAME.mp4, NAME.mp4 beside it, frames/NAME/ or NAME/ beside it, with pictures named by the time stamp or in order.
clips.json gives captions, as CameraCtrl and `fw-data export` write it.
"""

import json
from pathlib import Path

import numpy as np

from fw_data.errors import DataError
from fw_data.importers.base import IMAGE_SUFFIXES, Frames, ImageFrames, ImportSettings, Scene, VideoFrames, check_size
from fw_data.media.probe import VIDEO_SUFFIXES
from fw_geometry.formats import read_realestate10k

_MICROSECONDS = 1000
"""Steps of the first column from which it holds microseconds, not frame numbers."""


def find(root: Path) -> list[Path]:
    """The pose texts."""
    folder = root / "cameras" if (root / "cameras").is_dir() else root
    return sorted(path for path in folder.rglob("*.txt") if path.is_file())


def open_scene(path: Path, root: Path, settings: ImportSettings) -> Scene:
    """The scene of one pose text."""
    frames, names = _frames(path, root)
    clip = read_realestate10k(path, width=frames.width, height=frames.height)
    stamps = clip.timestamps_us
    if isinstance(frames, ImageFrames) and {str(stamp) for stamp in stamps} <= set(names):
        frames = ImageFrames([frames.paths[names.index(str(stamp))] for stamp in stamps])
    check_size(frames, clip.trajectory, path.name)
    steps = np.diff(stamps)
    if len(steps) and (steps <= 0).any():
        raise DataError("times", f"{path.name}: the time stamps do not increase")
    if len(steps) and np.median(steps) >= _MICROSECONDS:
        time_s = stamps / 1e6
    else:
        fps = frames.info.fps if isinstance(frames, VideoFrames) else settings.fps
        time_s = np.arange(len(stamps)) / fps
    return Scene(
        frames=frames, cameras=clip.trajectory, time_s=time_s, depth=None, caption=_captions(root).get(path.stem, "")
    )


def _frames(path: Path, root: Path) -> tuple[Frames, list[str]]:
    beside = path.parent
    for folder in (root / "videos", beside):
        for suffix in sorted(VIDEO_SUFFIXES):
            video = folder / (path.stem + suffix)
            if video.is_file():
                return VideoFrames(video), []
    for folder in (root / "frames" / path.stem, beside / path.stem):
        if folder.is_dir():
            pictures = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
            numeric = all(file.stem.isdecimal() for file in pictures)
            pictures.sort(key=lambda file: (int(file.stem) if numeric else 0, file.name))
            return ImageFrames(pictures), [file.stem for file in pictures]
    raise DataError("no-frames", f"{path.name}: no videos/{path.stem}.mp4 and no frames/{path.stem}/ with its pictures")


def _captions(root: Path) -> dict[str, str]:
    path = root / "clips.json"
    if not path.is_file():
        return {}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {str(row["clip_name"]): str(row.get("caption", "")) for row in rows}
    except (ValueError, TypeError, KeyError) as error:
        raise DataError("captions", f"{path} is not a list of objects with clip_name and caption: {error}") from error
