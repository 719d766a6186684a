"""The ablations of docs/evidence.md: `python -m tests.bench.ablations` trains every arm twice and measures them.

All arms start from the same video branch, that of the shipped weights (which LoRA has adapted to cameras; adapters and
geometry start anew). Where the bridge sits decides what stage 1 trains, so there is a stage 1 for every depth, of equal
budget, and the arms of one depth share it. What was trained or measured before is not done again.
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from fw_model.checkpoint import load_world
from fw_model.companions import load_companions
from fw_model.config import WorldConfig, tiny
from fw_model.shipped import shipped_weights
from fw_model.world import FantasyWorld
from fw_train.parts import HISTORY, Parts, export

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
    found = {name: replace(whole, coupling=replace(whole.coupling, direction=way)) for name, way in directions.items()}
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
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and tables; a second run goes on")
    parser.add_argument("--steps", type=int, default=150, help="steps of each stage 1 and stage 2")
    parser.add_argument("--clips", type=int, default=200, help="clips to measure")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, one thread each")
    options = parser.parse_args()
    models = options.out / "models"
    models.mkdir(parents=True, exist_ok=True)
    configs = arms()
    for name, config in configs.items():
        (models / f"{slug(name)}.json").write_text(config.to_json() + "\n", encoding="utf-8")
    starts = {config.pcb_blocks: name for name, config in reversed(configs.items())}
    base = video_prior(options.out / "prior")
    first = [stage(options, "stage1", starts[blocks], f"stage1-{blocks}", base, 0) for blocks in starts]
    second = [
        stage(options, "stage2", name, f"{slug(name)}-{seed}", options.out / f"stage1-{config.pcb_blocks}", seed)
        for name, config in configs.items()
        for seed in SEEDS
    ]
    for commands in (first, second):
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(run, commands))
    measured = [f"--arm={name}={options.out / f'{slug(name)}-{seed}'}" for name in configs for seed in SEEDS]
    run(
        [
            *(sys.executable, "-m", "fw_train.cli", "evidence", *measured, "--data", str(options.held_out)),
            *("--out", str(options.out / "evidence"), "--clips", str(options.clips), "--takes", "2"),
        ]
    )


def video_prior(folder: Path) -> Path:
    """The shipped weights' video branch as if `fw-train base` had just exported it: all else is new."""
    if folder.is_dir():
        return folder
    shipped = shipped_weights()
    old, companions = load_world(shipped, dtype=torch.float32), load_companions(shipped)
    world = FantasyWorld(old.config)
    with torch.no_grad():
        for name, parameter in world.named_parameters():
            if FantasyWorld.parameter_group(name) == "video":
                parameter.copy_(old.get_parameter(name))
    stages = json.loads((shipped / HISTORY).read_text(encoding="utf-8"))["stages"]
    upto = next(i for i, entry in enumerate(stages) if entry["stage"] == "base")
    parts = Parts(
        world=world,
        autoencoder=companions.autoencoder,
        text_encoder=companions.text_encoder,
        sampling=companions.sampling,
        history=stages[:upto],
    )
    return export(parts, folder, trained={}, entry=stages[upto])


def stage(options: argparse.Namespace, name: str, arm: str, run_name: str, init: Path, seed: int) -> list[str]:
    """The command of one training."""
    return [
        *(sys.executable, "-m", "fw_train.cli", name, "small-world", "--go-on"),
        *("--model", str(options.out / "models" / f"{slug(arm)}.json"), "--init", str(init)),
        *("--data", str(options.data), "--out", str(options.out / run_name), "--steps", str(options.steps)),
        *("--seed", str(seed), "--compute.threads", "1"),
    ]


def slug(name: str) -> str:
    """A name as a file name."""
    return name.replace(" ", "-")


def run(command: list[str]) -> None:
    """Run a command; CalledProcessError if it fails."""
    print(" ".join(command), flush=True)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
