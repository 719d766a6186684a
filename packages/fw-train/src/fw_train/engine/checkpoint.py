"""Checkpoints that are either complete or absent.

A checkpoint is a folder `step-00000100/` of safetensors files and state.json. It is written under a temporary name,
every file is synced to disk, manifest.json with the size and sha256 of each file goes last, then the folder is renamed
and its parent synced. `latest()` accepts only a folder whose bytes match its manifest, and reports why it skipped
others. `Saver` writes in the background, from a copy of the state.

Of a sharded network every process writes its own rows, into files of its own: `model-00002-of-00004.safetensors`.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fw_core.files import sync
from fw_train.engine.checkpoint_files import ROWS, PartRows, open_tensors, part_name

MANIFEST = "manifest.json"
STATE = "state.json"
Files = dict[str, Any]
"""Entries of a manifest: file name -> its size in bytes and its sha256."""
_PREFIX = "step-"
_PARTIAL = ".partial-"
_TRASH = ".trash-"


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, found or used; the message names the path and how to continue."""

    exit_code = 1


class OtherRunError(CheckpointError):
    """A checkpoint of another run: configuration, dataset or initial weights have changed."""

    exit_code = 2

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key
        """Entry of the identity that differs."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Content of a checkpoint."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    """File stem (`model`, `optimizer`, `ema`) -> named tensors."""
    state: Mapping[str, Any]
    """Everything that is not a tensor, as JSON values; `step` is required."""
    rows: Mapping[str, Mapping[str, PartRows]] = field(default_factory=dict[str, dict[str, PartRows]])
    """File stem -> name -> place in the whole tensor, of tensors that are some rows of it."""
    part: int = 0
    """Number of this part of the checkpoint, 0 to parts - 1."""
    parts: int = 1
    """Number of processes that write a part each."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A complete checkpoint on disk, and the newer folders that were skipped."""

    path: Path
    step: int
    passed_over: list[str] = field(default_factory=list)
    """Path and defect of each newer folder that is not complete."""


