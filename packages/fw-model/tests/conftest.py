"""A model small enough to build in a blink, and inputs for it."""

import dataclasses
from typing import Any

import pytest
import torch

from fw_model.config import CameraConfig, CrossBranchConfig, GeometryConfig, VideoConfig, WorldConfig
from fw_model.model.model import FantasyWorld
from fw_model.model.rays import RayMap

LATENT = (2, 4, 6)


@pytest.fixture(scope="session")
def micro() -> WorldConfig:
    """Two preconditioning and four IRG blocks, every optional part present."""
    return WorldConfig(
        name="micro",
        video=VideoConfig(
            dim=48, heads=2, ffn_dim=64, blocks=6, in_dim=36, text_dim=12, text_len=7, clip_dim=8, clip_len=5
        ),
        geometry=GeometryConfig(
            width=24,
            heads=2,
            dpt_taps=(3, 2, 1, 0),
            camera_trunk=1,
            camera_heads=2,
            camera_iterations=2,
            dpt_features=8,
            dpt_channels=(8, 8, 12, 12),
            dpt_hidden=8,
        ),
        cross_branch=CrossBranchConfig(dim=24, heads=2),
        camera=CameraConfig(adapter_blocks=3, feature_dim=16, downscale=2, channels=8),
        pcb_blocks=2,
    )


@pytest.fixture(scope="session")
def make_world():
    """Build a model whose weights are all alive: gates, adapters and the head are moved off zero."""

    def make(config: WorldConfig, **changes: Any) -> FantasyWorld:
        world = FantasyWorld(dataclasses.replace(config, **changes))
        g = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in world.parameters():
                spread = 0.2 if parameter.ndim < 2 else 0.5 * parameter[0].numel() ** -0.5
                parameter.add_(torch.randn(parameter.shape, generator=g) * spread)
        return world

    return make


@pytest.fixture(scope="session")
def world(micro, make_world) -> FantasyWorld:
    """A live micro model that no test changes."""
    return make_world(micro)


@pytest.fixture(scope="session")
def make_inputs():
    """(latents, timestep, keyword inputs) for a config."""

    def make(
        config: WorldConfig, batch: int = 1, frames: int = LATENT[0]
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
        g = torch.Generator().manual_seed(11)

        def rand(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=g)

        v = config.video
        grid, scale = (frames, *LATENT[1:]), config.camera.downscale if config.camera else 8
        inputs: dict[str, Any] = {"context": rand(batch, v.text_len, v.text_dim)}
        latents, timestep = rand(batch, 16, *grid), 1000 * torch.rand(batch, generator=g)
        if v.y_dim:
            inputs["y"] = rand(batch, v.y_dim, *grid)
        if v.clip_dim:
            inputs["clip_feature"] = rand(batch, v.clip_len, v.clip_dim)
        if config.camera or v.control_dim:
            rays = rand(batch, 4 * frames - 3, scale * grid[1], scale * grid[2], 6)
            inputs["plucker"] = RayMap(rays=rays, convention=config.compat.plucker)
        return latents, timestep, inputs

    return make
