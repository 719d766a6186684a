"""Training losses: flow matching for the video, and depth, point-map and camera losses for the geometry.

    L = L_flow + lambda (L_depth + L_pmap + 3 L_camera)                                        (FantasyWorld, App. A.3)

Every function is pure, works in float32 or better, averages over the unmasked values, and is exactly 0 with zero
gradients when the mask leaves nothing. Lengths are in the unit of ``normalize_scene``; no loss fits a scale or shift.

Axes: b batch, F frames, H W pixels; predicted confidences are above 0 (the heads give 1 + exp).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from einops import reduce
from jaxtyping import Bool, Float
from torch import Tensor

from fw_model.losses.config import CameraLossConfig, DepthLossConfig, PointLossConfig, WorldLossConfig
from fw_model.losses.targets import GeometryTargets, NormalizedScene, geometry_targets, normalize_scene
from fw_model.losses.terms import (
    at_least_float32,
    confidence_weighted,
    known,
    masked_l1,
    masked_mean,
    multiscale_gradient,
    safe_norm,
    temporal_gradient,
)

__all__ = [
    "CameraLossConfig",
    "DepthLossConfig",
    "GeometryTargets",
    "NormalizedScene",
    "PointLossConfig",
    "WorldLoss",
    "WorldLossConfig",
    "camera_loss",
    "confidence_weighted",
    "depth_loss",
    "flow_matching_loss",
    "geometry_loss",
    "geometry_targets",
    "masked_l1",
    "multiscale_gradient",
    "normalize_scene",
    "pointmap_loss",
    "temporal_gradient",
    "world_loss",
]


@runtime_checkable
class GeometryPrediction(Protocol):
    """The part of ``fw_model.model.model.GeometryOutput`` that the losses read."""

    @property
    def depth(self) -> Tensor: ...
    @property
    def depth_confidence(self) -> Tensor: ...
    @property
    def points(self) -> Tensor: ...
    @property
    def points_confidence(self) -> Tensor: ...
    @property
    def pose_encodings(self) -> Sequence[Tensor]: ...


@dataclass(frozen=True, kw_only=True)
class WorldLoss:
    """A loss and its parts; ``total`` is the one to differentiate, ``parts`` are detached and for logs."""

    total: Float[Tensor, ""]
    """The weighted sum."""
    parts: dict[str, Float[Tensor, ""]]
    """Unweighted terms by name: flow, depth, depth/frame, ..., points, ..., camera, ..."""


def world_loss(
    velocity: Float[Tensor, "b *shape"],
    velocity_target: Float[Tensor, "b *shape"],
    flow_weight: Float[Tensor, "b"],
    geometry: GeometryPrediction | None,
    targets: GeometryTargets | None,
    config: WorldLossConfig | None = None,
    *,
    dense_frames: Sequence[int] | None = None,
) -> WorldLoss:
    """``L_flow + lambda (L_depth + L_pmap + 3 L_camera)``; the flow loss alone if ``geometry`` is None.

    Arguments and errors of the geometry part: see `geometry_loss`.
    """
    config = config or WorldLossConfig()
    flow = flow_matching_loss(velocity, velocity_target, flow_weight)
    if geometry is None or targets is None:
        return WorldLoss(total=flow, parts={"flow": flow.detach()})
    rest = geometry_loss(geometry, targets, config, dense_frames=dense_frames)
    total = flow + config.geometry * rest.total
    return WorldLoss(total=total, parts={"flow": flow.detach(), "geometry": rest.total.detach(), **rest.parts})


def geometry_loss(
    geometry: GeometryPrediction,
    targets: GeometryTargets,
    config: WorldLossConfig | None = None,
    *,
    dense_frames: Sequence[int] | None = None,
) -> WorldLoss:
    """``L_depth + L_pmap + 3 L_camera``: the whole of stage 1, and the geometry part of stage 2.

    The mean over the samples: each counts the same, however many of its pixels are valid.

    Args:
        geometry: the predictions of the heads.
        targets: labels of all output frames.
        config: weights.
        dense_frames: the output frames that depth and points were predicted for; None: all.

    Raises:
        ValueError: a temporal weight with only some frames, which have no neighbors in time.
    """
    config = config or WorldLossConfig()
    if dense_frames is not None and config.depth.temporal > 0:
        raise ValueError(
            "geometry_loss: the temporal depth term needs all frames; set its weight to 0 or omit dense_frames."
        )
    frames = slice(None) if dense_frames is None else list(dense_frames)
    samples = [_sample_loss(geometry, targets, config, i, frames) for i in range(len(targets.mask))]
    total = torch.stack([sample.total for sample in samples]).mean()
    parts = {name: torch.stack([sample.parts[name] for sample in samples]).mean() for name in samples[0].parts}
    return WorldLoss(total=total, parts=parts)


def flow_matching_loss(
    velocity: Float[Tensor, "b *shape"], target: Float[Tensor, "b *shape"], weight: Float[Tensor, "b"]
) -> Float[Tensor, ""]:
    """``mean_i w_i mean (v_i - (noise_i - x0_i))^2`` (Wan's flow matching; FantasyWorld 1.8)."""
    error = (at_least_float32(velocity) - at_least_float32(target)).square().flatten(1).mean(dim=1)
    return (weight.to(error) * error).mean()


def depth_loss(
    depth: Float[Tensor, "b F H W"],
    confidence: Float[Tensor, "b F H W"],
    target: Float[Tensor, "b F H W"],
    mask: Bool[Tensor, "b F H W"],
    weight: Float[Tensor, "b F H W"] | None = None,
    config: DepthLossConfig | None = None,
) -> WorldLoss:
    """``L_depth = 10 L_TGM + |d' - d| + 0.5 L_grad + L_conf`` (FantasyWorld 1.8: VDA without its affine fit)."""
    config = config or DepthLossConfig()
    if config.space == "log":
        depth = at_least_float32(depth).clamp_min(_LEAST_DEPTH).log()
        target = torch.where(mask, at_least_float32(target), 1.0).clamp_min(_LEAST_DEPTH).log()
    residual = (at_least_float32(depth) - known(target, mask)).abs()
    frame = masked_l1(depth, target, mask, weight)
    gradient = multiscale_gradient(depth[..., None], target[..., None], mask, scales=config.scales, weight=weight)
    temporal = temporal_gradient(depth, target, mask, gate=config.gate)
    sure = confidence_weighted(
        residual.detach(), confidence, mask, gamma=config.gamma, alpha=config.alpha, trim=config.trim, weight=weight
    )
    total = config.frame * frame + config.gradient * gradient + config.temporal * temporal + config.confidence * sure
    return _named("depth", total, frame=frame, gradient=gradient, temporal=temporal, confidence=sure)


def pointmap_loss(
    points: Float[Tensor, "b F H W 3"],
    confidence: Float[Tensor, "b F H W"],
    target: Float[Tensor, "b F H W 3"],
    mask: Bool[Tensor, "b F H W"],
    weight: Float[Tensor, "b F H W"] | None = None,
    config: PointLossConfig | None = None,
) -> WorldLoss:
    """``L_pmap = |S (P' - P)| + |S (grad P' - grad P)| - alpha log S``, S the confidence (FantasyWorld 1.8)."""
    config = config or PointLossConfig()
    residual = safe_norm(at_least_float32(points) - known(target, mask[..., None]))
    plain = config.error == "plain"
    sure = confidence_weighted(
        residual.detach() if plain else residual,
        confidence,
        mask,
        gamma=config.gamma,
        alpha=config.alpha,
        trim=config.trim,
        weight=weight,
    )
    if plain:
        frame = masked_mean(residual, mask, weight)
        gradient = multiscale_gradient(points, target, mask, scales=config.scales, weight=weight) / config.scales
        total = frame + config.gradient * gradient + config.confidence * sure
        return _named("points", total, frame=frame, confidence=sure, gradient=gradient)
    trust = at_least_float32(confidence) if weight is None else at_least_float32(confidence) * weight
    gradient = multiscale_gradient(points, target, mask, scales=config.scales, weight=trust) / config.scales
    return _named("points", sure + config.gradient * gradient, confidence=sure, gradient=gradient)


def camera_loss(
    pose_encodings: Sequence[Float[Tensor, "b F 9"]],
    target: Float[Tensor, "b F 9"],
    frame_mask: Bool[Tensor, "b F"],
    config: CameraLossConfig | None = None,
) -> WorldLoss:
    """``sum_k 0.6^(n-1-k) (T_k + R_k + FoV_k / 2)``, each the mean error over frames and entries (VGGT, eq. 3).

    Every refinement of the camera head is supervised, the last one most.
    """
    config = config or CameraLossConfig()
    if len(pose_encodings) == 0:
        raise ValueError("camera_loss needs at least one refinement; pose_encodings is empty.")
    parts = {"translation": [], "rotation": [], "fov": []}
    for k, encoding in enumerate(pose_encodings):
        error = (at_least_float32(encoding) - known(target, frame_mask[..., None])).abs()
        error = torch.cat([error[..., :3].clamp_max(config.clamp), error[..., 3:]], dim=-1)
        if config.kind == "huber":
            error = torch.where(
                error < config.epsilon, error.square() / (2 * config.epsilon), error - config.epsilon / 2
            )
        share = config.decay ** (len(pose_encodings) - 1 - k)
        for name, entries in (("translation", slice(0, 3)), ("rotation", slice(3, 7)), ("fov", slice(7, 9))):
            parts[name].append(share * masked_mean(error[..., entries].mean(dim=-1), frame_mask))
    translation, rotation, fov = (torch.stack(parts[name]).sum() for name in parts)
    total = config.translation * translation + config.rotation * rotation + config.fov * fov
    return _named("camera", total, translation=translation, rotation=rotation, fov=fov)


_LEAST_DEPTH = 1e-4
"""Depths are clamped here before their logarithm, in units of the scene."""


# --- helpers --------------------------------------------------------------------------------------------------------


def _sample_loss(
    geometry: GeometryPrediction, targets: GeometryTargets, config: WorldLossConfig, i: int, frames: slice | list[int]
) -> WorldLoss:
    """Loss of sample `i`; depth and points were predicted for `frames`."""
    at = slice(i, i + 1)
    mask = targets.mask[at, frames]
    weight = None if targets.weight is None else targets.weight[at, frames]
    depth = depth_loss(
        geometry.depth[at], geometry.depth_confidence[at], targets.depth[at, frames], mask, weight, config.depth
    )
    points = pointmap_loss(
        geometry.points[at], geometry.points_confidence[at], targets.points[at, frames], mask, weight, config.points
    )
    camera = camera_loss(
        [encoding[at] for encoding in geometry.pose_encodings],
        targets.pose_encoding[at],
        _frames_with_pixels(targets.mask[at], config.camera.min_pixels),
        config.camera,
    )
    total = config.depth.weight * depth.total + config.points.weight * points.total
    total = total + config.camera.weight * camera.total
    return WorldLoss(total=total, parts={**depth.parts, **points.parts, **camera.parts})


def _frames_with_pixels(mask: Bool[Tensor, "b F H W"], min_pixels: int) -> Bool[Tensor, "b F"]:
    size = mask.shape[-1] * mask.shape[-2]
    return reduce(mask.float(), "b f h w -> b f", "sum") >= max(1, min(min_pixels, size // 100))


def _named(name: str, total: Tensor, **parts: Tensor) -> WorldLoss:
    return WorldLoss(
        total=total,
        parts={name: total.detach(), **{f"{name}/{key}": value.detach() for key, value in parts.items()}},
    )
