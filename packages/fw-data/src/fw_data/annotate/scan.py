"""The first pass over a video: what it is, where its shots are, which clips it gives. No geometry yet.

The result is a small file, so a second run does not look at an unchanged video again.
"""

import hashlib
import time
import uuid
from array import array
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from pydantic import BaseModel, ConfigDict

from fw_data.annotate.duplicates import clip_hashes, difference_hash
from fw_data.annotate.hints import hint
from fw_data.dataset.schema import Refusal
from fw_data.errors import DataError
from fw_data.media.color import ColorConverter
from fw_data.media.decode import read_frames, thumbnail
from fw_data.media.numbered import IMAGE_FPS, numbered_images
from fw_data.media.probe import MediaLimits, VideoInfo, probe, without_bars
from fw_data.media.resize import place
from fw_data.media.times import time_gaps
from fw_data.shots.bars import BarFinder
from fw_data.shots.cuts import CutMethod
from fw_data.shots.shots import THUMBNAIL_LONG_SIDE, ShotCutter, Window, choose_frames, windows

OUTSIDE = "link-outside"
_NAMESPACE = uuid.UUID("6f1b0d52-5f0e-4b3a-9a35-0d8f6a3c7e11")


class ClipPlan(BaseModel):
    """One clip that is to be annotated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    source: str
    source_sha256: str
    start_frame: int
    num_frames: int
    start_pts: int | None
    info: VideoInfo
    caption: str = ""
    notes: list[str] = []
    offsets: list[int] = []
    """Which frames of the source, counted from start_frame; empty = num_frames of them without a break."""
    shot: int = 0
    """Number of the shot in its video."""
    hashes: list[int] = []
    """Difference hash of some frames, to find clips that look the same; empty for plain images."""

    @property
    def frame_index(self) -> np.ndarray:
        """(f,) int64: index of each frame among the decoded frames of the source."""
        return self.start_frame + np.asarray(self.offsets or range(self.num_frames), np.int64)

    @property
    def span(self) -> int:
        """Frames of the source from the first to the last one."""
        return (self.offsets[-1] + 1) if self.offsets else self.num_frames


@dataclass(frozen=True, kw_only=True)
class ScanConfig:
    """Settings for cutting videos into clips."""

    max_frames: int
    """Longest clip."""
    min_frames: int
    """Shortest clip."""
    fps: float | None = None
    """Frames per second that are kept; None keeps every frame."""
    trim_s: float = 0.0
    """Taken off each end of a shot where a cut or transition was found."""
    cuts: CutMethod = "adaptive"
    """Detector of hard cuts."""
    image_fps: float = IMAGE_FPS
    """Frame rate of folders of images."""
    size: str = "auto"
    """Stored size, see fw_data.media.resize.place."""
    min_side: int = 0
    """Smallest stored height or width that the geometry backend takes."""


class VideoScan(BaseModel):
    """Result of the first pass over one video."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    size: int
    mtime_ns: int
    config_hash: str
    sha256: str
    clips: list[ClipPlan]
    refusals: list[Refusal]
    seconds: float = 0.0
    """CPU time of the scan."""


def scan(
    path: Path,
    source: str,
    *,
    limits: MediaLimits,
    config: ScanConfig,
    config_hash: str,
    inside: Path | None = None,
    caption: str = "",
) -> VideoScan:
    """Scan one video. An unusable video gives a scan with a refusal and no clips.

    With `inside`, a link that leads out of that folder is not followed.
    """
    began = time.process_time()
    size, mtime_ns = file_state(path)
    clips: list[ClipPlan] = []
    refusals: list[Refusal] = []
    sha256 = ""
    try:
        _check_inside(path, inside)
        sha256 = checksum(path)
        info = probe(path, limits, image_fps=config.image_fps)
        _check_size(path, info, config)
        clips, refusals = _cut(_decode(path, info, limits, config), source, sha256, config, config_hash, caption)
    except PermissionError as error:
        refusals = [_refusal(DataError("unreadable", f"{path.name} may not be read: {error.strerror}"), source)]
    except DataError as error:
        refusals = [_refusal(error, source)]
    return VideoScan(
        source=source,
        size=size,
        mtime_ns=mtime_ns,
        config_hash=config_hash,
        sha256=sha256,
        clips=clips,
        refusals=refusals,
        seconds=time.process_time() - began,
    )


def clip_id(source_sha256: str, start_frame: int, num_frames: int, config_hash: str) -> str:
    """The same stretch of the same video with the same settings always has the same id."""
    return str(uuid.uuid5(_NAMESPACE, f"{source_sha256}/{start_frame}/{start_frame + num_frames}/{config_hash}"))


def file_state(path: Path) -> tuple[int, int]:
    """Size and time of change of a video file, or of all images of a folder."""
    stats = [file.stat() for file in (numbered_images(path) if path.is_dir() else [path])]
    return sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)


