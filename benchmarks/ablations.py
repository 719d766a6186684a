"""Ablations of docs/benchmarks/evidence.md: `python -m benchmarks.ablations` trains every arm twice and measures it.

All arms start from the same video branch and camera control, those of `small_world/camera` of `make small-world`.
These were trained with a bridge. LoRA first trains the video without one ("alone"), so that every arm starts without
its loss. Geometry and bridge start from new weights. The position of the bridge determines the network of stage 1, so
there is one stage 1 for every depth, of equal budget, shared by the arms of that depth. Completed trainings and
measurements are reused.
Writes OUT/evidence/evidence.md and, with the losses of every training on held-out clips, OUT/losses.md.
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from fw_model.checkpoints.checkpoint import load_world
from fw_model.config import WorldConfig, tiny
from fw_model.model.model import FantasyWorld
from fw_model.pipeline.components import load_components
from fw_train.evidence.evidence import LINES
from fw_train.model_bundle import HISTORY, ModelBundle, export

SEEDS = (0, 1)


def arms() -> dict[str, WorldConfig]:
    """The model of every arm; the first is what the others are compared with."""
    whole = tiny()
    directions = {
        "two-way": "both",
        "apart": "none",
        "geometry reads video": "to_geometry",
        "video reads geometry": "to_video",
    }
    found = {
        name: replace(whole, cross_branch=replace(whole.cross_branch, direction=way))
        for name, way in directions.items()
    }
    for blocks in (0, 8):
        layers = whole.video.blocks - blocks
        deepest, *others = (int((tap + 1) * layers / whole.irg_blocks) - 1 for tap in whole.geometry.dpt_taps)
        geometry = replace(whole.geometry, dpt_taps=(deepest, others[0], others[1], others[2]))
        found[f"bridge after {blocks}"] = replace(whole, pcb_blocks=blocks, geometry=geometry)
    return found


def main() -> None:
    """Stage 1 by depth, stage 2 by arm and seed, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="what to train on")
    parser.add_argument("--held-out", type=Path, required=True, help="dataset of other worlds to measure on")
    parser.add_argument("--start", type=Path, required=True, help="run whose video and cameras all arms start from")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and tables; a second run resumes")
    parser.add_argument("--steps", type=int, default=100, help="steps of each stage 2")
    parser.add_argument("--stage1-steps", type=int, default=250, help="steps of each stage 1")
    parser.add_argument("--alone-steps", type=int, default=300, help="steps of the video without a bridge, before")
    parser.add_argument("--sampling-steps", type=int, default=12, help="steps of each generation")
    parser.add_argument("--clips", type=int, default=200, help="clips to measure")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, one thread each")
    options = parser.parse_args()
    models = options.out / "models"
    models.mkdir(parents=True, exist_ok=True)
    configs = arms()
    for name, config in configs.items():
        (models / f"{slug(name)}.json").write_text(config.to_json() + "\n", encoding="utf-8")
    starts = {config.pcb_blocks: name for name, config in reversed(configs.items())}
    base = video_prior(options.start, options.out / "prior")
    first = [stage(options, "stage1", starts[blocks], f"stage1-{blocks}", base, 0) for blocks in starts]
    run_all(options, first)
    run(alone(options))
    for blocks in starts:
        with_video(options.out / "alone", options.out / f"stage1-{blocks}", options.out / f"start-{blocks}")
    second = [
        stage(options, "stage2", name, f"{slug(name)}-{seed}", options.out / f"start-{config.pcb_blocks}", seed)
        for seed in SEEDS
        for name, config in configs.items()
    ]
    run_all(options, second)
    (options.out / "losses.md").write_text(losses(options.out, configs), encoding="utf-8")
    measure(options, list(configs))


def measure(options: argparse.Namespace, names: list[str]) -> None:
    """One process for each share of the arms, then the tables of all of them."""
    shares = [names[job :: options.jobs] for job in range(min(options.jobs, len(names)))]
    folders = [options.out / f"evidence-{job}" for job in range(len(shares))]
    run_all(options, [evidence(options, *share) for share in zip(shares, folders, strict=True)])
    whole = options.out / "evidence"
    whole.mkdir(exist_ok=True)
    lines = "".join((folder / LINES).read_text(encoding="utf-8") for folder in folders)
    (whole / LINES).write_text(lines, encoding="utf-8")
    run(evidence(options, names, whole))


def evidence(options: argparse.Namespace, names: list[str], folder: Path) -> list[str]:
    """The command that measures all trainings of some arms."""
    arms = [f"--arm={name}={options.out / f'{slug(name)}-{seed}'}" for name in names for seed in SEEDS]
    return [
        *(sys.executable, "-m", "fw_train.cli", "evidence", *arms, "--data", str(options.held_out)),
        *("--out", str(folder), "--clips", str(options.clips), "--takes", "2", "--steps", str(options.sampling_steps)),
    ]


