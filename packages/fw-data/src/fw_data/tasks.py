"""What worker processes do: survey one video, or annotate one clip. Both are plain callables that pickle small.

Expected trouble comes back as a Refusal; anything a task raises is an error of ours, which the engine reports.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fw_data.annotators.base import AnnotationRefused
from fw_data.clipfiles import Cameras, pack_clip
from fw_data.config import AnnotateConfig, BackendSpec
from fw_data.engine import JobProgress
from fw_data.errors import DataError
from fw_data.filters import reject, score
from fw_data.grade import grade, score_geometry
from fw_data.media.decode import read_clip
from fw_data.media.resize import place
from fw_data.schema import ClipRecord, Refusal, Status
from fw_data.shards import ShardWriter
from fw_data.survey import ClipPlan, Survey, survey

FRAME_RATE_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class SurveyTask:
    """First pass over one video, given as its path relative to `raw`."""

    raw: Path
    """Folder of the videos."""
    config: AnnotateConfig
    """Sizes, lengths and limits."""
    config_hash: str
    """Fingerprint of config and backend; part of the clip ids."""

    def __call__(self, job: str, progress: JobProgress) -> Survey:  # noqa: ARG002 - one short step
        """The survey of one video."""
        return survey(
            self.raw / job,
            job,
            limits=self.config.limits,
            max_frames=self.config.max_frames,
            min_frames=self.config.min_frames,
            config_hash=self.config_hash,
        )


@dataclass(frozen=True, kw_only=True)
class ClipJob:
    """One clip to annotate."""

    plan: ClipPlan
    """What to cut out of which video."""
    staged: Path
    """Where the finished clip goes."""


@dataclass(frozen=True, kw_only=True)
class ClipOutcome:
    """How a clip ended."""

    clip_id: str
    """Of the clip."""
    refusal: Refusal | None = None
    """None = kept, and the staged file is in place."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time by stage."""


@dataclass(frozen=True, kw_only=True)
class AnnotateTask:
    """Decode, filter, annotate, grade and stage one clip."""

    raw: Path
    """Folder of the videos."""
    config: AnnotateConfig
    """What to do."""
    config_hash: str
    """Fingerprint of config and backend."""
    spec: BackendSpec
    """Where the geometry comes from."""

    def __call__(self, job: ClipJob, progress: JobProgress) -> ClipOutcome:
        """The outcome of one clip; a kept one is committed to `job.staged` when this returns."""
        plan, watch = job.plan, _Stopwatch()
        try:
            refusal = self._annotate(job, progress, watch)
        except AnnotationRefused as error:
            refusal = _refusal(plan, "refused", "geometry", error.code, str(error))
        except DataError as error:
            refusal = _refusal(plan, "refused", watch.stage, error.code, str(error))
        return ClipOutcome(clip_id=plan.id, refusal=refusal, seconds=watch.finish())

    def _annotate(self, job: ClipJob, progress: JobProgress, watch: "_Stopwatch") -> Refusal | None:
        plan, config = job.plan, self.config
        watch.start("decode")
        placement = place(plan.info.height, plan.info.width, config.size)
        frames, times = read_clip(
            self.raw / plan.source,
            plan.info,
            config.limits,
            placement,
            start_frame=plan.start_frame,
            start_pts=plan.start_pts,
            num_frames=plan.num_frames,
        )
        watch.start("filters")
        scores = score(frames)
        rejection = reject(scores, config.filters)
        if rejection:
            return _refusal(plan, "filtered", "filters", rejection.code, rejection.reason)
        watch.start("geometry")
        backend = self.spec.backend(plan, placement)
        geometry = backend.annotate(frames, progress=progress)
        if geometry.depth_m.shape != frames.shape[:3]:
            raise RuntimeError(f"{backend.name} gave depth {geometry.depth_m.shape} for frames {frames.shape[:3]}")
        watch.start("grade")
        scores |= geometry.scores | score_geometry(geometry)
        watch.start("store")
        duration_s = times[-1] - times[0]
        record = ClipRecord(
            id=plan.id,
            source=plan.source,
            source_sha256=plan.source_sha256,
            source_width=plan.info.width,
            source_height=plan.info.height,
            start_frame=plan.start_frame,
            num_frames=plan.num_frames,
            start_time_s=times[0],
            fps=round((len(times) - 1) / duration_s if duration_s > 0 else plan.info.fps, FRAME_RATE_DIGITS),
            width=placement.width,
            height=placement.height,
            caption=plan.caption,
            units=geometry.units,
            backend=backend.name,
            backend_version=backend.version,
            config_hash=self.config_hash,
            scores={name: float(value) for name, value in sorted(scores.items()) if np.isfinite(value)},
            grade=grade(scores),
            notes=plan.notes,
        )
        cameras = Cameras(
            K=geometry.K,
            pose_c2w=geometry.pose_c2w,
            pose_confidence=geometry.pose_confidence,
            frame_index=np.arange(plan.start_frame, plan.start_frame + plan.num_frames, dtype=np.int64),
            time_s=np.asarray(times, np.float64),
        )
        files = pack_clip(
            record,
            video=frames,
            depth_m=geometry.depth_m,
            confidence=geometry.confidence,
            cameras=cameras,
            crf=config.crf,
        )
        with ShardWriter(job.staged) as writer:
            writer.add(plan.id, files)
        return None


class _Stopwatch:
    """Seconds by stage; one stage runs at a time."""

    def __init__(self) -> None:
        self.stage = "decode"
        self._seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def start(self, stage: str) -> None:
        self._note()
        self.stage = stage

    def finish(self) -> dict[str, float]:
        self._note()
        return self._seconds

    def _note(self) -> None:
        now = time.perf_counter()
        self._seconds[self.stage] = self._seconds.get(self.stage, 0.0) + now - self._since
        self._since = now


def _refusal(plan: ClipPlan, status: Status, stage: str, code: str, reason: str, hint: str = "") -> Refusal:
    return Refusal(
        status=status,
        source=plan.source,
        start_frame=plan.start_frame,
        num_frames=plan.num_frames,
        clip_id=plan.id,
        stage=stage,
        code=code,
        reason=reason,
        hint=hint,
    )


def failure(plan: ClipPlan, error: str) -> Refusal:
    """The refusal of a clip whose job raised or whose worker died."""
    return _refusal(
        plan, "failed", "worker", "error", error, "run again with --retry-failed; please report it if it stays"
    )
