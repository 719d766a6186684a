"""Two ranks of a short run whose export takes longer than a collective may; run by test_train_shard.py.

python slow_export_driver.py OUT DATA MODEL
"""

import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from fw_train.config.load import from_mapping
from fw_train.config.schema import TrainConfig
from fw_train.tasks import train as train_module

LIMIT_S, EXPORT_S = 12, 15


def main(out: Path, data: Path, model: Path) -> None:
    """Fork both ranks and wait for them."""
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            one_rank(rank, out, data, model)
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0, "a rank failed"


def one_rank(rank: int, out: Path, data: Path, model: Path) -> None:
    """Train one step; rank 0 exports slowly."""
    torch.set_num_threads(1)
    os.environ["WORLD_SIZE"] = "2"
    store = dist.FileStore(str(out.parent / "rendezvous"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=LIMIT_S))
    export = train_module.export

    def slow(*args: Any, **kwargs: Any) -> Path:
        time.sleep(EXPORT_S)
        return export(*args, **kwargs)

    train_module.export = slow
    tree = {
        "data": str(data),
        "model": str(model),
        "out": str(out),
        "steps": 1,
        "batch": 2,
        "clip": {"frames": 5, "height": 32, "width": 32, "validate_on": 3},
        "noise": {"validation": [0.3, 0.6]},
        "sampling": {"num_inference_steps": 1, "clips": 3},
        "every": {"sample": 1},
        "compute": {"threads": 1, "device": "cpu"},
    }
    train_module.train(from_mapping(tree, TrainConfig(stage="base")), quiet=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*(Path(word) for word in sys.argv[1:]))
