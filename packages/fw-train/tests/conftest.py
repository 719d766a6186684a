"""A task of its own for the loop's tests: linear regression with counter-based noise, small enough for many runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fw_model.flow import counter_noise
from fw_train.config import Cadence, OptimConfig, TrainConfig
from fw_train.sampler import Draw


class Regression:
    """Learns y = A x from noisy inputs; `poison` makes the loss of one step NaN."""

    clips = 10

    def __init__(self, seed: int = 0, poison: int = -1) -> None:
        generator = torch.Generator().manual_seed(100)
        self.truth = torch.randn(3, 6, generator=generator)
        self.inputs = torch.randn(self.clips, 6, generator=generator)
        self.module: nn.Module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        self.module.requires_grad_(True)
        start = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=start))
        self.seed, self.poison = seed, poison
        self.identity: Mapping[str, str] = {"config": "c", "dataset": "d"}

    def loss(self, step: int, draws: Sequence[Draw]) -> Mapping[str, Tensor]:
        noise = torch.stack([counter_noise(self.seed, step, d.slot, (6,)) for d in draws])
        x = self.inputs[[d.clip for d in draws]] + 0.1 * noise
        error = (self.module(x) - x @ self.truth.T).square().mean()
        return {"loss": error * (float("nan") if step == self.poison else 1.0), "loss/error": error}

    def validate(self) -> Mapping[str, float]:
        return {"loss": float((self.module(self.inputs) - self.inputs @ self.truth.T).square().mean())}

    def describe(self, draw: Draw) -> str:
        return f"clip-{draw.clip}"


@pytest.fixture
def regression() -> type[Regression]:
    return Regression


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """24 steps of four samples with a checkpoint every five and an average of the weights."""
    return TrainConfig(
        steps=24,
        batch=4,
        out=tmp_path / "run",
        optim=OptimConfig(lr=0.02, warmup=3, ema=0.9, schedule="cosine"),
        every=Cadence(log=4, validate=12, checkpoint=5, keep=2),
    )
