"""Which clips make up which step: a pure function of (seed, step, batch), cut among ranks.

The clips of all epochs form one endless stream, every epoch a fresh permutation. Step s takes the positions
[s * batch, (s + 1) * batch) of it, whatever the world size, so a resumed run needs nothing but the step number, and a
run that changes its world size neither loses nor repeats a clip. `PoolSampler` draws from a window that slides along
the clips, where preparing a clip costs more than training on it once. `BucketSampler` does the same for clips of
several sizes: every bucket has its own stream, and each epoch has a new order of batches.

Clips that are added to the data of a run get the next indices. From the step on at which they are there, they are drawn
among the clips that are left of the epoch (`Rest`), and later epochs are permutations of all clips.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Rest:
    """The draws that are left of an epoch."""

    draws: np.ndarray
    """Clip and epoch of each draw, [n, 2]; a clip that did not fill a batch is of the epoch before."""
    epoch: int
    """The epoch."""

    def joined(self, added: range, seed: int, step: int) -> "Rest":
        """The rest with added clips, in a new order that is a function of seed and step."""
        new = np.stack([np.arange(added.start, added.stop), np.full(len(added), self.epoch)], axis=1)
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, self.epoch, step])))
        return Rest(draws=random.permutation(np.concatenate([self.draws, new])), epoch=self.epoch)


@dataclass(frozen=True, kw_only=True)
class ClipSampler:
    """The endless stream of clips of one run."""

    clips: int
    """Number of training clips."""
    batch: int
    """Samples per optimizer step over all ranks."""
    seed: int
    """Seed of the permutations."""
    begin: int = 0
    """The first step."""
    first: Rest | None = None
    """The first epoch, after clips were added; None: epoch 0, a permutation."""

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
        slots = range(rank, self.batch, world_size)
        rows = self.draws((step - self.begin) * self.batch + np.array(slots)).tolist()
        return [Draw(clip, epoch, slot) for (clip, epoch), slot in zip(rows, slots, strict=True)]

    def rest(self, step: int) -> Rest:
        """What is left of the epoch of a step, with this step."""
        begin = (step - self.begin) * self.batch
        epochs = -(-max(0, begin + 1 - self.until(0)) // self.clips)
        return Rest(draws=self.draws(np.arange(begin, self.until(epochs))), epoch=self._number(epochs))

    def until(self, epochs: int) -> int:
        """Draws from the beginning to the end of the first epoch and so many further ones."""
        return (self.clips if self.first is None else len(self.first.draws)) + epochs * self.clips

    def draws(self, places: np.ndarray) -> np.ndarray:
        """Clip and epoch at places of the stream, [n, 2]."""
        epochs = np.maximum(0, places - self.until(0) + self.clips) // self.clips
        found = np.empty((len(places), 2), np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            if epoch == 0 and self.first is not None:
                found[here] = self.first.draws[places[here]]
            else:
                within = places[here] - self.until(epoch - 1)
                number = self._number(epoch)
                found[here, 0], found[here, 1] = _permutation(self.seed, number, self.clips)[within], number
        return found

    def _number(self, epoch: int) -> int:
        return epoch if self.first is None else self.first.epoch + epoch


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
    shift: int = 0
    """Clips by which the window is ahead, since clips were added."""

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

    def grown(self, step: int, clips: int, pool: int) -> "PoolSampler":
        """The sampler from a step on, with more clips and another pool; the window stays where it is."""
        place = step // self.reuse * self.batch
        epoch, clip = divmod(place + self.shift, self.clips)
        return replace(self, clips=clips, pool=pool, shift=epoch * clips + clip - place)

    def _at(self, step: int, slot: int) -> Draw:
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, step, slot])))
        place = step // self.reuse + int(random.integers(self.pool // self.batch))
        epoch, clip = divmod(place * self.batch + slot + self.shift, self.clips)
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
        begin: the first step.
        first: the first epoch of each bucket, after clips were added; None: a permutation.
    """

    def __init__(
        self,
        clips: Sequence[int],
        batches: Sequence[int],
        seed: int,
        *,
        begin: int = 0,
        first: Sequence[Rest | None] = (),
    ) -> None:
        if len(clips) != len(batches) or not any(clips):
            raise ValueError(f"BucketSampler needs a batch size for each bucket and some clips, got {clips}, {batches}")
        self.clips, self.batches, self.seed, self.begin = tuple(clips), tuple(batches), seed, begin
        self._streams = [
            ClipSampler(clips=count, batch=batch, seed=_stream_seed(seed, index), first=rest) if count else None
            for index, (count, batch, rest) in enumerate(zip(clips, batches, first or [None] * len(clips), strict=True))
        ]

    def step(self, step: int, rank: int = 0, world_size: int = 1) -> BucketDraws:
        """Bucket and draws of one rank at one step. ValueError if its batch cannot be cut into `world_size` parts."""
        before, owner, coming = self._plan(step)
        bucket = int(owner[coming[0]])
        number = before[bucket] + int((owner[: coming[0]] == bucket).sum())
        stream = self._streams[bucket]
        assert stream is not None
        return BucketDraws(bucket, stream.step(number, rank, world_size))

    def epoch(self, step: int) -> int:
        """The epoch of a step, counted from `begin`."""
        step -= self.begin
        low, high = 0, 1
        while sum(self._made(high)) <= step:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if sum(self._made(middle)) <= step else (low, middle)
        return low

    def rests(self, step: int) -> list[Rest | None]:
        """What is left of the epoch of a step, with this step, in each bucket; None for buckets without clips."""
        epoch = self.epoch(step)
        before, owner, coming = self._plan(step)
        after, rests = self._made(epoch + 1), []
        for bucket, (stream, batch) in enumerate(zip(self._streams, self.batches, strict=True)):
            if stream is None:
                rests.append(None)
                continue
            places = np.sort(coming[owner[coming] == bucket])
            numbers = before[bucket] + places - np.searchsorted(owner, bucket)
            full = (numbers[:, None] * batch + np.arange(batch)).ravel()
            waiting = np.arange(after[bucket] * batch, stream.until(epoch))
            number = epoch if stream.first is None else stream.first.epoch + epoch
            rests.append(Rest(draws=stream.draws(np.concatenate([full, waiting])), epoch=number))
        return rests

    def grown(self, step: int, clips: Sequence[int]) -> "BucketSampler":
        """The sampler from a step on, with more clips."""
        first = [
            rest and rest.joined(range(old, new), self.seed, step)
            for rest, old, new in zip(self.rests(step), self.clips, clips, strict=True)
        ]
        return BucketSampler(clips, self.batches, self.seed, begin=step, first=first)

    def _plan(self, step: int) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Of the epoch of a step: the batches of each bucket before it, the bucket of each of its batches, and its
        batches from this step on."""
        epoch = self.epoch(step)
        before, after = self._made(epoch), self._made(epoch + 1)
        owner = np.repeat(np.arange(len(self.clips)), np.subtract(after, before))
        order = _permutation(_stream_seed(self.seed, len(self.clips)), self.begin + epoch, len(owner))
        return before, owner, order[step - self.begin - sum(before) :]

    def _made(self, epochs: int) -> list[int]:
        """Batches of each bucket in so many epochs."""
        return [
            stream.until(epochs - 1) // batch if stream and epochs else 0
            for stream, batch in zip(self._streams, self.batches, strict=True)
        ]


def window_start(seed: int, epoch: int, clip_id: str, spare: int) -> int:
    """Which window of a clip to train on in an epoch: uniform over 0..spare, a pure function of its arguments."""
    key = np.frombuffer(clip_id.encode(), dtype=np.uint8)
    return int(np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, *key]))).integers(spare + 1))


def _stream_seed(seed: int, index: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/bucket {index}".encode()).digest()[:8])


@lru_cache(maxsize=16)
def _permutation(seed: int, epoch: int, clips: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).permutation(clips)
