"""Checkpoints of a sharded network: every process writes its own rows in the background, the main one completes them.

Nothing is gathered: a process copies its shards to the host and writes them into files of its own. A checkpoint gets
its manifest and its final name when all have written, between two steps.
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from fw_model.parallel.shards import holds_first_copy, is_sharded, local_part, local_rows
from fw_train.engine.checkpoint import CheckpointError, CheckpointStore, Files, PartRows, Snapshot
from fw_train.engine.distributed import Context


class ShardedSaver:
    """Writes the checkpoints of a store from all processes, one at a time; all of them call every method together."""

    def __init__(self, store: CheckpointStore, ctx: Context) -> None:
        self.store, self._ctx = store, ctx
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[Files] | None = None
        self._state: Mapping[str, Any] = {}

    def start(self, snapshot: Snapshot) -> None:
        """Start to write a snapshot, which must not change any more; the previous save must have been waited for.

        Raises:
            CheckpointError: the folder cannot be made.
        """
        assert self._pending is None, "the previous save was not waited for"
        step = int(snapshot.state["step"])
        needed = self._main(lambda: self.store.prepare(step), step)
        if needed:
            self._state = snapshot.state
            self._pending = self._thread.submit(self._write, snapshot, step)

    def finished(self) -> Path | None:
        """The checkpoint completed since the last call, or None; does not wait for the files.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._pending is None or self._ctx.any(not self._pending.done()):
            return None
        return self.wait()

    def wait(self) -> Path | None:
        """Wait for the current save; returns its checkpoint, or None if there was none.

        Raises:
            CheckpointError: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        step = int(self._state["step"])
        error = pending.exception()
        reason = "" if error is None else str(error) or repr(error)
        parts = self._ctx.gather((reason, {} if error else pending.result()))
        failed = [reason for reason, _ in parts if reason]
        if failed:
            self._main(lambda: self.store.discard_partial(step), step)
            raise CheckpointError(failed[0]) from error
        files = {name: entry for _, part in parts for name, entry in part.items()}
        self._main(lambda: self.store.commit(self._state, files) is not None, step)
        return self.store.path(step)

    def close(self) -> None:
        """Wait for the files of the current save and stop the thread."""
        self._thread.shutdown()

    def _write(self, snapshot: Snapshot, step: int) -> Files:
        with self.store.reporting(step, discard=False):
            return self.store.write(snapshot)

    def _main(self, work: Any, step: int) -> Any:
        """What the main process's call returns, on every process, or its CheckpointError."""
        reason, value = "", None
        if self._ctx.is_main:
            try:
                with self.store.reporting(step, discard=True):
                    value = work()
            except CheckpointError as error:
                reason = str(error)
        reason, value = self._ctx.from_main((reason, value))
        if reason:
            raise CheckpointError(reason)
        return value


def own_part(tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], *, is_main: bool) -> Snapshot:
    """The part of a state that this process writes, copied to the host.

    Of rows that several processes hold, one writes them; tensors that are not sharded are written by the main process.
    """
    copies: dict[str, dict[str, Tensor]] = {}
    rows: dict[str, dict[str, PartRows]] = {}
    part, parts = 0, 1
    for stem, named in tensors.items():
        for name, tensor in named.items():
            place = local_rows(tensor)
            if place is None:
                if is_main:
                    copies.setdefault(stem, {})[name] = tensor.detach().to("cpu", copy=True)
                continue
            part, parts = _place(tensor)
            if holds_first_copy(tensor) and place[0] < place[1]:
                copies.setdefault(stem, {})[name] = local_part(tensor).to("cpu", copy=True)
                rows.setdefault(stem, {})[name] = (*place, tensor.shape[0])
    return Snapshot(tensors=copies, state=state, rows=rows, part=part, parts=parts)


def any_sharded(tensors: Mapping[str, Tensor]) -> bool:
    """Whether processes hold shards of these tensors."""
    return any(is_sharded(tensor) for tensor in tensors.values())


def _place(tensor: Tensor) -> tuple[int, int]:
    """Number of this process among those that hold different rows of a tensor, and their number."""
    sharded: Any = tensor
    axis = next(axis for axis, placement in enumerate(sharded.placements) if placement.is_shard())
    return sharded.device_mesh.get_local_rank(axis), sharded.device_mesh.size(axis)
