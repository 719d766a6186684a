"""manifest.parquet: the rows of a dataset, one ClipRecord each, readable by any Parquet tool."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fw_core.files import write_bytes
from fw_data.dataset.schema import ClipRecord
from fw_data.errors import DataError

MANIFEST_NAME = "manifest.parquet"
_MEMBER = pa.struct([("offset", pa.int64()), ("size", pa.int64()), ("sha256", pa.string())])
MANIFEST_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("source_sha256", pa.string()),
        ("source_width", pa.int32()),
        ("source_height", pa.int32()),
        ("start_frame", pa.int64()),
        ("num_frames", pa.int32()),
        ("start_time_s", pa.float64()),
        ("fps", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("caption", pa.string()),
        ("units", pa.string()),
        ("backend", pa.string()),
        ("backend_version", pa.string()),
        ("config_hash", pa.string()),
        ("scores", pa.map_(pa.string(), pa.float64())),
        ("grade", pa.string()),
        ("notes", pa.list_(pa.string())),
        ("shard", pa.string()),
        ("members", pa.map_(pa.string(), _MEMBER)),
        ("has_depth", pa.bool_()),
        ("source_frames", pa.int64()),
        ("motion_tags", pa.list_(pa.string())),
        ("grade_reasons", pa.list_(pa.string())),
        ("has_masks", pa.bool_()),
    ]
)
_LATER = {"has_depth": True, "source_frames": 0, "motion_tags": [], "grade_reasons": [], "has_masks": False}
"""Columns that manifests of earlier versions lack, and what they then mean."""


def write_manifest(path: Path, records: Iterable[ClipRecord]) -> None:
    """Replace the manifest at once with these rows, in this order."""
    rows = []
    for record in records:
        row: dict[str, Any] = record.model_dump()
        row["scores"] = sorted(record.scores.items())
        row["members"] = list(row["members"].items())
        rows.append(row)
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA), sink, compression="zstd")
    write_bytes(path, sink.getvalue(), durable=True)


def read_manifest(path: Path) -> list[ClipRecord]:
    """The rows of a manifest; raises DataError when it is missing or of another kind."""
    if not path.is_file():
        raise DataError("no-manifest", f"{path} does not exist: give the folder that `fw-data annotate` wrote")
    return parse_manifest(path.read_bytes(), str(path))


def parse_manifest(data: bytes, name: str) -> list[ClipRecord]:
    """The rows of a manifest from its bytes; `name` is for messages."""
    try:
        table = pq.read_table(pa.BufferReader(data))
    except pa.ArrowInvalid as error:
        raise DataError("bad-manifest", f"{name} is not a Parquet file: {error}") from error
    present = [column for column in MANIFEST_SCHEMA.names if column in table.schema.names]
    missing = set(MANIFEST_SCHEMA.names) - set(present) - set(_LATER)
    if missing:
        raise DataError("bad-manifest", f"{name} lacks the columns {sorted(missing)}: it is not a manifest of fw-data")
    records = []
    for row in table.select(present).to_pylist():
        row["scores"] = dict(row["scores"])
        row["members"] = dict(row["members"])
        records.append(ClipRecord.model_validate(_LATER | row))
    return records
