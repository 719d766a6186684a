"""Turning pickles into safetensors: every known kind, refusals, and that nothing in a pickle gets to run."""

import os
import pickle

import pytest
import torch
from safetensors.torch import load_file

from fw_model import FantasyWorld
from fw_model.autoencoders.wan_vae import WanVAE
from fw_model.checkpoints.keys import released_names
from fw_model.config import Compat
from fw_model.convert import convert_checkpoint
from fw_model.convert.layouts import vae_to_diffusers
from fw_model.convert.pickles import convert, released_config


@pytest.fixture
def released(micro, make_world, tmp_path):
    """A micro model's weights under the released names, pickled as the release is."""
    world = make_world(micro, compat=Compat.released())
    ours = dict(world.named_parameters())
    state = {theirs: ours[name].detach().clone() for theirs, name in released_names(world).items()}
    return world, state, tmp_path / "model.pth"


def test_a_released_checkpoint_in_its_own_process(released, make_inputs, tmp_path):
    world, state, file = released
    torch.save(state, file)
    done = convert_checkpoint(file, tmp_path / "out", config=world.config)
    assert done.kind == "a released FantasyWorld checkpoint"
    assert set(done.files) == {"config.json", "model.safetensors"}
    assert done.tensors == len(state)
    assert done.parameters == sum(value.numel() for value in state.values())
    again = FantasyWorld.from_pretrained(done.folder)
    assert again.config == world.config
    latents, timestep, inputs = make_inputs(world.config)
    with torch.no_grad():
        a, b = world(latents, timestep, **inputs), again(latents, timestep, **inputs)
    torch.testing.assert_close(a.velocity, b.velocity, rtol=0, atol=0)


def test_a_wrapped_state_dict_is_unwrapped(released, tmp_path):
    world, state, file = released
    torch.save({"step": 3, "state_dict": state}, file)
    assert convert(file, tmp_path / "out", world.config)["tensors"] == len(state)


def test_a_checkpoint_of_another_size_is_refused(released, tmp_path):
    world, state, file = released
    state.pop("vggt.aggregator.camera_token")
    torch.save(state, file)
    with pytest.raises(ValueError, match=r"1 .*vggt\.aggregator\.camera_token"):
        convert(file, tmp_path / "out", world.config)
    with pytest.raises(ValueError, match="wan21_i2v_14b"):
        convert(file, tmp_path / "out", None)  # compared with the released size
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_released_models_are_told_apart(tmp_path):
    tensor = torch.zeros(1)
    assert released_config({"camera_condition.x": tensor}, tmp_path / "model.pth").name == "wan21_i2v_14b"
    for expert, limits in (("high_noise", (900.0, 1000.0)), ("low_noise", (0.0, 900.0))):
        config = released_config({"IRGBlock.0.x": tensor}, tmp_path / f"{expert}_model.pth")
        assert config.timestep_range == limits
    with pytest.raises(ValueError, match="low_noise_model"):
        released_config({"IRGBlock.0.x": tensor}, tmp_path / "model.pth")


