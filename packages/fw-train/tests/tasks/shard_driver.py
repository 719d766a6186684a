"""Trains the mini world in one process and in two that shard it; run by test_train_shard.py.

    python shard_driver.py WORK DATASET MODEL [sequence]

Imports torch once and forks the processes; two of them hold a piece of every parameter each (FSDP2 over gloo).
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from fw_train.config.load import from_mapping
from fw_train.config.schema import TrainConfig
from fw_train.model_bundle import export, load_bundle
from fw_train.tasks.train import train

STEPS = 4


def configure(stage: Any, data: Path, model: Path, **changes: Any) -> TrainConfig:
    """A short run with everything that could go wrong when sharded: clipping, an average, accumulation."""
    tree: dict[str, Any] = {
        "data": str(data),
        "model": str(model),
        "steps": STEPS,
        "batch": 2,
        "clip": {"frames": 5, "height": 32, "width": 32, "validate_on": 1},
        "noise": {"validation": [0.5]},
        "optim": {"lr": 1e-3, "warmup": 2, "ema": 0.5, "clip_norm": 0.5},
        "sampling": {"num_inference_steps": 2, "clips": 1},
        "every": {"log": 1, "validate": 20, "checkpoint": 20},
        "compute": {"threads": 1, "device": "cpu"},
        "go_on": True,
    }
    if stage == "stage2":
        tree["dropout"] = {"cross_branch": 0.2}
    return from_mapping({**tree, **changes}, TrainConfig(stage=stage))


def run(config: TrainConfig, world: int) -> None:
    """A run in `world` forked processes."""
    assert config.out is not None
    config.out.mkdir(parents=True, exist_ok=True)
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            meet(config.out, rank, world)
            train(config, quiet=True)
            if world > 1:
                dist.destroy_process_group()
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0, f"a rank of {config.out} failed"


def meet(out: Path, rank: int, world: int) -> None:
    """Join the other ranks, as under a launcher."""
    os.environ["WORLD_SIZE"] = str(world)
    if world > 1:
        store = dist.FileStore(str(out / f"rendezvous-{world}"), world)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)


def main(work: Path, data: Path, model: Path, way: str = "") -> None:
    torch.set_num_threads(1)
    for name in ("torch.utils.tensorboard", "torch.distributed.fsdp", "torch.distributed.tensor"):
        importlib.import_module(name)
    start = load_bundle(configure("base", data, model))
    export(start, work / "init", trained={}, entry={"stage": "stage1", "steps": 0})
    here = {"init": str(work / "init")}
    saving = {"activation_checkpointing": "full", "offload_activations": True}
    sharded = {"compute": {"threads": 1, "device": "cpu", "shard": "full", **saving}}
    slow = {
        "optim": {"lr": 1e-5, "ema": 0.5, "clip_norm": 0.5},
        "steps": 2,
    }  # Adam amplifies what is zero but for noise
    if way == "sequence":  # two nodes of two processes, each of which divides the samples and shards the network
        os.environ["LOCAL_WORLD_SIZE"] = "2"
        both = {"compute": {**sharded["compute"], "shard": "hybrid", "sequence": 2}}
        alone = {"compute": {**both["compute"], "shard": "none"}}
        for stage, ways in (
            ("stage1", {"one": ({}, 1), "four": (both, 4)}),
            ("stage2", {"one": ({}, 1), "two": (alone, 2), "four": (both, 4)}),
        ):
            for name, (changes, world) in ways.items():
                run(
                    configure(stage, data, model, out=str(work / f"{stage}-{name}"), **here, **{**slow, **changes}),
                    world,
                )
        return
    run(configure("stage1", data, model, out=str(work / "stage1-one"), **here, **slow), 1)
    run(configure("stage1", data, model, out=str(work / "stage1-two"), **here, **slow, **sharded), 2)
    run(configure("stage2", data, model, out=str(work / "stage2-one"), **here), 1)
    two = configure("stage2", data, model, out=str(work / "stage2-two"), **here, **sharded)
    run(from_mapping({"every": {"sample": 2}}, two), 2)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
