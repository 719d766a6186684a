"""Which clips make up which step: a pure function of (seed, step, batch), cut among ranks.

The clips of all epochs form one endless stream, every epoch a fresh permutation. Step s takes the positions
[s * batch, (s + 1) * batch) of it, whatever the world size, so a resumed run needs nothing but the step number, and a
run that changes its world size neither loses nor repeats a clip.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np


class Draw(NamedTuple):
    """One training sample of one step."""

    clip: int
    """Index among the training clips."""
    epoch: int
    """How often every clip had been seen before."""
    slot: int
    """Place in the global batch; with seed and step it keys the noise of this sample."""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """The endless stream of clips of one run."""

    clips: int
    """Number of training clips."""
    batch: int
    """Samples per optimizer step over all ranks."""
    seed: int
    """Seed of the permutations."""

    def __post_init__(self) -> None:
        if self.clips < 1 or self.batch < 1:
            raise ValueError(f"Sampler needs clips and a batch of at least 1, got {self.clips} and {self.batch}")

    def step(self, step: int, rank: int = 0, world: int = 1) -> list[Draw]:
        """The draws of one rank at one step: every `world`-th slot of the global batch, starting at `rank`.

        Raises:
            ValueError: the batch cannot be cut into `world` equal parts.
        """
        if self.batch % world:
            raise ValueError(f"batch {self.batch} cannot be cut into {world} equal parts; use a multiple of it")
        return [self._at(step * self.batch + slot, slot) for slot in range(rank, self.batch, world)]

    def _at(self, position: int, slot: int) -> Draw:
        epoch, place = divmod(position, self.clips)
        return Draw(int(_permutation(self.seed, epoch, self.clips)[place]), epoch, slot)


def window_start(seed: int, epoch: int, clip_id: str, spare: int) -> int:
    """Which window of a clip to train on in an epoch: uniform over 0..spare, a pure function of its arguments."""
    key = np.frombuffer(clip_id.encode(), dtype=np.uint8)
    return int(np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, *key]))).integers(spare + 1))


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, clips: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).permutation(clips)
