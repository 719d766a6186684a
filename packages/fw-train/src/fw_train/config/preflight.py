"""Checks of a run that need no torch, so that mistakes are reported at once: output, dataset, initial weights."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fw_core.files import LockedError, locked
from fw_data.dataset.storage import RemoteStorage
from fw_data.errors import DataError
from fw_train.config.load import holds_run, is_remote, is_rooms
from fw_train.config.schema import ConfigError, Stage, TrainConfig

HISTORY = "training.json"
"""File, in an export folder, with the stages that trained it."""
FIRST_FRAME, ALL_FRAMES = "first frame", "all frames"
"""Values of `scene_unit` of a stage in `HISTORY`: the frames whose mean point distance is the unit of length."""
LOCK = "lock"
"""File, in a run folder, that the process training the run has locked."""
FOLLOWS: dict[Stage, tuple[Stage, ...]] = {
    "autoencoder": (),
    "base": ("autoencoder", "base", "stage2"),
    "stage1": ("base", "stage1"),
    "stage2": ("stage1", "stage2"),
    "distill": ("stage2",),
}
"""The stages that each stage may continue. After more `base` training the geometry branch needs stage 1 again."""


def preflight(config: TrainConfig) -> TrainConfig:
    """Return the configuration of a run to start or resume, if its folders and files exist and fit together.

    Raises:
        ConfigError: a folder is missing, contains a run, or is the result of a stage that cannot come before.
    """
    from fw_train.engine.trackers import check_trackers

    check_trackers(config)
    if holds_run(config):
        check_unlocked(config.out)
    check_inputs(config)
    return config


@contextmanager
def run_lock(out: Path) -> Iterator[None]:
    """Hold the lock of a run folder, so that no other process trains the run.

    Raises:
        ConfigError: another process holds it.
    """
    try:
        with locked(out / LOCK):
            yield
    except LockedError as error:
        raise ConfigError(f"{out} is being trained by another process ({error.strerror}); wait, or stop it") from None


def check_unlocked(out: Path | None) -> None:
    """Raise ConfigError if another process trains the run in a folder."""
    if out is not None and (out / LOCK).is_file():
        with run_lock(out):
            pass


def check_inputs(config: TrainConfig) -> None:
    """Raise ConfigError unless `data` and `init` can be used by the stage."""
    if not is_rooms(config.data):
        dataset_place(config.data)
    if config.stage != "autoencoder":
        init_folder(config)


def dataset_place(data: str | Path | None) -> str | Path:
    """The folder or the address of a configuration's `data`.

    Raises:
        ConfigError: not set, no dataset there, or it cannot be read.
    """
    if data is None:
        raise ConfigError("data is not set: give --data DATASET, a folder written by `fw-data annotate`, or rooms")
    if is_remote(data):
        try:
            RemoteStorage(str(data)).version("manifest.parquet")
        except DataError as error:
            raise ConfigError(str(error)) from None
        return data
    if not (Path(data) / "manifest.parquet").is_file():
        raise ConfigError(
            f"{data} holds no dataset (no manifest.parquet); make one with `fw-data annotate VIDEOS {data}`"
        )
    return Path(data)


def init_folder(config: TrainConfig) -> Path | None:
    """The export folder of a configuration's `init`; None to start from random weights (`base` only).

    Raises:
        ConfigError: not set where it is needed, no export there, or the result of a stage that cannot come before.
    """
    if config.init is None:
        if config.stage == "base":
            return None
        before = " or ".join(f"`fw-train {stage}`" for stage in FOLLOWS[config.stage] if stage != config.stage)
        raise ConfigError(f"{config.stage} needs --init: a run or export folder of {before}, or converted weights")
    folder = _export_folder(config.init)
    stages = history(folder)
    before = stages[-1]["stage"] if stages else "autoencoder" if autoencoder_alone(folder) else None
    if before == "autoencoder" and config.unfrozen == {"geometry", "video"}:
        return folder
    if before is not None and before not in FOLLOWS[config.stage]:
        continued = " or ".join(FOLLOWS[config.stage])
        raise ConfigError(f"init {folder} is the result of {before}, but {config.stage} continues {continued}")
    return folder


def autoencoder_alone(folder: Path) -> bool:
    """Whether a folder is the result of `fw-train autoencoder`: an autoencoder without a model."""
    return (folder / "pipeline.json").is_file() and not (folder / "config.json").exists()


def history(folder: Path) -> list[dict[str, Any]]:
    """The stages that trained an export folder, oldest first."""
    path = folder / HISTORY
    return json.loads(path.read_text(encoding="utf-8"))["stages"] if path.is_file() else []


def _export_folder(init: Path) -> Path:
    """An export folder: the given one, or the one inside a run folder."""
    if (init / "checkpoints").is_dir():
        if (init / "export").is_dir():
            return init / "export"
        raise ConfigError(f"init {init} is a run without an export; finish it, or run `fw-train export {init}`")
    if not init.is_dir():
        raise ConfigError(f"init {init} does not exist; give a run or export folder")
    return init
