"""Geometry from one forward pass over a real video's latents at a given noise level.

Axis legend: F frames, H W pixels; lengths in scene units.
"""

import numpy as np
import torch
from einops import rearrange

from fw_geometry import unproject
from fw_model.autoencoders.base import first_frame_condition
from fw_model.losses.targets import recovered_path
from fw_model.model.rays import RayMap
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.result import World
from fw_model.sampling.flow import TRAIN_STEPS, add_noise, counter_noise
from fw_train.metrics.truth import TruthClip

NOISE_LEVELS = (0.0, 0.2, 0.5, 0.8)
"""Noise levels at which geometry is predicted from real latents."""


@torch.no_grad()
def world_at_level(pipeline: WorldPipeline, truth: TruthClip, sigma: float, *, seed: int) -> World:
    """Predict depth, points and cameras in one pass over the noisy latents of the true video.

    Args:
        pipeline: the model with its encoders; it gets the caption, the first frame and the true camera path.
        truth: the clip.
        sigma: noise level, 0 (clean latents) to 1.
        seed: noise seed.

    Raises:
        ValueError: the model reads CLIP tokens.
    """
    world, device = pipeline.world, pipeline.device
    config = world.config
    if config.video.clip_dim is not None:
        raise ValueError("geometry at a noise level needs a model without CLIP tokens, such as tiny")
    video = rearrange(torch.from_numpy(truth.video).float() / 127.5 - 1, "F H W c -> 1 c F H W").to(device)
    clean = pipeline.autoencoder.encode(video)
    noise = counter_noise(seed, 0, 0, clean.shape[1:], device=device)[None]
    path = truth.trajectory
    rays = RayMap.from_trajectory(config, path)
    level = torch.full((1,), sigma, device=device)
    out = world(
        add_noise(clean, noise, level),
        level * TRAIN_STEPS,
        context=pipeline.text_encoder.encode([truth.record.caption]).to(device),
        y=first_frame_condition(pipeline.autoencoder, video[:, :, :1], len(path), config.video.y_dim),
        plucker=None if rays is None else rays.to(device),
    ).geometry
    assert out is not None, "the forward pass runs the heads"
    depth, depth_confidence, points, points_confidence = (
        value[0].float().cpu().numpy() for value in (out.depth, out.depth_confidence, out.points, out.points_confidence)
    )
    return World(
        video=truth.video,
        depth=depth,
        depth_confidence=depth_confidence,
        points=points,
        points_confidence=points_confidence,
        trajectory=recovered_path(out.pose_encodings[-1][0], path),
        requested=path,
    )


def true_world(truth: TruthClip) -> World:
    """The clip as the world of a perfect model; unknown depth becomes the farthest known depth."""
    depth = np.where(truth.depth > 0, truth.depth, truth.depth.max()).astype(np.float32)
    cameras = (torch.from_numpy(truth.trajectory.K).float(), torch.from_numpy(truth.trajectory.pose_c2w).float())
    sure = np.full(depth.shape, 2, np.float32)
    return World(
        video=truth.video,
        depth=depth,
        depth_confidence=sure,
        points=unproject(torch.from_numpy(depth), *cameras).numpy(),
        points_confidence=sure,
        trajectory=truth.trajectory,
        requested=truth.trajectory,
    )
