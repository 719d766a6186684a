"""One forward pass over the noisy latents of a real video: its denoising error and its geometry, by noise level.

The noise of a clip is fixed, so the errors are deterministic and resolve small differences between models.
Axis legend: F frames, H W pixels; c channels, f latent frames, y x latent rows and columns; lengths in scene units.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from fw_geometry import unproject
from fw_model.autoencoders.base import VideoAutoencoder, first_frame_condition
from fw_model.losses.targets import recovered_path
from fw_model.model.rays import RayMap
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.result import World
from fw_model.sampling.flow import TRAIN_STEPS, add_noise, counter_noise
from fw_train.evaluate.generation import noise_seed
from fw_train.metrics.truth import TruthClip

NOISE_LEVELS = (0.0, 0.5, 0.8, 0.9, 1.0)
"""Measured noise levels, from clean latents to pure noise."""


@dataclass(frozen=True, kw_only=True)
class LevelPass:
    """The result of one pass."""

    sigma: float
    """Noise level, 0 (clean latents) to 1."""
    latent_error: float | None
    """Mean squared error of the predicted clean latents (unit variance), without the first latent frame, which is
    given; None at noise 0."""
    world: World | None
    """The predicted geometry with the true video; None if it was not asked for."""


@torch.no_grad()
def passes(
    pipeline: WorldPipeline,
    truth: TruthClip,
    *,
    levels: Sequence[float] = NOISE_LEVELS,
    geometry: bool = True,
    cross_branch: bool = True,
) -> list[LevelPass]:
    """Denoise a clip once at each noise level.

    Args:
        pipeline: the model with its encoders; it gets the caption, the first frame and the true camera path.
        truth: the clip.
        levels: noise levels.
        geometry: predict depth, points and cameras too.
        cross_branch: let the branches read each other.

    Raises:
        ValueError: the model reads CLIP tokens.
    """
    world, device, path = pipeline.world, pipeline.device, truth.trajectory
    if world.config.video.clip_dim is not None:
        raise ValueError("errors at a noise level need a model without CLIP tokens, such as small_world")
    clean = _latents(truth, pipeline.autoencoder, device)
    video = _pixels(truth)[:, :, :1].to(device)
    noise = counter_noise(noise_seed(0, truth.record.id, "levels"), 0, 0, clean.shape[1:], device=device)[None]
    rays = RayMap.from_trajectory(world.config, path)
    condition = world.encode_condition(
        context=pipeline.text_encoder.encode([truth.record.caption]).to(device),
        y=first_frame_condition(pipeline.autoencoder, video, len(path), world.config.video.y_dim),
        plucker=None if rays is None else rays.to(device),
    )
    found = []
    for sigma in levels:
        level = torch.full((1,), sigma, device=device)
        noisy = add_noise(clean, noise, level)
        out = world(
            noisy, level * TRAIN_STEPS, condition=condition, predict_geometry=geometry, cross_branch=cross_branch
        )
        predicted = noisy - sigma * out.velocity
        predicted_world = None
        if geometry:
            assert out.geometry is not None, "the forward pass runs the heads"
            arrays = (out.geometry.depth, out.geometry.depth_confidence)
            arrays += (out.geometry.points, out.geometry.points_confidence)
            depth, depth_confidence, points, points_confidence = (value[0].float().cpu().numpy() for value in arrays)
            predicted_world = World(
                video=truth.video,
                depth=depth,
                depth_confidence=depth_confidence,
                points=points,
                points_confidence=points_confidence,
                trajectory=recovered_path(out.geometry.pose_encodings[-1][0], path),
                requested=path,
            )
        error = _later_error(predicted, clean) if sigma > 0 else None
        found.append(LevelPass(sigma=sigma, latent_error=error, world=predicted_world))
    return found


@torch.no_grad()
def still_latent_error(truth: TruthClip, autoencoder: VideoAutoencoder) -> float:
    """The latent error of repeating the latents of the first frame."""
    clean = _latents(truth, autoencoder, torch.device("cpu"))
    return _later_error(clean[:, :, :1].expand_as(clean), clean)


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


def _pixels(truth: TruthClip) -> Float[Tensor, "1 3 F H W"]:
    return rearrange(torch.from_numpy(truth.video).float() / 127.5 - 1, "F H W c -> 1 c F H W")


def _latents(truth: TruthClip, autoencoder: VideoAutoencoder, device: torch.device) -> Float[Tensor, "1 c f y x"]:
    return autoencoder.encode(_pixels(truth).to(device)).float()


def _later_error(predicted: Float[Tensor, "1 c f y x"], clean: Float[Tensor, "1 c f y x"]) -> float:
    return float((predicted - clean)[:, :, 1:].double().square().mean())
