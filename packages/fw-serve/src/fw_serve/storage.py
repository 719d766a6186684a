"""Where inputs and results lie: one folder that nothing leaves, written so that a reader sees a whole file or none.

    DATA/inputs/JOB/image.png, camera.json   what a job was given
    DATA/results/JOB/ATTEMPT/video.mp4 ...   what a completed job gave; the job's row names the attempt
    DATA/work/ATTEMPT/                       what a running attempt writes; moved to results when it is whole

Every name comes from this program; names that come from a request are looked up in tables, never joined to a path. The
check of every part below is the second line.
"""

import os
import re
import shutil
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from fw_core.files import sync

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}(\.[a-z0-9]{1,8})?")
_ABANDONED_S = 3600.0


class StorageError(ValueError):
    """A name that cannot be a file here, or a file that is not what it was written as."""


class JobStorage:
    """The data folder.

    Args:
        root: made if missing. Several replicas share one folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).resolve()
        for name in ("inputs", "results", "work"):
            (self.root / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    def put_inputs(self, job_id: str, files: Mapping[str, bytes]) -> None:
        """Write the inputs of a new job; when this returns they outlast a power cut. A failed write leaves nothing."""
        folder = self._place("inputs", job_id)
        folder.mkdir(mode=0o700)
        try:
            for name, content in files.items():
                with self._place("inputs", job_id, name).open("xb") as file:  # nobody reads it before the row is there
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            sync(folder)
            sync(folder.parent)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def input(self, job_id: str, name: str) -> Path:
        """An input file. Raises StorageError if it is not there."""
        return self._existing("inputs", job_id, name)

    def begin(self, attempt: str) -> Path:
        """An empty folder for an attempt to write to."""
        folder = self._place("work", attempt)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        return folder

    def publish(self, job_id: str, attempt: str) -> None:
        """Move an attempt's folder to the results; when this returns it outlasts a power cut."""
        source, target = self._place("work", attempt), self._place("results", job_id, attempt)
        for folder, _, names in os.walk(source):
            for name in names:
                sync(Path(folder) / name)
            sync(Path(folder))
        target.parent.mkdir(mode=0o700, exist_ok=True)
        source.rename(target)
        sync(target.parent)
        sync(target.parent.parent)

    def result(self, job_id: str, attempt: str, name: str) -> Path:
        """A result file. Raises StorageError if it is not there."""
        return self._existing("results", job_id, attempt, name)

    def withdraw(self, job_id: str, attempt: str) -> None:
        """Remove the files of an attempt, published or not."""
        shutil.rmtree(self._place("work", attempt), ignore_errors=True)
        shutil.rmtree(self._place("results", job_id, attempt), ignore_errors=True)

    def remove(self, job_id: str) -> None:
        """Remove everything of a job."""
        for room in ("inputs", "results"):
            shutil.rmtree(self._place(room, job_id), ignore_errors=True)

    def sweep(self, known: Mapping[str, str | None], running: Collection[str]) -> int:
        """Remove what no job names: left by a process that was killed between a file and its row.

        Args:
            known: result folder by job id.
            running: attempts that may be writing.

        Returns:
            Number of folders removed. Folders younger than an hour stay: their row may be on its way.
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
                raise StorageError(f"{part!r} is not a name of a file here")
        return self.root.joinpath(*parts)

    def _existing(self, *parts: str) -> Path:
        path = self._place(*parts)
        if not path.is_file() or path.resolve() != path:  # a link on the way would lead elsewhere
            raise StorageError(f"there is no file {'/'.join(parts)}")
        return path


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
