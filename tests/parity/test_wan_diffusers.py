"""The video branch alone is diffusers' Wan model: same random weights; text, image, camera; every batch item."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from fw_geometry.rays import pack_plucker
from fw_model.checkpoints.keys import to_diffusers
from fw_model.config import VideoConfig, WorldConfig, tiny
from fw_model.model.model import FantasyWorld
from fw_model.model.rays import RayMap

BOUND = 5e-5
LATENT = (3, 4, 6)


def small(kind: str) -> WorldConfig:
    video = VideoConfig(
        dim=48,
        heads=2,
        ffn_dim=96,
        blocks=4,
        in_dim={"t2v": 16, "i2v": 36, "camera": 32}[kind],
        text_dim=20,
        text_len=512,  # diffusers counts image tokens from this
        clip_dim=None if kind == "t2v" else 28,
        control_dim=24 if kind == "camera" else None,
    )
    geometry = dataclasses.replace(tiny().geometry, dpt_taps=(2, 1, 1, 0))
    return dataclasses.replace(tiny(), name=kind, video=video, geometry=geometry, camera=None, pcb_blocks=1)


def random_world(config: WorldConfig) -> FantasyWorld:
    world = FantasyWorld(config)
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in world.parameters():
            spread = 0.1 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
            parameter.add_(torch.randn(parameter.shape, generator=g) * spread)
    return world


def peer(world: FantasyWorld, adapter_out: torch.Tensor | None) -> WanTransformer3DModel:
    v = world.config.video
    other = WanTransformer3DModel(
        num_attention_heads=v.heads,
        attention_head_dim=v.dim // v.heads,
        in_channels=v.in_dim,
        out_channels=v.out_dim,
        text_dim=v.text_dim,
        ffn_dim=v.ffn_dim,
        num_layers=v.blocks,
        image_dim=v.clip_dim,
        added_kv_proj_dim=v.dim if v.clip_dim else None,
    )
    names = {n: to_diffusers(n, world.config.pcb_blocks) for n, _ in world.named_parameters()}
    weights = {
        names[n]: p
        for n, p in world.named_parameters()
        if world.parameter_group(n) == "video" and ".control_adapter." not in n
    }
    other.load_state_dict(weights, strict=True)
    if adapter_out is not None:
        other.patch_embedding.register_forward_hook(lambda *call: call[-1] + adapter_out)
    return other.eval()


def control_adapter(world: FantasyWorld, packed: torch.Tensor) -> torch.Tensor:
    """VideoX-Fun's SimpleAdapter, restated: unshuffle 8, 2 x 2 stride 2, one residual pair, frame by frame."""
    w = {n.removeprefix("video.control_adapter."): p for n, p in world.named_parameters() if "control_adapter" in n}
    frames = []
    for i in range(packed.shape[2]):
        x = F.conv2d(F.pixel_unshuffle(packed[:, :, i], 8), w["conv.weight"], w["conv.bias"], stride=2)
        r = "residual_blocks.0."
        y = F.relu(F.conv2d(x, w[r + "conv1.weight"], w[r + "conv1.bias"], padding=1))
        frames.append(x + F.conv2d(y, w[r + "conv2.weight"], w[r + "conv2.bias"], padding=1))
    return torch.stack(frames, dim=2)


@pytest.mark.parametrize("kind", ["t2v", "i2v", "camera"])
@pytest.mark.parametrize("batch", [1, 2])
@torch.no_grad()
def test_equals_diffusers(kind, batch):
    world = random_world(small(kind))
    g = torch.Generator().manual_seed(batch)
    v = world.config.video

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    latents, context = rand(batch, 16, *LATENT), rand(batch, v.text_len, v.text_dim)
    timestep = torch.tensor([437.5, 12.25])[:batch]
    y = rand(batch, v.y_dim, *LATENT) if v.y_dim else None
    clip = rand(batch, 257, v.clip_dim) if v.clip_dim else None
    plucker = rand(batch, 9, 8 * LATENT[1], 8 * LATENT[2], 6) if kind == "camera" else None
    rays = None if plucker is None else RayMap(rays=plucker, convention=world.config.compat.plucker)
    inputs = {"context": context, "y": y, "clip_feature": clip, "plucker": rays}
    added = None if plucker is None else control_adapter(world, pack_plucker(plucker))
    expected = peer(world, added)(
        hidden_states=latents if y is None else torch.cat([latents, y], dim=1),
        timestep=timestep,
        encoder_hidden_states=context,
        encoder_hidden_states_image=clip,
        return_dict=False,
    )[0]
    raw = world(latents, timestep, **inputs, cross_branch=False, predict_geometry=False).velocity
    cached = world(
        latents, timestep, condition=world.encode_condition(**inputs), cross_branch=False, predict_geometry=False
    ).velocity
    assert expected.std() > 0.1
    for item in range(batch):
        assert (raw[item] - expected[item]).abs().max() <= BOUND * max(1.0, float(expected.abs().max()))
    assert (raw - cached).abs().max() <= 1e-6 * expected.abs().max()
    if batch == 2:  # every sample by itself, so nothing leaks between items
        alone = world(
            latents[1:],
            timestep[1:],
            **{k: None if t is None else t[1:] for k, t in inputs.items()},
            cross_branch=False,
            predict_geometry=False,
        ).velocity
        assert (raw[1:] - alone).abs().max() <= 2e-6 * expected.abs().max()
