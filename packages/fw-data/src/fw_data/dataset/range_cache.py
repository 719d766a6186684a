"""Byte ranges of remote files in a folder of this machine, shared by all processes on it.

Training reads the same ranges again in every epoch: the blobs of a clip, or parts of them. Each range is one file,
which appears whole or not at all, so any number of processes may read and write at the same time. When the folder is
over its limit, the ranges that were read longest ago are removed.
"""

import hashlib
import logging
import math
import os
from contextlib import suppress
from pathlib import Path

from fw_core.files import write_bytes
from fw_data.errors import DataError

log = logging.getLogger(__name__)

FOLDER, LIMIT = "FW_DATA_CACHE", "FW_DATA_CACHE_GB"
"""Environment variables: the folder, and the most to keep, in GB of 10^9 bytes."""
DEFAULT_GB = 100.0
_FULL = 0.9
"""Share of the limit that is left after ranges were removed."""
_CHECKS = 1024
"""Each process checks the size of the folder whenever it has written one of this many parts of the limit."""


def cache_from_environment() -> tuple[Path | None, int]:
    """Folder of the cache (None: no cache) and its limit in bytes. Raises DataError for a limit that is no number."""
    folder, text = os.environ.get(FOLDER, ""), os.environ.get(LIMIT, str(DEFAULT_GB))
    try:
        limit_gb = float(text)
    except ValueError:
        limit_gb = math.nan
    if not (math.isfinite(limit_gb) and limit_gb > 0):
        raise DataError("bad-cache", f"{LIMIT} is {text!r}; give the most to keep in GB, such as 100")
    return Path(folder) if folder else None, int(limit_gb * 1e9)


class RangeCache:
    """Ranges of files by the name of the file, which includes its version.

    Args:
        folder: made if missing.
        limit: most bytes to keep; between two checks, each process may exceed it by a thousandth.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._written: int | None = None
        self._failed = False

    def get(self, file: str, begin: int, end: int) -> bytes | None:
        """Bytes [begin, end) if they are kept, which then counts as a use of them."""
        path = self._path(file, begin, end)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if len(data) != end - begin:
            return None
        with suppress(OSError):  # removed by another process, or a folder that is read only
            os.utime(path)
        return data

    def put(self, file: str, begin: int, end: int, data: bytes) -> None:
        """Keep bytes [begin, end), unless the folder cannot be written, which is logged once."""
        try:
            write_bytes(self._path(file, begin, end), data)
        except OSError as error:
            if not self._failed:
                log.warning("%s cannot keep ranges; reads continue without it: %s", self.folder, error)
            self._failed = True
            return
        self._written = None if self._written is None else self._written + len(data)
        if self._written is None or self._written > self.limit / _CHECKS:
            self._written = 0
            self._remove_oldest()

    def _path(self, file: str, begin: int, end: int) -> Path:
        name = hashlib.sha256(file.encode()).hexdigest()[:32]
        return self.folder / name[:2] / name / f"{begin}-{end}"

    def _remove_oldest(self) -> None:
        kept: list[tuple[float, int, Path]] = []
        for path in self.folder.glob("*/*/[0-9]*"):
            with suppress(OSError):  # removed by another process
                about = path.stat()
                kept.append((about.st_mtime, about.st_size, path))
        total = sum(size for _, size, _ in kept)
        if total <= self.limit:
            return
        for _, size, path in sorted(kept):
            if total <= _FULL * self.limit:
                return
            with suppress(OSError):
                path.unlink(missing_ok=True)
            total -= size
