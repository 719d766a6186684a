"""File names in camera files: natural order, frame numbers, and separators of any system.

Axis legend: none.
"""

import re
from collections.abc import Sequence

import numpy as np

_DIGITS = re.compile(r"(\d+)")


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key under which img2 comes before img10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _DIGITS.split(name)]


def portable_path(name: str) -> str:
    r"""A path as written on any system, with / between its parts: .\images\a.png becomes images/a.png."""
    parts = [part for part in name.strip().replace("\\", "/").split("/") if part != "."]
    return "/".join(parts)


def frame_numbers(names: Sequence[str]) -> np.ndarray | None:
    """The number in each name that counts the frames; None if the names are not numbered in increasing order.

    The number is the last group of digits before the suffix that differs between the names; everything else in the
    names must be equal.
    """
    parts = [_DIGITS.split(name.rpartition(".")[0] or name) for name in names]
    if len(parts) < 2 or len({len(part) for part in parts}) != 1:
        return None
    varying = [i for i, column in enumerate(zip(*parts, strict=True)) if len(set(column)) > 1]
    if len(varying) != 1 or not parts[0][varying[0]].isdecimal():
        return None
    numbers = np.array([int(part[varying[0]]) for part in parts], dtype=np.int64)
    return numbers if (np.diff(numbers) > 0).all() else None
