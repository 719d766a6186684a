"""Runs from end to end: check everything, build, train, export. The command line and programs call these.

outcome = train(load("tiny", "stage1"))
outcome = resume(Path("runs/stage1"))
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fw_train.checkpoint import CheckpointError, CheckpointStore, read
from fw_train.clips import open_dataset, split_clips
from fw_train.config import ConfigError, TrainConfig
from fw_train.loop import Result, run
from fw_train.parallel import Context, join
from fw_train.parts import check_start, export, load_parts
from fw_train.resolve import check_resume, from_mapping
from fw_train.stages import choose_parameters
from fw_train.task import WorldTask

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
EXPORT = "export"

Say = Callable[[str], None]


class Outcome(NamedTuple):
    """How a run ended and what it left."""

    result: Result
    export: Path | None
    """Folder for generation and the next stage; None after an interruption."""


def train(config: TrainConfig, *, quiet: bool = False) -> Outcome:
    """A new run, from the checks to the export.

    Raises:
        ConfigError: the configuration, the dataset or `init` will not do; nothing has been written then.
        TrainingDivergedError, CheckpointError: see `fw_train.loop.run`.
    """
    config = _absolute(config.check())
    if config.out is None:
        raise ConfigError("out is not set: give --out RUN, the folder to write")
    if (config.out / CONFIG).exists():
        raise ConfigError(f"{config.out} holds a run already: `fw-train resume {config.out}`, or give another --out")
    return _run(config, quiet=quiet)


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
        TrainingDivergedError, CheckpointError: see `fw_train.loop.run`.
    """
    before = read_config(run_folder)
    config = _absolute((change(before) if change else before).check())
    check_resume(before, config)
    return _run(config, quiet=quiet)


def export_run(run_folder: Path, to: Path | None = None) -> Path:
    """Write the weights of a run's newest whole checkpoint as a folder for generation or the next stage."""
    config = read_config(run_folder)
    found = CheckpointStore(run_folder / CHECKPOINTS).latest()
    if found is None:
        raise CheckpointError(f"{run_folder} has no checkpoint to export yet")
    snapshot = read(found.path)
    trained = snapshot.tensors.get("ema", snapshot.tensors["model"])
    return export(load_parts(config), to or run_folder / EXPORT, trained=trained, entry=_entry(config, found.step))


def read_config(run_folder: Path) -> TrainConfig:
    """The resolved configuration of a run, with `out` where the run lies now.

    Raises:
        ConfigError: no run there.
    """
    path = run_folder / CONFIG
    if not path.is_file():
        raise ConfigError(f"{run_folder} is not a run folder (no {CONFIG} in it)")
    config = from_mapping(json.loads(path.read_text(encoding="utf-8")), where=str(path))
    return from_mapping({"out": str(run_folder.resolve())}, config)


def _run(config: TrainConfig, *, quiet: bool) -> Outcome:
    assert config.out is not None
    out = config.out
    store = CheckpointStore(out / CHECKPOINTS, keep=config.every.keep)
    ctx = join(store, config.compute.device)
    say: Say = print if ctx.leads and not quiet else (lambda _line: None)
    if config.compute.threads:
        torch.set_num_threads(config.compute.threads)
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
    if ctx.leads:
        export(task.parts, folder, trained=_final_weights(result), entry=_entry(config, result.step))
    ctx.barrier()
    say(f"result: {folder}")
    return Outcome(result, folder)


def prepare(config: TrainConfig, ctx: Context) -> tuple[WorldTask, Sequence[str]]:
    """The task of a run, and what to tell about it; everything that can be refused is refused here.

    Raises:
        ConfigError: dataset or `init` will not do, or too few clips for the batch.
    """
    dataset = open_dataset(config.data)
    split = split_clips(dataset.records, config.clip)
    if len(split.train) < config.batch:
        raise ConfigError(
            f"{len(split.train)} clips to train on are too few for batch = {config.batch}; "
            f"give --batch {len(split.train)} or less, or a larger dataset"
        )
    check_start(config)
    parts = load_parts(config)
    table = choose_parameters(parts.world, config.stage, unfreeze_geometry=config.unfreeze_geometry)
    task = WorldTask(config, parts, dataset, split, ctx.device)
    cache = task.encodings.lines() if task.encodings else []
    return task, [f"{config.stage} on {ctx.device}, {ctx.world} process(es)", *table, *split.describe(), *cache]


def _final_weights(result: Result) -> dict[str, Tensor]:
    tensors = read(result.checkpoint).tensors
    return dict(tensors.get("ema", tensors["model"]))


def _entry(config: TrainConfig, steps: int) -> dict[str, str | int]:
    return {"stage": config.stage, "steps": steps, "configuration": config.digest()}


def _absolute(config: TrainConfig) -> TrainConfig:
    """The same with absolute paths, so that a resume may start anywhere."""
    paths = {key: str(value.resolve()) for key in ("data", "out", "init") if (value := getattr(config, key))}
    if Path(config.model).suffix == ".json":
        paths["model"] = str(Path(config.model).resolve())
    return from_mapping(paths, config)
