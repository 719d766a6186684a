"""The fixed transform against its definition, and the Wan VAE against plain diffusers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.fft import dctn

from fw_model.autoencoders.base import VideoAutoencoder, latent_shape
from fw_model.autoencoders.block_dct import FIRST_FRAME, FOUR_FRAMES, BlockDCT
from fw_model.autoencoders.registry import autoencoder_from_spec
from fw_model.autoencoders.wan_vae import WanVAE
from fw_model.convert.layouts import vae_to_diffusers


def _noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _smooth_video(frames=9, height=32, width=48):
    """A moving color gradient with a soft disc: what natural video looks like to a transform."""
    t = torch.linspace(0, 1, frames).view(-1, 1, 1)
    y = torch.linspace(-1, 1, height).view(1, -1, 1)
    x = torch.linspace(-1, 1, width).view(1, 1, -1)
    disc = torch.tanh(4 * (0.4 - ((x - 0.6 * t) ** 2 + (y + 0.3 * t) ** 2).sqrt()))
    return torch.stack([0.5 * disc + 0.2 * x, 0.4 * disc * y, 0.3 * x - 0.3 * y * t + 0 * disc])[None].clamp(-1, 1)


def test_both_follow_the_protocol():
    for made in (BlockDCT(), WanVAE.small()):
        assert isinstance(made, VideoAutoencoder)
        assert made.latent_channels == 16


@pytest.mark.parametrize(("frames", "latent"), [(1, 1), (5, 2), (17, 5), (81, 21)])
def test_latent_shapes(frames, latent):
    assert latent_shape(16, frames, 336, 592) == (16, latent, 42, 74)


@pytest.mark.parametrize(
    ("shape", "hint"), [((4, 16, 16), "4.* 5"), ((0, 16, 16), "0.* 1"), ((5, 20, 16), "height"), ((5, 16, 4), "width")]
)
def test_bad_shapes_say_what_to_do(shape, hint):
    with pytest.raises(ValueError, match=hint):
        BlockDCT().encode(torch.zeros(1, 3, *shape))


def test_dct_is_orthonormal_and_its_decoder_the_exact_adjoint():
    dct = BlockDCT().double()
    for basis in (dct.first, dct.rest):
        torch.testing.assert_close(basis @ basis.T, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-6)
    latents = _noise(2, 16, 3, 4, 6)
    torch.testing.assert_close(BlockDCT().encode(BlockDCT().decode(latents)), latents, rtol=1e-5, atol=1e-5)


def test_dct_decoder_is_a_projection():
    """The error is orthogonal to the kept coefficients and equals the energy of the dropped ones."""
    dct, video = BlockDCT(), _noise(1, 3, 9, 16, 16)
    kept = dct.decode(dct.encode(video))
    torch.testing.assert_close(dct.decode(dct.encode(kept)), kept, rtol=1e-5, atol=1e-5)
    lost = video - kept
    assert float((lost * kept).sum()) == pytest.approx(0, abs=1e-2)
    assert float(kept.square().sum() + lost.square().sum()) == pytest.approx(float(video.square().sum()), rel=1e-5)


def test_dct_coefficients_are_those_of_scipy():
    video = _noise(1, 3, 5, 16, 24, seed=4).double()
    latents = BlockDCT().encode(video)
    groups = {0: (video[0, :, :1], FIRST_FRAME), 1: (video[0, :, 1:], FOUR_FRAMES)}
    for f, (clip, table) in groups.items():
        block = clip[:, :, 8:16, 16:24].numpy()
        coefficients: np.ndarray = np.asarray(dctn(block, norm="ortho"))
        for k, (c, t, y, x, scale) in enumerate(table):
            assert float(latents[0, k, f, 1, 2]) == pytest.approx(coefficients[c, t, y, x] / scale, abs=1e-4)


def test_dct_is_causal_and_local():
    dct, video = BlockDCT(), _noise(1, 3, 9, 16, 16)
    changed = video.clone()
    changed[:, :, 5:, 8:, :8] += 1
    difference = (dct.encode(changed) - dct.encode(video)).abs().amax(dim=1)[0]
    assert float(difference[:2].max()) == 0
    assert float(difference[2, 1, 0]) > 0
    assert float(difference[2].flatten()[[0, 1, 3]].max()) == 0


def test_dct_keeps_a_smooth_video_and_a_grey_one():
    dct, video = BlockDCT(), _smooth_video()
    error = float((dct.decode(dct.encode(video)).clamp(-1, 1) - video).square().mean())
    assert 10 * np.log10(4 / error) > 28
    gray = torch.full((1, 3, 5, 8, 8), 0.3)
    torch.testing.assert_close(dct.decode(dct.encode(gray)), gray, rtol=1e-5, atol=1e-5)


def test_channels_mean_the_same_in_first_and_later_frames():
    """A still clip has equal brightness channels in every latent frame."""
    still = _smooth_video()[:, :, :1].expand(-1, -1, 9, -1, -1)
    latents = BlockDCT().encode(still)
    shared = [a[:4] == b[:4] for a, b in zip(FIRST_FRAME, FOUR_FRAMES, strict=True)]
    assert sum(shared) >= 8
    a, b = latents[0, shared, 0], latents[0, shared, 1]
    assert float((a - b).abs().max()) < 0.35 * float(a.abs().max())
    assert float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) > 0.99
    torch.testing.assert_close(latents[0, :, 1], latents[0, :, 2])


@pytest.mark.parametrize(("frames", "batch"), [(1, 2), (5, 1), (13, 2)])
def test_wan_vae_equals_plain_diffusers(frames, batch):
    """Fewer products and copies, the same function: the first frame, the second chunk and later ones."""
    ours = WanVAE.small(seed=3)
    with torch.no_grad():
        for name, parameter in ours.vae.named_parameters():
            if name.endswith(("gamma", "bias")):  # small() leaves them at 1 and 0
                parameter.add_(0.2 * _noise(*parameter.shape, seed=len(name)))
    theirs = _plain_copy(ours)
    video = _noise(batch, 3, frames, 32, 48).clamp(-1, 1)
    with torch.no_grad():
        latents = ours.encode(video)
        mode = theirs.encode(video).latent_dist.mode()
        expected = (mode - _column(theirs.config.latents_mean)) / _column(theirs.config.latents_std)
        torch.testing.assert_close(latents, expected, rtol=0, atol=1e-5)
        assert latents.shape == (batch, 16, (frames + 3) // 4, 4, 6)
        decoded = ours.decode(latents)
        torch.testing.assert_close(decoded, theirs.decode(mode).sample, rtol=0, atol=1e-5)
        assert decoded.shape == video.shape
        assert float(decoded.std()) > 0.05


def test_wan_vae_of_another_build_is_refused():
    from fw_model.autoencoders.wan_vae import build_vae

    with pytest.raises(ValueError, match="5B"):
        WanVAE(build_vae(is_residual=True, patch_size=2, in_channels=12, out_channels=12))


def test_wan_vae_bfloat16_decoder_leaves_encoder_and_weights_alone(tmp_path):
    ours, half = WanVAE.small(seed=3), WanVAE.small(seed=3, decode_dtype=torch.bfloat16)
    video = _noise(1, 3, 5, 16, 16).clamp(-1, 1)
    with torch.no_grad():
        latents = ours.encode(video)
        assert torch.equal(half.encode(video), latents)
        exact, rough = ours.decode(latents), half.decode(latents)
        assert torch.equal(half.encode(video), latents)
    assert rough.dtype == torch.float32
    half.save(tmp_path)  # the weights are saved exactly, although the decoder ran in bfloat16
    stored = load_file(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in ours.vae.state_dict().items())
    assert 0 < float((exact - rough).abs().max()) < 0.1


def test_wan_vae_tiling_is_for_large_images_only():
    vae = WanVAE.small(seed=1)
    latents, video = _noise(1, 16, 2, 4, 6), _noise(1, 3, 5, 32, 48).clamp(-1, 1)
    whole, encoded = vae.decode(latents), vae.encode(video)
    vae.set_tiling(True, tile=64, stride=48)
    assert torch.equal(vae.decode(latents), whole)
    assert torch.equal(vae.encode(video), encoded)
    vae.set_tiling(True, tile=32, stride=24)
    tiled, tiled_latents = vae.decode(latents), vae.encode(video)
    vae.set_tiling(False)
    assert torch.equal(vae.decode(latents), whole)
    assert tiled.shape == whole.shape
    assert tiled_latents.shape == encoded.shape
    assert not torch.equal(tiled, whole)  # each tile sees less
    for tile, stride in ((30, 24), (32, 20), (32, 40), (32, 0)):
        with pytest.raises(ValueError, match=" 8"):
            vae.set_tiling(True, tile=tile, stride=stride)


def test_wan_vae_tiles_are_closer_to_the_whole_than_those_of_diffusers():
    """Same tiles and overlaps, a smooth clip; and no step between columns is above the whole's largest (a seam)."""
    vae, video = WanVAE.small(seed=1), _smooth_video(frames=5, height=48, width=80)
    theirs = _plain_copy(vae)
    mean, std = _column(theirs.config.latents_mean), _column(theirs.config.latents_std)
    latents = vae.encode(video)
    whole = vae.decode(latents)
    vae.set_tiling(True, tile=48, stride=32)
    theirs.enable_tiling(48, 48, 32, 32)
    tiled_latents, tiled = vae.encode(video), vae.decode(latents)
    with torch.no_grad():
        their_latents = (theirs.encode(video).latent_dist.mode() - mean) / std
        their_video = theirs.decode(latents * std + mean).sample
    assert _distance(tiled_latents, latents) < _distance(their_latents, latents)
    assert _distance(tiled, whole) < _distance(their_video, whole)
    step, usual = ((v[..., 1:] - v[..., :-1]).abs().mean(dim=(0, 1, 2, 3)) for v in (tiled, whole))
    assert float(step.max()) < 1.1 * float(usual.max())


