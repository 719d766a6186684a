"""`annotate`: from a folder of videos to a dataset, and the account of what became of every video and clip.

Two passes: every video is surveyed (shots and clips), then every clip is annotated on its own. Both passes commit each
result by itself, so a second run does only what is missing.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from fw_data.config import AnnotateConfig, BackendSpec
from fw_data.engine import Engine
from fw_data.manifest import MANIFEST_NAME, write_manifest
from fw_data.media.probe import find_videos
from fw_data.packer import Packer
from fw_data.progress import Reporter
from fw_data.schema import CONVENTIONS, SCORES, DatasetCard, Refusal
from fw_data.shards import write_atomic
from fw_data.survey import ClipPlan, Survey, read_caption
from fw_data.tasks import AnnotateTask, ClipJob, SurveyTask, failure
from fw_data.workdir import CARD_NAME, REFUSALS_NAME, ClosedShard, WorkDir

SHARD_BYTES = 256 << 20


@dataclass(kw_only=True)
class RunSummary:
    """What a run did, and what the dataset now holds."""

    videos: int = 0
    """Videos found."""
    clips: int = 0
    """Clips in the dataset."""
    frames: int = 0
    """Frames in the dataset."""
    new_clips: int = 0
    """Clips that this run annotated."""
    grades: dict[str, int] = field(default_factory=dict)
    """Clips by grade."""
    refusals: list[Refusal] = field(default_factory=list)
    """Everything left out, by this run or an earlier one."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Work time of this run by stage, summed over workers."""

    def count(self, status: str) -> int:
        """Entries of `refusals` with a status."""
        return sum(refusal.status == status for refusal in self.refusals)


