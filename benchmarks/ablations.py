"""Ablations: `python -m benchmarks.ablations` trains every arm with each seed and measures all of them on unseen rooms.

Coupling arms (`--stage1`) start from the same stage 1, with the gates of the cross-branch attention at zero: both
branches read each other, each one alone reads the other, or neither does. Scratch arms (`--autoencoder`) start from
random weights: the video branch jointly with the geometry branch, and the video branch alone for as many samples and
for as much time. Unknown options go to every training, such as `--launcher torchrun --workers 2`.

Completed trainings and measurements are reused. Writes OUT/coupling/evidence.md and OUT/scratch/evidence.md.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Literal

from fw_model.checkpoints.checkpoint import read_config
from fw_model.config import WorldConfig
from fw_train.commands import train_stage
from fw_train.config.load import load
from fw_train.config.schema import Stage
from fw_train.engine.run_log import read_log
from fw_train.evaluate.options import EvidenceOptions
from fw_train.evidence.evidence import evidence
from fw_train.model_bundle import world_config
from fw_train.tasks.train import EXPORT

RECIPE = "small-world"
Direction = Literal["both", "to_geometry", "to_video", "none"]
COUPLING: dict[str, Direction] = {
    "both ways": "both",
    "geometry reads video": "to_geometry",
    "video reads geometry": "to_video",
    "neither": "none",
}
"""Directions of the cross-branch attention; the first arm is the baseline."""
VIDEO, JOINT, EQUAL_TIME = "video alone", "joint", "video alone, equal time"


def main(words: Sequence[str] | None = None) -> None:
    """Train and measure the arms that the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and tables; a second run resumes")
    parser.add_argument("--stage1", type=Path, help="run or export of stage 1 that the coupling arms start from")
    parser.add_argument("--autoencoder", type=Path, help="run or export of the autoencoder of the scratch arms")
    parser.add_argument("--model", default="small_world", help="preset or JSON file of the scratch arms")
    parser.add_argument("--samples", type=int, default=20_000, help="training samples of each coupling arm")
    parser.add_argument("--scratch-samples", type=int, default=40_000, help="training samples of each scratch arm")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each arm")
    parser.add_argument("--measure-on", type=Path, default=Path("rooms"), help="see --data of fw-train evidence")
    parser.add_argument("--clips", type=int, default=200, help="clips to measure")
    parser.add_argument("--sampling-steps", type=int, default=10, help="steps of each generation")
    options, rest = parser.parse_known_args(words)
    if options.stage1 is None and options.autoencoder is None:
        parser.error("give --stage1, --autoencoder or both")
    if options.stage1 is not None:
        measure(options, "coupling", train_coupling(options, rest))
    if options.autoencoder is not None:
        measure(options, "scratch", train_scratch(options, rest))


def train_coupling(options: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    """Train the coupling arms; returns NAME=RUN of each training."""
    inside = options.stage1 / EXPORT
    whole = read_config(inside if inside.is_dir() else options.stage1)
    steps = steps_of("stage2", options.samples, rest)
    trained = []
    for name, direction in COUPLING.items():
        config = replace(whole, name=direction, cross_branch=replace(whole.cross_branch, direction=direction))
        for seed in range(options.seeds):
            run = options.out / f"{direction}-{seed}"
            train("stage2", run, config, options.stage1, seed, [*steps, *rest])
            trained.append(f"{name}={run}")
    return trained


def train_scratch(options: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    """Train the scratch arms; returns NAME=RUN of each training."""
    config, start = world_config(options.model), options.autoencoder
    # all arms learn the video alike: same samples, noise and optimizer
    optim = load(RECIPE, "base").optim
    rest = [*rest, "--optim.lr", str(optim.lr), "--optim.ema", str(optim.ema), "--set", "optim.betas=[0.9, 0.999]"]
    joint = ["--set", "unfreeze_video=true", "--lora.rank", "0", "--set", "lora.alpha=16.0"]
    trained: dict[str, list[str]] = {VIDEO: [], JOINT: [], EQUAL_TIME: []}
    for seed in range(options.seeds):
        runs = {name: options.out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}" for name in trained}
        steps = {stage: steps_of(stage, options.scratch_samples, rest) for stage in ("base", "stage2")}
        train("base", runs[VIDEO], config, start, seed, [*steps["base"], *rest])
        train("stage2", runs[JOINT], config, start, seed, [*steps["stage2"], *joint, *rest])
        longer = options.scratch_samples * seconds_per_sample(runs[JOINT]) / seconds_per_sample(runs[VIDEO])
        train("base", runs[EQUAL_TIME], config, start, seed, [*steps_of("base", round(longer), rest), *rest])
        for name, run in runs.items():
            trained[name].append(f"{name}={run}")
    return [arm for arms in trained.values() for arm in arms]


def train(stage: Stage, run: Path, config: WorldConfig, init: Path, seed: int, words: Sequence[str]) -> None:
    """Train one arm, or continue it.

    Raises:
        SystemExit: the training was interrupted.
    """
    run.parent.mkdir(parents=True, exist_ok=True)
    model = run.with_suffix(".json")
    model.write_text(config.to_json() + "\n", encoding="utf-8")
    print(f"{stage}: {run}", flush=True)
    flags = ["--model", str(model), "--init", str(init), "--out", str(run), "--seed", str(seed), "--go-on"]
    code = train_stage(stage, [RECIPE, *flags, "--every.sample", "0", *words])
    if code:
        raise SystemExit(code)


def steps_of(stage: Stage, samples: int, rest: Sequence[str]) -> list[str]:
    """The flag for the number of steps that draw this many samples."""
    batch = int(rest[rest.index("--batch") + 1]) if "--batch" in rest else load(RECIPE, stage).batch
    return ["--steps", str(max(1, round(samples / batch)))]


def seconds_per_sample(run: Path) -> float:
    """Median time of a training sample, from the run's log."""
    return 1 / median(row["samples_per_s"] for row in read_log(run) if "samples_per_s" in row)


def measure(options: argparse.Namespace, name: str, arms: Sequence[str]) -> None:
    """Write the tables of some arms."""
    chosen = EvidenceOptions(
        arm=tuple(arms),
        data=options.measure_on,
        out=options.out / name,
        clips=options.clips,
        steps=options.sampling_steps,
        few_steps_clips=0,
    )
    evidence(chosen)


if __name__ == "__main__":
    main()
