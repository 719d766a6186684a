"""Storage of inputs and results: one folder, in which readers see complete files only.

    DATA/inputs/JOB/image.png, camera.json   inputs of a job
    DATA/results/JOB/ATTEMPT/video.mp4 ...   results of a completed job, whose row names the attempt
    DATA/work/ATTEMPT/                       files of a running attempt, moved to results when complete
    DATA/work/ATTEMPT/.preview.jpg           the frames as denoised so far; removed before that

File names come from this program. Names in a request are looked up in tables, never joined to a path; the check of
each path component here is a second line of defense.
"""

import os
import re
import shutil
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO

from fw_core.files import sync
from fw_serve.artifact_store import ArtifactStore

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}(\.[a-z0-9]{1,8})?")
_ABANDONED_S = 3600.0
_PREVIEW = ".preview.jpg"


class StorageError(ValueError):
    """An invalid name, or a missing file."""


class JobStorage:
    """The data folder.

    Args:
        root: created if missing. Several replicas share one folder.
        artifacts: URL of object storage for results; None keeps them in the folder.
    """

    def __init__(self, root: str | Path, artifacts: str | None = None) -> None:
        self.root = Path(root).resolve()
        self.artifacts = None if artifacts is None else ArtifactStore(artifacts)
        for name in ("inputs", "results", "work"):
            (self.root / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    def put_inputs(self, job_id: str, files: Mapping[str, bytes]) -> None:
        """Write the inputs of a new job durably. A failed write leaves nothing."""
        folder = self._place("inputs", job_id)
        folder.mkdir(mode=0o700)
        try:
            for name, content in files.items():
                with self._place("inputs", job_id, name).open("xb") as file:  # not read before the row exists
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            sync(folder)
            sync(folder.parent)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def input(self, job_id: str, name: str) -> Path:
        """Path of an input file. Raises StorageError if it does not exist."""
        return self._existing("inputs", job_id, name)

    def begin(self, attempt: str) -> Path:
        """An empty folder for the files of an attempt."""
        folder = self._place("work", attempt)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        return folder

    def put_preview(self, attempt: str, content: bytes) -> None:
        """Replace the preview of a running attempt."""
        replaced = self._place("work", attempt) / _PREVIEW
        partial = replaced.with_suffix(".partial")
        partial.write_bytes(content)
        partial.replace(replaced)

    def preview(self, attempt: str) -> bytes | None:
        """The preview of a running attempt; None if there is none yet."""
        try:
            return (self._place("work", attempt) / _PREVIEW).read_bytes()
        except FileNotFoundError:
            return None

    def free_bytes(self) -> int:
        """Free space of the disk."""
        return shutil.disk_usage(self.root).free

    def publish(self, job_id: str, attempt: str) -> int:
        """Move an attempt's folder to the results durably. Returns its size in bytes."""
        source, target = self._place("work", attempt), self._place("results", job_id, attempt)
        (source / _PREVIEW).unlink(missing_ok=True)
        size = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
        if self.artifacts is not None:
            self.artifacts.put(source, job_id, attempt)
            shutil.rmtree(source)
            return size
        for folder, _, names in os.walk(source):
            for name in names:
                sync(Path(folder) / name)
            sync(Path(folder))
        target.parent.mkdir(mode=0o700, exist_ok=True)
        source.rename(target)
        sync(target.parent)
        sync(target.parent.parent)
        return size

    def open_results(self, job_id: str, attempt: str) -> list[tuple[str, IO[bytes]]]:
        """Name and content of every file of a result, opened. Raises StorageError or FileNotFoundError."""
        if self.artifacts is not None:
            return self.artifacts.open_all(job_id, attempt)
        folder = self._place("results", job_id, attempt)
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        return [(path.name, path.open("rb")) for path in files]

    def result(self, job_id: str, attempt: str, name: str) -> Path:
        """Path of a result file. Raises StorageError if it does not exist."""
        return self._existing("results", job_id, attempt, name)

    def withdraw(self, job_id: str, attempt: str) -> None:
        """Remove the files of an attempt, published or not."""
        shutil.rmtree(self._place("work", attempt), ignore_errors=True)
        shutil.rmtree(self._place("results", job_id, attempt), ignore_errors=True)

    def remove(self, job_id: str) -> None:
        """Remove all files of a job."""
        for room in ("inputs", "results"):
            shutil.rmtree(self._place(room, job_id), ignore_errors=True)
        if self.artifacts is not None:
            self.artifacts.remove(job_id)

    def sweep(self, known: Mapping[str, str | None], running: Collection[str]) -> int:
        """Remove folders without a job: left by a process that was killed between writing a file and its row.

        Args:
            known: result folder by job id.
            running: attempts that may still write.

        Returns:
            Number of removed folders. Folders younger than an hour stay, because their row may follow.
        """
        stale = [path for path in (self.root / "work").iterdir() if path.name not in running]
        for room in ("inputs", "results"):
            stale += [path for path in (self.root / room).iterdir() if path.name not in known]
        for job_id, result in known.items():
            folder = self.root / "results" / job_id
            if folder.is_dir():
                stale += [path for path in folder.iterdir() if path.name != result and path.name not in running]
        old = [path for path in stale if _age_s(path) > _ABANDONED_S]
        for path in old:
            shutil.rmtree(path, ignore_errors=True)
        return len(old)

    def _place(self, *parts: str) -> Path:
        for part in parts:
            if not _PART.fullmatch(part):
                raise StorageError(f"{part!r} is not a valid file name")
        return self.root.joinpath(*parts)

    def _existing(self, *parts: str) -> Path:
        path = self._place(*parts)
        if not path.is_file() or path.resolve() != path:  # a link could lead elsewhere
            raise StorageError(f"file not found: {'/'.join(parts)}")
        return path


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
