"""Flow matching: the noise schedule, noising and its target, and the random draws of training.

A latent at noise level sigma is ``x = (1 - sigma) * x0 + sigma * noise``; the network predicts ``noise - x0`` at
timestep ``t = 1000 * sigma``. The sigma grid is a uniform one bent by ``shift`` towards high noise, as in the Wan
release. Every random number is a pure function of (seed, step, sample), so a run can stop, resume or change its
world size and still see the same noise.

Axes: b batch, n denoising steps, and ``*shape`` for whatever a latent is made of.
"""

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from fw_model.sampling.choices import TRAIN_STEPS, check_timesteps

TimestepRounding = Literal["none", "bf16"]


@dataclass(frozen=True, kw_only=True)
class FlowSchedule:
    """The sigmas of one sampling run: ``sigma = shift * s / (1 + (shift - 1) * s)`` on a grid of s.

    The grid is uniform, or ``listed / 1000`` for a model that was distilled to a few given steps.
    """

    steps: int = 50
    """Number of network evaluations (per guidance branch)."""
    shift: float = 5.0
    """How far the grid is bent towards high noise; 1 leaves it uniform. Wan: 5, or 3 for 480p image-to-video."""
    strength: float = 1.0
    """Where on the unbent grid to start, in (0, 1]; 1 starts from pure noise."""
    listed: tuple[float, ...] | None = None
    """Timesteps of a list, before the shift, falling, in (0, 1000]; as many as ``steps``."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"FlowSchedule needs at least one step, got steps={self.steps}.")
        if not self.shift > 0:
            raise ValueError(f"FlowSchedule.shift must be positive (Wan uses 3 or 5), got {self.shift}.")
        if not 0 < self.strength <= 1:
            raise ValueError(f"FlowSchedule.strength must be in (0, 1], got {self.strength}.")
        if self.listed is not None:
            check_timesteps(self.listed)
            if len(self.listed) != self.steps or self.strength != 1:
                raise ValueError(
                    f"FlowSchedule: {len(self.listed)} listed timesteps need steps={len(self.listed)} and strength 1."
                )

    @property
    def sigmas(self) -> Float[Tensor, "n1"]:
        """The ``steps + 1`` noise levels, falling, float32; the last one is exactly 0."""
        if self.listed is None:
            grid = torch.linspace(self.strength, 0.0, self.steps + 1)[:-1]
        else:
            grid = torch.tensor(self.listed, dtype=torch.float32) / TRAIN_STEPS
        return torch.cat([shift_sigma(grid, self.shift), grid.new_zeros(1)])

    @property
    def timesteps(self) -> Float[Tensor, "n"]:
        """Timestep input of the network at each step: ``1000 * sigma``, float32."""
        return self.sigmas[:-1] * TRAIN_STEPS


def shift_sigma(sigma: Float[Tensor, "*shape"], shift: float) -> Float[Tensor, "*shape"]:
    """Bend uniform noise levels towards high noise (Esser et al. 2024, eq. 23, in the Wan form)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def round_timestep(timestep: Float[Tensor, "*shape"], rounding: str) -> Float[Tensor, "*shape"]:
    """Pass t through bfloat16 for "bf16", leave it for "none". The released weights saw rounded t (92.59 as 92.5)."""
    if rounding == "bf16":
        return timestep.to(torch.bfloat16).to(timestep.dtype)
    if rounding == "none":
        return timestep
    raise ValueError(f"timestep_rounding must be 'none' or 'bf16', got {rounding!r}.")


def add_noise(
    clean: Float[Tensor, "b *shape"], noise: Float[Tensor, "b *shape"], sigma: Float[Tensor, "b"]
) -> Float[Tensor, "b *shape"]:
    """``(1 - sigma) * clean + sigma * noise``, one sigma per item of the batch."""
    level = _per_item(sigma, clean)
    return (1 - level) * clean + level * noise


