"""Kills training processes for real, at twelve places, and resumes them; run by test_train_kill.py.

    python kill_driver.py WORK SEED

Imports torch once, then forks one child per life of a run. A child dies by SIGKILL at a random step, or during a save
right after a given file became durable. Prints one JSON line per run: where it was killed and what it ended with.
"""

import hashlib
import importlib
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fw_data.dataset.clip_order import Draw
from fw_model.sampling.flow import counter_noise
from fw_train.config.schema import Cadence, OptimConfig, TrainConfig
from fw_train.data.order import ClipOrder
from fw_train.engine.checkpoint import CheckpointStore
from fw_train.engine.distributed import Context
from fw_train.engine.loop import run

STEPS = 20


class Denoise:
    """A two-layer denoiser of random images with counter-based noise."""

    prefetch = 0

    def __init__(self, die_at_step: int = -1, clips: int = 7) -> None:
        self.order = ClipOrder(clips=clips)
        self.identity: Mapping[str, str] = {"config": "kill", "dataset": self.dataset_digest(clips, 0)}
        self.images = torch.randn(self.order.clips, 48, generator=torch.Generator().manual_seed(1))
        self.module: nn.Module = nn.Sequential(nn.Linear(48, 64), nn.GELU(), nn.Linear(64, 48))
        with torch.no_grad():
            for index, parameter in enumerate(self.module.parameters()):
                parameter.copy_(0.1 * counter_noise(9, 0, index, parameter.shape))
        self.die_at_step = die_at_step

    def dataset_digest(self, train: int, held_out: int) -> str:
        return f"{train} and {held_out}"

    def announce(self, draws: Sequence[Draw]) -> None:
        raise AssertionError(f"no draws are announced with prefetch 0: {draws}")

    def tokens(self, draw: Draw) -> int:
        return int(draw.clip >= 0)

    def loss(self, step: int, draws: Sequence[Draw]) -> Mapping[str, Tensor]:
        if step == self.die_at_step:
            os.kill(os.getpid(), signal.SIGKILL)
        noise = torch.stack([counter_noise(3, step, draw.slot, (48,)) for draw in draws])
        return {"loss": (self.module(self.images[[d.clip for d in draws]] + noise) - noise).square().mean()}

    def validate(self) -> Mapping[str, float]:
        return {"loss": float(self.module(self.images).square().mean())}

    def sample(self, path: Path | None) -> list[str]:
        raise AssertionError(f"no samples were asked for: {path}")

    def describe(self, draw: Draw) -> str:
        return str(draw.clip)


class Place(NamedTuple):
    """Where a child dies: before a step's loss, or right after a file of a save is durable."""

    step: int = -1
    after: str = ""


NOWHERE = Place()


def one_life(out: Path, place: Place = NOWHERE) -> int:
    """Run a child until it ends or dies; its exit status as os.waitpid gives it."""
    child = os.fork()
    if child == 0:
        config = TrainConfig(
            steps=STEPS,
            batch=3,
            optim=OptimConfig(lr=1e-2, warmup=2, ema=0.8),
            every=Cadence(log=5, validate=10, checkpoint=3),
        )
        store = CheckpointStore(out / "checkpoints", on_write=killer(place.after))
        run(config, Denoise(place.step), Context(store=store, device=torch.device("cpu")), out=out, quiet=True)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def killer(after: str) -> Callable[[Path], None]:
    """Dies right after the file or folder of a save whose path ends so is durable."""

    def on_write(path: Path) -> None:
        if after and str(path).endswith(after):
            os.kill(os.getpid(), signal.SIGKILL)

    return on_write


def weights(out: Path) -> str:
    """Hash of the weights, optimizer state and average that the finished run left."""
    folder = out / "checkpoints" / f"step-{STEPS:08d}"
    digest = hashlib.sha256()
    for stem in ("model", "optimizer", "ema"):
        digest.update((folder / f"{stem}.safetensors").read_bytes())
    return digest.hexdigest()


def main(work: Path, seed: int) -> None:
    torch.set_num_threads(1)
    chance = random.Random(seed)
    importlib.import_module("torch.utils.tensorboard")  # once, here, rather than in every child
    assert one_life(work / "whole") == 0
    print(json.dumps({"killed": "never", "sha256": weights(work / "whole")}))
    places = [Place(step=chance.randrange(STEPS)) for _ in range(4)]
    names = ("model.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json", "manifest.json", "")
    places += [Place(after=f"step-{chance.randrange(3, STEPS, 3):08d}/{name}".rstrip("/")) for name in names]
    places += [Place(after=f"step-{STEPS:08d}/state.json"), Place(after=f"step-{STEPS:08d}")]
    for index, place in enumerate(places):
        out = work / str(index)
        status = one_life(out, place)
        assert os.WIFSIGNALED(status), place
        assert os.WTERMSIG(status) == signal.SIGKILL, place
        assert one_life(out) == 0, place
        print(json.dumps({"killed": place._asdict(), "sha256": weights(out)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
