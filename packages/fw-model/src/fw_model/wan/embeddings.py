"""Input embeddings of the video blocks, and the output head that maps tokens to velocity.

Axes: b batch, c channels, f latent frames, y x latent rows and columns, h w token rows and columns, l = f h w tokens
(column fastest), d width, t text tokens, i image tokens.
"""

from collections.abc import Mapping

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fw_model.config import PATCH, VideoConfig
from fw_model.layers.declarations import EMBEDDING, TORCH_DEFAULT, XAVIER, ZERO, Declares, Fill, Layer, table
from fw_model.layers.modulation import TimeEmbedding, layer_norm, modulate
from fw_model.wan.blocks import ContextTokens
from fw_model.wan.control_adapter import ControlAdapter

_CLIP_EPS = 1e-5


class WanEmbeddings(nn.Module, Declares):
    """Patch, text, image and time embeddings, the optional control adapter, and the output head of the Wan backbone."""

    group = "video"
    part = "embeddings, video head"

    def __init__(self, config: VideoConfig, rounding: str = "none") -> None:
        super().__init__()
        dim = config.dim
        self.patch_embedding = nn.Conv3d(config.in_dim, dim, kernel_size=PATCH, stride=PATCH)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time = TimeEmbedding(config.freq_dim, dim, rows=6, rounding=rounding)
        self.image_embedding = None if config.clip_dim is None else image_embedding(config.clip_dim, dim)
        self.control_adapter = _control_adapter(config)
        self.head = OutputHead(dim, config.out_dim * PATCH[0] * PATCH[1] * PATCH[2], config.eps)

    def initial_values(self) -> Mapping[str, Fill | Layer]:
        """A new head predicts zero."""
        return {
            "patch_embedding": XAVIER,
            "text_embedding": EMBEDDING,
            "time": EMBEDDING,
            "image_embedding": TORCH_DEFAULT,
            "head.modulation": table(),
            "head.head": ZERO,
        }

    def embed_context(self, text: Float[Tensor, "b t text"], image: Float[Tensor, "b i clip"] | None) -> ContextTokens:
        """Embed the text encoder's output and the CLIP tokens."""
        embedded = None if image is None or self.image_embedding is None else self.image_embedding(image)
        return ContextTokens(self.text_embedding(text), embedded)

    def embed_latents(
        self, latents: Float[Tensor, "b c f y x"], control: Float[Tensor, "b d f h w"] | None
    ) -> Float[Tensor, "b l d"]:
        """Cut latents (with their conditioning channels) into tokens; add the control adapter's output."""
        patches = self.patch_embedding(latents)
        if control is not None:
            patches = patches + control
        return rearrange(patches, "b d f h w -> b (f h w) d")


class OutputHead(nn.Module):
    """Modulated LayerNorm and a linear layer to one patch per token: row, column, channel, channel fastest."""

    def __init__(self, dim: int, out: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.head = nn.Linear(dim, out)
        self.modulation = nn.Parameter(torch.zeros(1, 2, dim))

    def forward(self, x: Float[Tensor, "b l d"], time: Float[Tensor, "b d"]) -> Float[Tensor, "b l out"]:
        """Apply to the tokens of the last block."""
        shift, scale = (self.modulation.float() + time[:, None]).unbind(1)
        return self.head(modulate(layer_norm(x, self.eps), shift, scale).to(x.dtype))


def _control_adapter(config: VideoConfig) -> ControlAdapter | None:
    if config.control_dim is None:
        return None
    return ControlAdapter(config.control_dim, config.dim, pooled=config.control_pooled)


def image_embedding(clip_dim: int, dim: int) -> nn.Sequential:
    """CLIP tokens to the video width: norm, linear, exact GELU, linear, norm."""
    return nn.Sequential(
        nn.LayerNorm(clip_dim, eps=_CLIP_EPS),
        nn.Linear(clip_dim, clip_dim),
        nn.GELU(),
        nn.Linear(clip_dim, dim),
        nn.LayerNorm(dim, eps=_CLIP_EPS),
    )


def unpatchify(tokens: Float[Tensor, "b l out"], frames: int, rows: int, columns: int) -> Float[Tensor, "b c f y x"]:
    """Put the patches of the output head back into a latent video."""
    return rearrange(
        tokens,
        "b (f h w) (p q r c) -> b c (f p) (h q) (w r)",
        f=frames,
        h=rows,
        w=columns,
        p=PATCH[0],
        q=PATCH[1],
        r=PATCH[2],
    )
