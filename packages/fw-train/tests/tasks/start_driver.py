"""The sharded start of a run against the whole model, sharded; run by test_train_sharded_start.py.

    python start_driver.py WORK DATASET MODEL OTHER_MODEL

Two forked processes each load every start both ways, with frozen matrices in bfloat16, and compare their shards bit for
bit. Prints one JSON line per start and process: parameters, differences, and the largest tensor read at once.
"""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from shard_driver import configure, meet

from fw_model.checkpoints.slices import SliceReader
from fw_model.parallel.shards import local_part
from fw_train.config.schema import TrainConfig
from fw_train.engine.distributed import shard
from fw_train.model_bundle import export, frozen_fingerprint, load_bundle
from fw_train.tasks.stages import choose_parameters
from fw_train.tasks.world_task import halve_frozen, shard_units


def starts(work: Path, data: Path, model: Path, other: Path) -> dict[str, TrainConfig]:
    """Runs with each kind of start."""
    init, first = {"init": str(work / "base")}, {"init": str(work / "stage1")}
    return {
        "random": configure("base", data, model),
        "checkpoint": configure("stage1", data, model, **init),
        "adapters": configure("stage2", data, model, lora={"rank": 2, "alpha": 2.0}, **first),
        "another geometry": configure("stage1", data, other, **init),
    }


def compare(config: TrainConfig, read: list[int]) -> dict[str, Any]:
    """Shards of this process, from the whole model and from the files."""
    whole, pieces = load_bundle(config), load_bundle(config, meta=True)
    prints = []
    for bundle in (whole, pieces):
        choose_parameters(bundle.world, config.stage)
        prints.append(frozen_fingerprint(bundle))
        halve_frozen(bundle.world)
        shard(bundle.world, shard_units(bundle.world, config.stage), device=torch.device("cpu"))
    read.clear()
    pieces.weights.fill(pieces.world, torch.device("cpu"))
    apart = []
    for (name, one), (also, two) in zip(whole.world.named_parameters(), pieces.world.named_parameters(), strict=True):
        a, b = local_part(one), local_part(two)
        equal = a.dtype == b.dtype and torch.equal(a, b) and one.requires_grad == two.requires_grad
        apart += [] if name == also and equal else [name]
    stored = sum(local_part(p).numel() for p in whole.world.parameters())
    return {"apart": apart, "prints": len(set(prints)), "read": sum(read), "held": 4 * stored}


def main(work: Path, data: Path, model: Path, other: Path) -> None:
    torch.set_num_threads(1)
    importlib.import_module("torch.distributed.tensor")
    for stage in ("base", "stage1"):
        start = load_bundle(configure("base", data, model))
        export(start, work / stage, trained={}, entry={"stage": stage, "steps": 0})
    read: list[int] = []
    original = SliceReader.read

    def counting(self: SliceReader, *args: Any) -> torch.Tensor:
        tensor = original(self, *args)
        read.append(tensor.nbytes)
        return tensor

    SliceReader.read = counting  # pyright: ignore[reportAttributeAccessIssue]
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            meet(work, rank, 2)
            for name, config in starts(work, data, model, other).items():
                line = json.dumps({"start": name, "rank": rank, **compare(config, read)})
                os.write(1, f"{line}\n".encode())  # at once: the other rank prints too
            dist.destroy_process_group()
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0, "a rank failed"


if __name__ == "__main__":
    main(*(Path(word) for word in sys.argv[1:]))
