"""Trains the denoiser of kill_driver.py in one, in two, and in first two then one process; run by a test.

    python rank_driver.py WORK

Imports torch once and forks the processes; two of them average their gradients over gloo.
"""

import importlib
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from kill_driver import Denoise

from fw_train.checkpoint import CheckpointStore
from fw_train.config import Cadence, OptimConfig, TrainConfig
from fw_train.loop import run
from fw_train.parallel import join


def train(out: Path, *, world: int, steps: int) -> None:
    """One run in `world` processes of its own, on from what `out` holds."""
    out.mkdir(parents=True, exist_ok=True)
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            one_rank(out, rank, world, steps)
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0, f"a rank of {out} failed"


def one_rank(out: Path, rank: int, world: int, steps: int) -> None:
    """What each process does."""
    if world > 1:
        os.environ["WORLD_SIZE"] = str(world)
        dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=world)
    config = TrainConfig(
        steps=steps,
        batch=4,
        optim=OptimConfig(lr=1e-2, warmup=2, ema=0.8),
        every=Cadence(log=5, validate=10, checkpoint=4),
    )
    store = CheckpointStore(out / "checkpoints")
    run(config, Denoise(), join(store, "cpu"), out=out, quiet=True)
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in ("torch.utils.tensorboard", "torch.distributed.rendezvous"):
        importlib.import_module(name)
    work = Path(sys.argv[1])
    train(work / "one", world=1, steps=12)
    train(work / "two", world=2, steps=12)
    train(work / "mixed", world=2, steps=5)
    train(work / "mixed", world=1, steps=12)
