"""Runs from end to end: check the configuration, build the task, train, export. The command line and programs call it.

outcome = train(load("tiny", "stage1"))
outcome = resume(Path("runs/stage1"))
"""

import ctypes
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from fw_core.files import write_text
from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.storage import is_address
from fw_train.config.check import check
from fw_train.config.load import CONFIG, absolute, check_resume, from_json, from_mapping, holds_run, only_read
from fw_train.config.preflight import ALL_FRAMES, FIRST_FRAME, run_lock
from fw_train.config.schema import ConfigError, TrainConfig
from fw_train.data.encode import encode, to_encode
from fw_train.data.latent_cache import folder_of
from fw_train.data.rooms import RoomDataset
from fw_train.data.split import Split, open_data
from fw_train.engine.checkpoint import CheckpointError, CheckpointStore, OtherRunError
from fw_train.engine.checkpoint_files import StoredTensors, open_tensors
from fw_train.engine.distributed import Context, join, nodes
from fw_train.engine.loop import DATASET, Result, run
from fw_train.engine.trackers import check_trackers
from fw_train.model_bundle import ModelBundle, check_start, export, frozen_fingerprint, load_bundle, unread_by_model
from fw_train.tasks.autoencoder_task import AutoencoderTask, describe
from fw_train.tasks.stages import choose_parameters, parameter_group, trained_groups, unused_parameters
from fw_train.tasks.world_task import WorldTask

CHECKPOINTS = "checkpoints"
EXPORT = "export"
DATA = "data.json"
"""File, in a run folder, about the clips of the run."""
FROZEN = "frozen.json"
"""File, in a run folder, with the hash of the frozen weights."""

Print = Callable[[str], None]


class Outcome(NamedTuple):
    """The end of a run and its result."""

    result: Result
    export: Path | None
    """Folder for generation and the next stage; None after an interruption."""


class Prepared(NamedTuple):
    """A task that is ready to train."""

    task: WorldTask | AutoencoderTask
    split: Split
    lines: Sequence[str]
    """Lines to print about it."""
    files: dict[str, object]
    """File name -> JSON value to write into the run folder."""


def train(config: TrainConfig, *, quiet: bool = False) -> Outcome:
    """Train a new run and export it; with `config.go_on`, resume the run in `config.out` if there is one.

    Raises:
        ConfigError: the configuration, the dataset or `init` is invalid, or another process trains the run; nothing was
            written.
        TrainingDivergedError, CheckpointError: see `fw_train.engine.loop.run`.
    """
    config = absolute(check(config))
    if config.launcher != "local":
        raise ConfigError(f"launcher = {config.launcher}: train() is one process; use the command, or launch.launch()")
    begun = holds_run(config)
    assert config.out is not None
    ctx = _join(config)
    ctx.wait_for_all()  # every rank has looked before one of them writes
    if begun:
        before = read_run(config.out)
        config = replace(config, unread=before.unread)
        check_resume(before, config)
    return _run(config, ctx, quiet=quiet)


def resume(
    run_folder: Path, change: Callable[[TrainConfig], TrainConfig] | None = None, *, quiet: bool = False
) -> Outcome:
    """Continue a run from its newest complete checkpoint (or from the start) and export it.

    Args:
        run_folder: folder of the run.
        change: returns the configuration to continue with, such as one with more steps; few keys may change.
        quiet: print nothing.

    Raises:
        ConfigError: no run there, a change that would make it another run, or another process trains it.
        TrainingDivergedError, CheckpointError: see `fw_train.engine.loop.run`.
    """
    before = read_run(run_folder)
    config = absolute(check(change(before) if change else before))
    check_resume(before, config)
    return _run(config, _join(config), quiet=quiet)


def export_run(run_folder: Path, to: Path | None = None) -> Path:
    """Write the weights of a run's newest complete checkpoint as a folder for generation or the next stage."""
    config = read_run(run_folder)
    found = CheckpointStore(run_folder / CHECKPOINTS).latest()
    if found is None:
        raise CheckpointError(f"{run_folder} has no checkpoint to export yet")
    stored = open_tensors(found.path)
    trained = stored.get("ema", stored["model"])
    folder, entry = to or run_folder / EXPORT, _entry(config, found.step)
    if config.stage == "autoencoder":
        ctx = Context(store=CheckpointStore(run_folder / CHECKPOINTS), device=torch.device("cpu"))
        return AutoencoderTask(config, *open_data(config), ctx).export(folder, trained=trained, entry=entry)
    notes = run_folder / DATA
    fps = json.loads(notes.read_text(encoding="utf-8"))["fps"] if notes.is_file() else None
    return export(_at_rate(load_bundle(config, meta=True), fps), folder, trained=trained, entry=entry)


