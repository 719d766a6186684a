"""Runs from end to end: check everything, build, train, export. The command line and programs call these.

outcome = train(load("tiny", "stage1"))
outcome = resume(Path("runs/stage1"))
"""

import ctypes
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fw_train.config.check import check
from fw_train.config.load import CONFIG, check_resume, from_json, from_mapping, holds_run, only_read
from fw_train.config.schema import ConfigError, TrainConfig
from fw_train.data.rooms import is_rooms
from fw_train.data.samples import open_data
from fw_train.engine.checkpoint import CheckpointError, CheckpointStore, read
from fw_train.engine.distributed import Context, join
from fw_train.engine.loop import Result, run
from fw_train.engine.trackers import check_trackers
from fw_train.model_bundle import check_start, export, load_parts, unread_by_model
from fw_train.tasks.autoencoder_task import AutoencoderTask, describe
from fw_train.tasks.stages import choose_parameters
from fw_train.tasks.world_task import WorldTask

CHECKPOINTS = "checkpoints"
EXPORT = "export"

Say = Callable[[str], None]


class Outcome(NamedTuple):
    """How a run ended and what it left."""

    result: Result
    export: Path | None
    """Folder for generation and the next stage; None after an interruption."""


def train(config: TrainConfig, *, quiet: bool = False) -> Outcome:
    """A new run, from the checks to the export; with `config.go_on`, the run that `config.out` holds already.

    Raises:
        ConfigError: the configuration, the dataset or `init` will not do; nothing has been written then.
        TrainingDivergedError, CheckpointError: see `fw_train.engine.loop.run`.
    """
    config = _absolute(check(config))
    if config.launcher != "local":
        raise ConfigError(f"launcher = {config.launcher}: train() is one process; use the command, or launch.launch()")
    begun = holds_run(config)
    assert config.out is not None
    ctx = _join(config)
    ctx.barrier()  # all ranks have looked before one of them writes
    if begun:
        before = read_run(config.out)
        config = replace(config, unread=before.unread)
        check_resume(before, config)
    return _run(config, ctx, quiet=quiet)


def resume(
    run_folder: Path, change: Callable[[TrainConfig], TrainConfig] | None = None, *, quiet: bool = False
) -> Outcome:
    """Continue a run from its newest whole checkpoint (or from the start) and export it.

    Args:
        run_folder: folder of the run.
        change: gives the configuration to go on with, e.g. more steps; what it may change is limited.
        quiet: print nothing.

    Raises:
        ConfigError: no run there, or a change that would make it another run.
        TrainingDivergedError, CheckpointError: see `fw_train.engine.loop.run`.
    """
    before = read_run(run_folder)
    config = _absolute(check(change(before) if change else before))
    check_resume(before, config)
    return _run(config, _join(config), quiet=quiet)


def export_run(run_folder: Path, to: Path | None = None) -> Path:
    """Write the weights of a run's newest whole checkpoint as a folder for generation or the next stage."""
    config = read_run(run_folder)
    found = CheckpointStore(run_folder / CHECKPOINTS).latest()
    if found is None:
        raise CheckpointError(f"{run_folder} has no checkpoint to export yet")
    snapshot = read(found.path)
    trained = snapshot.tensors.get("ema", snapshot.tensors["model"])
    folder, entry = to or run_folder / EXPORT, _entry(config, found.step)
    if config.stage == "autoencoder":
        task = AutoencoderTask(config, *open_data(config), torch.device("cpu"))
        return task.export(folder, trained=trained, entry=entry)
    return export(load_parts(config), folder, trained=trained, entry=entry)


def read_run(run_folder: Path) -> TrainConfig:
    """The resolved configuration of a run, with `out` where the run lies now.

    Raises:
        ConfigError: no run there.
    """
    path = run_folder / CONFIG
    if not path.is_file():
        raise ConfigError(f"{run_folder} is not a run folder (no {CONFIG} in it)")
    config = from_json(json.loads(path.read_text(encoding="utf-8")), where=str(path))
    config = only_read(config, also=unread_by_model(config))
    return from_mapping({"out": str(run_folder.resolve())}, config)


def _join(config: TrainConfig) -> Context:
    assert config.out is not None
    return join(CheckpointStore(config.out / CHECKPOINTS, keep=config.every.keep), config.compute.device)


