"""Tasks of worker processes: scan one video, or annotate one clip. Both are small picklable callables.

Expected trouble comes back as a Refusal; anything a task raises is an error of ours, which the engine reports.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fw_data.annotate.config import AnnotateConfig
from fw_data.annotate.hints import hint
from fw_data.annotate.plugins import caption
from fw_data.annotate.scan import ClipPlan, VideoScan, scan
from fw_data.annotate.workdir import Measured
from fw_data.annotators.base import AnnotationRefused
from fw_data.annotators.spec import BackendSpec
from fw_data.dataset.clip import MOVING, Cameras, pack_clip
from fw_data.dataset.schema import ClipRecord, Refusal, Status
from fw_data.dataset.shards import ShardWriter
from fw_data.engine import JobProgress
from fw_data.errors import DataError
from fw_data.media.decode import read_clip
from fw_data.media.resize import place
from fw_data.quality.dynamics import overlay_pixels, pixel_labels
from fw_data.quality.filters import reject, score
from fw_data.quality.grade import grade_with_reasons, median_depth, score_geometry
from fw_data.quality.motion_tags import motion_tags

FRAME_RATE_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class ScanTask:
    """First pass over one video, given as its path relative to `raw`."""

    raw: Path
    """Folder of the videos."""
    config: AnnotateConfig
    """Sizes, lengths and limits."""
    config_hash: str
    """Fingerprint of config and backend; part of the clip ids."""
    follow_links: bool = False
    """Whether links may lead out of `raw`."""
    captions: Mapping[str, str] = field(default_factory=dict)
    """Captions by the path of the video."""
    min_side: int = 0
    """Smallest stored height or width that the geometry backend takes."""

    def __call__(self, job: str, progress: JobProgress) -> VideoScan:  # noqa: ARG002 - one short step
        """The scan of one video."""
        return scan(
            self.raw / job,
            job,
            limits=self.config.limits,
            config=replace(self.config.scan, min_side=self.min_side),
            config_hash=self.config_hash,
            inside=None if self.follow_links else self.raw,
            caption=self.captions.get(job, ""),
        )


@dataclass(frozen=True, kw_only=True)
class ClipJob:
    """One clip to annotate."""

    plan: ClipPlan
    """Video and frames of the clip."""
    staged: Path
    """Path for the finished clip."""


@dataclass(frozen=True, kw_only=True)
class ClipOutcome:
    """Outcome of a clip."""

    clip_id: str
    """Id of the clip."""
    refusal: Refusal | None = None
    """Why it is left out; None if it is not."""
    measured: Measured | None = None
    """Scores of a clip that is not to be annotated; None = kept, and the staged file is in place."""
    seconds: dict[str, float] = field(default_factory=dict)
    """CPU time by stage."""
    notes: list[str] = field(default_factory=list)
    """Problems that did not exclude the clip."""


@dataclass(frozen=True, kw_only=True)
class AnnotateTask:
    """Decode, filter, annotate, grade and stage one clip."""

    raw: Path
    """Folder of the videos."""
    config: AnnotateConfig
    """Settings of the run."""
    config_hash: str
    """Fingerprint of config and backend."""
    spec: BackendSpec
    """Geometry backend."""
    stop_after_filters: bool = False
    """Only measure and filter."""
    score_only: bool = False
    """Only measure; no filter turns a clip away."""

    def __call__(self, job: ClipJob, progress: JobProgress) -> ClipOutcome:
        """The outcome of one clip; a kept one is committed to `job.staged` when this returns."""
        plan, watch, scores = job.plan, _Stopwatch(), dict[str, float]()
        refusal = measured = None
        notes: list[str] = []
        try:
            frames, times = self._read(plan)
            watch.start("filters")
            scores |= score(frames)
            rejection = reject(scores, self.config.filters)
            if self.stop_after_filters or self.score_only:
                measured = Measured(scores=scores, code=rejection.code if rejection else "")
            if rejection and not self.score_only:
                refusal = _refusal(plan, "filtered", "filters", rejection.code, rejection.reason)
            elif measured is None:
                notes = self._annotate(job, frames, times, scores, progress, watch)
        except AnnotationRefused as error:
            refusal = _refusal(plan, "refused", "geometry", error.code, str(error), error.hint)
        except DataError as error:
            refusal = _refusal(plan, "refused", watch.stage, error.code, str(error))
        if refusal:
            refusal = refusal.model_copy(update={"scores": _finite(scores)})
        seconds = watch.finish()
        return ClipOutcome(clip_id=plan.id, refusal=refusal, measured=measured, seconds=seconds, notes=notes)

    def _read(self, plan: ClipPlan) -> tuple[UInt8[np.ndarray, "f h w 3"], list[float]]:
        placement = place(plan.info.height, plan.info.width, self.config.size)
        return read_clip(
            self.raw / plan.source,
            plan.info,
            self.config.limits,
            placement,
            frame_index=plan.frame_index,
            start_pts=plan.start_pts,
        )

    def _annotate(
        self,
        job: ClipJob,
        frames: UInt8[np.ndarray, "f h w 3"],
        times: list[float],
        scores: dict[str, float],
        progress: JobProgress,
        watch: "_Stopwatch",
    ) -> list[str]:
        """The costly part: geometry, grade, and the staged file; returns notes about this run."""
        plan, config = job.plan, self.config
        placement = place(plan.info.height, plan.info.width, config.size)
        watch.start("geometry")
        backend = self.spec.backend(plan, placement)
        geometry = backend.annotate(frames, progress=progress)
        if geometry.depth_m.shape != frames.shape[:3]:
            raise RuntimeError(f"{backend.name} gave depth {geometry.depth_m.shape} for frames {frames.shape[:3]}")
        if not (geometry.depth_m > 0).any():
            raise AnnotationRefused("no-depth", "no pixel of the clip has a depth", "check the geometry of this video")
        frames = frames if geometry.frames is None else geometry.frames
        watch.start("masks")
        overlay = overlay_pixels(frames, geometry)
        if overlay.any():
            geometry = replace(geometry, confidence=np.where(overlay, np.float32(0), geometry.confidence))
        method = "gmflow" if getattr(self.spec, "flow", "none") == "gmflow" else "dis"
        labels = pixel_labels(frames, geometry, overlay, method)
        watch.start("grade")
        scores |= geometry.scores | score_geometry(geometry, times)
        scores["dynamic_fraction"] = float(((labels & MOVING) > 0)[:, ~overlay].mean())
        letter, reasons = grade_with_reasons(scores)
        text, notes = plan.caption, list[str]()
        if config.captioner and not text:
            watch.start("caption")
            text, notes = caption(config.captioner, frames)
        watch.start("store")
        duration_s = times[-1] - times[0]
        masked = [f"a logo or caption covers {overlay.mean():.1%} of the image and is masked"] if overlay.any() else []
        record = ClipRecord(
            id=plan.id,
            source=plan.source,
            source_sha256=plan.source_sha256,
            source_width=plan.info.width,
            source_height=plan.info.height,
            start_frame=plan.start_frame,
            num_frames=plan.num_frames,
            source_frames=plan.span,
            start_time_s=times[0],
            fps=round((len(times) - 1) / duration_s if duration_s > 0 else plan.info.fps, FRAME_RATE_DIGITS),
            width=placement.width,
            height=placement.height,
            caption=text,
            units=geometry.units,
            backend=backend.name,
            backend_version=backend.version,
            config_hash=self.config_hash,
            scores=_finite(scores),
            grade=letter,
            grade_reasons=reasons,
            motion_tags=motion_tags(geometry.pose_c2w, median_depth(geometry)),
            notes=[*plan.notes, *geometry.notes, *masked, *notes],
            has_masks=True,
        )
        cameras = Cameras(
            K=geometry.K,
            pose_c2w=geometry.pose_c2w,
            pose_confidence=geometry.pose_confidence,
            frame_index=plan.frame_index,
            time_s=np.asarray(times, np.float64),
        )
        files = pack_clip(
            record,
            video=frames,
            depth_m=geometry.depth_m,
            confidence=geometry.confidence,
            cameras=cameras,
            crf=config.crf,
            labels=labels,
        )
        with ShardWriter(job.staged) as writer:
            writer.add(plan.id, files)
        return notes


class _Stopwatch:
    """CPU seconds of this process by stage; one stage runs at a time."""

    def __init__(self) -> None:
        self.stage = "decode"
        self._seconds: dict[str, float] = {}
        self._since = time.process_time()

    def start(self, stage: str) -> None:
        self._note()
        self.stage = stage

    def finish(self) -> dict[str, float]:
        self._note()
        return self._seconds

    def _note(self) -> None:
        now = time.process_time()
        self._seconds[self.stage] = self._seconds.get(self.stage, 0.0) + now - self._since
        self._since = now


def _finite(scores: dict[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in sorted(scores.items()) if np.isfinite(value)}


def _refusal(plan: ClipPlan, status: Status, stage: str, code: str, reason: str, fix: str = "") -> Refusal:
    return Refusal(
        status=status,
        source=plan.source,
        start_frame=plan.start_frame,
        num_frames=plan.span,
        clip_id=plan.id,
        stage=stage,
        code=code,
        reason=reason,
        hint=fix or hint(code),
    )


def failure(plan: ClipPlan, error: str, attempts: int = 1) -> Refusal:
    """The refusal of a clip whose job raised or whose worker died."""
    fix = f"it failed {attempts} times; --retry-quarantined tries it again" if attempts > 1 else ""
    found = _refusal(plan, "failed", "worker", "error", error, fix)
    return found.model_copy(update={"attempts": attempts})
