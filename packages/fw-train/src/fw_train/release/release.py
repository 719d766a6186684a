"""`fw-train release`: publish the result of a chain of runs as float16 weights with a model card.

The chain is found backwards, from the `init` of each run to the run before it.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from fw_model.checkpoints.checkpoint import load_world, save_world
from fw_model.pipeline.components import SPEC_FILE, load_components, save_components
from fw_train.config.schema import ConfigError, TrainConfig
from fw_train.engine.run_log import read_log
from fw_train.model_bundle import HISTORY
from fw_train.release.model_card import Link, model_card
from fw_train.tasks.train import EXPORT, read_run

MODEL_CARD = "README.md"
LARGEST_FLOAT16 = torch.finfo(torch.float16).max


@dataclass(frozen=True, kw_only=True)
class ReleaseOptions:
    """Write a run's export as float16 weights with a model card generated from the files of its runs."""

    run: Annotated[Path, tyro.conf.Positional]
    """A finished run; it and the runs before it must not have been moved."""
    out: Annotated[Path, tyro.conf.Positional]
    """Output folder; an earlier release in it is replaced."""
    videos: Path
    """Output folder of `fw-data toy` with the videos of the dataset; toy.json gives the command in the card."""


def release(options: ReleaseOptions) -> list[str]:
    """Write the release; returns lines that describe it.

    Raises:
        ConfigError: the chain of runs is incomplete, the export or the videos are from elsewhere, weights exceed the
            range of float16, or the output folder has other files.
    """
    chain = chain_of(options.run)
    export, out = options.run / EXPORT, options.out
    if out.exists() and not (out / SPEC_FILE).is_file() and any(out.iterdir()):
        raise ConfigError(f"{out} contains files that are not a release; give a new or an empty folder")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_half(export, partial)
    shutil.copyfile(export / HISTORY, partial / HISTORY)
    (partial / MODEL_CARD).write_text(model_card(chain, partial, options.videos), encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return [f"weights of {' -> '.join(link.config.stage for link in chain)}, {size / 1e6:.1f} MB", f"result: {out}"]


def chain_of(run: Path) -> list[Link]:
    """The runs that a run's export comes from, oldest first.

    Raises:
        ConfigError: a run of the chain is missing or has no export, or other runs made the export.
    """
    history_file = run / EXPORT / HISTORY
    if not history_file.is_file():
        raise ConfigError(f"{run} has no finished export ({history_file}); finish it, or run `fw-train export {run}`")
    history = json.loads(history_file.read_text(encoding="utf-8"))["stages"]
    found: list[tuple[Path, TrainConfig]] = []
    folder: Path | None = run
    while folder is not None:
        config = read_run(folder)
        found.insert(0, (folder, config))
        start = config.init
        folder = start.parent if start is not None and start.name == EXPORT else start
    made = [f"{entry['stage']} {entry['configuration'][:12]}" for entry in history]
    there = [f"{config.stage} {config.digest()[:12]}" for _, config in found]
    if made != there:
        raise ConfigError(f"{run / EXPORT} was made by {', '.join(made)}, but its chain of runs is {', '.join(there)}")
    return [
        Link(
            folder=folder,
            config=config,
            steps=entry["steps"],
            log=[row for row in read_log(folder) if row["step"] <= entry["steps"]],
        )
        for (folder, config), entry in zip(found, history, strict=True)
    ]


def write_half(source: Path, out: Path) -> None:
    """Copy a pipeline folder with the weights of model and autoencoder in float16.

    Raises:
        ConfigError: a weight exceeds the range of float16; the message names it.
    """
    world, parts = load_world(source, dtype=torch.float32), load_components(source)
    for name, value in world.named_parameters():
        if not bool((value.abs() <= LARGEST_FLOAT16).all()):
            raise ConfigError(
                f"{source}: {name} has values outside the range of float16; the run has probably diverged"
            )
    save_world(world, out, dtype=torch.float16)
    parts.autoencoder.to(torch.float16)
    save_components(out, parts.autoencoder, parts.text_encoder, parts.image_encoder, parts.sampling)