def test_the_original_vae(tmp_path):
    """The conversion writes what the VAE's own loader renames to; the loader reads it."""
    vae = WanVAE.small(seed=6)
    state = _original_vae_names(vae.vae.state_dict())
    torch.save(state, tmp_path / "Wan2.1_VAE.pth")
    result = convert(tmp_path / "Wan2.1_VAE.pth", tmp_path / "vae", None)
    assert result["kind"] == "a Wan video autoencoder in the original layout"
    written = load_file(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    assert written.keys() == vae.vae.state_dict().keys()
    for key, value in vae.vae.state_dict().items():
        assert torch.equal(written[key], value), key
    (tmp_path / "vae" / "config.json").write_text(vae.vae.to_json_string())
    video = torch.zeros(1, 3, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(WanVAE.from_pretrained(tmp_path / "vae").encode(video), vae.encode(video))


def test_the_original_text_and_image_encoders(tmp_path):
    umt5 = {"token_embedding.weight": torch.randn(5, 4), "norm.weight": torch.ones(4)}
    umt5 |= {"blocks.0.pos_embedding.embedding.weight": torch.zeros(32, 1), "blocks.0.attn.q.weight": torch.eye(4)}
    torch.save({key: value.bfloat16() for key, value in umt5.items()}, tmp_path / "t5.pth")
    assert convert(tmp_path / "t5.pth", tmp_path / "t5", None)["tensors"] == 4
    written = load_file(tmp_path / "t5" / "model.safetensors")
    assert "encoder.block.0.layer.0.SelfAttention.q.weight" in written
    assert written["shared.weight"].dtype == torch.bfloat16
    clip = {"visual.cls_embedding": torch.zeros(1, 1, 4), "textual.token_embedding.weight": torch.zeros(3, 4)}
    clip |= {"visual.transformer.0.attn.to_qkv.weight": torch.arange(48.0).view(12, 4), "log_scale": torch.zeros(())}
    torch.save(clip, tmp_path / "clip.pth")
    result = convert(tmp_path / "clip.pth", tmp_path / "clip", None)
    assert result["left_out"] == ["log_scale", "textual.token_embedding.weight"]
    written = load_file(tmp_path / "clip" / "model.safetensors")
    key = written["vision_model.encoder.layers.0.self_attn.k_proj.weight"]
    torch.testing.assert_close(key, torch.arange(16.0, 32.0).view(4, 4))


class _Trap:
    """A pickle that makes a folder when it is opened without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path):
    torch.save({"weight": torch.zeros(1), "x": _Trap(tmp_path / "ran")}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="refused"):
        convert_checkpoint(tmp_path / "model.pth", tmp_path / "out")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(_Trap(tmp_path / "ran"), protocol=2))
    with pytest.raises(ValueError, match="refused"):
        convert(tmp_path / "bare.pth", tmp_path / "out", None)
    assert not (tmp_path / "ran").exists()


def test_other_files_are_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match=r"none\.pth"):
        convert_checkpoint(tmp_path / "none.pth", tmp_path / "out")
    torch.save({"blocks.0.self_attn.q.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "lora.pth")
    with pytest.raises(ValueError, match="LoRA"):
        convert(tmp_path / "lora.pth", tmp_path / "out", None)
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="list"):
        convert(tmp_path / "list.pth", tmp_path / "out", None)
    torch.save({"a": torch.zeros(1), "b": 3}, tmp_path / "mixed.pth")
    with pytest.raises(ValueError, match="'b'"):
        convert(tmp_path / "mixed.pth", tmp_path / "out", None)
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ValueError, match=r"torn\.pth"):
        convert(tmp_path / "torn.pth", tmp_path / "out", None)


def _original_vae_names(state):
    """The same tensors under the release's names: found by asking the converter where each candidate goes."""
    candidates = [f"{side}.{part}" for side in ("encoder", "decoder") for part in ("conv1", "head.0", "head.2")]
    candidates += ["conv1", "conv2"]
    for side, stack in (("encoder", "downsamples"), ("decoder", "upsamples")):
        residual = [f"residual.{i}" for i in (0, 2, 3, 6)] + ["shortcut"]
        candidates += [f"{side}.middle.{i}.{part}" for i in (0, 2) for part in residual]
        candidates += [f"{side}.middle.1.{part}" for part in ("norm", "to_qkv", "proj")]
        count = 7 if side == "encoder" else 11
        resampling = (1, 3, 5) if side == "encoder" else (2, 5, 8)
        for i in range(count):
            parts = ["resample.1", "time_conv"] if i in resampling else residual
            candidates += [f"{side}.{stack}.{i}.{part}" for part in parts]
    names = [f"{base}.{leaf}" for base in candidates for leaf in ("weight", "bias", "gamma")]
    where = vae_to_diffusers({name: torch.empty(0) for name in names})
    original = dict(zip(where, names, strict=True))
    return {original[key]: value for key, value in state.items()}