def _run(config: TrainConfig, ctx: Context, *, quiet: bool) -> Outcome:
    assert config.out is not None
    out = config.out
    say: Say = print if ctx.leads and not quiet else (lambda _line: None)
    if config.compute.threads:
        torch.set_num_threads(config.compute.threads)
    if ctx.device.type == "cpu":
        keep_freed_memory()
    task, lines = prepare(config, ctx)
    for line in lines:
        say(line)
    if ctx.leads:
        out.mkdir(parents=True, exist_ok=True)
        (out / CONFIG).write_text(json.dumps(config.to_json(), indent=1) + "\n", encoding="utf-8")
    result = run(config, task, ctx, out=out, quiet=quiet)
    for line in task.encodings.summary() if task.encodings else []:
        say(line)
    if result.status == "interrupted":
        say(f"stopped at step {result.step}; go on with: fw-train resume {out}")
        return Outcome(result, None)
    folder = out / EXPORT
    if isinstance(task, AutoencoderTask):
        if ctx.leads:
            task.export(folder, trained=_final_weights(result), entry=_entry(config, result.step))
    elif ctx.leads:
        changed = config.compute.frozen_dtype == "bf16" or _sharded(config, ctx)
        parts = load_parts(config) if changed else task.parts  # what was frozen leaves as it came
        export(parts, folder, trained=_final_weights(result), entry=_entry(config, result.step))
    ctx.barrier()
    say(f"result: {folder}")
    return Outcome(result, folder)


def prepare(config: TrainConfig, ctx: Context) -> tuple[WorldTask | AutoencoderTask, Sequence[str]]:
    """The task of a run, and what to tell about it; everything that can be refused is refused here.

    Raises:
        ConfigError: dataset or `init` will not do, or too few clips for the batch.
    """
    check_trackers(config)
    cuts = ctx.world * config.accumulate
    if config.batch % cuts:
        raise ConfigError(
            f"batch = {config.batch} cannot be cut into {ctx.world} processes x accumulate = {config.accumulate} equal "
            f"parts; use a multiple of {cuts}"
        )
    dataset, split = open_data(config)
    if len(split.train) < config.batch:
        raise ConfigError(
            f"{len(split.train)} clips to train on are too few for batch = {config.batch}; "
            f"give --batch {len(split.train)} or less, or a larger dataset"
        )
    if config.stage == "autoencoder":
        autoencoder = AutoencoderTask(config, dataset, split, ctx.device)
        return autoencoder, [f"autoencoder on {ctx.device}, {ctx.world} process(es)", *describe(autoencoder)]
    check_start(config)
    parts = load_parts(config)
    table = choose_parameters(parts.world, config.stage, unfreeze_geometry=config.unfreeze_geometry)
    sharded = _sharded(config, ctx)
    task = WorldTask(config, parts, dataset, split, ctx.device, sharded=sharded)
    cache = task.encodings.lines() if task.encodings else []
    how = f"{ctx.world} process(es)" + (", sharded" if sharded else "")
    if config.compute.shard == "full" and not sharded:
        how += "; compute.shard = full has nothing to shard over"
    return task, [f"{config.stage} on {ctx.device}, {how}", *table, *split.describe(), *cache]


def _sharded(config: TrainConfig, ctx: Context) -> bool:
    return config.compute.shard == "full" and ctx.world > 1


def _final_weights(result: Result) -> dict[str, Tensor]:
    tensors = read(result.checkpoint).tensors
    return dict(tensors.get("ema", tensors["model"]))


def _entry(config: TrainConfig, steps: int) -> dict[str, str | int]:
    return {"stage": config.stage, "steps": steps, "configuration": config.digest()}


def _absolute(config: TrainConfig) -> TrainConfig:
    """The same with absolute paths, so that a resume may start anywhere."""
    paths = {key: str(value.resolve()) for key in ("data", "out", "init") if (value := getattr(config, key))}
    if is_rooms(config.data):
        del paths["data"]
    if Path(config.model).suffix == ".json":
        paths["model"] = str(Path(config.model).resolve())
    return from_mapping(paths, config)


def keep_freed_memory() -> None:
    """Let glibc keep what large tensors leave for the next ones, which would otherwise be new pages in every operation.

    Training on a CPU is a tenth to a fifth faster for it. Does nothing with another C library, or where the environment
    already says how to allocate (`MALLOC_...`, `GLIBC_TUNABLES`).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    trim_threshold, mmap_max, most = -1, -4, 2**31 - 1  # names and numbers of malloc.h
    mallopt(trim_threshold, most)
    mallopt(mmap_max, 0)