def test_wan_vae_round_trip_through_a_folder(tmp_path):
    vae = WanVAE.small(seed=5)
    spec = vae.save(tmp_path)
    again = autoencoder_from_spec(spec, tmp_path)
    video = _noise(1, 3, 5, 16, 16).clamp(-1, 1)
    with torch.no_grad():
        torch.testing.assert_close(again.encode(video), vae.encode(video), rtol=0, atol=0)


def test_original_keys_of_the_full_size_vae_map_onto_diffusers():
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    target = {key: tuple(value.shape) for key, value in _meta_vae().state_dict().items()}
    original = {_original_name(key): torch.empty(shape, device="meta") for key, shape in target.items()}
    assert len(original) == 194
    assert {k: tuple(v.shape) for k, v in vae_to_diffusers(original).items()} == target
    assert set(convert_wan_vae_to_diffusers(dict(original))) == set(vae_to_diffusers(original))
    with_prefix = {f"model.{key}": value for key, value in original.items()}
    assert set(vae_to_diffusers(with_prefix)) == set(target)


def test_original_file_loads_strict(tmp_path):
    vae = WanVAE.small(seed=2)
    file = tmp_path / "Wan2.1_VAE.safetensors"
    names = _small_original_names(vae.vae.state_dict())
    save_file({names[key]: value.contiguous() for key, value in vae.vae.state_dict().items()}, file)
    spec = vae.save(tmp_path / "other")
    (tmp_path / "config.json").write_text((tmp_path / "other" / spec["folder"] / "config.json").read_text())
    again = WanVAE.from_pretrained(file).vae.state_dict()
    for key, value in vae.vae.state_dict().items():
        assert torch.equal(again[key], value), key


