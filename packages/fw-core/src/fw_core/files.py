"""Files and folders that appear whole or not at all.

Content is written to a hidden sibling, which takes the final name when it is complete. A reader never sees a partial
file, and a killed process leaves none.
"""

import codecs
import errno
import fcntl
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Replace a file by `content`; missing parent folders are created.

    Args:
        path: the file.
        content: its new content.
        durable: wait until the content has reached the disk.
    """
    with replacing(path, durable=durable) as partial:
        partial.write_bytes(content)


def write_text(path: Path, content: str, *, durable: bool = False) -> None:
    """Replace a file by UTF-8 text; see `write_bytes`."""
    write_bytes(path, content.encode(), durable=durable)


def make_writable(folder: Path) -> None:
    """Make a folder and try to write to it, before the work whose result goes there. Raises OSError if that fails."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file; give a folder", str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder):
        pass


def read_text(path: Path) -> str:
    """A text file that a user wrote; see `decode_text`. Raises OSError, or UnicodeDecodeError for other encodings."""
    return decode_text(path.read_bytes())


def decode_text(content: bytes, errors: str = "strict") -> str:
    """UTF-8 with or without a byte order mark, or UTF-16 with one, which tools of Windows write."""
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if wide else "utf-8-sig", errors)


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A path to write a file to, which replaces `path` when the block ends without an error.

    The partial file is named after this process, so several may write the same file; the last one wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        if durable:
            sync(partial)
        partial.replace(path)
        if durable:
            sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which replaces `folder` when the block ends without an error."""
    partial, old = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "old"))
    for left in (partial, old):
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    finally:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LockedError(OSError):
    """Another process holds a lock; the message names its file and the process."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file while the block runs; the file keeps the id of the last holder.

    The operating system releases the lock when the process ends, however it ends. A file system without locks grants it
    always.

    Raises:
        LockedError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise LockedError(errno.EWOULDBLOCK, f"locked by process {holder}", str(path)) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def file_and_scale(text: str) -> tuple[Path, float]:
    """FILE or FILE:SCALE as file and scale (1 by default). A colon may be part of the name.

    Raises:
        ValueError: the file does not exist, or the scale is not finite.
    """
    name, colon, last = text.rpartition(":")
    path, scale = Path(text), 1.0
    if colon and not path.exists():
        try:
            path, scale = Path(name), float(last)
        except ValueError:
            path = Path(text)
    if not path.exists():
        raise ValueError(f"file not found: {path}; give FILE or FILE:SCALE")
    if not math.isfinite(scale):
        raise ValueError(f"the scale of {path} must be finite")
    return path, scale
