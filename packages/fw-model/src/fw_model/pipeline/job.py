"""One request of `WorldPipeline.generate`: checked, then with its inputs encoded.

Axes: c channels, f latent frames, y x latent rows and columns, F frames, H W pixels, l tokens, e width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fw_geometry import Trajectory
from fw_model.model.rays import RayMap
from fw_model.pipeline.settings import GenerationSettings, Sampling
from fw_model.sampling.flow import FlowSchedule


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
    """The inputs of a request after the encoders."""

    text: Float[Tensor, "b l e"]
    """Text embeddings of the prompt, and of the negative prompt under guidance (b is 1 or 2)."""
    clip: Float[Tensor, "1 n d"] | None
    """CLIP tokens of the first frame, for models that read them."""
    y: Float[Tensor, "1 cy f y x"] | None
    """First-frame condition."""
    plucker: RayMap | None
    """Camera rays."""

    def to(self, device: torch.device | str) -> "EncodedInputs":
        """On another device."""
        clip, y = (None if part is None else part.to(device) for part in (self.clip, self.y))
        plucker = None if self.plucker is None else self.plucker.to(device)
        return EncodedInputs(text=self.text.to(device), clip=clip, y=y, plucker=plucker)


@dataclass(frozen=True, kw_only=True, eq=False)
class DenoiseRequest:
    """What every process needs to denoise a world together with others."""

    inputs: EncodedInputs
    """The encoded inputs."""
    shape: tuple[int, ...]
    """Channels, latent frames, rows and columns."""
    schedule: FlowSchedule
    """Noise levels."""
    sampling: Sampling
    """Size, length and sampler after all defaults."""
    settings: GenerationSettings
    """Settings as given."""


def host_array(x: Tensor) -> np.ndarray:
    """The first sample of a batch, as float32 in host memory."""
    return x[0].float().cpu().numpy()