def test_a_vae_stored_in_fp8_loads(tmp_path, caplog):
    spec = WanVAE.small(seed=5).save(tmp_path)
    file = tmp_path / spec["folder"] / "diffusion_pytorch_model.safetensors"
    state = {name: value.to(torch.float8_e4m3fn) for name, value in load_file(file).items()}
    save_file(state, file)
    loaded = autoencoder_from_spec(spec, tmp_path)
    assert isinstance(loaded, WanVAE)
    assert f"{len(state)} tensors stored in fp8" in caplog.text
    assert all(torch.equal(value, state[name].float()) for name, value in loaded.vae.state_dict().items())


def test_wrong_files_are_refused_by_name(tmp_path):
    vae = WanVAE.small()
    folder = tmp_path / vae.save(tmp_path)["folder"]
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"\(.*\(|None"):
        WanVAE.from_pretrained(folder)
    save_file({"blocks.0.self_attn.q.weight": torch.zeros(2)}, tmp_path / "dit.safetensors")
    with pytest.raises(ValueError, match="Wan VAE"):
        WanVAE.from_pretrained(tmp_path / "dit.safetensors")
    (tmp_path / "Wan2.1_VAE.pth").write_bytes(b"never opened")
    with pytest.raises(ValueError, match="fw convert"):
        WanVAE.from_pretrained(tmp_path / "Wan2.1_VAE.pth")
    with pytest.raises(ValueError, match="does not exist"):
        WanVAE.from_pretrained(tmp_path / "nothing")
    with pytest.raises(ValueError, match="block_dct"):
        autoencoder_from_spec({"kind": "magvit"}, Path())


def _distance(a, b):
    return float((a - b).square().mean())


def _plain_copy(ours) -> Any:
    from diffusers import AutoencoderKLWan

    plain = AutoencoderKLWan(base_dim=8, dim_mult=[1, 2, 2, 2], num_res_blocks=1)
    plain.load_state_dict(ours.vae.state_dict(), strict=True)
    return plain.eval()


def _meta_vae():
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        return AutoencoderKLWan()


def _column(values):
    return torch.tensor(values).view(-1, 1, 1, 1)


def _original_name(key, resnets=3):
    """Name in the original release of a diffusers VAE tensor, written from the release's module tree."""
    key = key.replace("post_quant_conv.", "conv2.").replace("quant_conv.", "conv1.")
    for side in ("encoder", "decoder"):
        key = key.replace(f"{side}.conv_in.", f"{side}.conv1.").replace(f"{side}.norm_out.", f"{side}.head.0.")
        key = key.replace(f"{side}.conv_out.", f"{side}.head.2.")
    key = key.replace("mid_block.attentions.0", "middle.1").replace("mid_block.resnets.0", "middle.0")
    key = key.replace("mid_block.resnets.1", "middle.2").replace("encoder.down_blocks", "encoder.downsamples")
    parts = key.split(".")
    if parts[1] == "up_blocks":
        stage, kind, k = int(parts[2]), parts[3], int(parts[4])
        index = (resnets + 1) * stage + (resnets if kind == "upsamplers" else k)
        parts = ["decoder", "upsamples", str(index), *parts[5:]]
        key = ".".join(parts)
    if "downsamples" in key or "upsamples" in key or "middle" in key:
        key = key.replace(".norm1.", ".residual.0.").replace(".norm2.", ".residual.3.")
        key = key.replace(".conv1.", ".residual.2.").replace(".conv2.", ".residual.6.")
        key = key.replace(".conv_shortcut.", ".shortcut.")
    return key


def _small_original_names(state):
    return {key: _original_name(key, resnets=2) for key in state}
