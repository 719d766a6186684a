"""One request of `WorldPipeline.generate`: checked, then with its inputs encoded.

Axes: c channels, f latent frames, y x latent rows and columns, F frames, H W pixels, l tokens, e width.
"""

from dataclasses import dataclass

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
