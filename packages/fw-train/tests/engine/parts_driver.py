"""Kills sharded runs inside saves and resumes them; run by test_train_parts.py.

    python parts_driver.py WORK

Imports torch once and forks two processes per life of a run. One dies by SIGKILL right after a file of a save is
durable; then the other is killed too, as a launcher does. Prints one JSON line per run: where it was killed, the hash
of what it ended with, and the files of its last checkpoint.
"""

import hashlib
import importlib
import json
import os
import signal
import sys
from pathlib import Path

import torch
from kill_driver import Denoise, killer

from fw_train.config.schema import Cadence, OptimConfig, TrainConfig
from fw_train.engine.checkpoint import CheckpointStore, read
from fw_train.engine.distributed import join, shard
from fw_train.engine.loop import run

STEPS = 12
PLACES = (
    (1, "step-00000003/model-00002-of-00002.safetensors"),
    (0, "step-00000006/optimizer-00001-of-00002.safetensors"),
    (0, "step-00000006/state.json"),
    (0, "step-00000009/manifest.json"),
    (0, "step-00000009"),
)
"""Rank that dies, and the file of a save after which it dies."""


def one_rank(out: Path, rank: int, after: str) -> None:
    """What each process does."""
    os.environ["WORLD_SIZE"] = "2"
    store = torch.distributed.FileStore(str(out / "rendezvous"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    config = TrainConfig(
        steps=STEPS,
        batch=4,
        optim=OptimConfig(lr=1e-2, warmup=2, ema=0.8),
        every=Cadence(log=5, validate=10, checkpoint=3),
    )
    task, ctx = Denoise(), join(CheckpointStore(out / "checkpoints", on_write=killer(after)), "cpu")
    shard(task.module, [task.module.get_submodule("0"), task.module.get_submodule("2")], device=ctx.device)
    run(config, task, ctx, out=out, quiet=True)
    torch.distributed.destroy_process_group()


def one_life(out: Path, victim: int = -1, after: str = "") -> list[int]:
    """Two processes until both have ended; their exit statuses. When one is killed, so is the other."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "rendezvous").unlink(missing_ok=True)
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            one_rank(out, rank, after if rank == victim else "")
            os._exit(0)
        children.append(child)
    statuses = {}
    while len(statuses) < len(children):
        child, status = os.wait()
        statuses[child] = status
        for other in children:
            if os.WIFSIGNALED(status) and other not in statuses:
                os.kill(other, signal.SIGKILL)
    return [statuses[child] for child in children]


def report(out: Path, killed: str) -> None:
    """Print what a finished run left."""
    folder = out / "checkpoints" / f"step-{STEPS:08d}"
    digest = hashlib.sha256()
    for stem, tensors in sorted(read(folder).tensors.items()):
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{stem}/{name}".encode() + tensor.numpy().tobytes())
    files = sorted(path.name for path in folder.iterdir())
    left = sorted(path.name for path in folder.parent.iterdir() if path.name.startswith("."))
    print(json.dumps({"killed": killed, "sha256": digest.hexdigest(), "files": files, "left": left}), flush=True)


def main(work: Path) -> None:
    torch.set_num_threads(1)
    for name in ("torch.utils.tensorboard", "torch.distributed.rendezvous", "torch.distributed.fsdp"):
        importlib.import_module(name)
    assert one_life(work / "whole") == [0, 0]
    report(work / "whole", "never")
    for index, (victim, after) in enumerate(PLACES):
        out = work / str(index)
        statuses = one_life(out, victim, after)
        assert os.WIFSIGNALED(statuses[victim]), (after, statuses)
        assert one_life(out) == [0, 0], after
        report(out, after)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
