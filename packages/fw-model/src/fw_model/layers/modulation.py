"""Small parts that the video and the geometry branch share: normalization, modulation, the timestep embedding.

Axes: b batch, l tokens, d width. Whatever is modulated or normalized is computed in float32 and cast back.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fw_core.devices import float64_device
from fw_model.layers.float32 import ExactModule, without_autocast


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Normalize in float32."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        unit = x * torch.rsqrt(length.square() / x.shape[-1] + self.eps)
        return unit.to(x.dtype) * self.weight.to(x.dtype)


class TanhGELU(nn.Module):
    """GELU by its tanh approximation; without gradients it overwrites its input, the widest tensor of a block."""

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Apply to every element."""
        if torch.is_grad_enabled():
            return F.gelu(x, approximate="tanh")
        return torch.ops.aten.gelu_(x, approximate="tanh")


class TimeEmbedding(ExactModule):
    """Sinusoid -> MLP -> (embedding, one row of `rows` modulation vectors per sample), all in float32."""

    def __init__(self, freq_dim: int, dim: int, rows: int, rounding: str = "none") -> None:
        super().__init__()
        self.freq_dim = freq_dim
        self.rows = rows
        self.round_sinusoid = rounding == "bf16"
        self.embed = nn.Sequential(nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.project = nn.Sequential(nn.SiLU(), nn.Linear(dim, rows * dim))

    def forward(self, timestep: Float[Tensor, " b"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b rows d"]]:
        """Embed timesteps on the scale 0..1000."""
        wave = sinusoid(timestep, self.freq_dim)
        if self.round_sinusoid:
            wave = wave.to(torch.bfloat16).float()
        with without_autocast(wave):
            embedding = _float32(self.embed, wave)
            modulation = _float32(self.project, embedding)
        return embedding, modulation.unflatten(-1, (self.rows, -1))


def sinusoid(timestep: Float[Tensor, " b"], width: int) -> Float[Tensor, "b width"]:
    """Cosines, then sines, of t * 10000^(-k / (width/2)); computed in float64, returned in float32."""
    half, device = width // 2, float64_device(timestep.device)
    rate = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
    angles = timestep.to(device).to(torch.float64)[:, None] * rate
    return torch.cat([angles.cos(), angles.sin()], dim=-1).float().to(timestep.device)


def layer_norm(x: Float[Tensor, "*batch d"], eps: float) -> Float[Tensor, "*batch d"]:
    """LayerNorm without parameters, in float32 and left there."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=eps)


def modulate(
    x: Float[Tensor, "b l d"], shift: Float[Tensor, "b d"], scale: Float[Tensor, "b d"]
) -> Float[Tensor, "b l d"]:
    """x (1 + scale) + shift, per sample."""
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


def _float32(layers: nn.Sequential, x: Tensor) -> Tensor:
    for layer in layers:
        if isinstance(layer, nn.Linear):
            bias = None if layer.bias is None else layer.bias.float()
            x = F.linear(x, layer.weight.float(), bias)
        else:
            x = layer(x)
    return x
