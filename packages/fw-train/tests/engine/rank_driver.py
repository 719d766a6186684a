"""Trains the denoiser of kill_driver.py in one process and in two, replicated and sharded; run by a test.

    python rank_driver.py WORK

Imports torch once and forks the processes; two of them average their gradients, or hold halves of everything, over
gloo. "mixed" runs change from two processes to one on the way.
"""

import faulthandler
import importlib
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from kill_driver import Denoise

from fw_train.config.schema import Cadence, OptimConfig, TrainConfig
from fw_train.engine.checkpoint import CheckpointStore
from fw_train.engine.distributed import join, shard
from fw_train.engine.loop import run

HANG_S = 600
"""Limit of one run, which takes seconds."""


def train(out: Path, *, world: int, steps: int, sharded: bool = False, copies: int = 1, clips: int = 7) -> None:
    """One run in `world` processes of its own, on from what `out` holds."""
    out.mkdir(parents=True, exist_ok=True)
    # a process that ended before its store was released leaves the file, and the next run would wait at old addresses
    (out / f"rendezvous-{world}").unlink(missing_ok=True)
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            one_rank(out, rank, world, steps, sharded, copies, clips)
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0, f"a rank of {out} failed"


def one_rank(out: Path, rank: int, world: int, steps: int, sharded: bool, copies: int, clips: int) -> None:
    """What each process does."""
    faulthandler.dump_traceback_later(HANG_S, exit=True)  # a hang fails with the place where it hangs
    if world > 1:
        os.environ["WORLD_SIZE"] = str(world)
        dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous-{world}", rank=rank, world_size=world)
    config = TrainConfig(
        steps=steps,
        batch=12,
        accumulate=2,
        optim=OptimConfig(lr=1e-2, warmup=2, ema=0.8, clip_norm=0.3),
        every=Cadence(log=5, validate=10, checkpoint=4),
    )
    task, ctx = Denoise(clips=clips), join(CheckpointStore(out / "checkpoints"), "cpu")
    if sharded:
        units = [task.module.get_submodule("0"), task.module.get_submodule("2")]
        shard(task.module, units, device=ctx.device, copies=copies)
    run(config, task, ctx, out=out, quiet=True)
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    heavy = ("torch.utils.tensorboard", "torch.distributed.rendezvous", "torch.distributed.fsdp")
    for name in heavy:
        importlib.import_module(name)
    work = Path(sys.argv[1])
    train(work / "one", world=1, steps=20)
    train(work / "two", world=2, steps=20)
    train(work / "sharded", world=2, steps=20, sharded=True)
    train(work / "mixed", world=2, steps=5)
    train(work / "mixed", world=1, steps=20)
    train(work / "mixed-sharded", world=1, steps=5)
    train(work / "mixed-sharded", world=2, steps=20, sharded=True)
    for size, steps in ((2, 5), (3, 10), (1, 20)):  # 3 divides neither 64 nor 48 rows
        train(work / "other-size", world=size, steps=steps, sharded=size > 1)
    train(work / "hybrid", world=2, steps=5, sharded=True, copies=2)  # each process holds everything, one writes it
    train(work / "hybrid", world=3, steps=20, sharded=True)
    for name, world in (("grown-one", 1), ("grown", 2)):
        train(work / name, world=world, steps=5)
        train(work / name, world=world, steps=20, clips=9)
