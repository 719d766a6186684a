"""The learned video autoencoder of Wan2.1: diffusers' ``AutoencoderKLWan`` with normalised latents and precisions.

Encoding runs in float32, because a bf16 error in the conditioning image moves the whole sample; decoding may run in
bf16, which changes nothing one can see. diffusers is imported when a VAE is made, not with this module.

Axes: b batch, F frames, H W pixels, c latent channels, f latent frames, h = H / 8, w = W / 8.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"


class WanVAE(nn.Module):
    """Encode and decode with ``AutoencoderKLWan``; latents are ``(mode - mean) / std`` with the VAE's own constants.

    Args:
        vae: the diffusers module. It is taken over: memory format and precision are set on it.
        decode_dtype: precision of the decoder; None takes bfloat16 on a GPU and float32 elsewhere.
        channels_last: channels-last-3d weights and inputs, 1.3 to 1.5 times faster on the CPU at equal results.
    """

    def __init__(
        self, vae: "AutoencoderKLWan", *, decode_dtype: torch.dtype | None = None, channels_last: bool = True
    ) -> None:
        super().__init__()
        self.vae = vae
        self.decode_dtype = decode_dtype
        self.memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
        for module in vae.modules():
            if isinstance(module, nn.Conv3d):
                module.weight.data = module.weight.data.contiguous(memory_format=self.memory_format)
        self.latent_channels = int(vae.config["z_dim"])
        self.register_buffer("mean", torch.tensor(vae.config["latents_mean"]), persistent=False)
        self.register_buffer("std", torch.tensor(vae.config["latents_std"]), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def encode(self, video: Float[Tensor, "b 3 F H W"]) -> Float[Tensor, "b c f h w"]:
        """Video in [-1, 1] to normalised latents, float32. ValueError for frames not 4 n + 1 or bad sides."""
        from fw_model.autoencoder import check_video_shape

        check_video_shape(*video.shape[2:])
        self._cast([self.vae.encoder, self.vae.quant_conv], torch.float32)
        with torch.autocast(video.device.type, enabled=False):
            mode = self.vae.encode(self._laid_out(video.float()), return_dict=False)[0].mode()
        return (mode - self._channels(self.mean)) / self._channels(self.std)

    def decode(self, latents: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b 3 F H W"]:
        """Normalised latents to video in [-1, 1] (the VAE clamps), float32."""
        dtype = self.decode_dtype or (torch.bfloat16 if latents.device.type == "cuda" else torch.float32)
        self._cast([self.vae.decoder, self.vae.post_quant_conv], dtype)
        raw = latents.float() * self._channels(self.std) + self._channels(self.mean)
        with torch.autocast(latents.device.type, enabled=False):
            return self.vae.decode(self._laid_out(raw.to(dtype)), return_dict=False)[0].float()

    def set_tiling(self, enabled: bool, *, tile: int = 256, stride: int = 192) -> None:
        """Work on overlapping tiles of ``tile`` pixels: less memory, slightly different results at the seams."""
        if enabled:
            self.vae.enable_tiling(tile, tile, stride, stride)
        else:
            self.vae.disable_tiling()

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
        from fw_model.convert.layouts import vae_to_diffusers
        from fw_model.convert.sources import load_tensors, locate

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
        return x.contiguous(memory_format=self.memory_format)

    def _cast(self, modules: list[nn.Module], dtype: torch.dtype) -> None:
        for module in modules:
            if next(module.parameters()).dtype != dtype:
                module.to(dtype)

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
