"""Compare this implementation with a folder of golden tensors: `python -m tests.parity.golden DIR`.

DIR is a golden set (config.json with "tiny", weights, inputs, outputs, ...) or a folder of component files. Prints one
line per tensor with its largest error relative to the tensor's largest value; exits 1 if any is above the bound.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from tests.parity.golden_components import component_pairs
from tests.parity.golden_set import SetCheck
from torch import Tensor

TARGET = 4e-6
BOUND = 1e-5
GRADIENT_BOUND = 1e-4


class Result(NamedTuple):
    """One compared tensor."""

    name: str
    error: float
    bound: float

    @property
    def passed(self) -> bool:
        """Within the bound (a NaN is not)."""
        return self.error <= self.bound


def check(folder: Path) -> Iterator[Result]:
    """Compare everything in a folder of the golden layout. Raises ValueError for another folder."""
    config_path = folder / "config.json"
    if not config_path.exists():
        raise ValueError(f"{folder} has no config.json; give a golden set or a folder of golden components.")
    pairs = SetCheck(folder).pairs() if "tiny" in json.loads(config_path.read_text()) else component_pairs(folder)
    for name, ours, theirs in pairs:
        bound = GRADIENT_BOUND if name.startswith("gradients/") else BOUND
        yield Result(name, relative_error(ours, theirs), bound)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """max |ours - theirs| / max |theirs|; infinite for different shapes, absolute where theirs is all zero."""
    if ours.shape != theirs.shape:
        return float("inf")
    scale = theirs.abs().max().item() or 1.0
    return (ours.detach().double() - theirs.double()).abs().max().item() / scale


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a golden set, or a folder of component files")
    folder = parser.parse_args(arguments).folder
    torch.set_num_threads(1)
    results = []
    for result in check(folder):
        results.append(result)
        print(f"{'ok  ' if result.passed else 'MISS'}  {result.error:9.2e}  {result.name}")
    missed = [r for r in results if not r.passed]
    worst = max((r for r in results if r.bound == BOUND), key=lambda r: r.error, default=None)
    print(f"{len(results)} tensors, {len(missed)} missed", end="")
    print(f"; largest error {worst.error:.2e} ({worst.name})" if worst else "")
    return 1 if missed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
