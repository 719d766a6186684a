"""Captions from what the camera sees: place, things with their sides, and the camera's move.

Axis legend: h rows, w columns of the label image; -1 is sky.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from fw_toy.worlds.paths import MOVES

_MIN_SHARE = 0.006
_MOST_THINGS = 4
_COUNTS = ("", "", "two", "three", "four")


def describe(setting: str, names: Sequence[str], labels: Int[np.ndarray, "h w"], move: str) -> str:
    """One line such as 'A sunlit park with a tall tree, two garden benches on the left; the camera moves forward.'"""
    things = _things(names, labels)
    sentence = setting
    if things:
        sentence += " with " + (things[0] if len(things) == 1 else ", ".join(things[:-1]) + " and " + things[-1])
    return f"{sentence[0].upper()}{sentence[1:]}; {MOVES[move]}."


def plural(name: str) -> str:
    """'a garden bench' -> 'garden benches'; names without an article are plural already."""
    for article in ("a ", "an "):
        if name.startswith(article):
            head, *rest = name.removeprefix(article).split(" of ", 1)
            head, *on = head.split(" on ", 1)
            head += "es" if head.endswith(("s", "x", "sh", "ch")) else "s"
            head = head.removesuffix("shelfs") + "shelves" if head.endswith("shelfs") else head
            return " on ".join([" of ".join([head, *rest]), *on])
    return name


def _things(names: Sequence[str], labels: np.ndarray) -> list[str]:
    seen: dict[str, list[int]] = {}
    for index in np.unique(labels[labels >= 0]):
        if names[int(index)] and (labels == index).mean() >= _MIN_SHARE / 2:
            seen.setdefault(str(names[int(index)]), []).append(int(index))
    shares = {name: float(np.isin(labels, members).mean()) for name, members in seen.items()}
    order = sorted((n for n in seen if shares[n] >= _MIN_SHARE), key=lambda n: (-shares[n], n))
    return [_phrase(name, len(seen[name]), np.isin(labels, seen[name])) for name in order[:_MOST_THINGS]]


def _phrase(name: str, count: int, mask: np.ndarray) -> str:
    columns = np.nonzero(mask)[1]
    middle, spread = float(columns.mean()) / mask.shape[1], float(np.ptp(columns)) / mask.shape[1]
    text = name
    if count > 1 and name.startswith(("a ", "an ")):
        text = f"{_COUNTS[count] if count < len(_COUNTS) else 'several'} {plural(name)}"
    if spread < 0.6 and middle < 0.36:
        return text + " on the left"
    if spread < 0.6 and middle > 0.64:
        return text + " on the right"
    return text
