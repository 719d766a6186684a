"""Clips that look the same although their files differ: another encoding, size or container of the same film.

Each clip has the difference hash of a few frames: 64 bits, each saying whether a spot is brighter than its neighbor to
the right. Two clips are alike when no pair of their frames, in order, differs in more than `max_bits` bits. So clips
that begin at other frames of the same film are not found, nor are mirrored or cropped ones.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import UInt8

FRAMES = 5
"""Frames of a clip that are hashed, spread evenly."""
_ROWS, _COLUMNS = 8, 9
_SAYING = range(6, 59)
"""Bits that are set in the hash of an image with something in it; fewer or more, and it is plain or a mere slope."""
_STEP = 2
"""Brightness (0 to 255) by which a spot must be brighter: encoders move plain areas by less."""


@runtime_checkable
class Hashed(Protocol):
    """A clip to compare, such as scan.ClipPlan."""

    @property
    def id(self) -> str:
        """Id of the clip."""
        ...

    @property
    def source(self) -> str:
        """Path of its video."""
        ...

    @property
    def shot(self) -> int:
        """Number of its shot in that video."""
        ...

    @property
    def hashes(self) -> list[int]:
        """Hashes of some frames; empty if the clip cannot be compared."""
        ...


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """A clip that looks like an earlier one."""

    index: int
    """Index of the clip in the given order."""
    original: int
    """Index of the clip that it looks like."""
    bits: int
    """Most bits of 64 that differ between two of their frames."""


def difference_hash(image_bgr: UInt8[np.ndarray, "h w 3"]) -> int:
    """The 64 bits of an image."""
    gray = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY)
    small = cv2.resize(gray, (_COLUMNS, _ROWS), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = (small[:, :-1] - small[:, 1:]) >= _STEP
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def clip_hashes(hashes: Sequence[int]) -> list[int]:
    """The compared hashes of a clip, from those of all its frames; empty if one has too few or too many set bits."""
    picked = [hashes[i] for i in np.linspace(0, len(hashes) - 1, FRAMES).round().astype(int)]
    return picked if all(value.bit_count() in _SAYING for value in picked) else []


def find_duplicates(clips: Sequence[Hashed], max_bits: int, kept: Iterable[str] = ()) -> list[Duplicate]:
    """Every clip that looks like a clip before it, which itself stays; never two clips of one shot.

    Clips in `kept` stay in any case: they are in the dataset already. The result depends on nothing else than the
    arguments: not on the order in which clips end, nor on the number of workers.
    """
    safe = set(kept)
    order = sorted(range(len(clips)), key=lambda index: (clips[index].id not in safe, index))
    buckets: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    found: list[Duplicate] = []
    for index in order:
        clip = clips[index]
        if not clip.hashes:
            continue
        middle = _middle(clip)
        keys = _parts(middle, max_bits + 1)
        candidates = set() if clip.id in safe else {other for key in keys for other in buckets[key]}
        near = sorted(other for other in candidates if (middle ^ _middle(clips[other])).bit_count() <= max_bits)
        distances = ((other, _distance(clip, clips[other])) for other in near)
        match = next((pair for pair in distances if pair[1] <= max_bits), None)
        if match:
            found.append(Duplicate(index=index, original=match[0], bits=match[1]))
            continue
        for key in keys:
            buckets[key].append(index)
    return sorted(found, key=lambda duplicate: duplicate.index)


def _middle(clip: Hashed) -> int:
    return clip.hashes[len(clip.hashes) // 2]


def _distance(one: Hashed, two: Hashed) -> int:
    if (one.source, one.shot) == (two.source, two.shot):
        return 64
    return max((a ^ b).bit_count() for a, b in zip(one.hashes, two.hashes, strict=True))


def _parts(value: int, count: int) -> list[tuple[int, int]]:
    """The bits in `count` parts: values that differ in fewer bits than there are parts share one whole part."""
    edges = [round(64 * part / count) for part in range(count + 1)]
    return [(part, value >> low & (1 << high - low) - 1) for part, (low, high) in enumerate(pairwise(edges))]