def flow_target(clean: Float[Tensor, "b *shape"], noise: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
    """The velocity to predict: ``noise - clean``."""
    return noise - clean


def euler_step(
    latents: Float[Tensor, "*shape"], velocity: Float[Tensor, "*shape"], sigma: float, sigma_next: float
) -> Float[Tensor, "*shape"]:
    """One Euler step of the flow: ``x + v * (sigma_next - sigma)``."""
    return latents + velocity * (sigma_next - sigma)


def guide(
    conditional: Float[Tensor, "*shape"], unconditional: Float[Tensor, "*shape"], scale: float
) -> Float[Tensor, "*shape"]:
    """Classifier-free guidance: ``v_neg + scale * (v_pos - v_neg)``."""
    return unconditional + scale * (conditional - unconditional)


# --- random numbers -------------------------------------------------------------------------------------------------


def counter_generator(seed: int, step: int, sample: int, stream: str = "noise") -> torch.Generator:
    """A CPU generator that is a pure function of its four arguments; streams with other names are independent."""
    packed = struct.pack("<qqq", seed, step, sample) + stream.encode()
    digest = hashlib.blake2b(packed, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def counter_noise(
    seed: int,
    step: int,
    sample: int,
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "..."]:
    """Standard normal noise for one sample of one step, the same numbers on every device (drawn on the CPU in fp32)."""
    noise = torch.randn(tuple(shape), generator=counter_generator(seed, step, sample), dtype=torch.float32)
    return noise.to(device=device, dtype=dtype)


def counter_uniform(seed: int, step: int, sample: int, stream: str) -> float:
    """One number in [0, 1) for a named purpose, e.g. whether to drop the text of this sample."""
    return float(torch.rand((), generator=counter_generator(seed, step, sample, stream), dtype=torch.float64))


# --- training -------------------------------------------------------------------------------------------------------


class TrainingGrid(NamedTuple):
    """The official 1000-step training table, highest noise first."""

    sigmas: Float[Tensor, "n"]
    timesteps: Float[Tensor, "n"]
    weights: Float[Tensor, "n"]


@lru_cache(maxsize=8)
def training_grid(shift: float = 5.0) -> TrainingGrid:
    """Sigmas, timesteps and the bell-shaped loss weights of the official training scheduler.

    ``weight = (y - min y) * 1000 / sum(y - min y)`` with ``y = exp(-2 ((t - 500) / 1000)^2)``: mean 1, 0 at t = 1000.
    """
    schedule = FlowSchedule(steps=TRAIN_STEPS, shift=shift)
    timesteps = schedule.timesteps
    bell = torch.exp(-2 * ((timesteps - TRAIN_STEPS / 2) / TRAIN_STEPS) ** 2)
    bell = bell - bell.min()
    return TrainingGrid(schedule.sigmas[:-1], timesteps, bell * (TRAIN_STEPS / bell.sum()))


def nearest_grid_index(timestep: Float[Tensor, "b"], shift: float = 5.0) -> Int[Tensor, "b"]:
    """Index of the training-grid entry closest to each timestep (the release snaps off-grid timesteps so)."""
    grid = training_grid(shift).timesteps
    return (grid - rearrange(timestep.cpu().float(), "b -> b 1")).abs().argmin(dim=1)


class TrainingTimes(NamedTuple):
    """Noise levels drawn for a batch: timestep = 1000 sigma, and the flow loss weight of each item."""

    timestep: Float[Tensor, "b"]
    sigma: Float[Tensor, "b"]
    weight: Float[Tensor, "b"]


@dataclass(frozen=True, kw_only=True)
class TimestepSampler:
    """How training noise levels are drawn."""

    scheme: Literal["grid", "uniform", "logit_normal", "mode"] = "grid"
    """grid: uniform over the official 1000-step table. The others draw s in (0, 1) and then apply the shift."""
    shift: float = 5.0
    """The schedule shift; 5 puts 36 % of draws above t = 900."""
    weighting: Literal["none", "bell"] = "none"
    """none: every level counts the same. bell: the official bell-shaped weights (looked up at the nearest entry)."""
    logit_mean: float = 0.0
    """logit_normal: mean of logit(s)."""
    logit_std: float = 1.0
    """logit_normal: standard deviation of logit(s)."""
    mode_scale: float = 1.29
    """mode: how strongly the middle is preferred (Esser et al. 2024, eq. 20)."""
    min_timestep: float = 0.0
    """Lowest t to draw, exclusive unless 0: the low boundary of one expert of a two-expert model."""
    max_timestep: float = 1000.0
    """Highest t to draw, inclusive."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_timestep < self.max_timestep <= TRAIN_STEPS:
            raise ValueError(
                f"TimestepSampler needs 0 <= min_timestep < max_timestep <= 1000, "
                f"got {self.min_timestep} and {self.max_timestep}."
            )

    def draw(self, seed: int, step: int, samples: Sequence[int]) -> TrainingTimes:
        """Noise levels for the given sample ids at one training step, on the CPU in float32."""
        uniform = [counter_uniform(seed, step, sample, "timestep") for sample in samples]
        sigma = torch.tensor(self._sigma_of(uniform), dtype=torch.float32)
        timestep = sigma * TRAIN_STEPS
        if self.weighting == "bell":
            weight = training_grid(self.shift).weights[nearest_grid_index(timestep, self.shift)]
        else:
            weight = torch.ones_like(sigma)
        return TrainingTimes(timestep, sigma, weight)

    def _sigma_of(self, uniform: list[float]) -> list[float]:
        """Noise levels from numbers in [0, 1): the inverse distribution, truncated to the timestep bounds."""
        low, high = self.min_timestep / TRAIN_STEPS, self.max_timestep / TRAIN_STEPS
        if self.scheme == "grid":
            sigmas = training_grid(self.shift).sigmas
            inside = sigmas[(sigmas > low) & (sigmas <= high)]
            if len(inside) == 0:
                raise ValueError(f"No entry of the training grid is in ({self.min_timestep}, {self.max_timestep}].")
            return [float(inside[int(u * len(inside))]) for u in uniform]
        # bounds on the unbent grid, so that truncation keeps the density between them
        low, high = (x / (self.shift - (self.shift - 1) * x) for x in (low, high))
        below, above = self._cumulative(low), self._cumulative(high)
        s = torch.tensor([self._quantile(below + u * (above - below)) for u in uniform], dtype=torch.float64)
        return shift_sigma(s.clamp(low, high), self.shift).tolist()

    def _quantile(self, p: float) -> float:
        if self.scheme == "uniform":
            return p
        if self.scheme == "logit_normal":
            normal = torch.special.ndtri(torch.tensor(p, dtype=torch.float64))
            return float(torch.sigmoid(normal * self.logit_std + self.logit_mean))
        return 1 - p - self.mode_scale * (math.cos(math.pi * p / 2) ** 2 - 1 + p)

    def _cumulative(self, s: float) -> float:
        """Probability below s: the inverse of ``_quantile``."""
        if self.scheme == "uniform":
            return s
        if self.scheme == "logit_normal":
            logit = torch.logit(torch.tensor(s, dtype=torch.float64))
            return float(torch.special.ndtr((logit - self.logit_mean) / self.logit_std))
        low, high = 0.0, 1.0
        falling = self._quantile(0.0) > self._quantile(1.0)
        for _ in range(60):
            middle = (low + high) / 2
            if (self._quantile(middle) > s) == falling:
                low = middle
            else:
                high = middle
        return (low + high) / 2


# --- helpers --------------------------------------------------------------------------------------------------------


def _per_item(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like).reshape(-1, *([1] * (like.ndim - 1)))
