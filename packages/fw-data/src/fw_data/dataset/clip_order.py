"""Which clips make up which step: a pure function of (seed, step, batch), cut among ranks.

The clips of all epochs form one endless stream, every epoch a fresh permutation. Step s takes the positions
[s * batch, (s + 1) * batch) of it, whatever the world size, so a resumed run needs nothing but the step number, and a
run that changes its world size neither loses nor repeats a clip. `PoolSampler` draws from a window that slides along
the clips, where preparing a clip costs more than training on it once. `BucketSampler` does the same for clips of
several sizes: every bucket has its own stream, and each epoch has a new order of batches.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np


class Draw(NamedTuple):
    """One training sample of one step."""

    clip: int
    """Index among the training clips."""
    epoch: int
    """Number of earlier passes over every clip."""
    slot: int
    """Place in the global batch; with seed and step it keys the noise of this sample."""


@dataclass(frozen=True, kw_only=True)
class ClipSampler:
    """The endless stream of clips of one run."""

    clips: int
    """Number of training clips."""
    batch: int
    """Samples per optimizer step over all ranks."""
    seed: int
    """Seed of the permutations."""

    def __post_init__(self) -> None:
        if self.clips < 1 or self.batch < 1:
            raise ValueError(f"ClipSampler needs clips and a batch of at least 1, got {self.clips} and {self.batch}")

    def step(self, step: int, rank: int = 0, world_size: int = 1) -> list[Draw]:
        """The draws of one rank at one step: every `world_size`-th slot of the global batch, starting at `rank`.

        Raises:
            ValueError: the batch cannot be cut into `world_size` equal parts.
        """
        if self.batch % world_size:
            raise ValueError(f"batch {self.batch} cannot be cut into {world_size} equal parts; use a multiple of it")
        return [self._at(step * self.batch + slot, slot) for slot in range(rank, self.batch, world_size)]

    def _at(self, position: int, slot: int) -> Draw:
        epoch, place = divmod(position, self.clips)
        return Draw(int(_permutation(self.seed, epoch, self.clips)[place]), epoch, slot)


@dataclass(frozen=True, kw_only=True)
class PoolSampler:
    """Random draws from a window of clips that slides on by one clip for every `reuse` draws.

    Every clip is drawn `reuse` times on average while it is in the window, so a cache of `pool` clips prepares each
    only once. Slot k of the batch draws only the clips k, k + batch, ..., so ranks share no clip.
    """

    clips: int
    """Number of training clips; the window goes round at the end."""
    batch: int
    """Samples per optimizer step over all ranks."""
    seed: int
    """Seed of the draws."""
    pool: int
    """Clips in the window, rounded down to a multiple of `batch`."""
    reuse: int
    """Mean number of draws of a clip before the window leaves it."""

    def __post_init__(self) -> None:
        if not self.batch <= self.pool <= self.clips or self.reuse < 1:
            raise ValueError(
                f"PoolSampler needs batch <= pool <= clips and reuse >= 1, got batch {self.batch}, pool {self.pool}, "
                f"clips {self.clips}, reuse {self.reuse}"
            )

    def step(self, step: int, rank: int = 0, world_size: int = 1) -> list[Draw]:
        """The draws of one rank at one step; see `ClipSampler.step`."""
        if self.batch % world_size:
            raise ValueError(f"batch {self.batch} cannot be cut into {world_size} equal parts; use a multiple of it")
        return [self._at(step, slot) for slot in range(rank, self.batch, world_size)]

    def _at(self, step: int, slot: int) -> Draw:
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, step, slot])))
        place = step // self.reuse + int(random.integers(self.pool // self.batch))
        epoch, clip = divmod(place * self.batch + slot, self.clips)
        return Draw(clip, epoch, slot)


class BucketDraws(NamedTuple):
    """Clips of one rank at one step."""

    bucket: int
    """Index of the bucket that the whole global batch comes from."""
    draws: list[Draw]
    """`clip` counts among the clips of that bucket."""


class BucketSampler:
    """Batches that hold clips of one bucket each, over all buckets.

    Bucket b with n clips and a batch of g gives floor((e + 1) n / g) batches in the epochs 0 to e: what does not fill a
    batch waits for the next epoch, so within a bucket every clip is drawn once before any is drawn again.

    Args:
        clips: number of clips of each bucket; buckets without clips are never drawn.
        batches: samples per step over all ranks, of each bucket.
        seed: of the permutations.
    """

    def __init__(self, clips: Sequence[int], batches: Sequence[int], seed: int) -> None:
        if len(clips) != len(batches) or not any(clips):
            raise ValueError(f"BucketSampler needs a batch size for each bucket and some clips, got {clips}, {batches}")
        self.clips, self.batches, self.seed = tuple(clips), tuple(batches), seed
        self._streams = [
            ClipSampler(clips=count, batch=batch, seed=_stream_seed(seed, index)) if count else None
            for index, (count, batch) in enumerate(zip(clips, batches, strict=True))
        ]

    def step(self, step: int, rank: int = 0, world_size: int = 1) -> BucketDraws:
        """Bucket and draws of one rank at one step. ValueError if its batch cannot be cut into `world_size` parts."""
        epoch = self.epoch(step)
        before, after = self._made(epoch), self._made(epoch + 1)
        owner = np.repeat(np.arange(len(self.clips)), np.subtract(after, before))
        order = _permutation(_stream_seed(self.seed, len(self.clips)), epoch, len(owner))
        place = order[step - sum(before)]
        bucket = int(owner[place])
        number = before[bucket] + int((owner[:place] == bucket).sum())
        stream = self._streams[bucket]
        assert stream is not None
        return BucketDraws(bucket, stream.step(number, rank, world_size))

    def epoch(self, step: int) -> int:
        """The epoch of a step."""
        low, high = 0, 1
        while sum(self._made(high)) <= step:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if sum(self._made(middle)) <= step else (low, middle)
        return low

    def _made(self, epochs: int) -> list[int]:
        """Batches of each bucket in so many epochs."""
        return [epochs * count // batch for count, batch in zip(self.clips, self.batches, strict=True)]


def window_start(seed: int, epoch: int, clip_id: str, spare: int) -> int:
    """Which window of a clip to train on in an epoch: uniform over 0..spare, a pure function of its arguments."""
    key = np.frombuffer(clip_id.encode(), dtype=np.uint8)
    return int(np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, *key]))).integers(spare + 1))


def _stream_seed(seed: int, index: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/bucket {index}".encode()).digest()[:8])


@lru_cache(maxsize=16)
def _permutation(seed: int, epoch: int, clips: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).permutation(clips)
