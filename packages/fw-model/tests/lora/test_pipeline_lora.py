"""LoRA on a pipeline: it changes the world, is written into its settings, and finds its expert."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fw_geometry import make_trajectory
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.lora.experts import expert_in_name
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.settings import Sampling

FRAMES, HEIGHT, WIDTH = 5, 32, 48


@pytest.fixture
def config(micro):
    video = dataclasses.replace(micro.video, in_dim=32, clip_dim=None)
    return dataclasses.replace(micro, video=video, camera=dataclasses.replace(micro.camera, downscale=8))


@pytest.fixture
def style(tmp_path):
    g = torch.Generator().manual_seed(5)
    state = {}
    for block in range(6):
        state[f"diffusion_model.blocks.{block}.self_attn.v.lora_A.weight"] = torch.randn(4, 48, generator=g)
        state[f"diffusion_model.blocks.{block}.self_attn.v.lora_B.weight"] = torch.randn(48, 4, generator=g)
    save_file(state, tmp_path / "style.safetensors")
    return tmp_path / "style.safetensors"


def pipeline(config, make_world, **options) -> WorldPipeline:
    sampling = Sampling(num_frames=FRAMES, height=HEIGHT, width=WIDTH, num_inference_steps=2, guidance_scale=3.0)
    text = HashTextEncoder(text_len=7, text_dim=12)
    return WorldPipeline(make_world(config), BlockDCT(), text, sampling=sampling, **options)


def test_a_lora_changes_the_world_until_it_is_unloaded(config, make_world, style):
    pipe = pipeline(config, make_world)
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = make_trajectory("dolly", FRAMES, width=WIDTH, height=HEIGHT)
    plain = pipe(image, "a room", path)
    assert "loras" not in plain.settings
    [loaded] = pipe.load_lora(style, 0.5)
    assert (loaded.name, loaded.layers, loaded.layout) == ("style", 6, "ComfyUI")
    styled = pipe(image, "a room", path)
    assert styled.settings["loras"] == [{"name": "style", "scale": 0.5}]
    assert (styled.video != plain.video).mean() > 0.1
    streamed = pipeline(config, make_world, offload="block")
    streamed.load_lora(style, 0.5)
    assert np.array_equal(streamed(image, "a room", path).video, styled.video)
    assert pipe.unload_lora() == ["style"]
    assert np.array_equal(pipe(image, "a room", path).video, plain.video)
    with pytest.raises(ValueError, match="low_noise"):
        pipe.load_lora(style, expert="low_noise")


def test_two_experts(config, make_world, style):
    low = dataclasses.replace(config, timestep_range=(0.0, 900.0))
    high = make_world(dataclasses.replace(config, timestep_range=(900.0, 1000.0)))
    pipe = pipeline(low, make_world, high_noise=high)
    assert len(pipe.load_lora(style)) == 2
    assert pipe.unload_lora("style") == ["style"]
    weight = "pcb.0.self_attn.v.weight"
    before = [world.get_parameter(weight).clone() for world in (pipe.world, high)]
    named = style.rename(style.with_name("Style_HIGH-noise.safetensors"))
    pipe.load_lora(named, merge=True)
    assert torch.equal(pipe.world.get_parameter(weight), before[0])
    assert not torch.equal(high.get_parameter(weight), before[1])
    pipe.load_lora(named, expert="low_noise", name="other", merge=True)
    assert not torch.equal(pipe.world.get_parameter(weight), before[0])


def test_the_expert_in_a_name():
    assert expert_in_name(Path("wan22_low_noise_lora.safetensors")) == "low_noise"
    assert expert_in_name(Path("HighNoise/pytorch_lora_weights.safetensors")) == "high_noise"
    assert expert_in_name(Path("high_noise_and_low_noise.safetensors")) is None
