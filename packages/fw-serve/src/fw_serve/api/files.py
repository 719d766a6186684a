"""Responses with the files of a world: opened before they are sent, so that a deletion cannot break them."""

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from fw_serve.http.conditional import matches
from fw_serve.http.guard import HEAD_ONLY

CHUNK = 1 << 18
ARCHIVES = {"colmap.zip": "gaussians/", "depth.zip": "depth/"}
"""Archives among the files, and the folders of `fw generate` that they hold."""


class OpenedFile(FileResponse):
    """A file that stays readable when it is deleted, with Range, If-Range and If-None-Match.

    Raises:
        FileNotFoundError: it does not exist.
    """

    def __init__(self, path: Path, *, media_type: str, filename: str, headers: Mapping[str, str]) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)
        try:
            super().__init__(
                f"/dev/fd/{self.descriptor}", media_type=media_type, filename=filename, headers=headers,
                stat_result=os.fstat(self.descriptor), content_disposition_type="inline",
            )  # fmt: skip
        except BaseException:
            os.close(self.descriptor)
            raise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, a range of it, or 304."""
        try:
            given = next((value.decode() for name, value in scope["headers"] if name == b"if-none-match"), None)
            if matches(given, self.headers["etag"]):
                kept = {name: self.headers[name] for name in ("etag", "last-modified", "cache-control")}
                await Response(status_code=304, headers=kept)(scope, receive, send)
            elif scope.get(HEAD_ONLY):
                await super().__call__({**scope, "method": "HEAD"}, receive, send)
            else:
                await super().__call__(scope, receive, send)
        finally:
            os.close(self.descriptor)


class WorldArchive(StreamingResponse):
    """All files of a world as one zip, in the folders that `fw generate` writes; made while it is sent.

    Args:
        opened: name and content of each file; closed at the end.
        filename: name of the archive.
        headers: headers of the response.
    """

    def __init__(self, opened: Sequence[tuple[str, IO[bytes]]], *, filename: str, headers: Mapping[str, str]) -> None:
        disposition = {"Content-Disposition": f'attachment; filename="{filename}"'}
        self.opened = opened
        super().__init__(_zipped(opened), media_type="application/zip", headers={**headers, **disposition})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the archive, or its headers for HEAD."""
        try:
            if scope.get(HEAD_ONLY):
                await Response(headers=dict(self.headers))(scope, receive, send)
            else:
                await super().__call__(scope, receive, send)
        finally:
            for _, file in self.opened:
                file.close()


class _Pipe:
    """A file that is only written to; `take` returns the bytes written so far."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, part: bytes) -> int:
        self.parts.append(bytes(part))
        return len(part)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        joined, self.parts = b"".join(self.parts), []
        return joined


def _zipped(opened: Sequence[tuple[str, IO[bytes]]]) -> Iterator[bytes]:
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[arg-type]
        for name, file in opened:
            for target, source in _entries(name, file):
                with source, archive.open(zipfile.ZipInfo(target), "w", force_zip64=True) as entry:
                    while part := source.read(CHUNK):
                        entry.write(part)
                        yield pipe.take()
    yield pipe.take()


def _entries(name: str, file: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """Names and contents in the archive: a file as it is, or the files of an inner archive."""
    if name not in ARCHIVES:
        yield name, file
        return
    try:
        inner = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        file.seek(0)
        yield name, file
        return
    with inner:
        for member in inner.namelist():
            yield ARCHIVES[name] + member, inner.open(member)
            if name == "colmap.zip" and member.startswith("images/"):
                yield member, inner.open(member)
            elif name == "colmap.zip":
                yield "colmap/" + member, inner.open(member)
