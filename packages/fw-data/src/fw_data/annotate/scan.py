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
from fw_data.dataset.schema import Refusal
from fw_data.errors import DataError
from fw_data.media.color import ColorConverter
from fw_data.media.decode import read_frames, thumbnail
from fw_data.media.probe import MediaLimits, VideoInfo, probe
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
    """Time that it took."""


def scan(
    path: Path,
    source: str,
    *,
    limits: MediaLimits,
    config: ScanConfig,
    config_hash: str,
    inside: Path | None = None,
) -> VideoScan:
    """Look through one video. A video that cannot be used gives a scan with a refusal and no clips.

    With `inside`, a link that leads out of that folder is not followed.
    """
    began = time.perf_counter()
    stat = path.stat()
    clips: list[ClipPlan] = []
    refusals: list[Refusal] = []
    sha256 = ""
    try:
        _check_inside(path, inside)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        info = probe(path, limits)
        clips, refusals = _cut(path, source, info, sha256, limits, config, config_hash)
    except PermissionError as error:
        refusals = [_refusal(DataError("unreadable", f"{path.name} may not be read: {error.strerror}"), source)]
    except DataError as error:
        refusals = [_refusal(error, source)]
    return VideoScan(
        source=source,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        config_hash=config_hash,
        sha256=sha256,
        clips=clips,
        refusals=refusals,
        seconds=time.perf_counter() - began,
    )


def clip_id(source_sha256: str, start_frame: int, num_frames: int, config_hash: str) -> str:
    """The same stretch of the same video with the same settings always has the same id."""
    return str(uuid.uuid5(_NAMESPACE, f"{source_sha256}/{start_frame}/{start_frame + num_frames}/{config_hash}"))


def read_caption(path: Path) -> tuple[str, list[str]]:
    """The caption in the .txt file beside a video, as one line, and notes about it."""
    beside = path.with_suffix(".txt")
    if not beside.is_file():
        return "", []
    raw = beside.read_bytes()
    text = " ".join(raw.decode("utf-8-sig", errors="replace").split())
    return text, ["the caption is not UTF-8; unreadable characters were replaced"] if "\ufffd" in text else []


def _cut(
    path: Path, source: str, info: VideoInfo, sha256: str, limits: MediaLimits, config: ScanConfig, config_hash: str
) -> tuple[list[ClipPlan], list[Refusal]]:
    cutter = ShotCutter(fps=info.fps, min_frames=config.min_frames, trim_s=config.trim_s, cuts=config.cuts)
    convert = ColorConverter()
    stamps: list[int | None] = []
    times = array("d")
    hashes = array("Q")
    gaps = 0
    try:
        for frame in read_frames(path, info, limits):
            gaps += frame.gap
            stamps.append(frame.pts)
            times.append(frame.time_s)
            small = thumbnail(frame.image, info, convert, THUMBNAIL_LONG_SIDE)
            hashes.append(difference_hash(small))
            cutter.add(small, gap=frame.gap)
    except av.FFmpegError as error:
        raise DataError("unreadable", f"{path.name} stops being readable: {error.strerror}") from error
    if not cutter.frames:
        raise DataError("no-frames", f"{path.name} holds no undamaged frame")
    caption, notes = read_caption(path)
    if gaps or cutter.frames < 0.95 * info.declared_frames:
        declared = f" of {info.declared_frames} declared" if info.declared_frames else ""
        notes.append(f"the source is damaged or cut off: {cutter.frames} frames{declared} decode, {gaps} gaps")
    clips, refusals = [], []

    def leave_out(start: int, end: int, stage: str, code: str, reason: str, hint: str, name: str | None = None) -> None:
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
                hint=hint,
            )
        )

    for found in cutter.transitions():
        leave_out(found.start, found.end, "shots", "transition", found.describe(), "")
    for number, shot in enumerate(cutter.shots()):
        chosen = shot.start + choose_frames(np.asarray(times)[shot.start : shot.end], config.fps)
        for window in windows(Window(start=0, end=len(chosen)), config.max_frames):
            index = chosen[window.start : window.end]
            start, end = int(index[0]), int(index[-1]) + 1
            name = clip_id(sha256, start, end - start, config_hash)
            if len(index) < config.min_frames:
                reason = f"{len(index)} frames; a clip needs {config.min_frames}"
                leave_out(start, end, "windows", "too-short", reason, "lower --min-frames to keep it", name)
                continue
            clips.append(
                ClipPlan(
                    id=name,
                    source=source,
                    source_sha256=sha256,
                    start_frame=start,
                    num_frames=len(index),
                    start_pts=stamps[start],
                    info=info,
                    caption=caption,
                    notes=notes,
                    offsets=[] if end - start == len(index) else (index - start).tolist(),
                    shot=number,
                    hashes=clip_hashes([hashes[i] for i in index]),
                )
            )
    return clips, refusals


def _check_inside(path: Path, folder: Path | None) -> None:
    if folder is not None and folder.resolve() not in path.resolve().parents:
        raise DataError(OUTSIDE, f"{path.name} is a link to {path.resolve()}, outside {folder}")


def _refusal(error: DataError, source: str) -> Refusal:
    hints = {
        "unreadable": "check the file with another player; re-encode or remove it",
        OUTSIDE: "give --follow-links if you trust it, or copy the video",
        "no-decoder": "re-encode it, for instance to H.264",
        "too-large": "scale it down first",
        "too-long": "split it first",
    }
    return Refusal(
        status="refused",
        source=source,
        stage="probe",
        code=error.code,
        reason=str(error),
        hint=hints.get(error.code, ""),
    )