class CheckpointStore:
    """The checkpoints of one run, newest last, in one folder.

    Args:
        root: folder that holds them; made when first written to.
        keep: number of complete checkpoints to keep.
        on_write: called with each path right after it is durable (files, then the final folder); for tests.
    """

    def __init__(self, root: Path, *, keep: int = 2, on_write: Callable[[Path], None] | None = None) -> None:
        self.root = root
        self.keep = keep
        self._on_write = on_write or (lambda _path: None)

    def save(self, snapshot: Snapshot) -> Path:
        """Write one checkpoint and delete all but the newest `keep`.

        Raises:
            CheckpointError: the disk is full, read-only, ...; earlier checkpoints are untouched.
        """
        step = int(snapshot.state["step"])
        with self.reporting(step, discard=True):
            if self.prepare(step):
                self.commit(snapshot.state, self.write(snapshot))
        return self.path(step)

    @contextmanager
    def reporting(self, step: int, *, discard: bool) -> Iterator[None]:
        """Raise failures of the file system as CheckpointError; with `discard`, delete what was written so far."""
        try:
            yield
        except (OSError, SafetensorError) as error:  # safetensors has its own error for a full disk
            if discard:
                self.discard_partial(step)
            raise CheckpointError(
                f"cannot write checkpoint {self.path(step)}: {error}. Earlier checkpoints are intact; "
                "free space and resume."
            ) from error

    def prepare(self, step: int) -> bool:
        """Make the folder that the parts of a checkpoint are written to; False if the checkpoint is complete."""
        final, partial = self.path(step), self._partial(step)
        if final.exists():
            if defect(final) is None:
                return False
            self._discard(final)
        self._discard(partial)
        partial.mkdir(parents=True)
        return True

    def write(self, snapshot: Snapshot) -> Files:
        """Write the tensors of this process into the prepared folder; returns the entries of the manifest."""
        folder = self._partial(int(snapshot.state["step"]))
        files: Files = {}
        for stem, tensors in snapshot.tensors.items():
            path = folder / part_name(stem, snapshot.part, snapshot.parts)
            rows = snapshot.rows.get(stem)
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
                path,
                metadata={ROWS: json.dumps(rows, sort_keys=True)} if rows else None,
            )
            files[path.name] = self._written(path)
        return files

    def commit(self, state: Mapping[str, Any], files: Files) -> Path:
        """Complete a checkpoint whose tensors are written: state, manifest, final name. Deletes the oldest ones."""
        step = int(state["step"])
        final, partial = self.path(step), self._partial(step)
        path = partial / STATE
        path.write_text(json.dumps(dict(state), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        files = {**files, STATE: self._written(path)}
        path = partial / MANIFEST
        path.write_bytes(_manifest(files))
        sync(path)
        sync(partial)
        self._on_write(path)
        partial.rename(final)
        sync(self.root)
        self._on_write(final)
        self._prune()
        return final

    def latest(self, find_defect: Callable[[Path], str | None] | None = None) -> Found | None:
        """The newest complete checkpoint, or None if there are no checkpoints.

        Args:
            find_defect: tells why a folder is not complete; None: `defect`.

        Raises:
            CheckpointError: there are checkpoints, but none is complete; the message lists every defect.
        """
        passed_over: list[str] = []
        for path in reversed(self.folders()):
            reason = (find_defect or defect)(path)
            if reason is None:
                return Found(path=path, step=step_of(path), passed_over=passed_over)
            passed_over.append(f"{path}: {reason}")
        if passed_over:
            raise CheckpointError("no complete checkpoint is left:\n  " + "\n  ".join(passed_over))
        return None

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of a step."""
        return self.root / f"{_PREFIX}{step:08d}"

    def folders(self) -> list[Path]:
        """All checkpoint folders, oldest first, complete or not."""
        found = [p for p in self.root.glob(f"{_PREFIX}*") if p.is_dir() and p.name[len(_PREFIX) :].isdigit()]
        return sorted(found, key=step_of)

    def clear_partial(self) -> list[str]:
        """Delete the remains of interrupted writes; returns their names."""
        left = [p for p in self.root.glob(".*") if p.name.startswith((_PARTIAL, _TRASH))]
        for path in left:
            shutil.rmtree(path)
        return [path.name for path in left]

    def discard_partial(self, step: int) -> None:
        """Delete what was written of a checkpoint that will not be completed."""
        shutil.rmtree(self._partial(step), ignore_errors=True)

    def _partial(self, step: int) -> Path:
        return self.root / f"{_PARTIAL}{self.path(step).name}"

    def _written(self, path: Path) -> dict[str, Any]:
        """The entry of a file in the manifest, once it is on the disk."""
        sync(path)
        self._on_write(path)
        return {"bytes": path.stat().st_size, "sha256": _sha256(path)}

    def _prune(self) -> None:
        for path in self.folders()[: -self.keep]:
            self._discard(path)

    def _discard(self, path: Path) -> None:
        """Rename a folder and delete it, so that none is ever half-deleted under its name."""
        if path.exists():
            trash = path.with_name(_TRASH + path.name)
            shutil.rmtree(trash, ignore_errors=True)
            path.rename(trash)
            shutil.rmtree(trash)


class Saver:
    """Writes the checkpoints of a store in a background thread, one at a time."""

    def __init__(self, store: CheckpointStore) -> None:
        self.store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[Path] | None = None

    def start(self, snapshot: Snapshot) -> None:
        """Start to write a snapshot, which must not change any more; the previous save must have been waited for."""
        assert self._pending is None, "the previous save was not waited for"
        self._pending = self._thread.submit(self.store.save, snapshot)

    def finished(self) -> Path | None:
        """The checkpoint completed since the last call, or None; does not wait.

        Raises:
            CheckpointError: it could not be written.
        """
        return self.wait() if self._pending is not None and self._pending.done() else None

    def wait(self) -> Path | None:
        """Wait for the current save; returns its checkpoint, or None if there was none.

        Raises:
            CheckpointError: it could not be written.
        """
        pending, self._pending = self._pending, None
        return None if pending is None else pending.result()

    def close(self) -> None:
        """Wait for the current save and stop the thread."""
        self._thread.shutdown()


def read(path: Path) -> Snapshot:
    """Load a complete checkpoint; whole tensors on the CPU.

    Raises:
        CheckpointError: the folder is not complete; the message names the file and the defect.
    """
    reason = defect(path)
    if reason is not None:
        raise CheckpointError(f"{path} is not a complete checkpoint: {reason}")
    stored = open_tensors(path)
    return Snapshot(tensors={stem: dict(tensors) for stem, tensors in stored.items()}, state=read_state(path))


def read_state(path: Path) -> dict[str, Any]:
    """The state of a complete checkpoint: everything that is not a tensor."""
    return json.loads((path / STATE).read_text(encoding="utf-8"))


def defect(path: Path, *, share: tuple[int, int] = (0, 1)) -> str | None:
    """Why this folder is not a complete checkpoint, or None when every byte matches its manifest.

    Args:
        path: the folder.
        share: number of this process and of all that check the folder together; each reads every n-th file.
    """
    manifest = path / MANIFEST
    try:
        written = manifest.read_bytes()
        files = json.loads(written)["files"]
        listed = {name: (int(row["bytes"]), str(row["sha256"])) for name, row in files.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing, so it was not written completely"
    except OSError as error:
        return f"{MANIFEST} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is damaged ({type(error).__name__}: {error})"
    if written != _manifest(files) or STATE not in listed:
        return f"{MANIFEST} is damaged (its bytes differ)"
    for number, (name, (size, digest)) in enumerate(listed.items()):
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, and the manifest lists {size}"
        if number % share[1] != share[0]:
            continue
        try:
            same = _sha256(file) == digest
        except OSError as error:  # a bad disk
            return f"{name} cannot be read ({error.strerror})"
        if not same:
            return f"{name} does not match its checksum in {MANIFEST}"
    return None


def _manifest(files: Files) -> bytes:
    """The bytes of a manifest, in one form, so that any changed byte is detected."""
    return (json.dumps({"format": 1, "files": files}, indent=1, sort_keys=True) + "\n").encode()


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint folder."""
    return int(path.name[len(_PREFIX) :])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
