"""The account of a run, for the readers of a dataset: manifest, card, refusals, scores, and how long it took."""

import io
import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fw_core.files import write_bytes
from fw_data.annotate.scan import ClipPlan
from fw_data.annotate.summary import RunSummary
from fw_data.annotate.workdir import CARD_NAME, REFUSALS_NAME, ClosedShard, Measured, Settings, WorkDir, refusal_line
from fw_data.dataset.manifest import MANIFEST_NAME, write_manifest
from fw_data.dataset.schema import CONVENTIONS, ClipRecord, DatasetCard, Refusal
from fw_data.quality.grade import GRADE_MEANINGS, LIMITS

SCORES_NAME = "scores.parquet"
RUN_NAME = "run.json"


def finish(
    work: WorkDir,
    closed: list[ClosedShard],
    refusals: list[Refusal],
    measured: list[tuple[ClipPlan, Measured]],
    settings: Settings,
    config_hash: str,
    score_meanings: dict[str, str],
    summary: RunSummary,
) -> None:
    """Write what a reader needs, from the closed shards, and fill in the totals of `summary`."""
    records = [record for shard in closed for record in shard.records]
    refusals.sort(key=lambda refusal: (refusal.source, refusal.start_frame or 0, refusal.code))
    summary.clips, summary.frames = len(records), sum(record.num_frames for record in records)
    summary.grades = dict(sorted(Counter(record.grade for record in records).items()))
    summary.refusals, summary.measured = refusals, len(measured)
    summary.captioned = sum(bool(record.caption) for record in records)
    write_bytes(work.out / REFUSALS_NAME, "".join(map(refusal_line, refusals)).encode(), durable=True)
    counts = {status: summary.count(status) for status in ("filtered", "refused", "failed")}
    card = DatasetCard(
        config_hash=config_hash,
        config=settings,
        versions={"fw-data": version("fw-data")},
        counts={"videos": summary.videos, "clips": summary.clips, "frames": summary.frames, **counts},
        codes=dict(sorted(Counter(f"{refusal.status}: {refusal.code}" for refusal in refusals).items())),
        grades={str(grade): count for grade, count in summary.grades.items()},
        grade_meanings={str(grade): text for grade, text in GRADE_MEANINGS.items()},
        grade_limits={
            str(grade): {name: limit for name, limit in limits.items() if name in score_meanings}
            for grade, limits in LIMITS.items()
        },
        units=sorted({record.units for record in records}),
        conventions=CONVENTIONS,
        scores=score_meanings,
        shards=[shard.entry for shard in closed],
    )
    write_manifest(work.out / MANIFEST_NAME, records)
    write_bytes(work.out / CARD_NAME, card.model_dump_json(indent=1).encode(), durable=True)
    _write_scores(work.out / SCORES_NAME, records, refusals, measured)
    run = {
        "videos": summary.videos,
        "planned_clips": summary.planned,
        "new_clips": summary.new_clips,
        "measured_clips": summary.measured,
        "dataset_clips": summary.clips,
        **counts,
        "quarantined": summary.quarantined,
        "wall_s": {name: round(seconds, 3) for name, seconds in summary.wall_s.items()},
        "work_s": {name: round(seconds, 3) for name, seconds in summary.seconds.items()},
    }
    write_bytes(work.out / RUN_NAME, json.dumps(run, indent=1).encode(), durable=True)


def _write_scores(
    path: Path, records: list[ClipRecord], refusals: list[Refusal], measured: list[tuple[ClipPlan, Measured]]
) -> None:
    """One row per clip that was looked at, one column per score; what became of it in `outcome` and `code`."""
    rows: list[tuple[dict[str, Any], dict[str, float]]] = []
    for record in records:
        span = record.source_frames or record.num_frames
        row = _row(record.id, record.source, record.start_frame, span, "kept", "", record.grade)
        rows.append((row, record.scores))
    for refusal in refusals:
        if refusal.clip_id is not None:
            span = (refusal.start_frame, refusal.num_frames)
            row = _row(refusal.clip_id, refusal.source, *span, refusal.status, refusal.code, None)
            rows.append((row, refusal.scores))
    for plan, found in measured:
        row = _row(plan.id, plan.source, plan.start_frame, plan.span, "measured", found.code, None)
        rows.append((row, found.scores))
    rows.sort(key=lambda pair: (pair[0]["source"], pair[0]["start_frame"] or 0, pair[0]["id"]))
    names = sorted({name for _, scores in rows for name in scores})
    text, whole, real = pa.string(), pa.int64(), pa.float64()
    columns = [("id", text), ("source", text), ("start_frame", whole), ("source_frames", whole)]
    columns += [("outcome", text), ("code", text), ("grade", text), *((name, real) for name in names)]
    table = pa.Table.from_pylist([row | scores for row, scores in rows], schema=pa.schema(columns))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(path, sink.getvalue(), durable=True)


def _row(
    clip_id: str, source: str, start: int | None, span: int | None, outcome: str, code: str, grade: str | None
) -> dict[str, Any]:
    place = {"id": clip_id, "source": source, "start_frame": start, "source_frames": span}
    return place | {"outcome": outcome, "code": code, "grade": grade}
