"""The order of the training clips: which draws make up a step, over buckets, without skipped clips.

Like the samplers of `fw_data.dataset.clip_order`, everything here is a pure function of (seed, step), and of the steps
at which clips were added, so a resumed run needs nothing else.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fw_data.dataset.clip_order import BucketSampler, ClipSampler, Draw, PoolSampler, Rest
from fw_train.config.schema import ConfigError, TrainConfig


class Added(NamedTuple):
    """Clips that were added to the dataset of a run."""

    step: int
    """The first step that may draw them."""
    train: int
    """Number of training clips that were added."""
    held_out: int
    """Number of held-out clips that were added."""

    def __str__(self) -> str:
        clips = "1 clip was" if self.train + self.held_out == 1 else f"{self.train + self.held_out} clips were"
        return f"{clips} added since step {self.step}: {self.train} to train on, {self.held_out} held out"


@dataclass(frozen=True, kw_only=True)
class ClipOrder:
    """The training clips, as far as their order depends on them."""

    clips: int
    """Number of training clips."""
    held_out: int = 0
    """Number of held-out clips."""
    buckets: Sequence[Sequence[int]] = ()
    """Indices of the clips of each bucket; a step takes clips of one bucket. Empty: one bucket."""
    skipped: frozenset[int] = frozenset()
    """Indices of clips to leave out. The next clip of their bucket takes their place, so all other draws stay as they
    were."""


class OrderSampler:
    """The draws of every step of a run; after clips were added, of the steps since then.

    Args:
        config: batch, seed and pool.
        order: the training clips.
        added: those that were added during the run, the oldest first.

    Raises:
        ConfigError: all clips of a bucket are skipped.
    """

    def __init__(self, config: TrainConfig, order: ClipOrder, added: Sequence[Added] = ()) -> None:
        self._config, self._buckets = config, dict[int, Sequence[int]]()
        self._sampler: ClipSampler | PoolSampler | BucketSampler | None = None
        clips, step = order.clips - sum(growth.train for growth in added), 0
        for growth in (None, *added):
            if growth is not None:
                clips, step = clips + growth.train, growth.step
            buckets = [bucket[: bisect_left(bucket, clips)] for bucket in order.buckets or [range(clips)]]
            self._go_on({index: bucket for index, bucket in enumerate(buckets) if bucket}, clips, step)
        self._replaced = _replacements(list(self._buckets.values()), order.skipped)

    def _go_on(self, buckets: dict[int, Sequence[int]], clips: int, step: int) -> None:
        """Draw from these clips, by the index of their bucket, from a step on."""
        config, sampler, before = self._config, self._sampler, self._buckets
        self._buckets, sizes = buckets, [len(bucket) for bucket in buckets.values()]
        first: dict[int, Rest] = {}
        if isinstance(sampler, ClipSampler | BucketSampler):
            rests = [sampler.rest(step)] if isinstance(sampler, ClipSampler) else sampler.rests(step)
            for (index, old), rest in zip(before.items(), rests, strict=True):
                assert rest is not None, "these buckets have clips"
                first[index] = rest.joined(range(len(old), len(buckets[index])), config.seed, step)
        if config.clip.pool:
            pool = min(config.clip.pool, clips)
            new = PoolSampler(clips=clips, batch=config.batch, seed=config.seed, pool=pool, reuse=config.clip.reuse)
            self._sampler = sampler.grown(step, clips, pool) if isinstance(sampler, PoolSampler) else new
        elif len(buckets) > 1:
            rests = [first.get(index) for index in buckets]
            self._sampler = BucketSampler(sizes, [config.batch] * len(sizes), config.seed, begin=step, first=rests)
        else:
            rest = next(iter(first.values()), None)
            self._sampler = ClipSampler(clips=clips, batch=config.batch, seed=config.seed, begin=step, first=rest)

    def step(self, step: int, rank: int = 0, world_size: int = 1) -> list[Draw]:
        """The draws of one rank at one step.

        Raises:
            ValueError: the batch is not a multiple of `world_size`.
        """
        if isinstance(self._sampler, BucketSampler):
            index, draws = self._sampler.step(step, rank, world_size)
            bucket = list(self._buckets.values())[index]
            draws = [draw._replace(clip=bucket[draw.clip]) for draw in draws]
        else:
            assert self._sampler is not None, "set by the constructor"
            draws = self._sampler.step(step, rank, world_size)
        return [draw._replace(clip=self._replaced.get(draw.clip, draw.clip)) for draw in draws]


def _replacements(buckets: Sequence[Sequence[int]], skipped: frozenset[int]) -> dict[int, int]:
    """Skipped clip -> the next clip of its bucket that is not skipped."""
    found: dict[int, int] = {}
    for bucket in buckets if skipped else []:
        if all(clip in skipped for clip in bucket):
            raise ConfigError(f"skip leaves out all {len(bucket)} training clips of a bucket; skip fewer")
        for place, clip in enumerate(bucket):
            if clip in skipped:
                after = place + 1
                while bucket[after % len(bucket)] in skipped:
                    after += 1
                found[clip] = bucket[after % len(bucket)]
    return found
