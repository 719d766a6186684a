"""Finished clips into shards, always in the same order, so that a killed and resumed run writes the same shards.

A shard closes as soon as the clips that belong into it are there and all clips before them have ended.
"""

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fw_data.annotate.workdir import ClosedShard, WorkDir
from fw_data.dataset.schema import ClipRecord
from fw_data.dataset.shards import ShardWriter, describe


@dataclass(kw_only=True)
class Packer:
    """Takes clips as they end, in any order, and closes shards in the order of `order`."""

    work: WorkDir
    """Working folder of the dataset."""
    order: Sequence[str]
    """Ids of all clips that are to be packed or to end otherwise."""
    shard_bytes: int
    """A shard closes when it reaches this size."""
    closed: list[ClosedShard]
    """Shards that exist; grows."""

    def __post_init__(self) -> None:
        self._ended: dict[str, bool] = {}
        self._next = 0
        self._waiting: list[str] = []
        self._waiting_bytes = 0

    def end(self, clip_id: str, *, kept: bool) -> None:
        """Record the end of a clip; the file of a kept one is at its staged path."""
        self._ended[clip_id] = kept
        while self._next < len(self.order) and self.order[self._next] in self._ended:
            name = self.order[self._next]
            self._next += 1
            if self._ended.pop(name):
                self._waiting.append(name)
                self._waiting_bytes += self.work.staged(name).stat().st_size
                if self._waiting_bytes >= self.shard_bytes:
                    self.flush()

    def flush(self) -> None:
        """Close a shard of the clips that wait, if any."""
        if not self._waiting:
            return
        number = 1 + max((int(Path(shard.entry.path).stem) for shard in self.closed), default=-1)
        path = self.work.out / "shards" / f"{number:06d}.tar"
        records = []
        with ShardWriter(path) as writer:
            for name in self._waiting:
                files = _read_staged(self.work.staged(name), name)
                record = ClipRecord.model_validate_json(files["json"])
                members = writer.add(name, files)
                shard = path.relative_to(self.work.out).as_posix()
                records.append(record.model_copy(update={"shard": shard, "members": members}))
        done = ClosedShard(entry=describe(path, self.work.out, len(records)), records=records)
        self.work.store_shard(done)
        self.closed.append(done)
        for name in self._waiting:
            self.work.staged(name).unlink()
        self._waiting, self._waiting_bytes = [], 0


def _read_staged(path: Path, clip_id: str) -> dict[str, bytes]:
    files = {}
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes()), mode="r:") as tar:
        for info in tar:
            content = tar.extractfile(info)
            assert content is not None
            files[info.name.removeprefix(f"{clip_id}.")] = content.read()
    return files
