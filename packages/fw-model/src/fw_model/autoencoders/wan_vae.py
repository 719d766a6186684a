"""The learned video autoencoder of Wan2.1: the weights of diffusers' ``AutoencoderKLWan``, latents normalized.

Encoding runs in float32, because a bf16 error in the conditioning image moves the whole sample; decoding may run in
bf16, which changes nothing one can see. diffusers is imported when a VAE is made, not with this module.

Axes: b batch, F frames, H W pixels, c latent channels, f latent frames, h = H / 8, w = W / 8.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fw_model.autoencoders.base import check_video_shape
from fw_model.autoencoders.tiles import blend_tiles
from fw_model.autoencoders.wan_vae_layers import Memory, pointwise, run_decoder, run_encoder
from fw_model.checkpoints.sources import load_tensors, locate
from fw_model.convert.layouts import vae_to_diffusers
from fw_model.layers.float32 import without_autocast

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
SPATIAL_FACTOR = 8
TEMPORAL_FACTOR = 4


class WanVAE(nn.Module):
    """Encode and decode with ``AutoencoderKLWan``; latents are ``(mode - mean) / std`` with the VAE's own constants.

    Args:
        vae: the diffusers module. It is taken over: memory format and precision are set on it.
        decode_dtype: precision of the decoder; None takes bfloat16 on a GPU and float32 elsewhere.

    Raises:
        ValueError: a VAE of another build (Wan2.2's 5B model has one with 16 x 16 pixels per latent).
    """

    def __init__(self, vae: "AutoencoderKLWan", *, decode_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        if vae.config.get("is_residual") or vae.config.get("patch_size") is not None:
            raise ValueError(
                "This is the VAE of Wan2.2's 5B model (residual, patched); the models here use Wan2.1's, which all "
                "14B and 1.3B releases come with."
            )
        self.vae = vae
        self.decode_dtype = decode_dtype
        self.tiling: tuple[int, int] | None = None
        for module in vae.modules():
            if isinstance(module, nn.Conv3d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
        self.latent_channels = int(vae.config["z_dim"])
        self.register_buffer("mean", torch.tensor(vae.config["latents_mean"]), persistent=False)
        self.register_buffer("std", torch.tensor(vae.config["latents_std"]), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    @torch.no_grad()
    def encode(self, video: Float[Tensor, "b 3 F H W"]) -> Float[Tensor, "b c f h w"]:
        """Video in [-1, 1] to normalized latents, float32, without gradients.

        Raises:
            ValueError: frames not 4 n + 1, or sides not multiples of 8.
        """
        check_video_shape(*video.shape[2:])
        with self._precision([self.vae.encoder, self.vae.quant_conv], torch.float32), without_autocast(video):
            mode = self._tiled(video.float(), self._encode_clip, numerator=1, denominator=SPATIAL_FACTOR)
        return (mode - self._channels(self.mean)) / self._channels(self.std)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b 3 F H W"]:
        """Normalized latents to video, clamped to [-1, 1], float32, without gradients."""
        dtype = self.decode_dtype or (torch.bfloat16 if latents.device.type == "cuda" else torch.float32)
        raw = latents.float() * self._channels(self.std) + self._channels(self.mean)
        with self._precision([self.vae.decoder, self.vae.post_quant_conv], dtype), without_autocast(latents):
            video = self._tiled(raw.to(dtype), self._decode_clip, numerator=SPATIAL_FACTOR, denominator=1)
        return video.clamp_(-1, 1)

    def set_tiling(self, enabled: bool, *, tile: int = 256, stride: int = 192) -> None:
        """Work on overlapping tiles of ``tile`` pixels every ``stride`` pixels, blended where they overlap.

        Less memory, slightly different results: a tile does not see pixels outside of it. Images that fit into one
        tile are not affected.

        Raises:
            ValueError: sizes that are not multiples of 8, or a stride that is not between 8 and the tile's size.
        """
        if tile % SPATIAL_FACTOR or stride % SPATIAL_FACTOR or not SPATIAL_FACTOR <= stride <= tile:
            raise ValueError(
                f"VAE tiles need a size and a stride that are multiples of {SPATIAL_FACTOR} pixels, the stride not "
                f"larger than the tile; got tile={tile}, stride={stride}. Use 256 and 192 for example."
            )
        self.tiling = (tile, stride) if enabled else None

    def _encode_clip(self, video: Tensor) -> Tensor:
        memory: Memory = {}
        chunks = [video[:, :, :1], *video[:, :, 1:].split(TEMPORAL_FACTOR, dim=2)]
        parts = [run_encoder(self.vae.encoder, self._laid_out(c), memory) for c in chunks if c.shape[2]]
        return pointwise(self.vae.quant_conv, torch.cat(parts, dim=2))[:, : self.latent_channels]

    def _decode_clip(self, latents: Tensor) -> Tensor:
        memory: Memory = {}
        raw = pointwise(self.vae.post_quant_conv, self._laid_out(latents))
        batch, _, frames, rows, columns = raw.shape
        count = TEMPORAL_FACTOR * (frames - 1) + 1
        video = raw.new_empty(batch, 3, count, SPATIAL_FACTOR * rows, SPATIAL_FACTOR * columns, dtype=torch.float32)
        done = 0
        for latent in raw.split(1, dim=2):
            part = run_decoder(self.vae.decoder, self._laid_out(latent), memory)
            video[:, :, done : done + part.shape[2]] = part
            done += part.shape[2]
        return video

    def _tiled(self, x: Tensor, run: Callable[[Tensor], Tensor], *, numerator: int, denominator: int) -> Tensor:
        if self.tiling is None:
            return run(x)
        tile, stride = (size * denominator // SPATIAL_FACTOR for size in self.tiling)
        return blend_tiles(x, run, tile=tile, stride=stride, numerator=numerator, denominator=denominator)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write ``folder/vae/`` in diffusers' layout (float32)."""
        self.vae.float().save_pretrained(folder / "vae")
        return {"kind": "wan_vae", "folder": "vae"}

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> "WanVAE":
        """Load from a folder in diffusers' layout, a ``Wan2.1_VAE.safetensors`` in either layout, or a hub id.

        Raises:
            ValueError: nothing is there, it is a pickle (run ``fw convert`` on it first), or its tensors are not a
                Wan VAE's.
        """

        path = locate(source, weights=WEIGHTS_NAME)
        config_path = path.parent / "config.json"
        config = json.loads(config_path.read_text()) if config_path.is_file() else {}
        state = vae_to_diffusers(load_tensors(path))
        vae = build_vae(**{key: value for key, value in config.items() if not key.startswith("_")})
        _load_strict(vae, state, path)
        return cls(vae, **options)

    @classmethod
    def small(cls, *, seed: int = 0, base_dim: int = 8, **options: Any) -> "WanVAE":
        """A small VAE of the same shape with random weights, for tests and as the start of a small training."""
        vae = build_vae(base_dim=base_dim, dim_mult=[1, 2, 2, 2], num_res_blocks=1)
        vae.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in vae.named_parameters():
                if name.endswith("gamma"):
                    parameter.fill_(1.0)
                elif name.endswith("bias"):
                    parameter.zero_()
                else:
                    fan_in = parameter[0].numel()
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(noise * fan_in**-0.5)
        return cls(vae, **options)

    def _laid_out(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last_3d)

    @contextmanager
    def _precision(self, modules: list[nn.Module], dtype: torch.dtype) -> Iterator[None]:
        """Run modules in another precision; their weights are kept and restored, so that `save` writes them exactly."""
        parameters = [p for module in modules for p in module.parameters() if p.dtype != dtype]
        kept = [parameter.data for parameter in parameters]
        try:
            for parameter in parameters:
                parameter.data = parameter.data.to(dtype)
            yield
        finally:
            for parameter, data in zip(parameters, kept, strict=True):
                parameter.data = data

    def _channels(self, values: Tensor) -> Tensor:
        return rearrange(values, "c -> c 1 1 1")


def build_vae(**config: Any) -> "AutoencoderKLWan":
    """An ``AutoencoderKLWan`` on the meta device (its weights still to be filled); Wan2.1's own sizes by default."""
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        return AutoencoderKLWan(**config).eval()


def _load_strict(vae: "AutoencoderKLWan", state: dict[str, Tensor], path: Path) -> None:
    wanted = {key: tuple(value.shape) for key, value in vae.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    wrong = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if wrong:
        raise ValueError(
            f"{path} does not hold this Wan VAE: {len(wrong)} of {len(wanted)} tensors differ, first "
            f"{wrong[0]!r}: expected {wanted.get(wrong[0])}, found {found.get(wrong[0])}. "
            "Put the VAE's config.json beside the file if it is not of Wan2.1's size."
        )
    vae.load_state_dict({key: value.float() for key, value in state.items()}, strict=True, assign=True)
