"""Object storage of results: folders of completed jobs under one URL, read and written with fsspec."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 20
LINK_S = 900
"""Seconds that a presigned URL is valid."""


class ArtifactStore:
    """Results under a URL such as s3://bucket/worlds, gs://..., or memory://... for tests.

    Args:
        url: the root. Credentials come from the environment of the filesystem, as fsspec documents.

    Raises:
        ValueError: fsspec or the package of the filesystem is missing, or the protocol is unknown.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ModuleNotFoundError as error:
            raise ValueError("--artifacts needs fsspec: pip install 'fw-serve[storage]'") from error
        try:
            self.files, self.root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"--artifacts {url}: {error}") from error

    def put(self, folder: Path, job_id: str, attempt: str) -> None:
        """Upload the files of an attempt."""
        if "file" in self.files.protocol:  # object storage has no folders
            self.files.makedirs(self._path(job_id, attempt), exist_ok=True)
        for path in sorted(folder.iterdir()):
            self.files.pipe_file(self._path(job_id, attempt, path.name), path.read_bytes())

    def link(self, job_id: str, attempt: str, name: str) -> str | None:
        """A presigned URL of a file; None if the filesystem has none."""
        try:
            return str(self.files.sign(self._path(job_id, attempt, name), expiration=LINK_S))
        except NotImplementedError:
            return None

    def info(self, job_id: str, attempt: str, name: str) -> dict[str, Any] | None:
        """Size and times of a file; None if it does not exist."""
        try:
            return self.files.info(self._path(job_id, attempt, name))
        except FileNotFoundError:
            return None

    def open_all(self, job_id: str, attempt: str) -> list[tuple[str, IO[bytes]]]:
        """Name and content of every file of a result; parts are read when they are needed. FileNotFoundError."""
        paths = sorted(self.files.ls(self._path(job_id, attempt), detail=False))
        return [(path.rsplit("/", 1)[-1], self.files.open(path, "rb")) for path in paths]

    def read(self, job_id: str, attempt: str, name: str) -> Iterator[bytes]:
        """Content of a file in parts. Raises FileNotFoundError."""
        with self.files.open(self._path(job_id, attempt, name), "rb") as file:
            while part := file.read(CHUNK):
                yield part

    def remove(self, job_id: str) -> None:
        """Remove all results of a job."""
        path = self._path(job_id)
        if self.files.exists(path):
            self.files.rm(path, recursive=True)

    def _path(self, *parts: str) -> str:
        return "/".join((self.root.rstrip("/"), *parts))
