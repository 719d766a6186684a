"""Read tensors, or some rows of them, out of safetensors files."""

from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import safe_open
from torch import Tensor

from fw_model.parallel.shards import Rows

_WINDOW_BYTES = 16_000_000


class SliceReader:
    """Reads tensors and rows of tensors in the order in which they are asked for; a context that closes its file.

    A file is mapped into memory, and mapped again after 16 MB, so tensors that were copied out leave no pages behind.
    A tensor shares the memory of its file; copy it to keep it.
    """

    def __init__(self) -> None:
        self._file: Path | None = None
        self._context: Any = None
        self._handle: Any = None
        self._mapped = 0

    def __enter__(self) -> "SliceReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, file: Path, name: str, rows: Rows | None = None) -> Tensor:
        """A tensor of a file, or some rows of it."""
        if file != self._file or self._mapped > _WINDOW_BYTES:
            self.close()
            self._context = safe_open(file, framework="pt")
            self._handle, self._file = self._context.__enter__(), file
        tensor = self._handle.get_tensor(name) if rows is None else self._handle.get_slice(name)[slice(*rows)]
        self._mapped += tensor.nbytes
        return tensor

    def close(self) -> None:
        """Close the file that was read last."""
        if self._context is not None:
            self._context.__exit__(None, None, None)
        self._context = self._handle = self._file = None
        self._mapped = 0
