"""Batches of a dataset for training, in an order that a resumed run, or one of another world size, does not change.

    loader = ClipLoader(ClipDataset("out/dataset"), BucketTable.read(Path("buckets.toml")), seed=0, workers=4)
    for batch in loader:
        batch.video, batch.depth, batch.K, batch.pose_c2w, batch.captions
        save(loader.state_dict())       # the next batch after this one; exact, whatever was prefetched

What a step loads is a pure function of (seed, step, rank, world size): see fw_data.dataset.clip_order. Worker
processes are started fresh ("spawn"), so they work beside CUDA and hold no connection of their parent.
Axis legend: b batch, F frames, H W pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fw_data.dataset.buckets import BucketTable
from fw_data.dataset.clip import Clip
from fw_data.dataset.clip_order import BucketSampler, Draw, window_start
from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.schema import ClipRecord
from fw_data.dataset.transforms import fit_mask, fit_window
from fw_data.errors import DataError
from fw_geometry.camera import Trajectory


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


class LoaderState(TypedDict):
    """Contents of `state_dict`; JSON."""

    step: int
    seed: int
    clips: list[int]
    batches: list[int]


class ClipLoader:
    """An endless iterator of `ClipBatch`.

    Args:
        dataset: where clips come from.
        table: shapes of the samples; clips that fit none are counted in `assignment.unusable`.
        seed: of order and windows.
        rank: of this process.
        world: number of processes; every bucket's batch must be a multiple of it.
        workers: processes that load ahead; 0 loads in this one.
        random_start: longer clips: take the window at a random start, a multiple of 4; else the middle one.
        need_depth: leave out clips that have cameras only.
        masks: give `moving` and `sky`; leaves out clips that have none.

    Raises:
        DataError: no clip fits a bucket; the message counts the reasons.
        ValueError: a batch that cannot be cut into `world` parts.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        table: BucketTable,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        random_start: bool = True,
        need_depth: bool = True,
        masks: bool = False,
    ) -> None:
        self.assignment = table.assign(dataset.records, need_depth=need_depth, need_masks=masks)
        if not any(self.assignment.clips):
            reasons = "; ".join(f"{count} clips: {why}" for why, count in self.assignment.unusable.items())
            raise DataError("no-bucket", f"no clip of {dataset.location} fits a bucket ({reasons or 'it is empty'})")
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world} processes: ranks count from 0")
        for bucket, clips in zip(table.buckets, self.assignment.clips, strict=True):
            if clips and bucket.batch % world:
                raise ValueError(f"bucket {bucket}: batch {bucket.batch} cannot be cut into {world} equal parts")
        counts = [len(clips) for clips in self.assignment.clips]
        self.sampler = BucketSampler(counts, [bucket.batch for bucket in table.buckets], seed)
        self._steps = _Steps(dataset, table, self.assignment.clips, self.sampler, rank, world, random_start, masks)
        self._workers, self._next = workers, 0

    def __iter__(self) -> Iterator[ClipBatch]:
        steps = DataLoader(
            self._steps,
            batch_size=None,
            sampler=_From(self._next),
            num_workers=self._workers,
            multiprocessing_context="spawn" if self._workers else None,
        )
        for batch in steps:
            self._next = batch.step + 1
            yield batch

    def state_dict(self) -> LoaderState:
        """Position of the next batch, for `load_state_dict`."""
        return LoaderState(
            step=self._next,
            seed=self.sampler.seed,
            clips=list(self.sampler.clips),
            batches=list(self.sampler.batches),
        )

    def load_state_dict(self, state: LoaderState) -> None:
        """Go on from a state; the next `iter` starts there. The world size may differ from then.

        Raises:
            ValueError: the state is of another order: other seed, clips or batches.
        """
        ours = self.state_dict()
        for key in ("seed", "clips", "batches"):
            if state[key] != ours[key]:
                raise ValueError(f"the state is of another order: {key} was {state[key]}, now it is {ours[key]}")
        self._next = state["step"]


class _From:
    """first, first + 1, ... for ever."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        step = self.first
        while True:
            yield step
            step += 1


class _Steps(Dataset[ClipBatch]):
    """Step number to batch; what is sent to worker processes."""

    def __init__(
        self,
        dataset: ClipDataset,
        table: BucketTable,
        clips: tuple[tuple[ClipRecord, ...], ...],
        sampler: BucketSampler,
        rank: int,
        world: int,
        random_start: bool,
        masks: bool,
    ) -> None:
        self._dataset, self._table, self._sampler = dataset, table, sampler
        self._clips = [[record.id for record in group] for group in clips]
        self._rank, self._world, self._random_start = rank, world, random_start
        self._masks = masks

    def __getitem__(self, step: int) -> ClipBatch:
        bucket_index, draws = self._sampler.step(step, self._rank, self._world)
        bucket = self._table.buckets[bucket_index]
        ids = [self._clips[bucket_index][draw.clip] for draw in draws]
        starts = [self._start(clip_id, draw.epoch, bucket.frames) for clip_id, draw in zip(ids, draws, strict=True)]
        clips = [
            self._dataset.load(clip_id, slice(start, start + bucket.frames), masks=self._masks)
            for clip_id, start in zip(ids, starts, strict=True)
        ]
        fitted = [
            fit_window(clip.video, clip.depth_m, clip.confidence, _path(clip), bucket.height, bucket.width)
            for clip in clips
        ]
        video, depth, confidence, cameras = zip(*fitted, strict=True)
        masks = {
            name: torch.stack([fit_mask(getattr(clip, name), bucket.height, bucket.width) for clip in clips])
            for name in ("moving", "sky")
            if self._masks
        }
        return ClipBatch(
            step=step,
            ids=tuple(ids),
            starts=tuple(starts),
            draws=tuple(draws),
            video=torch.stack(video),
            depth=torch.stack(depth),
            confidence=torch.stack(confidence),
            K=torch.stack([torch.from_numpy(path.K).float() for path in cameras]),
            pose_c2w=torch.stack([torch.from_numpy(path.relative_to_first().pose_c2w).float() for path in cameras]),
            captions=tuple(clip.caption for clip in clips),
            **masks,
        )

    def _start(self, clip_id: str, epoch: int, frames: int) -> int:
        spare = self._dataset.record(clip_id).num_frames - frames
        if not self._random_start:
            return spare // 2
        return 4 * window_start(self._sampler.seed, epoch, clip_id, spare // 4)


def _path(clip: Clip) -> Trajectory:
    height, width = clip.depth_m.shape[1:]
    return Trajectory(pose_c2w=clip.pose_c2w, K=clip.K, width=width, height=height, units=clip.units)
