"""Distillation to a few steps: windows of noise levels, and the teacher's way through one.

The steps of the result divide the noise levels into windows. Within a window the teacher, the model without the trained
adapters, takes many Euler steps from a noisy clip; the student learns the one step that ends at the same point. Windows
start from noisy clips of the data as in piecewise rectified flow (Yan et al. 2024, section 3.1), and the target is that
of progressive distillation (Salimans & Ho 2022, section 3) with more than two steps at once.

Axes: b batch, n substeps, and ``*shape`` for whatever a latent is made of.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from fw_model.sampling.choices import TRAIN_STEPS
from fw_model.sampling.flow import FlowSchedule, TrainingTimes, counter_uniform, shift_sigma
from fw_train.config.schema import DistillConfig


@dataclass(frozen=True, kw_only=True)
class NoiseWindow:
    """The teacher's way through the window of each sample of a batch."""

    sigmas: Float[Tensor, "b n1"]
    """Noise levels of the teacher's steps, falling: the start of the window, ..., its end."""
    empty: Float[Tensor, "b t d"] | None
    """Embedding of the empty caption, for guidance; None without guidance."""
    guidance_scale: float
    """Classifier-free guidance of the teacher."""


class WindowSampler:
    """Draws windows with equal probability.

    Args:
        config: number of windows, and of the teacher's steps in each.
        shift: of the noise schedule towards high noise, as in generation.
    """

    def __init__(self, config: DistillConfig, shift: float) -> None:
        self.config, self.shift = config, shift
        self.starts: list[float] = FlowSchedule(steps=config.steps, shift=shift).sigmas[:-1].tolist()

    def draw(self, seed: int, step: int, samples: Sequence[int]) -> TrainingTimes:
        """Starts of windows for the given sample ids at one training step; every sample has weight 1."""
        drawn = [self.starts[int(len(self.starts) * counter_uniform(seed, step, one, "window"))] for one in samples]
        sigma = torch.tensor(drawn, dtype=torch.float32)
        return TrainingTimes(sigma * TRAIN_STEPS, sigma, torch.ones_like(sigma))

    @property
    def guided(self) -> bool:
        """Whether the teacher needs the empty caption."""
        return self.config.guidance_scale != 1

    def window(self, sigma: Float[Tensor, " b"], empty: Float[Tensor, "b t d"] | None) -> NoiseWindow:
        """The windows that start at the given noise levels, on their device; `empty` is read if `guided`."""
        count = self.config.steps
        place = torch.stack([(sigma - start).abs() for start in self.starts]).argmin(dim=0)
        within = torch.arange(self.config.teacher_steps + 1, device=sigma.device) / self.config.teacher_steps
        unbent = 1 - (place[:, None] + within) / count
        return NoiseWindow(
            sigmas=shift_sigma(unbent, self.shift),
            empty=empty if self.guided else None,
            guidance_scale=self.config.guidance_scale,
        )


def window_velocity(
    velocity: Callable[[Float[Tensor, "b *shape"], Float[Tensor, " b"]], Float[Tensor, "b *shape"]],
    start: Float[Tensor, "b *shape"],
    sigmas: Float[Tensor, "b n1"],
) -> Float[Tensor, "b *shape"]:
    """The constant velocity that leads from `start` to the end of the Euler steps along `velocity`.

    Args:
        velocity: of the teacher, at latents and noise levels.
        start: latents at the noise levels ``sigmas[:, 0]``.
        sigmas: noise levels of the steps, falling.
    """
    latents = start
    levels = sigmas.to(start.dtype).unbind(dim=1)
    sides = [1] * (start.ndim - 1)
    for here, there in pairwise(levels):
        step = (there - here).view(-1, *sides)
        latents = latents + velocity(latents, here) * step
    return (latents - start) / (levels[-1] - levels[0]).view(-1, *sides)
