"""Checkpoints that are either whole or absent.

A checkpoint is a folder `step-00000100/` of safetensors files and state.json. It is written under a temporary name,
every file is synced to disk, manifest.json with the size and sha256 of each file goes last, then the folder is renamed
and its parent synced. `latest()` believes only a folder whose every byte matches its manifest, and says why it passed
the others over. `Saver` does the writing beside the training, from a copy of the state.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fw_model.checkpoints.opening import safetensors_files

MANIFEST = "manifest.json"
STATE = "state.json"
_PREFIX = "step-"
_PARTIAL = ".partial-"
_TRASH = ".trash-"


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, found or used; the message names the path and how to continue."""

    exit_code = 1


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a checkpoint holds."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    """File stem (`model`, `optimizer`, `ema`) -> named tensors."""
    state: Mapping[str, Any]
    """Everything that is not a tensor, as JSON values; `step` is required."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A whole checkpoint on disk, and what was passed over on the way to it."""

    path: Path
    step: int
    passed_over: list[str] = field(default_factory=list)
    """One sentence for each newer folder that is not whole."""


class CheckpointStore:
    """The checkpoints of one run, newest last, in one folder.

    Args:
        root: folder that holds them; made when first written to.
        keep: how many whole ones to keep.
        on_write: called with each path right after it is durable (files, then the final folder); for tests and meters.
    """

    def __init__(self, root: Path, *, keep: int = 2, on_write: Callable[[Path], None] | None = None) -> None:
        self.root = root
        self.keep = keep
        self._on_write = on_write or (lambda _path: None)

    def save(self, snapshot: Snapshot) -> Path:
        """Write one checkpoint and delete what is older than the newest `keep`.

        Raises:
            CheckpointError: the disk refused (full, read-only, ...); earlier checkpoints are untouched.
        """
        step = int(snapshot.state["step"])
        final = self.path(step)
        partial = self.root / f"{_PARTIAL}{final.name}"
        try:
            if final.exists():
                if defect(final) is None:
                    return final
                self._discard(final)
            self._discard(partial)
            partial.mkdir(parents=True)
            self._write_files(partial, snapshot)
            partial.rename(final)
            _sync(self.root)
        except (OSError, SafetensorError) as error:  # safetensors says a full disk in its own words
            shutil.rmtree(partial, ignore_errors=True)
            raise CheckpointError(
                f"could not write checkpoint {final}: {error}. Earlier checkpoints are intact; make room and resume."
            ) from error
        self._on_write(final)
        self._prune()
        return final

    def latest(self) -> Found | None:
        """The newest whole checkpoint, or None when there is none at all.

        Raises:
            CheckpointError: there are checkpoints but not one is whole; the message lists every reason.
        """
        passed_over: list[str] = []
        for path in reversed(self.folders()):
            reason = defect(path)
            if reason is None:
                return Found(path=path, step=step_of(path), passed_over=passed_over)
            passed_over.append(f"{path}: {reason}")
        if passed_over:
            raise CheckpointError("no whole checkpoint is left:\n  " + "\n  ".join(passed_over))
        return None

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step goes."""
        return self.root / f"{_PREFIX}{step:08d}"

    def folders(self) -> list[Path]:
        """Every checkpoint folder, oldest first, whole or not."""
        found = [p for p in self.root.glob(f"{_PREFIX}*") if p.is_dir() and p.name[len(_PREFIX) :].isdigit()]
        return sorted(found, key=step_of)

    def clear_partial(self) -> list[str]:
        """Delete what interrupted writes left behind; returns the names."""
        left = [p for p in self.root.glob(".*") if p.name.startswith((_PARTIAL, _TRASH))]
        for path in left:
            shutil.rmtree(path)
        return [path.name for path in left]

    def _write_files(self, folder: Path, snapshot: Snapshot) -> None:
        for stem, tensors in snapshot.tensors.items():
            path = folder / f"{stem}.safetensors"
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
            _sync(path)
            self._on_write(path)
        path = folder / STATE
        path.write_text(json.dumps(dict(snapshot.state), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        _sync(path)
        self._on_write(path)
        files = {p.name: {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in sorted(folder.iterdir())}
        path = folder / MANIFEST
        path.write_bytes(_manifest(files))
        _sync(path)
        _sync(folder)
        self._on_write(path)

    def _prune(self) -> None:
        for path in self.folders()[: -self.keep]:
            self._discard(path)

    def _discard(self, path: Path) -> None:
        """Delete a folder so that no half-deleted one is ever seen under its name."""
        if path.exists():
            trash = path.with_name(_TRASH + path.name)
            shutil.rmtree(trash, ignore_errors=True)
            path.rename(trash)
            shutil.rmtree(trash)


class Saver:
    """Writes the checkpoints of a store in a thread of its own, one at a time."""

    def __init__(self, store: CheckpointStore) -> None:
        self.store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[Path] | None = None

    def start(self, snapshot: Snapshot) -> None:
        """Begin to write; the snapshot must not change any more. Call `finished` or `wait` for the last one before."""
        assert self._pending is None, "the save before was not waited for"
        self._pending = self._thread.submit(self.store.save, snapshot)

    def finished(self) -> Path | None:
        """The checkpoint that became whole since the last call, or None; does not wait.

        Raises:
            CheckpointError: it could not be written.
        """
        return self.wait() if self._pending is not None and self._pending.done() else None

    def wait(self) -> Path | None:
        """Wait for the save under way; its checkpoint, or None if there was none.

        Raises:
            CheckpointError: it could not be written.
        """
        pending, self._pending = self._pending, None
        return None if pending is None else pending.result()

    def close(self) -> None:
        """Let the save under way finish, and stop the thread."""
        self._thread.shutdown()


def read(path: Path) -> Snapshot:
    """Load a whole checkpoint; tensors on the CPU.

    Raises:
        CheckpointError: the folder is not whole; the message says which file and why.
    """
    reason = defect(path)
    if reason is not None:
        raise CheckpointError(f"{path} is not a whole checkpoint: {reason}")
    stems = safetensors_files(path)
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    return Snapshot(tensors={p.stem: load_file(p) for p in stems}, state=state)


def defect(path: Path) -> str | None:
    """Why this folder is not a whole checkpoint, or None when every byte matches its manifest."""
    manifest = path / MANIFEST
    try:
        written = manifest.read_bytes()
        files = json.loads(written)["files"]
        listed = {name: (int(row["bytes"]), str(row["sha256"])) for name, row in files.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing, so the write was never finished"
    except OSError as error:
        return f"{MANIFEST} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is damaged ({type(error).__name__}: {error})"
    if written != _manifest(files) or STATE not in listed:
        return f"{MANIFEST} is damaged (not as it was written)"
    for name, (size, digest) in listed.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes where the manifest says {size}"
        try:
            same = _sha256(file) == digest
        except OSError as error:  # a bad disk
            return f"{name} cannot be read ({error.strerror})"
        if not same:
            return f"{name} does not match its checksum in {MANIFEST}"
    return None


def _manifest(files: Mapping[str, Any]) -> bytes:
    """The one way a manifest is spelled, so that any changed byte shows."""
    return (json.dumps({"format": 1, "files": files}, indent=1, sort_keys=True) + "\n").encode()


def step_of(path: Path) -> int:
    """The step that a checkpoint folder's name says."""
    return int(path.name[len(_PREFIX) :])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