def losses(out: Path, configs: dict[str, WorldConfig]) -> str:
    """A table of the losses on held-out clips, one number per training; all see the same noise."""
    rows: dict[str, list[dict[str, float]]] = {}
    for name, config in configs.items():
        for seed in SEEDS:
            lines = (out / f"{slug(name)}-{seed}" / "log.jsonl").read_text(encoding="utf-8").splitlines()
            first, *_, last = [row for row in map(json.loads, lines) if row.get("split") == "val"]
            rows.setdefault(f"before stage 2, bridge after {config.pcb_blocks}", [first])
            rows.setdefault(name, []).append(last)
    table = ["| | flow loss | geometry loss |", "| --- | ---: | ---: |"]
    for name, found in rows.items():
        cells = (", ".join(f"{row[loss]:.4f}" for row in found) for loss in ("loss/flow", "loss/geometry"))
        table.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(table) + "\n"


def video_prior(start: Path, folder: Path) -> Path:
    """A run's video branch and camera control as if `fw-train base` had just exported them: all else is new."""
    if folder.is_dir():
        return folder
    world = load_world(start / "export", dtype=torch.float32)
    fresh = FantasyWorld(world.config)
    take_video(fresh, world)
    return save(fresh, start, "base", folder)


def with_video(video: Path, geometry: Path, folder: Path) -> Path:
    """The result of a stage 1, with the video branch and camera control of another run in place of its own."""
    if folder.is_dir():
        return folder
    world = load_world(geometry / "export", dtype=torch.float32)
    take_video(world, load_world(video / "export", dtype=torch.float32))
    return save(world, geometry, "stage1", folder)


def take_video(world: FantasyWorld, other: FantasyWorld) -> None:
    """Copy video branch, camera adapters and pose encoder, wherever the bridge sits in either."""
    assert world.pose_encoder is not None
    assert other.pose_encoder is not None
    pairs = [(world.video, other.video), (world.pose_encoder, other.pose_encoder)]
    for mine, theirs in [*pairs, *zip(world.video_blocks(), other.video_blocks(), strict=True)]:
        mine.load_state_dict(theirs.state_dict())


def save(world: FantasyWorld, source: Path, stage: str, folder: Path) -> Path:
    """Export a model with the companions of a run, as a result of the stage of that name in its history."""
    companions = load_components(source / "export")
    stages = json.loads((source / "export" / HISTORY).read_text(encoding="utf-8"))["stages"]
    upto = next(i for i, entry in enumerate(stages) if entry["stage"] == stage)
    parts = ModelBundle(
        world=world,
        autoencoder=companions.autoencoder,
        text_encoder=companions.text_encoder,
        sampling=companions.sampling,
        history=stages[:upto],
    )
    return export(parts, folder, trained={}, entry=stages[upto])


def alone(options: argparse.Namespace) -> list[str]:
    """The command that accustoms the video to being without a bridge."""
    return [
        *(sys.executable, "-m", "fw_train.cli", "stage2", "small-world", "--go-on", "--seed", "0"),
        *("--model", str(options.out / "models" / "apart.json"), "--init", str(options.out / "stage1-4")),
        *("--data", str(options.data), "--out", str(options.out / "alone"), "--steps", str(options.alone_steps)),
        *("--batch", "16", "--set", "loss.geometry=0.0", "--no-unfreeze-geometry", "--optim.lr", "5e-4"),
        *("--lora.rank", "32", "--set", "lora.alpha=32.0"),
        *("--set", "clip.validate_on=96", "--every.validate", str(options.alone_steps)),
        *("--launcher", "torchrun", "--workers", str(options.jobs)),
    ]


def stage(options: argparse.Namespace, name: str, arm: str, run_name: str, init: Path, seed: int) -> list[str]:
    """The command of one training."""
    steps = options.stage1_steps if name == "stage1" else options.steps
    return [
        *(sys.executable, "-m", "fw_train.cli", name, "small-world", "--go-on"),
        *("--model", str(options.out / "models" / f"{slug(arm)}.json"), "--init", str(init)),
        *("--data", str(options.data), "--out", str(options.out / run_name), "--steps", str(steps)),
        *("--seed", str(seed), "--compute.threads", "1"),
        *("--set", "clip.validate_on=96", "--every.validate", str(steps)),
    ]


def slug(name: str) -> str:
    """A name as a file name."""
    return name.replace(" ", "-")


def run_all(options: argparse.Namespace, commands: list[list[str]]) -> None:
    """Run commands, as many at a time as there may be jobs."""
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(run, commands))


def run(command: list[str]) -> None:
    """Run a command; CalledProcessError if it fails."""
    print(" ".join(command), flush=True)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
