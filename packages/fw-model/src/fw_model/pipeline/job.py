"""Requests of `WorldPipeline.generate`: checked, collected into passes, then with their inputs encoded.

Axes: g guidance passes, b samples, c channels, f latent frames, y x latent rows and columns, l tokens, e width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fw_geometry import Trajectory
from fw_model.model.rays import RayMap
from fw_model.pipeline.settings import GenerationSettings, Sampling
from fw_model.sampling.flow import FlowSchedule

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class GenerationJob:
    """A checked request."""

    image: Tensor
    """First frame at the size of the clip, in [-1, 1]."""
    last_image: Tensor | None
    """Last frame, likewise."""
    prompt: str
    """Description of the world."""
    path: Trajectory
    """Camera path at the size of the clip, relative to its first pose."""
    schedule: FlowSchedule
    """Noise levels."""
    sampling: Sampling
    """Size, length and sampler after all defaults."""
    settings: GenerationSettings
    """Settings as given."""
    notes: list[str]
    """Changes to the inputs; encoding adds to it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedInputs:
    """The inputs of one or several requests after the encoders."""

    text: Float[Tensor, "g b l e"]
    """Text embeddings of the prompts, and of the negative prompts under guidance (g is 1 or 2)."""
    clip: Float[Tensor, "b n d"] | None
    """CLIP tokens of the first frame, for models that read them."""
    y: Float[Tensor, "b cy f y x"] | None
    """First-frame condition."""
    plucker: RayMap | None
    """Camera rays."""

    @classmethod
    def stack(cls, samples: Sequence["EncodedInputs"]) -> "EncodedInputs":
        """The inputs of all samples as one batch."""
        if len(samples) == 1:
            return samples[0]
        clips = [sample.clip for sample in samples if sample.clip is not None]
        ys = [sample.y for sample in samples if sample.y is not None]
        rays = [sample.plucker for sample in samples if sample.plucker is not None]
        return cls(
            text=torch.cat([sample.text for sample in samples], dim=1),
            clip=torch.cat(clips) if clips else None,
            y=torch.cat(ys) if ys else None,
            plucker=replace(rays[0], rays=torch.cat([one.rays for one in rays])) if rays else None,
        )

    def to(self, device: torch.device | str) -> "EncodedInputs":
        """On another device."""
        clip, y = (None if part is None else part.to(device) for part in (self.clip, self.y))
        plucker = None if self.plucker is None else self.plucker.to(device)
        return EncodedInputs(text=self.text.to(device), clip=clip, y=y, plucker=plucker)


@dataclass(frozen=True, kw_only=True, eq=False)
class DenoiseRequest:
    """What every process needs to denoise worlds together with others."""

    inputs: EncodedInputs
    """The encoded inputs."""
    shape: tuple[int, ...]
    """Channels, latent frames, rows and columns."""
    seeds: tuple[int, ...]
    """Noise seed of every sample."""
    schedule: FlowSchedule
    """Noise levels."""
    sampling: Sampling
    """Size, length and sampler after all defaults."""
    settings: GenerationSettings
    """Settings as given; of several samples, those of the first."""


class Passes(Generic[T]):
    """Collects jobs that can be denoised together, up to `samples` of them.

    They have the same size, length, noise levels, sampler, guidance scale and coupling. Image, prompts, camera path and
    seed are their own. A job with step reuse is always alone, because its decisions depend on its latents.

    Args:
        samples: most jobs in a pass, at least 1.
    """

    def __init__(self, samples: int) -> None:
        if samples < 1:
            raise ValueError(f"samples_per_pass is {samples}; it must be at least 1")
        self.samples = samples
        self._open: dict[object, list[tuple[T, GenerationJob]]] = {}

    def add(self, label: T, job: GenerationJob) -> list[tuple[T, GenerationJob]]:
        """Add a job; returns a pass that is full now, with the labels given to its jobs, else nothing."""
        if self.samples == 1 or job.settings.easycache is not None:
            return [(label, job)]
        key = (job.schedule, replace(job.sampling, negative_prompt=""), job.settings.cross_branch)
        members = self._open.setdefault(key, [])
        members.append((label, job))
        return self._open.pop(key) if len(members) == self.samples else []

    def rest(self) -> list[list[tuple[T, GenerationJob]]]:
        """The passes that are not full."""
        left = list(self._open.values())
        self._open.clear()
        return left


def host_array(x: Tensor) -> np.ndarray:
    """A tensor as float32 in host memory."""
    return x.float().cpu().numpy()
