"""The order of the training clips: which draws make up a step, over buckets, without skipped clips.

Like the samplers of `fw_data.dataset.clip_order`, everything here is a pure function of (seed, step), so a resumed run
needs only the number of its step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fw_data.dataset.clip_order import BucketSampler, ClipSampler, Draw, PoolSampler
from fw_train.config.schema import ConfigError, TrainConfig


@dataclass(frozen=True, kw_only=True)
class ClipOrder:
    """The training clips, as far as their order depends on them."""

    clips: int
    """Number of training clips."""
    buckets: Sequence[Sequence[int]] = ()
    """Indices of the clips of each bucket; a step takes clips of one bucket. Empty: one bucket."""
    skipped: frozenset[int] = frozenset()
    """Indices of clips to leave out. The next clip of their bucket takes their place, so all other draws stay as they
    were."""


class OrderSampler:
    """The draws of every step of a run.

    Args:
        config: batch, seed and pool.
        order: the training clips.

    Raises:
        ConfigError: all clips of a bucket are skipped.
    """

    def __init__(self, config: TrainConfig, order: ClipOrder) -> None:
        filled = [tuple(bucket) for bucket in order.buckets if bucket]
        self._buckets = filled if len(filled) > 1 else []
        self._by_bucket: BucketSampler | None = None
        self._plain: ClipSampler | PoolSampler | None = None
        if self._buckets:
            sizes = [len(bucket) for bucket in self._buckets]
            self._by_bucket = BucketSampler(sizes, [config.batch] * len(sizes), config.seed)
        elif config.clip.pool:
            pool = min(config.clip.pool, order.clips)
            self._plain = PoolSampler(
                clips=order.clips, batch=config.batch, seed=config.seed, pool=pool, reuse=config.clip.reuse
            )
        else:
            self._plain = ClipSampler(clips=order.clips, batch=config.batch, seed=config.seed)
        self._replaced = _replacements(self._buckets or [range(order.clips)], order.skipped)

    def step(self, step: int, rank: int = 0, world_size: int = 1) -> list[Draw]:
        """The draws of one rank at one step.

        Raises:
            ValueError: the batch is not a multiple of `world_size`.
        """
        if self._by_bucket is not None:
            index, draws = self._by_bucket.step(step, rank, world_size)
            bucket = self._buckets[index]
            draws = [draw._replace(clip=bucket[draw.clip]) for draw in draws]
        else:
            assert self._plain is not None, "one of the samplers is set"
            draws = self._plain.step(step, rank, world_size)
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
