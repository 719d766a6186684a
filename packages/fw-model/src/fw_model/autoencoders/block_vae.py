"""A small learned video autoencoder at the latent size of the Wan VAE, cheap enough to train on two CPU cores.

All of its layers work on the latent grid (a position covers 8 x 8 pixels of the first frame, or of four later
ones), where a clip has a 768th of its numbers. Encoder and decoder are each the sum of a linear map per block, which
starts as ``BlockDCT``, and of a residual network that starts at zero: an untrained BlockVAE is BlockDCT exactly, and
training can only improve on it. Everything is causal in time, as in the Wan VAE: a frame's latent depends on no later
frame, so the first image alone has the latent that it has in a clip.

Axes: b batch, F frames, H W pixels, f latent frames, h = H / 8, w = W / 8, c channels of the residual networks.
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fw_core.files import write_text
from fw_model.autoencoders.base import check_video_shape
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.checkpoints.weights import SHARD_BYTES, save_weights
from fw_model.layers.modulation import RMSNorm

FIRST_VALUES, LATER_VALUES = 3 * 8 * 8, 3 * 4 * 8 * 8
"""Numbers in a block of the first frame, and of four later frames."""


class BlockVAE(nn.Module):
    """Encoder and decoder; latents are ``(raw - mean) / std`` with constants measured after training.

    Args:
        width: channels of the residual networks.
        encoder_blocks: residual blocks of the encoder.
        decoder_blocks: residual blocks of the decoder.
    """

    latent_channels = 16

    def __init__(self, *, width: int = 128, encoder_blocks: int = 4, decoder_blocks: int = 6) -> None:
        super().__init__()
        self.shape = {"width": width, "encoder_blocks": encoder_blocks, "decoder_blocks": decoder_blocks}
        dct = BlockDCT()
        self.encode_first = nn.Parameter(dct.first / dct.first_scale[:, None])
        self.encode_later = nn.Parameter(dct.rest / dct.rest_scale[:, None])
        self.decode_first = nn.Parameter(dct.first * dct.first_scale[:, None])
        self.decode_later = nn.Parameter(dct.rest * dct.rest_scale[:, None])
        self.encoder_in_first = nn.Linear(FIRST_VALUES, width)
        self.encoder_in_later = nn.Linear(LATER_VALUES, width)
        self.encoder = nn.Sequential(*(CausalBlock(width) for _ in range(encoder_blocks)))
        self.encoder_out = _zero(nn.Linear(width, self.latent_channels))
        self.decoder_in = nn.Linear(self.latent_channels, width)
        self.decoder = nn.Sequential(*(CausalBlock(width) for _ in range(decoder_blocks)))
        self.decoder_out_first = _zero(nn.Linear(width, FIRST_VALUES))
        self.decoder_out_later = _zero(nn.Linear(width, LATER_VALUES))
        self.register_buffer("mean", torch.zeros(self.latent_channels))
        self.register_buffer("std", torch.ones(self.latent_channels))
        self.mean: Tensor
        self.std: Tensor

    @torch.no_grad()
    def encode(self, video: Float[Tensor, "b 3 F H W"]) -> Float[Tensor, "b 16 f h w"]:
        """Video in [-1, 1] to normalized latents, float32, without gradients.

        Raises:
            ValueError: frames not 4 n + 1, or sides not multiples of 8.
        """
        check_video_shape(*video.shape[2:])
        raw = self.analyze(video.float())
        return rearrange((raw - self.mean) / self.std, "b f h w c -> b c f h w")

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b 16 f h w"]) -> Float[Tensor, "b 3 F H W"]:
        """Normalized latents to video, clamped to [-1, 1], float32, without gradients."""
        raw = rearrange(latents.float(), "b c f h w -> b f h w c") * self.std + self.mean
        return self.synthesize(raw).clamp_(-1, 1)

    def analyze(self, video: Float[Tensor, "b 3 F H W"]) -> Float[Tensor, "b f h w 16"]:
        """Video to raw latents, with gradients."""
        first, later = _blocks(video[:, :, :1], 1), _blocks(video[:, :, 1:], 4)
        linear = torch.cat([first @ self.encode_first.T, later @ self.encode_later.T], dim=1)
        features = torch.cat([self.encoder_in_first(first), self.encoder_in_later(later)], dim=1)
        return linear + self.encoder_out(self.encoder(features))

    def synthesize(self, raw: Float[Tensor, "b f h w 16"]) -> Float[Tensor, "b 3 F H W"]:
        """Raw latents to video, with gradients, not clamped."""
        features = self.decoder(self.decoder_in(raw))
        first = raw[:, :1] @ self.decode_first + self.decoder_out_first(features[:, :1])
        later = raw[:, 1:] @ self.decode_later + self.decoder_out_later(features[:, 1:])
        return torch.cat([_pixels(first, 1), _pixels(later, 4)], dim=2)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write ``vae/config.json`` and ``vae/model.safetensors``."""
        out = folder / "vae"
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "config.json", json.dumps(self.shape, indent=1) + "\n")
        save_weights(out, self.state_dict(), dtype=None, shard_bytes=SHARD_BYTES)
        return {"kind": "block_vae", "folder": "vae"}

    @classmethod
    def from_pretrained(cls, folder: Path) -> "BlockVAE":
        """The autoencoder that `save` wrote into `folder`; weights of half precision are widened to float32.

        Raises:
            FileNotFoundError: a file is missing.
            RuntimeError: the weights are not those of this network.
        """
        from safetensors.torch import load_file

        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder / name} is missing: this is not a folder that BlockVAE.save wrote.")
        vae = cls(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
        vae.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
        return vae.requires_grad_(False)


class CausalBlock(nn.Module):
    """x + temporal(silu(spatial(norm(x)))): 3 x 3 positions, then this latent frame and the two before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width, torch.finfo(torch.float32).eps)
        self.spatial = nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate")
        self.temporal = nn.Linear(3 * width, width)

    def forward(self, x: Float[Tensor, "b f h w c"]) -> Float[Tensor, "b f h w c"]:
        """Mix positions, then latent frames."""
        frames = rearrange(self.norm(x), "b f h w c -> (b f) c h w")
        hidden = F.silu(self.spatial(frames))
        hidden = rearrange(hidden, "(b f) c h w -> b f h w c", f=x.shape[1])
        before = F.pad(hidden, (0, 0, 0, 0, 0, 0, 2, 0))
        return x + self.temporal(torch.cat([before[:, :-2], before[:, 1:-1], hidden], dim=-1))


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _blocks(video: Tensor, frames: int) -> Tensor:
    return rearrange(video, "b c (f t) (h p) (w q) -> b f h w (c t p q)", t=frames, p=8, q=8)


def _pixels(blocks: Tensor, frames: int) -> Tensor:
    return rearrange(blocks, "b f h w (c t p q) -> b c (f t) (h p) (w q)", c=3, t=frames, p=8, q=8)
