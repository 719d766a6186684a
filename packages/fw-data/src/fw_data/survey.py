"""The first pass over a video: what it is, where its shots are, which clips it gives. No geometry yet.

The result is a small file, so a second run does not look at an unchanged video again.
"""

import hashlib
import uuid
from pathlib import Path

import av
from pydantic import BaseModel, ConfigDict

from fw_data.errors import DataError
from fw_data.media.colour import ColourConverter
from fw_data.media.decode import read_frames, thumbnail
from fw_data.media.probe import MediaLimits, VideoInfo, probe
from fw_data.schema import Refusal
from fw_data.shots import THUMBNAIL_LONG_SIDE, ShotCutter, windows

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


class Survey(BaseModel):
    """What the first pass found in one video."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    size: int
    mtime_ns: int
    config_hash: str
    sha256: str
    clips: list[ClipPlan]
    refusals: list[Refusal]


def survey(
    path: Path, source: str, *, limits: MediaLimits, max_frames: int, min_frames: int, config_hash: str
) -> Survey:
    """Look through one video. A video that cannot be used gives a survey with a refusal and no clips."""
    stat = path.stat()
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    clips: list[ClipPlan] = []
    refusals: list[Refusal] = []
    try:
        info = probe(path, limits)
        clips, refusals = _cut(path, source, info, sha256, limits, max_frames, min_frames, config_hash)
    except DataError as error:
        refusals = [_refusal(error, source)]
    return Survey(
        source=source,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        config_hash=config_hash,
        sha256=sha256,
        clips=clips,
        refusals=refusals,
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
    path: Path,
    source: str,
    info: VideoInfo,
    sha256: str,
    limits: MediaLimits,
    max_frames: int,
    min_frames: int,
    config_hash: str,
) -> tuple[list[ClipPlan], list[Refusal]]:
    cutter = ShotCutter(fps=info.fps, min_frames=min_frames)
    convert = ColourConverter()
    stamps: list[int | None] = []
    gaps = 0
    try:
        for frame in read_frames(path, info, limits):
            gaps += frame.gap
            stamps.append(frame.pts)
            cutter.add(thumbnail(frame.picture, info, convert, THUMBNAIL_LONG_SIDE), gap=frame.gap)
    except av.FFmpegError as error:
        raise DataError("unreadable", f"{path.name} stops being readable: {error.strerror}") from error
    caption, notes = read_caption(path)
    if gaps or cutter.frames < 0.95 * info.declared_frames:
        declared = f" of {info.declared_frames} declared" if info.declared_frames else ""
        notes.append(f"the source is damaged or cut off: {cutter.frames} frames{declared} decode, {gaps} gaps")
    clips, refusals = [], []
    for shot in cutter.shots():
        for window in windows(shot, max_frames):
            name = clip_id(sha256, window.start, len(window), config_hash)
            if len(window) < min_frames:
                refusals.append(
                    Refusal(
                        status="filtered",
                        source=source,
                        start_frame=window.start,
                        num_frames=len(window),
                        clip_id=name,
                        stage="windows",
                        code="too-short",
                        reason=f"{len(window)} frames; a clip needs {min_frames}",
                        hint="lower --min-frames to keep it",
                    )
                )
                continue
            clips.append(
                ClipPlan(
                    id=name,
                    source=source,
                    source_sha256=sha256,
                    start_frame=window.start,
                    num_frames=len(window),
                    start_pts=stamps[window.start],
                    info=info,
                    caption=caption,
                    notes=notes,
                )
            )
    return clips, refusals


def _refusal(error: DataError, source: str) -> Refusal:
    hints = {
        "unreadable": "check the file with another player; re-encode or remove it",
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
