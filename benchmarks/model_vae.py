"""The VAE against diffusers' AutoencoderKLWan as diffusers runs it by default: same weights, full size, float32."""

from collections.abc import Iterator
from typing import Any

import torch
from diffusers import AutoencoderKLWan

from benchmarks.model_table import Row, paired, ratio_row
from fw_model.autoencoders.wan_vae import WanVAE


@torch.no_grad()
def measure(pairs: int, *, size: int = 128, frames: tuple[int, ...] = (1, 5, 17)) -> Iterator[Row]:
    """Encode and decode. One frame is what a first-frame condition costs; the target is on clips of 5 frames.

    In longer clips less is won: the first frame, which costs a third, is a smaller part of them.
    """
    torch.manual_seed(0)
    theirs: Any = AutoencoderKLWan().eval()
    with torch.device("meta"):
        copy = AutoencoderKLWan().eval()
    copy.load_state_dict({key: value.clone() for key, value in theirs.state_dict().items()}, assign=True)
    ours = WanVAE(copy)
    mean, std = (torch.tensor(theirs.config[key]).view(1, -1, 1, 1, 1) for key in ("latents_mean", "latents_std"))
    for count in frames:
        target = ">= 1.25" if count == 5 else ""
        video = torch.rand(1, 3, count, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
        latents = ours.encode(video)
        raw = latents * std + mean
        wrong = float((theirs.encode(video).latent_dist.mode() - raw).abs().max())
        times = paired(lambda v=video: ours.encode(v), lambda v=video: theirs.encode(v), pairs=pairs)
        name = f"full-size VAE, {count} x {size} x {size}, float32"
        note = f"{pairs} pairs, largest difference {wrong:.1e}"
        yield ratio_row(f"{name}: encode against diffusers", times, target=target, note=note)
        wrong = float((theirs.decode(raw).sample - ours.decode(latents)).abs().max())
        times = paired(lambda z=latents: ours.decode(z), lambda z=raw: theirs.decode(z), pairs=pairs)
        note = f"{pairs} pairs, largest difference {wrong:.1e} of a range of 2"
        yield ratio_row(f"{name}: decode against diffusers", times, target=target, note=note)
