"""Batches of a dataset for training, in an order that a resumed run, or one of another world size, does not change.

    loader = ClipLoader(ClipDataset("out/dataset"), BucketTable.read(Path("buckets.toml")), seed=0, workers=4)
    for batch in loader:
        batch.video, batch.depth, batch.K, batch.pose_c2w, batch.captions
        save(loader.state_dict())       # the next batch after this one; exact, whatever was prefetched

What a step loads is a pure function of (seed, step, rank, world size): see fw_data.dataset.clip_order. A dataset that
has grown since a state was saved is accepted: the new clips are drawn from the next batch on, among those that are left
of the epoch. Worker processes load the windows of the coming steps: see fw_data.dataset.windows.
Axis legend: b batch, F frames, H W pixels.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NotRequired, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fw_data.dataset.buckets import BucketTable
from fw_data.dataset.clip_order import BucketSampler, Draw, window_start
from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.windows import LoadedWindow, Window, WindowLoader
from fw_data.errors import DataError

log = logging.getLogger(__name__)

AHEAD = 2
"""Windows per worker that are requested before they are needed."""


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """Windows of one shape."""

    step: int
    """The step that it belongs to."""
    ids: tuple[str, ...]
    """Clip ids."""
    starts: tuple[int, ...]
    """First frame of each window within its clip."""
    draws: tuple[Draw, ...]
    """Epoch and slot of each sample; with seed and step the slot keys its noise."""
    video: Float[Tensor, "b F 3 H W"]
    """RGB in [-1, 1]."""
    depth: Float[Tensor, "b F H W"]
    """z-depth in the clip's unit; 0 = invalid."""
    confidence: Float[Tensor, "b F H W"]
    """Trust in the depth, in [0, 1]."""
    K: Float[Tensor, "b F 3 3"]
    """Intrinsics in pixels of `video`."""
    pose_c2w: Float[Tensor, "b F 4 4"]
    """Camera-to-world, relative to the first frame of the window."""
    captions: tuple[str, ...]
    """May be empty."""
    moving: Bool[Tensor, "b F H W"] | None = None
    """Moving pixels; None unless the loader was asked for masks."""
    sky: Bool[Tensor, "b F H W"] | None = None
    """Open sky; None unless the loader was asked for masks."""


class Growth(TypedDict):
    """Clips that were added during a run."""

    step: int
    """The first step that may draw them."""
    before: list[int]
    """Number of clips of each bucket before."""


class LoaderState(TypedDict):
    """Contents of `state_dict`; JSON."""

    step: int
    seed: int
    clips: list[int]
    batches: list[int]
    dataset: NotRequired[str]
    """Hash of the clips and their content; states of earlier versions have none."""
    growth: NotRequired[list[Growth]]
    """The oldest first."""


