"""OUT/.work: what a run of annotate remembers, so that the next one does only what is missing.

    config.json           settings of the dataset; a run with others is turned away
    videos/xx/KEY.json    one VideoScan per video
    clips/xx/ID.tar       a finished clip that is not in a shard yet
    clips/xx/ID.json      a Refusal: the clip is filtered, refused or failed
    scores/xx/ID.json     a Measured: the clip was looked at by a run that stopped after the filters
    shards/000000.json    a closed shard: its checksum and its rows

Each file appears at once under its name, after it is safe on the disk; a file that is there is whole. A shard is closed
once its .json is there; that comes after the tar, and only then do the clips that went into it leave clips/. So a run
may be killed anywhere: a tar without .json is written again, and a shard that was deleted is annotated again.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pydantic import BaseModel

from fw_core.files import LockedError, locked, write_bytes
from fw_data.annotate.scan import VideoScan
from fw_data.dataset.manifest import MANIFEST_NAME, read_manifest
from fw_data.dataset.schema import ClipRecord, DatasetCard, Refusal, ShardEntry
from fw_data.dataset.shards import describe
from fw_data.errors import DataError

CARD_NAME = "dataset.json"
REFUSALS_NAME = "refusals.jsonl"
Settings = dict[str, str | int | float | bool | None]


def refusal_line(refusal: Refusal) -> str:
    """One line of refusals.jsonl."""
    return json.dumps(refusal.model_dump(exclude_none=True, exclude_defaults=True)) + "\n"


class ClosedShard(BaseModel):
    """A shard that will not change any more."""

    entry: ShardEntry
    records: list[ClipRecord]


class Measured(BaseModel):
    """Scores of a clip before any geometry."""

    scores: dict[str, float]
    code: str = ""
    """Code of the filter that would exclude the clip; empty = none."""


class WorkDir:
    """The working folder of one dataset."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.root = out / ".work"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one run at a time writes to a dataset; raises DataError when another one does."""
        self.root.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.root / "lock"))
            except LockedError as error:
                raise DataError(
                    "locked", f"another `fw-data annotate` is writing to {self.out} ({error.strerror}); wait for it"
                ) from error
            for pattern in ("*.tmp", ".*.partial*"):
                for leftover in [*self.root.rglob(pattern), *(self.out / "shards").glob(pattern)]:
                    leftover.unlink()
            yield

    def check_settings(self, settings: Settings) -> None:
        """Remember the settings, or raise ValueError when the dataset was begun with others."""
        path = self.root / "config.json"
        card = self.out / CARD_NAME
        before: Settings | None = None
        if path.is_file():
            before = json.loads(path.read_text())
        elif card.is_file():
            before = DatasetCard.model_validate_json(card.read_bytes()).config
        if before is not None and before != settings:
            names = sorted(name for name in before.keys() | settings.keys() if before.get(name) != settings.get(name))
            changes = "; ".join(f"{name}: {before.get(name)} then, {settings.get(name)} now" for name in names)
            raise ValueError(
                f"{self.out} was annotated with other settings ({changes}). Use the same ones to go on with it, "
                "or another OUT_DIR"
            )
        write_bytes(path, json.dumps(settings, indent=1, sort_keys=True).encode(), durable=True)

    def scan(self, source: str) -> VideoScan | None:
        """The stored scan of a video."""
        path = self._video(source)
        return VideoScan.model_validate_json(path.read_bytes()) if path.is_file() else None

    def store_scan(self, scan: VideoScan) -> None:
        """Store the scan of a video."""
        write_bytes(self._video(scan.source), scan.model_dump_json().encode(), durable=True)

    def staged(self, clip_id: str) -> Path:
        """Path of a finished clip before it is in a shard."""
        return self.root / "clips" / clip_id[:2] / f"{clip_id}.tar"

    def refusal(self, clip_id: str) -> Refusal | None:
        """Why a clip is not kept, if that is known."""
        path = self._refused(clip_id)
        return Refusal.model_validate_json(path.read_bytes()) if path.is_file() else None

    def store_refusal(self, clip_id: str, refusal: Refusal) -> None:
        """Keep the reason why a clip is left out."""
        write_bytes(self._refused(clip_id), refusal.model_dump_json().encode(), durable=True)

    def append_refusal(self, refusal: Refusal) -> None:
        """Add a line to refusals.jsonl, so that a killed run keeps its refusals; `finish` rewrites the file."""
        with (self.out / REFUSALS_NAME).open("a", encoding="utf-8") as file:
            file.write(refusal_line(refusal))

    def forget_refusal(self, clip_id: str) -> None:
        """Let a clip be tried again."""
        self._refused(clip_id).unlink(missing_ok=True)

    def measured(self, clip_id: str) -> Measured | None:
        """Scores from a run that stopped after the filters."""
        path = self._scores(clip_id)
        return Measured.model_validate_json(path.read_bytes()) if path.is_file() else None

    def store_measured(self, clip_id: str, measured: Measured) -> None:
        """Keep the scores of a clip that is not annotated now."""
        write_bytes(self._scores(clip_id), measured.model_dump_json().encode(), durable=True)

    def closed_shards(self) -> tuple[list[ClosedShard], list[str]]:
        """All closed shards in order, and the names of those that are gone; DataError when one has another length."""
        known = {}
        for path in sorted((self.root / "shards").glob("*.json")):
            shard = ClosedShard.model_validate_json(path.read_bytes())
            known[shard.entry.path] = shard
        for name, records in self._manifest_rows().items():
            if name not in known and (self.out / name).is_file():
                entry = describe(self.out / name, self.out, len(records))
                known[name] = ClosedShard(entry=entry, records=records)
                self.store_shard(known[name])
        gone = [name for name in sorted(known) if not (self.out / name).is_file()]
        closed = [known[name] for name in sorted(known) if name not in gone]
        for shard in closed:
            size = (self.out / shard.entry.path).stat().st_size
            if size != shard.entry.size:
                raise DataError(
                    "shard-torn",
                    f"{self.out / shard.entry.path} has {size} bytes, expected {shard.entry.size}: put a whole copy "
                    "back, or delete it and its clips will be annotated again",
                )
        return closed, gone

    def store_shard(self, shard: ClosedShard) -> None:
        """Close a shard, whose tar is in place."""
        path = self.root / "shards" / (Path(shard.entry.path).stem + ".json")
        write_bytes(path, shard.model_dump_json().encode(), durable=True)

    def _manifest_rows(self) -> dict[str, list[ClipRecord]]:
        rows: dict[str, list[ClipRecord]] = {}
        path = self.out / MANIFEST_NAME
        for record in read_manifest(path) if path.is_file() else []:
            rows.setdefault(record.shard, []).append(record)
        return rows

    def _video(self, source: str) -> Path:
        key = hashlib.sha256(source.encode()).hexdigest()[:24]
        return self.root / "videos" / key[:2] / f"{key}.json"

    def _scores(self, clip_id: str) -> Path:
        return self.root / "scores" / clip_id[:2] / f"{clip_id}.json"

    def _refused(self, clip_id: str) -> Path:
        return self.root / "clips" / clip_id[:2] / f"{clip_id}.json"
