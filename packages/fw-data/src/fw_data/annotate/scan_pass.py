"""The first pass of annotate over all videos: their scans, and which clips of them are worth a second look."""

from pathlib import Path

from fw_data.annotate.duplicates import find_duplicates
from fw_data.annotate.hints import hint
from fw_data.annotate.progress import Reporter
from fw_data.annotate.scan import OUTSIDE, ClipPlan, VideoScan, file_state
from fw_data.annotate.tasks import ScanTask
from fw_data.annotate.workdir import WorkDir
from fw_data.dataset.schema import Refusal
from fw_data.engine import ExecutionEngine


def scan_all(
    videos: list[str],
    work: WorkDir,
    task: ScanTask,
    engine: ExecutionEngine,
    reporter: Reporter,
    *,
    retry_failed: bool,
) -> tuple[list[VideoScan], float]:
    """The scan of every video, in order, and the CPU time of this run; unchanged videos are not scanned again."""
    seconds = 0.0
    scans: dict[str, VideoScan] = {}
    for source in videos:
        known = work.scan(source)
        if known is None or (known.size, known.mtime_ns) != file_state(task.raw / source):
            continue
        again = retry_failed and any(refusal.status != "filtered" for refusal in known.refusals)
        again |= task.follow_links and any(refusal.code == OUTSIDE for refusal in known.refusals)
        if not again and all(plan.caption == task.captions.get(source, "") for plan in known.clips):
            scans[source] = known
    todo = [source for source in videos if source not in scans]
    with reporter.phase("scanning videos", len(videos), done=len(scans)) as phase:
        for done in engine.run(task, todo, phase.working):
            result = done.value
            if result is None:
                result = _failed_scan(task.raw, done.job, task.config_hash, done.error or "")
            scans[done.job] = result
            seconds += result.seconds
            work.store_scan(result)
            for refusal in result.refusals:
                work.append_refusal(refusal)
                if refusal.stage == "probe":
                    reporter.refused(refusal)
            phase.step(f"{done.job}: {len(result.clips)} clips")
    return [scans[source] for source in videos], seconds


def _failed_scan(raw: Path, source: str, config_hash: str, error: str) -> VideoScan:
    size, mtime_ns = file_state(raw / source)
    refusal = Refusal(
        status="failed",
        source=source,
        stage="probe",
        code="error",
        reason=error,
        hint=hint("error"),
    )
    return VideoScan(
        source=source,
        size=size,
        mtime_ns=mtime_ns,
        config_hash=config_hash,
        sha256="",
        clips=[],
        refusals=[refusal],
    )


def merge(scans: list[VideoScan]) -> tuple[list[ClipPlan], list[Refusal]]:
    """All clips in order, and what the scans left out; of videos with the same bytes only the first one counts."""
    first: dict[str, str] = {}
    plans: list[ClipPlan] = []
    refusals: list[Refusal] = []
    for scan in scans:
        if scan.clips and scan.sha256 in first:
            refusals.append(
                Refusal(
                    status="filtered",
                    source=scan.source,
                    stage="probe",
                    code="duplicate",
                    reason=f"the same bytes as {first[scan.sha256]}",
                    hint=hint("duplicate"),
                )
            )
            continue
        first[scan.sha256] = scan.source
        plans += scan.clips
        refusals += scan.refusals
    return plans, refusals


def without_duplicates(plans: list[ClipPlan], max_bits: int, kept: set[str]) -> tuple[list[ClipPlan], list[Refusal]]:
    """The clips without those that look like an earlier one; clips that are `kept` already stay."""
    if max_bits < 0:
        return plans, []
    found = {duplicate.index: duplicate for duplicate in find_duplicates(plans, max_bits, kept)}
    refusals = []
    for index, duplicate in found.items():
        plan, original = plans[index], plans[duplicate.original]
        refusals.append(
            Refusal(
                status="filtered",
                source=plan.source,
                start_frame=plan.start_frame,
                num_frames=plan.span,
                clip_id=plan.id,
                stage="duplicates",
                code="near-duplicate",
                reason=f"looks like {label(original)}: at most {duplicate.bits} of 64 bits differ in any of its frames",
                hint=hint("near-duplicate"),
            )
        )
    return [plan for index, plan in enumerate(plans) if index not in found], refusals


def label(plan: ClipPlan) -> str:
    """A clip in words: its video and its frames."""
    return f"{plan.source} [{plan.start_frame}:{plan.start_frame + plan.span}]"
