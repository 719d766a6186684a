"""`fw-train release`: the result of a chain of runs as a small folder to hand out, float16 weights with a model card.

The runs that the weights come from are found backwards, from each run's `init` to the run before it.
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
    """Write a run's export as float16 weights with a model card that is made from the files of its runs."""

    run: Annotated[Path, tyro.conf.Positional]
    """A finished run. It and the runs before it must still be where they were made."""
    out: Annotated[Path, tyro.conf.Positional]
    """The folder to write; one that an earlier `fw-train release` wrote is replaced."""
    videos: Path
    """The folder that `fw-data toy` wrote the videos of the data set into: the card has its command from toy.json."""


def release(options: ReleaseOptions) -> list[str]:
    """Write `options.out` and say what it holds.

    Raises:
        ConfigError: no finished chain of runs, an export that is not theirs, videos that are not the data set's,
            weights that float16 cannot hold, or a folder in the way that is no model.
    """
    chain = chain_of(options.run)
    export, out = options.run / EXPORT, options.out
    if out.exists() and not (out / SPEC_FILE).is_file() and any(out.iterdir()):
        raise ConfigError(f"{out} holds something else than a model; give a new or an empty folder")
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
        ConfigError: a run of the chain is gone or has no export, or the export was made by other runs than those.
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
    """Write a pipeline folder again with the weights of model and autoencoder in float16.

    Raises:
        ConfigError: a weight is too large for float16, by name.
    """
    world, parts = load_world(source, dtype=torch.float32), load_components(source)
    for name, value in world.named_parameters():
        if not bool((value.abs() <= LARGEST_FLOAT16).all()):
            raise ConfigError(f"{source}: {name} has values that float16 cannot hold; the run has probably diverged")
    save_world(world, out, dtype=torch.float16)
    parts.autoencoder.to(torch.float16)
    save_components(out, parts.autoencoder, parts.text_encoder, parts.image_encoder, parts.sampling)
