"""Tar shards that WebDataset tools read, with the place of every member known, so one clip is one seek away.

Archives are deterministic: USTAR headers, time 0, members of a clip beside each other in the order of MEMBER_SUFFIXES.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

from fw_core.files import sync
from fw_data.dataset.schema import MEMBER_SUFFIXES, Member, ShardEntry
from fw_data.dataset.storage import LocalStorage
from fw_data.errors import DataError

_BLOCK = 512


class ShardWriter:
    """Writes one shard to a temporary name; `close` makes it durable and gives it its real name at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clips = 0
        self._temporary = path.with_name(path.name + ".tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._temporary.open("wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def add(self, clip_id: str, files: Mapping[str, bytes]) -> dict[str, Member]:
        """Append the files of one clip (by suffix); returns where they lie."""
        members = {}
        for suffix in MEMBER_SUFFIXES:
            if suffix not in files:
                continue
            data = files[suffix]
            info = tarfile.TarInfo(f"{clip_id}.{suffix}")
            info.size, info.mode = len(data), 0o644
            offset = self._file.tell() + _BLOCK
            self._tar.addfile(info, io.BytesIO(data))
            members[suffix] = Member(offset=offset, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        self.clips += 1
        return members

    def close(self) -> None:
        """Finish the archive, flush it to the disk and rename it."""
        self._tar.close()
        self._file.close()
        sync(self._temporary)
        self._temporary.replace(self.path)
        sync(self.path.parent)

    def abandon(self) -> None:
        """Throw away what was written."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


def read_member(shard: Path, member: Member, *, begin: int = 0, end: int | None = None) -> bytes:
    """Bytes [begin, end) of one member; the file is closed again. Raises DataError when the shard is shorter."""
    if not shard.is_file():
        raise DataError("shard-missing", f"{shard} is gone; copy it back or annotate again")
    end = member.size if end is None else end
    return LocalStorage(shard.parent).read_range(shard.name, member.offset + begin, member.offset + end)


def scan(shard: Path) -> Iterator[tuple[str, str, int, int]]:
    """(clip id, suffix, offset, size) of every member, from the tar itself; raises DataError at a torn place."""
    end = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as tar:
            for info in tar:
                if info.offset_data + info.size > end:
                    raise DataError("shard-torn", f"{shard} ends inside its member {info.name}")
                clip_id, _, suffix = info.name.partition(".")
                yield clip_id, suffix, info.offset_data, info.size
    except tarfile.TarError as error:
        raise DataError("shard-torn", f"{shard} is not a whole tar archive: {error}") from error


def describe(shard: Path, root: Path, clips: int) -> ShardEntry:
    """The card entry of a closed shard."""
    with shard.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ShardEntry(path=shard.relative_to(root).as_posix(), clips=clips, size=shard.stat().st_size, sha256=digest)