def annotate(
    raw: Path,
    out: Path,
    *,
    config: AnnotateConfig,
    spec: BackendSpec,
    engine: Engine,
    reporter: Reporter,
    retry_failed: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> RunSummary:
    """Annotate every video below `raw` into the dataset `out`; goes on where an earlier run stopped.

    Raises ValueError when `raw` is not a folder, `out` lies inside it, or `out` was begun with other settings.
    On KeyboardInterrupt what is finished is kept, the manifest describes the shards closed so far, and it is raised on.
    """
    if not raw.is_dir():
        raise ValueError(f"{raw} is not a folder; RAW_DIR is the folder that holds the videos")
    if out.resolve() == raw.resolve() or raw.resolve() in out.resolve().parents:
        raise ValueError(f"{out} lies inside {raw}; put the dataset outside the folder of the videos")
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
        surveys = _survey_all(raw, videos, work, config, config_hash, engine, reporter, retry_failed)
        plans, refusals = _merge(surveys)
        _say_stale(plans, set(videos), closed, reporter)
        summary = RunSummary(videos=len(videos))
        packer = Packer(work=work, order=[plan.id for plan in plans], shard_bytes=shard_bytes, closed=closed)
        task = AnnotateTask(raw=raw.resolve(), config=config, config_hash=config_hash, spec=spec)
        try:
            _annotate_all(task, plans, work, packer, engine, reporter, summary, retry_failed)
            packer.flush()
        finally:
            for plan in plans:
                refusal = work.refusal(plan.id)
                if refusal:
                    refusals.append(refusal)
            _finish(work, packer.closed, refusals, settings, config_hash, SCORES | spec.score_meanings(), summary)
        return summary


def _survey_all(
    raw: Path,
    videos: list[str],
    work: WorkDir,
    config: AnnotateConfig,
    config_hash: str,
    engine: Engine,
    reporter: Reporter,
    retry_failed: bool,
) -> list[Survey]:
    surveys: dict[str, Survey] = {}
    for source in videos:
        known = work.survey(source)
        stat = (raw / source).stat()
        current = known is not None and (known.size, known.mtime_ns) == (stat.st_size, stat.st_mtime_ns)
        if current and known is not None:
            again = retry_failed and any(refusal.status != "filtered" for refusal in known.refusals)
            caption = read_caption(raw / source)[0]
            if not again and all(plan.caption == caption for plan in known.clips):
                surveys[source] = known
    todo = [source for source in videos if source not in surveys]
    task = SurveyTask(raw=raw.resolve(), config=config, config_hash=config_hash)
    with reporter.phase("looking through videos", len(videos), done=len(surveys)) as phase:
        for done in engine.run(task, todo, phase.working):
            result = done.value
            if result is None:
                result = _failed_survey(raw, done.job, config_hash, done.error or "")
            surveys[done.job] = result
            work.store_survey(result)
            for refusal in result.refusals:
                if refusal.stage != "windows":
                    reporter.refused(refusal)
            phase.step(f"{done.job}: {len(result.clips)} clips")
    return [surveys[source] for source in videos]


def _failed_survey(raw: Path, source: str, config_hash: str, error: str) -> Survey:
    stat = (raw / source).stat()
    refusal = Refusal(
        status="failed",
        source=source,
        stage="probe",
        code="error",
        reason=error,
        hint="run again with --retry-failed; please report it if it stays",
    )
    return Survey(
        source=source,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        config_hash=config_hash,
        sha256="",
        clips=[],
        refusals=[refusal],
    )


def _merge(surveys: list[Survey]) -> tuple[list[ClipPlan], list[Refusal]]:
    """All clips in order, and what the surveys left out; of videos with the same bytes only the first one counts."""
    first: dict[str, str] = {}
    plans: list[ClipPlan] = []
    refusals: list[Refusal] = []
    for survey in surveys:
        if survey.clips and survey.sha256 in first:
            refusals.append(
                Refusal(
                    status="filtered",
                    source=survey.source,
                    stage="probe",
                    code="duplicate",
                    reason=f"the same bytes as {first[survey.sha256]}",
                )
            )
            continue
        first[survey.sha256] = survey.source
        plans += survey.clips
        refusals += survey.refusals
    return plans, refusals


def _annotate_all(
    task: AnnotateTask,
    plans: list[ClipPlan],
    work: WorkDir,
    packer: Packer,
    engine: Engine,
    reporter: Reporter,
    summary: RunSummary,
    retry_failed: bool,
) -> None:
    inside = {record.id for shard in packer.closed for record in shard.records}
    todo: list[ClipPlan] = []
    for plan in plans:
        refusal = work.refusal(plan.id)
        if refusal and retry_failed and refusal.status != "filtered":
            work.forget_refusal(plan.id)
            refusal = None
        if plan.id in inside:
            packer.end(plan.id, kept=False)
            work.staged(plan.id).unlink(missing_ok=True)
        elif refusal or work.staged(plan.id).is_file():
            packer.end(plan.id, kept=refusal is None)
        else:
            todo.append(plan)
    jobs = [ClipJob(plan=plan, staged=work.staged(plan.id).resolve()) for plan in todo]
    seconds: Counter[str] = Counter()
    with reporter.phase("annotating clips", len(plans), done=len(plans) - len(todo)) as phase:
        for done in engine.run(task, jobs, lambda job, stage, part: phase.working(label(job.plan), stage, part)):
            plan, outcome = done.job.plan, done.value
            refusal = outcome.refusal if outcome else failure(plan, done.error or "")
            if refusal:
                work.store_refusal(plan.id, refusal)
                reporter.refused(refusal)
            else:
                summary.new_clips += 1
            seconds.update(outcome.seconds if outcome else {})
            packer.end(plan.id, kept=refusal is None)
            phase.step(f"{label(plan)}: {refusal.code if refusal else 'kept'}")
    summary.seconds = dict(seconds)


def _say_stale(plans: list[ClipPlan], videos: set[str], closed: list[ClosedShard], reporter: Reporter) -> None:
    planned = {plan.id for plan in plans}
    stale = {r.source for shard in closed for r in shard.records if r.source in videos and r.id not in planned}
    for source in sorted(stale):
        reporter.say(f"{source} has changed since it was annotated; its earlier clips stay in the dataset")


def label(plan: ClipPlan) -> str:
    """A clip in words: its video and its frames."""
    return f"{plan.source} [{plan.start_frame}:{plan.start_frame + plan.num_frames}]"


def _finish(
    work: WorkDir,
    closed: list[ClosedShard],
    refusals: list[Refusal],
    settings: dict[str, str | int | float | bool | None],
    config_hash: str,
    score_meanings: dict[str, str],
    summary: RunSummary,
) -> None:
    """Write what a reader of the dataset needs, from the closed shards."""
    records = [record for shard in closed for record in shard.records]
    refusals.sort(key=lambda refusal: (refusal.source, refusal.start_frame or 0, refusal.code))
    summary.clips, summary.frames = len(records), sum(record.num_frames for record in records)
    summary.grades = dict(sorted(Counter(record.grade for record in records).items()))
    summary.refusals = refusals
    lines = [json.dumps(refusal.model_dump(exclude_none=True)) + "\n" for refusal in refusals]
    write_atomic(work.out / REFUSALS_NAME, "".join(lines).encode())
    card = DatasetCard(
        config_hash=config_hash,
        config=settings,
        versions={"fw-data": version("fw-data")},
        counts={
            "videos": summary.videos,
            "clips": summary.clips,
            "frames": summary.frames,
            **{status: summary.count(status) for status in ("filtered", "refused", "failed")},
        },
        grades={str(grade): count for grade, count in summary.grades.items()},
        units=sorted({record.units for record in records}),
        conventions=CONVENTIONS,
        scores=score_meanings,
        shards=[shard.entry for shard in closed],
    )
    write_manifest(work.out / MANIFEST_NAME, records)
    write_atomic(work.out / CARD_NAME, card.model_dump_json(indent=1).encode())