class ClipLoader:
    """An endless iterator of `ClipBatch`.

    Args:
        dataset: where clips come from.
        table: shapes of the samples; clips that fit none are counted in `assignment.unusable`.
        seed: of order and windows.
        rank: of this process.
        world_size: number of processes; every bucket's batch must be a multiple of it.
        workers: processes that load ahead; 0 loads in this one.
        random_start: longer clips: take the window at a random start, a multiple of 4; else the middle one.
        need_depth: leave out clips that have cameras only.
        masks: give `moving` and `sky`; leaves out clips that have none.

    Raises:
        DataError: no clip fits a bucket; the message counts the reasons.
        ValueError: a batch that cannot be cut into `world_size` parts.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        table: BucketTable,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        random_start: bool = True,
        need_depth: bool = True,
        masks: bool = False,
    ) -> None:
        self.assignment = table.assign(dataset.records, need_depth=need_depth, need_masks=masks)
        if not any(self.assignment.clips):
            reasons = "; ".join(f"{count} clips: {why}" for why, count in self.assignment.unusable.items())
            raise DataError("no-bucket", f"no clip of {dataset.location} fits a bucket ({reasons or 'it is empty'})")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size} processes: ranks count from 0")
        for bucket, clips in zip(table.buckets, self.assignment.clips, strict=True):
            if clips and bucket.batch % world_size:
                raise ValueError(f"bucket {bucket}: batch {bucket.batch} cannot be cut into {world_size} equal parts")
        self._counts = [len(clips) for clips in self.assignment.clips]
        self.sampler = BucketSampler(self._counts, [bucket.batch for bucket in table.buckets], seed)
        self._growth: list[Growth] = []
        self._dataset, self._table, self._random_start, self._masks = dataset, table, random_start, masks
        self._rank, self._world_size, self._workers, self._next = rank, world_size, workers, 0

    def __iter__(self) -> Iterator[ClipBatch]:
        with WindowLoader(self._dataset, workers=self._workers) as loader:
            requested = self._next
            while True:
                step = self._next
                draws, windows = self._windows(step)
                ahead = -(-AHEAD * self._workers // len(windows))
                for coming in range(max(step, requested), step + 1 + ahead):
                    loader.request(self._windows(coming)[1])
                requested = step + 1 + ahead
                batch = self._batch(step, draws, windows, [loader.load(window) for window in windows])
                self._next = step + 1
                yield batch

    def state_dict(self) -> LoaderState:
        """Position of the next batch, for `load_state_dict`."""
        return LoaderState(
            step=self._next,
            seed=self.sampler.seed,
            clips=list(self._counts),
            batches=list(self.sampler.batches),
            dataset=self._dataset_digest,
            growth=list(self._growth),
        )

    def load_state_dict(self, state: LoaderState) -> None:
        """Go on from a state; the next `iter` starts there. The world size may differ from then.

        Clips that were appended to the dataset since then are logged, and drawn from this step on.

        Raises:
            ValueError: the state is of another seed, table or dataset, or clips were removed or replaced.
        """
        ours, step, before = self.state_dict(), state["step"], state["clips"]
        for key in ("seed", "batches"):
            if state[key] != ours[key]:
                raise ValueError(f"the state is of another order: {key} was {state[key]}, now it is {ours[key]}")
        if any(old > now for old, now in zip(before, self._counts, strict=True)):
            raise ValueError(f"the state is of {before} clips, now there are {self._counts}; clips were removed")
        if before != self._counts and "dataset" not in state:
            raise ValueError(f"the state is of {before} clips, now there are {self._counts}; it is too old for that")
        if "dataset" in state and state["dataset"] != self._digest(before):
            raise ValueError(f"clips of {self._dataset.location} were replaced or removed since the state was saved")
        growth = [*state.get("growth", [])]
        if before != self._counts:
            growth.append(Growth(step=step, before=before))
            log.info("%d clips were added since step %d", sum(self._counts) - sum(before), step)
        counts = [*(one["before"] for one in growth), self._counts]
        self.sampler = BucketSampler(counts[0], self.sampler.batches, self.sampler.seed)
        for one, clips in zip(growth, counts[1:], strict=True):
            self.sampler = self.sampler.grown(one["step"], clips)
        self._growth, self._next = growth, step

    @cached_property
    def _dataset_digest(self) -> str:
        return self._digest(self._counts)

    def _digest(self, counts: Sequence[int]) -> str:
        """Hash of the first clips of each bucket, with their content."""
        rows = [[r.content for r in clips[:n]] for clips, n in zip(self.assignment.clips, counts, strict=True)]
        return hashlib.sha256(repr(rows).encode()).hexdigest()

    def _windows(self, step: int) -> tuple[list[Draw], list[Window]]:
        """Draws and windows of this rank at a step."""
        index, draws = self.sampler.step(step, self._rank, self._world_size)
        bucket, windows = self._table.buckets[index], []
        for draw in draws:
            record = self.assignment.clips[index][draw.clip]
            start = self._start(record.id, draw.epoch, record.num_frames - bucket.frames)
            windows.append(Window(record.id, start, bucket.frames, bucket.height, bucket.width, masks=self._masks))
        return draws, windows

    def _start(self, clip_id: str, epoch: int, spare: int) -> int:
        if not self._random_start:
            return spare // 2
        return 4 * window_start(self.sampler.seed, epoch, clip_id, spare // 4)

    def _batch(self, step: int, draws: list[Draw], windows: list[Window], loaded: list[LoadedWindow]) -> ClipBatch:
        def stack(name: str) -> Tensor | None:
            values = [getattr(window, name) for window in loaded]
            return None if any(value is None for value in values) else torch.from_numpy(np.stack(values))

        video, depth, confidence = stack("video"), stack("depth"), stack("confidence")
        assert video is not None, "windows ask for images"
        assert depth is not None, "windows ask for labels"
        assert confidence is not None, "windows ask for labels"
        cameras = [window.cameras for window in loaded if window.cameras is not None]
        return ClipBatch(
            step=step,
            ids=tuple(window.clip_id for window in windows),
            starts=tuple(window.start for window in windows),
            draws=tuple(draws),
            video=video,
            depth=depth,
            confidence=confidence,
            K=torch.stack([torch.from_numpy(path.K).float() for path in cameras]),
            pose_c2w=torch.stack([torch.from_numpy(path.relative_to_first().pose_c2w).float() for path in cameras]),
            captions=tuple(self._dataset.record(window.clip_id).caption for window in windows),
            moving=stack("moving") if self._masks else None,
            sky=stack("sky") if self._masks else None,
        )