def checksum(path: Path) -> str:
    """sha256 of a video file, or over names and contents of the images of a folder."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    total = hashlib.sha256()
    for image in numbered_images(path):
        total.update(image.name.encode() + b"\0" + hashlib.sha256(image.read_bytes()).digest())
    return total.hexdigest()


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    """Result of the pass over all frames of a video."""

    info: VideoInfo
    """Properties of the video, without its black bars."""
    cutter: ShotCutter
    """Shot detector that has seen every frame."""
    stamps: list[int | None]
    """Presentation time stamp of each frame."""
    times: np.ndarray
    """(F,) seconds of each frame."""
    hashes: array
    """Difference hash of each frame."""
    notes: list[str]
    """Repairs and irregularities of the source."""


def _decode(path: Path, info: VideoInfo, limits: MediaLimits, config: ScanConfig) -> _Decoded:
    cutter = ShotCutter(fps=info.fps, min_frames=config.min_frames, trim_s=config.trim_s, cuts=config.cuts)
    bar_finder, convert = BarFinder(), ColorConverter()
    stamps: list[int | None] = []
    times, hashes = array("d"), array("Q")
    gaps = repaired = interlaced = 0
    try:
        for frame in read_frames(path, info, limits):
            gaps += frame.gap
            repaired += frame.repaired
            interlaced += frame.deinterlaced
            stamps.append(frame.pts)
            times.append(frame.time_s)
            small = thumbnail(frame.image, info, convert, THUMBNAIL_LONG_SIDE)
            hashes.append(difference_hash(small))
            cutter.add(small, gap=frame.gap)
            bar_finder.add(small)
    except av.FFmpegError as error:
        raise DataError("unreadable", f"{path.name} stops being readable: {error.strerror}") from error
    if not cutter.frames:
        raise DataError("no-frames", f"{path.name} holds no undamaged frame")
    pauses = time_gaps(np.asarray(times))
    cutter.split_at(pauses.tolist())
    info = without_bars(info, bar_finder.bars(info.coded_height, info.coded_width))
    notes = list(info.notes)
    if gaps or cutter.frames < 0.95 * info.declared_frames:
        declared = f" of {info.declared_frames} declared" if info.declared_frames else ""
        notes.append(f"the source is damaged or cut off: {cutter.frames} frames{declared} decode, {gaps} gaps")
    if len(pauses):
        notes.append(f"gaps in the time stamps, where clips end: {len(pauses)}")
    if repaired:
        notes.append(f"repeated time stamps, interpolated: {repaired}")
    if interlaced:
        notes.append(f"interlaced frames, deinterlaced: {interlaced}")
    return _Decoded(
        info=info,
        cutter=cutter,
        stamps=stamps,
        times=np.asarray(times),
        hashes=hashes,
        notes=notes,
    )


def _cut(
    video: _Decoded, source: str, sha256: str, config: ScanConfig, config_hash: str, caption: str
) -> tuple[list[ClipPlan], list[Refusal]]:
    clips, refusals = [], []

    def leave_out(start: int, end: int, stage: str, code: str, reason: str, name: str | None = None) -> None:
        refusals.append(
            Refusal(
                status="filtered",
                source=source,
                start_frame=start,
                num_frames=end - start,
                clip_id=name,
                stage=stage,
                code=code,
                reason=reason,
                hint=hint(code),
            )
        )

    for found in video.cutter.transitions():
        leave_out(found.start, found.end, "shots", "transition", found.describe())
    for number, shot in enumerate(video.cutter.shots()):
        chosen = shot.start + choose_frames(video.times[shot.start : shot.end], config.fps)
        for window in windows(Window(start=0, end=len(chosen)), config.max_frames):
            index = chosen[window.start : window.end]
            start, end = int(index[0]), int(index[-1]) + 1
            name = clip_id(sha256, start, end - start, config_hash)
            if len(index) < config.min_frames:
                reason = f"{len(index)} frames; a clip needs {config.min_frames}"
                leave_out(start, end, "windows", "too-short", reason, name)
                continue
            clips.append(
                ClipPlan(
                    id=name,
                    source=source,
                    source_sha256=sha256,
                    start_frame=start,
                    num_frames=len(index),
                    start_pts=video.stamps[start],
                    info=video.info,
                    caption=caption,
                    notes=video.notes,
                    offsets=[] if end - start == len(index) else (index - start).tolist(),
                    shot=number,
                    hashes=clip_hashes([video.hashes[i] for i in index]),
                )
            )
    return clips, refusals


def _check_inside(path: Path, folder: Path | None) -> None:
    if folder is not None and folder.resolve() not in path.resolve().parents:
        raise DataError(OUTSIDE, f"{path.name} is a link to {path.resolve()}, outside {folder}")


def _check_size(path: Path, info: VideoInfo, config: ScanConfig) -> None:
    stored = place(info.height, info.width, config.size)
    if min(stored.height, stored.width) < config.min_side:
        raise DataError(
            "too-small",
            f"{path.name} is {info.width}x{info.height}, stored as {stored.width}x{stored.height}; the geometry "
            f"backend needs sides of at least {config.min_side}",
        )


def _refusal(error: DataError, source: str) -> Refusal:
    return Refusal(
        status="refused",
        source=source,
        stage="probe",
        code=error.code,
        reason=str(error),
        hint=hint(error.code),
    )
