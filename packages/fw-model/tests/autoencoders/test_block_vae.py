"""The small learned autoencoder: it starts as the fixed transform, is causal, and comes back from a folder."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from fw_model.autoencoders.base import VideoAutoencoder
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.autoencoders.block_vae import BlockVAE
from fw_model.autoencoders.registry import autoencoder_from_spec


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stirred(seed: int = 0) -> BlockVAE:
    """With every parameter moved, so that nothing is zero by its initial value."""
    vae = BlockVAE(width=16, encoder_blocks=2, decoder_blocks=2)
    with torch.no_grad():
        for place, parameter in enumerate(vae.parameters()):
            parameter += 0.05 * noise(*parameter.shape, seed=seed + place)
        vae.mean.copy_(0.1 * noise(16))
        vae.std.copy_(1 + 0.1 * noise(16).abs())
    return vae


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_untrained_it_is_the_fixed_transform(frames):
    vae, fixed, video = BlockVAE(width=16), BlockDCT(), noise(2, 3, frames, 16, 24).clamp(-1, 1)
    assert isinstance(vae, VideoAutoencoder)
    latents = vae.encode(video)
    assert latents.shape == (2, 16, 1 + frames // 4, 2, 3)
    torch.testing.assert_close(latents, fixed.encode(video), rtol=0, atol=1e-5)
    torch.testing.assert_close(vae.decode(latents), fixed.decode(latents).clamp(-1, 1), rtol=0, atol=1e-5)


def test_later_frames_change_no_earlier_latent_and_no_earlier_image():
    vae, video = stirred(), noise(1, 3, 13, 16, 16)
    latents = vae.encode(video)
    torch.testing.assert_close(vae.encode(video[:, :, :5]), latents[:, :, :2])
    torch.testing.assert_close(vae.encode(video[:, :, :1]), latents[:, :, :1])
    torch.testing.assert_close(vae.decode(latents[:, :, :2]), vae.decode(latents)[:, :, :5])


def test_a_latent_sees_its_neighbors():
    vae, video = stirred(), noise(1, 3, 9, 32, 32)
    other = video.clone()
    other[:, :, :1, :8, :8] += 1
    changed = (vae.encode(other) - vae.encode(video)).abs().amax((0, 1))
    assert changed[0, 0, 1] > 0
    assert changed[1, 0, 0] > 0
    assert changed[:, 3, 3].max() == 0


def test_it_comes_back_from_a_folder_in_full_and_in_half_precision(tmp_path):
    vae, video = stirred(), noise(1, 3, 5, 16, 16)
    spec = vae.save(tmp_path)
    again = autoencoder_from_spec(spec, tmp_path)
    torch.testing.assert_close(again.encode(video), vae.encode(video), rtol=0, atol=0)
    weights = tmp_path / "vae" / "model.safetensors"
    save_file({name: value.half() for name, value in load_file(weights).items()}, weights)
    half = autoencoder_from_spec(spec, tmp_path)
    torch.testing.assert_close(half.encode(video), vae.encode(video), rtol=0, atol=2e-2)
    assert half.encode(video).dtype == torch.float32


def test_what_is_missing_or_misshapen_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        BlockVAE.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"4.* 5"):
        BlockVAE(width=16).encode(noise(1, 3, 4, 16, 16))
    with pytest.raises(ValueError, match=r"height is 12.* 8"):
        BlockVAE(width=16).encode(noise(1, 3, 5, 12, 16))
