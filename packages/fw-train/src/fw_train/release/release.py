"""`fw-train release`: publish the result of a chain of runs as float16 weights with a model card.

The chain is found backwards, from the `init` of each run to the run before it.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from fw_model.checkpoints.checkpoint import load_world, save_world
from fw_model.pipeline.components import SPEC_FILE, load_components, save_components
from fw_train.config.load import CONFIG
from fw_train.config.schema import ConfigError, TrainConfig
from fw_train.engine.run_log import read_log
from fw_train.model_bundle import HISTORY
from fw_train.release.model_card import Link, domain, model_card
from fw_train.tasks.train import EXPORT, read_run

MODEL_CARD = "README.md"
LARGEST_FLOAT16 = torch.finfo(torch.float16).max


@dataclass(frozen=True, kw_only=True)
class ReleaseOptions:
    """Write a run's export as float16 weights with a model card generated from the files of its runs."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A finished run; it and the runs before it must not have been moved."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Output folder; an earlier release in it is replaced."""


def release(options: ReleaseOptions) -> list[str]:
    """Write the release; returns lines that describe it.

    Raises:
        ConfigError: the chain of runs is incomplete, other runs made the export, weights exceed the range of float16,
            or the output folder has other files.
    """
    earlier, chain = chain_of(options.run)
    export, out = options.run / EXPORT, options.out
    if out.exists() and not (out / SPEC_FILE).is_file() and any(out.iterdir()):
        raise ConfigError(f"{out} contains files that are not a release; give a new or an empty folder")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_half(export, partial, trained_on=domain(chain))
    shutil.copyfile(export / HISTORY, partial / HISTORY)
    (partial / MODEL_CARD).write_text(model_card(earlier, chain, partial), encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    stages = [entry["stage"] for entry in earlier] + [link.config.stage for link in chain]
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return [f"weights of {' -> '.join(stages)}, {size / 1e6:.1f} MB", f"result: {out}"]


def chain_of(run: Path) -> tuple[list[dict[str, Any]], list[Link]]:
    """History of the weights that the first run started from, and the runs since then, oldest first.

    The history is empty if the first run started from random numbers.

    Raises:
        ConfigError: a run of the chain is missing or has no export, or other runs made the export.
    """
    history = _history(run / EXPORT)
    if history is None:
        raise ConfigError(
            f"{run} has no finished export ({run / EXPORT / HISTORY}); finish it, or run `fw-train export {run}`"
        )
    earlier: list[dict[str, Any]] = []
    found: list[tuple[Path, TrainConfig]] = []
    folder: Path | None = run
    while folder is not None:
        if (folder / SPEC_FILE).is_file():  # weights that are no run of this machine: a release, a converted model
            earlier = _history(folder) or []
            break
        config = read_run(folder)
        found.insert(0, (folder, config))
        start = config.init
        is_export = start is not None and start.name == EXPORT and (start.parent / CONFIG).is_file()
        folder = start.parent if start is not None and is_export else start
    made = [f"{entry['stage']} {entry['configuration'][:12]}" for entry in history]
    there = [f"{entry['stage']} {entry['configuration'][:12]}" for entry in earlier]
    there += [f"{config.stage} {config.digest()[:12]}" for _, config in found]
    if made != there:
        raise ConfigError(f"{run / EXPORT} was made by {', '.join(made)}, but its chain of runs is {', '.join(there)}")
    links = [
        Link(
            folder=folder,
            config=config,
            steps=entry["steps"],
            log=[row for row in read_log(folder) if row["step"] <= entry["steps"]],
        )
        for (folder, config), entry in zip(found, history[len(earlier) :], strict=True)
    ]
    return earlier, links


def _history(folder: Path) -> list[dict[str, Any]] | None:
    """The trainings that made the weights of a folder; None if it has no record of them."""
    path = folder / HISTORY
    return json.loads(path.read_text(encoding="utf-8"))["stages"] if path.is_file() else None


def write_half(source: Path, out: Path, *, trained_on: str = "") -> None:
    """Copy a pipeline folder with the weights of model and autoencoder in float16.

    Args:
        source: the pipeline folder.
        out: the new folder.
        trained_on: see `Components.trained_on`.

    Raises:
        ConfigError: a weight exceeds the range of float16; the message names it.
    """
    world, components = load_world(source, dtype=torch.float32), load_components(source)
    for name, value in world.named_parameters():
        if not bool((value.abs() <= LARGEST_FLOAT16).all()):
            raise ConfigError(
                f"{source}: {name} has values outside the range of float16; the run has probably diverged"
            )
    save_world(world, out, dtype=torch.float16)
    components.autoencoder.to(torch.float16)
    save_components(
        out,
        components.autoencoder,
        components.text_encoder,
        components.image_encoder,
        components.sampling,
        trained_on=trained_on,
    )
