"""`annotate`: from a folder of videos to a dataset, and the account of what became of every video and clip.

Two passes: every video is scanned (shots and clips), then every clip is annotated on its own. Both passes commit each
result by itself, so a second run does only what is missing.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fw_data.annotate.captions import read_captions
from fw_data.annotate.config import AnnotateConfig
from fw_data.annotate.finalize import finish
from fw_data.annotate.packer import Packer
from fw_data.annotate.progress import Reporter
from fw_data.annotate.scan import ClipPlan
from fw_data.annotate.scan_pass import label, merge, scan_all, without_duplicates
from fw_data.annotate.summary import RunSummary
from fw_data.annotate.tasks import AnnotateTask, ClipJob, ScanTask, failure
from fw_data.annotate.workdir import ClosedShard, Measured, WorkDir
from fw_data.annotators.spec import BackendSpec
from fw_data.dataset.schema import SCORES, Refusal
from fw_data.engine import ExecutionEngine
from fw_data.media.probe import find_videos

SHARD_BYTES = 256 << 20
TRIES = 2
"""A clip that failed so often is in quarantine."""


@dataclass(frozen=True, kw_only=True)
class RunMode:
    """Stop and retry settings of a run; they do not change annotated clips."""

    stop_after: Literal["scan", "filters"] | None = None
    """scan: only find the clips. filters: only measure and filter them."""
    score_only: bool = False
    """Measure every clip, turn none away, pay for no geometry."""
    retry_failed: bool = False
    """Try again what was refused or failed."""
    retry_quarantined: bool = False
    """Try again also what failed twice."""
    follow_links: bool = False
    """Read videos also through links that lead out of the raw folder."""


def annotate(
    raw: Path,
    out: Path,
    *,
    config: AnnotateConfig,
    spec: BackendSpec,
    engine: ExecutionEngine,
    reporter: Reporter,
    mode: RunMode | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> RunSummary:
    """Annotate every video below `raw` into the dataset `out`; resumes an earlier run.

    Raises ValueError when `raw` is not a folder, `out` is inside it, or `out` was begun with other settings.
    On KeyboardInterrupt what is finished is kept, the manifest describes the shards closed so far, and it is raised on.
    """
    mode = mode or RunMode()
    if not raw.is_dir():
        raise ValueError(f"{raw} is not a folder; RAW_DIR is the folder that holds the videos")
    if out.resolve() == raw.resolve() or raw.resolve() in out.resolve().parents:
        raise ValueError(f"{out} is inside {raw}; put the dataset outside the folder of the videos")
    videos = [path.relative_to(raw).as_posix() for path in find_videos(raw)]
    if not videos:
        return RunSummary()
    work = WorkDir(out)
    with work.locked():
        settings = config.flat(spec)
        config_hash = config.fingerprint(spec)
        work.check_settings(settings)
        closed, gone = work.closed_shards()
        for name in gone:
            reporter.say(f"{name} is gone; its clips are annotated again")
        summary = RunSummary(videos=len(videos))
        retry = mode.retry_failed or mode.retry_quarantined
        captions = read_captions(raw, videos)
        for message in captions.messages:
            reporter.say(f"captions: {message}")
        scan_task = ScanTask(
            raw=raw.resolve(),
            config=config,
            config_hash=config_hash,
            follow_links=mode.follow_links,
            captions=captions.texts,
            min_side=getattr(spec, "min_side", 0),
        )
        with summary.timed("scan"):
            scans, seconds = scan_all(videos, work, scan_task, engine, reporter, retry_failed=retry)
        summary.seconds["scan"] = seconds
        plans, refusals = merge(scans)
        summary.planned = len(plans)
        _say_stale(plans, set(videos), closed, reporter)
        inside = {record.id for shard in closed for record in shard.records}
        plans, duplicates = without_duplicates(plans, config.duplicate_bits, inside)
        refusals += duplicates
        packer = Packer(work=work, order=[plan.id for plan in plans], shard_bytes=shard_bytes, closed=closed)
        task = AnnotateTask(
            raw=raw.resolve(),
            config=config,
            config_hash=config_hash,
            spec=spec,
            stop_after_filters=mode.stop_after == "filters",
            score_only=mode.score_only,
        )
        try:
            if mode.stop_after != "scan":
                with summary.timed("clips"):
                    _annotate_all(task, plans, work, packer, engine, reporter, summary, mode)
                if not (task.score_only or task.stop_after_filters):
                    packer.flush()
        finally:
            ended = {record.id for shard in packer.closed for record in shard.records}
            measured: list[tuple[ClipPlan, Measured]] = []
            for plan in plans:
                refusal = work.refusal(plan.id)
                if refusal:
                    refusals.append(refusal)
                elif plan.id not in ended and (found := work.measured(plan.id)):
                    measured.append((plan, found))
            meanings = SCORES | spec.score_meanings()
            finish(work, packer.closed, refusals, measured, settings, config_hash, meanings, summary)
        return summary


def _annotate_all(
    task: AnnotateTask,
    plans: list[ClipPlan],
    work: WorkDir,
    packer: Packer,
    engine: ExecutionEngine,
    reporter: Reporter,
    summary: RunSummary,
    mode: RunMode,
) -> None:
    inside = {record.id for shard in packer.closed for record in shard.records}
    todo: list[ClipPlan] = []
    tries: dict[str, int] = {}
    for plan in plans:
        refusal = work.refusal(plan.id)
        if refusal and _again(refusal, mode, summary):
            tries[plan.id] = refusal.attempts if refusal.status == "failed" else 0
            work.forget_refusal(plan.id)
            refusal = None
        if plan.id in inside:
            packer.end(plan.id, kept=False)
            work.staged(plan.id).unlink(missing_ok=True)
        elif refusal or work.staged(plan.id).is_file():
            packer.end(plan.id, kept=refusal is None)
        elif not _already_measured(task, work.measured(plan.id)):
            todo.append(plan)
    jobs = [ClipJob(plan=plan, staged=work.staged(plan.id).resolve()) for plan in todo]
    seconds: Counter[str] = Counter()
    with reporter.phase(_phase_name(task), len(plans), done=len(plans) - len(todo)) as phase:
        for done in engine.run(task, jobs, lambda job, stage, part: phase.working(label(job.plan), stage, part)):
            plan, outcome = done.job.plan, done.value
            refusal = outcome.refusal if outcome else failure(plan, done.error or "", tries.get(plan.id, 0) + 1)
            word = refusal.code if refusal else "kept"
            if refusal:
                work.store_refusal(plan.id, refusal)
                work.append_refusal(refusal)
                reporter.refused(refusal)
            elif outcome and outcome.measured:
                work.store_measured(plan.id, outcome.measured)
                word = "measured"
            else:
                summary.new_clips += 1
            for note in outcome.notes if outcome else []:
                reporter.say(f"{label(plan)}: {note}")
            seconds.update(outcome.seconds if outcome else {})
            if word != "measured":
                packer.end(plan.id, kept=refusal is None)
            phase.step(f"{label(plan)}: {word}")
    summary.seconds |= dict(seconds)


def _again(refusal: Refusal, mode: RunMode, summary: RunSummary) -> bool:
    """Whether to retry an excluded clip."""
    if refusal.status == "failed" and refusal.attempts >= TRIES and not mode.retry_quarantined:
        summary.quarantined += 1
        return False
    return refusal.status != "filtered" and (mode.retry_failed or mode.retry_quarantined)


def _already_measured(task: AnnotateTask, found: Measured | None) -> bool:
    if found is None:
        return False
    return task.score_only or (task.stop_after_filters and not found.code)


def _phase_name(task: AnnotateTask) -> str:
    return "measuring clips" if task.score_only or task.stop_after_filters else "annotating clips"


def _say_stale(plans: list[ClipPlan], videos: set[str], closed: list[ClosedShard], reporter: Reporter) -> None:
    planned = {plan.id for plan in plans}
    stale = {r.source for shard in closed for r in shard.records if r.source in videos and r.id not in planned}
    for source in sorted(stale):
        reporter.say(f"{source} has changed since it was annotated; its earlier clips stay in the dataset")
