"""The tensors of a checkpoint on disk: one file per stem, or files of several processes with some rows each."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from fw_model.checkpoints.opening import read_header, safetensors_files
from fw_model.checkpoints.slices import SliceReader
from fw_model.parallel.shards import Rows

PartRows = tuple[int, int, int]
"""Place of some rows in a whole tensor: the first one, the row after the last one, and the number of all rows."""
ROWS = "rows"
"""Entry of a file's metadata: JSON of name -> PartRows, for tensors that are some rows of larger ones."""
_PART = re.compile(r"(?P<stem>.+?)(-\d{5}-of-\d{5})?")


class _Piece(NamedTuple):
    first: int
    last: int
    file: Path


class StoredTensors(Mapping[str, Tensor]):
    """Tensors of one stem by name, read when they are asked for.

    Args:
        files: the files of the stem.

    Raises:
        ValueError: rows of a tensor are in none of the files.
    """

    def __init__(self, files: list[Path]) -> None:
        self._pieces: dict[str, list[_Piece]] = {}
        self._reader = SliceReader()
        counts: dict[str, int] = {}
        for file in files:
            with safe_open(file, framework="pt") as handle:
                places = json.loads((handle.metadata() or {}).get(ROWS, "{}"))
            for name, entry in read_header(file).items():
                rows = entry["shape"][0] if entry["shape"] else 1
                first, last, counts[name] = places.get(name, (0, rows, rows))
                self._pieces.setdefault(name, []).append(_Piece(first, last, file))
        for name, pieces in self._pieces.items():
            pieces.sort()
            ends = [0, *(piece.last for piece in pieces)]
            if [piece.first for piece in pieces] != ends[:-1] or ends[-1] != counts[name]:
                raise ValueError(f"{files[0].parent}: rows of {name!r} are missing; the checkpoint is damaged")

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor, in memory of its own."""
        parts = [self._reader.read(piece.file, name).clone() for piece in self._pieces[name]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    @torch.no_grad()
    def copy_rows(self, name: str, rows: Rows, target: Tensor) -> None:
        """Copy some rows of a tensor into one that has just these; nothing else is read."""
        for piece in self._pieces[name]:
            first, last = max(rows[0], piece.first), min(rows[1], piece.last)
            if first < last:
                found = self._reader.read(piece.file, name, (first - piece.first, last - piece.first))
                target[first - rows[0] : last - rows[0]].copy_(found)


def open_tensors(folder: Path) -> dict[str, StoredTensors]:
    """The tensors of a checkpoint folder by stem (`model`, `optimizer`, `ema`); reads the headers of the files."""
    files: dict[str, list[Path]] = {}
    for path in safetensors_files(folder):
        match = _PART.fullmatch(path.stem)
        assert match is not None, "every name has a stem"
        files.setdefault(match["stem"], []).append(path)
    return {stem: StoredTensors(paths) for stem, paths in files.items()}


def part_name(stem: str, part: int, parts: int) -> str:
    """Name of the file that process `part` of `parts` writes."""
    return f"{stem}.safetensors" if parts == 1 else f"{stem}-{part + 1:05d}-of-{parts:05d}.safetensors"