def read_run(run_folder: Path) -> TrainConfig:
    """The resolved configuration of a run, with the current place of the run as `out`.

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
    return join(
        CheckpointStore(config.out / CHECKPOINTS, keep=config.every.keep),
        config.compute.device,
        sequence=config.compute.sequence,
    )


def _run(config: TrainConfig, ctx: Context, *, quiet: bool) -> Outcome:
    assert config.out is not None
    existing = (config.out / CONFIG).exists()
    with _locked(config.out, ctx, when=existing):
        prepared = prepare(config, ctx, quiet=quiet)
        with _locked(config.out, ctx, when=not existing):
            if not existing and ctx.is_main:
                holds_run(config)  # another process may have started it meanwhile
            try:
                return _train_and_export(config, ctx, prepared, quiet=quiet)
            finally:
                prepared.task.close()


def _train_and_export(config: TrainConfig, ctx: Context, prepared: Prepared, *, quiet: bool) -> Outcome:
    assert config.out is not None
    out, task = config.out, prepared.task
    show = _printer(ctx, quiet)
    if config.compute.threads:
        torch.set_num_threads(config.compute.threads)
    if ctx.device.type == "cpu":
        keep_freed_memory()
    for line in prepared.lines:
        show(line)

    def write_files() -> None:
        for name, value in {CONFIG: config.to_json(), **prepared.files}.items() if ctx.is_main else ():
            write_text(out / name, json.dumps(value, indent=1) + "\n")

    try:
        result = run(config, task, ctx, out=out, quiet=quiet, on_start=write_files)
    except OtherRunError as error:
        change = _data_change(out, prepared.split) if error.key == DATASET else ""
        raise OtherRunError(f"{error}{change}", key=error.key) from None
    for line in task.cache.summary() if task.cache else []:
        show(line)
    if result.status == "interrupted":
        show(f"stopped at step {result.step}; continue with: fw-train resume {out}")
        return Outcome(result, None)
    folder = out / EXPORT
    if ctx.is_main:
        _export(config, ctx, prepared, result, folder)
    ctx.wait_for_all()  # an export of a large model takes longer than a collective may
    show(f"result: {folder}")
    return Outcome(result, folder)


def _data_change(out: Path, split: Split) -> str:
    """The clips before and now, in parentheses; empty for runs that did not store theirs."""
    path = out / DATA
    if not path.is_file():
        return ""
    before, now = json.loads(path.read_text(encoding="utf-8")), split.summary()
    counts = [f"{row['train']} to train on and {row['held_out']} held out" for row in (before, now)]
    if before.get("split_by", now["split_by"]) != now["split_by"]:
        counts = [f"{text}, split by {row['split_by']}" for text, row in zip(counts, (before, now), strict=True)]
    return " (before: {}; now: {})".format(*counts)


def _export(config: TrainConfig, ctx: Context, prepared: Prepared, result: Result, folder: Path) -> None:
    task, entry = prepared.task, _entry(config, result.step)
    if isinstance(task, AutoencoderTask):
        task.export(folder, trained=_final_weights(result), entry=entry)
        return
    changed = config.compute.frozen_dtype == "bf16" or _sharded(config, ctx)
    # frozen weights are exported as they were loaded
    bundle = _at_rate(load_bundle(config, meta=True), prepared.split.fps) if changed else task.bundle
    export(bundle, folder, trained=_final_weights(result), entry=entry)


def prepare(config: TrainConfig, ctx: Context, *, quiet: bool = True) -> Prepared:
    """Build the task of a run; everything that can be refused is refused here, before anything is written.

    With `clip.encode_first`, missing captions and windows are encoded first, and written where `folder_of` says.

    Raises:
        ConfigError: the dataset or `init` is invalid, there are too few clips for the batch, or nodes do not share what
            they encode.
    """
    check_trackers(config)
    cuts = ctx.data_size * config.accumulate
    if config.batch % cuts:
        among = "processes" if ctx.sequence is None else f"groups of {ctx.sequence.size} processes"
        raise ConfigError(
            f"batch = {config.batch} cannot be cut into {ctx.data_size} {among} x accumulate = {config.accumulate} "
            f"equal parts; use a multiple of {cuts}"
        )
    dataset, split = open_data(config)
    if len(split.train) < config.batch:
        raise ConfigError(
            f"{len(split.train)} clips to train on are too few for batch = {config.batch}; "
            f"give --batch {len(split.train)} or less, or a larger dataset"
        )
    how = f"on {ctx.device}, {ctx.world_size} process(es)"
    if config.stage == "autoencoder":
        autoencoder = AutoencoderTask(config, dataset, split, ctx)
        lines = [f"autoencoder {how}", *describe(autoencoder)]
        return Prepared(autoencoder, split, lines, {DATA: split.summary()})
    check_start(config)
    if config.clip.encode_first:
        _encode_first(config, ctx, _printer(ctx, quiet))
        if nodes() > 1:
            _check_encoded(config, dataset, split, ctx)
    sharded = _sharded(config, ctx)
    bundle = _at_rate(load_bundle(config, meta=sharded), split.fps)
    table = choose_parameters(bundle.world, config.stage, unfreeze=config.unfrozen)
    frozen, files = _frozen_hash(config, bundle, ctx)
    task = WorldTask(config, bundle, dataset, split, ctx, frozen=frozen, sharded=sharded)
    cache = task.cache.lines() if task.cache else []
    if sharded:
        how += ", sharded"
    elif config.compute.shard != "none":
        how += f"; compute.shard = {config.compute.shard} has no effect in one process"
    if ctx.sequence is not None:
        how += f", {ctx.sequence.size} for each sample"
    lines = [f"{config.stage} {how}", *table, *split.describe(config), *cache]
    lines += split.long_captions(bundle.text_encoder) if ctx.is_main else []
    return Prepared(task, split, lines, {DATA: split.summary(), **files})


def _encode_first(config: TrainConfig, ctx: Context, show: Print) -> None:
    """Encode everything that is missing, on all ranks, before the model is loaded."""
    for line in encode(config, rank=ctx.rank, world_size=ctx.world_size, device=ctx.device):
        show(f"encode: {line}")
    if ctx.device.type == "cuda":
        torch.cuda.empty_cache()
    ctx.wait_for_all()


def _check_encoded(config: TrainConfig, dataset: ClipDataset | RoomDataset, split: Split, ctx: Context) -> None:
    """Raise ConfigError on all ranks if a node lacks what others encoded. The ranks of a node divide the search."""
    rank, size = (int(os.environ.get(name, usual)) for name, usual in (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1")))
    todo = to_encode(config, dataset, split, rank=rank, world_size=size)
    lacking = sum(ctx.gather(bool(todo.windows or todo.captions)))
    if lacking:
        remote = config.data is not None and is_address(config.data)
        shared = "set FW_ENCODED_CACHE to a folder" if remote else f"copy {config.data} to storage"
        raise ConfigError(
            f"clip.encode_first: {lacking} of {ctx.world_size} processes do not find in {folder_of(dataset)} what "
            f"other nodes encoded; {shared} that all nodes share"
        )


def _frozen_hash(config: TrainConfig, bundle: ModelBundle, ctx: Context) -> tuple[str, dict[str, object]]:
    """Hash of the frozen weights, and the file that remembers it.

    Rank 0 computes it, and a resumed run only if the files of `init` have changed. Parameters that a stage would train
    if its loss depended on them are left out: earlier versions counted them as trained.
    """
    files = sorted(_init_files(config))
    signature = repr([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files])
    key = hashlib.sha256(f"{config.digest()} {signature}".encode()).hexdigest()
    found = ""
    if ctx.is_main:
        assert config.out is not None
        path = config.out / FROZEN
        known = json.loads(path.read_text(encoding="utf-8")) if files and path.is_file() else {}
        found = known.get("sha256", "") if known.get("key") == key else ""
        if not found:
            groups = trained_groups(config.stage, unfreeze=config.unfrozen)
            besides = {n for n in unused_parameters(bundle.world) if parameter_group(bundle.world, n) in groups}
            found = frozen_fingerprint(bundle, besides=besides)
    found = ctx.from_main(found)
    return found, {FROZEN: {"key": key, "sha256": found}} if files else {}


def _init_files(config: TrainConfig) -> list[Path]:
    """The weight files of `init`; none for random weights."""
    folder = check_start(config)
    return [] if folder is None else [path for path in folder.rglob("*.safetensors") if path.is_file()]


@contextmanager
def _locked(out: Path, ctx: Context, *, when: bool) -> Iterator[None]:
    """Hold the lock of a run folder on rank 0; with `when` False, do nothing."""
    if not when or not ctx.is_main:
        yield
        return
    with run_lock(out):
        yield


def _printer(ctx: Context, quiet: bool) -> Print:
    def show(line: str) -> None:
        if ctx.is_main and not quiet:
            print(line, flush=True)

    return show


def _at_rate(bundle: ModelBundle, fps: float | None) -> ModelBundle:
    """The bundle with exports that play at a frame rate; None keeps that of `init`."""
    return bundle if fps is None else replace(bundle, sampling=replace(bundle.sampling, fps=fps))


def _sharded(config: TrainConfig, ctx: Context) -> bool:
    return config.compute.shard != "none" and ctx.world_size > 1


def _final_weights(result: Result) -> StoredTensors:
    stored = open_tensors(result.checkpoint)
    return stored.get("ema", stored["model"])


def _entry(config: TrainConfig, steps: int) -> dict[str, str | int]:
    """What training.json records about a run."""
    entry: dict[str, str | int] = {"stage": config.stage, "steps": steps, "configuration": config.digest()}
    if config.stage != "autoencoder":
        entry["scene_unit"] = FIRST_FRAME if config.clip.scale_by_first_frame else ALL_FRAMES
    return entry


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors for the next ones, instead of mapping new pages in every operation.

    Training on a CPU is 10 to 20 % faster. Does nothing with another C library, or if the environment configures the
    allocator (`MALLOC_...`, `GLIBC_TUNABLES`).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    trim_threshold, mmap_max, most = -1, -4, 2**31 - 1  # names and numbers of malloc.h
    mallopt(trim_threshold, most)
    mallopt(mmap_max, 0)
