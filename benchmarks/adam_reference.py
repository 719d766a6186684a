"""The published schedule of DUSt3R's global alignment, written from its description, as the yardstick of the bench.

Unknowns: depth of every pixel of every frame, camera and focal length of every frame, similarity of every pair. Loss:
mean over pairs and both their frames of log(confidence) times the distance between the frame's point and the moved
point of the pair. 300 Adam steps, betas 0.9 and 0.9, learning rate 0.01 falling to 1e-6 on a cosine. Starts where our
alignment starts, which is a better start than the published spanning tree. Axis legend: f frames, e pairs, p pixels.
"""

import math

import numpy as np
import torch

from fw_data.annotators.dust3r.alignment.clouds import PairClouds
from fw_data.annotators.dust3r.alignment.start import start

STEPS, RATE, LAST_RATE, FOCAL_GAIN = 300, 0.01, 1e-6, 20.0


def align_with_adam(clouds: PairClouds, steps: int = STEPS) -> np.ndarray:
    """(f, 4, 4) camera-to-world after the schedule."""
    begin = start(clouds, shared_focal=False)
    first, second = (torch.from_numpy(np.ascontiguousarray(side)) for side in clouds.pairs.T)
    pose = np.repeat(np.eye(4)[None], clouds.frames, 0)
    pose[:, :3, :3], pose[:, :3, 3] = begin.rotation_w2c, begin.translation_w2c
    pose = np.linalg.inv(pose)
    pair_pose = pose[clouds.pairs[:, 0]]
    depth = np.zeros((clouds.frames, clouds.first.shape[1]))
    for frame in range(clouds.frames):
        its = clouds.pairs[:, 0] == frame
        z = clouds.first[its][..., 2] * np.exp(begin.log_scale[its])[:, None]
        weight = clouds.first_weight[its] + 1e-12
        depth[frame] = (z * weight).sum(0) / weight.sum(0)
    log_scale = torch.from_numpy(begin.log_scale).float()
    base = math.log(0.5)
    shrink = math.exp(base - float(log_scale.mean()))  # the published gauge: pair scales of mean log 0.5
    unknowns = {
        "log_depth": torch.from_numpy(np.log(np.maximum(depth * shrink, 1e-4))).float(),
        "quaternion": _quaternions(pose[:, :3, :3]),
        "shift": _squash(torch.from_numpy(pose[:, :3, 3] * shrink).float()),
        "focal": FOCAL_GAIN * torch.from_numpy(begin.log_focal).float(),
        "pair_quaternion": _quaternions(pair_pose[:, :3, :3]),
        "pair_shift": _squash(torch.from_numpy(pair_pose[:, :3, 3] * shrink).float()),
        "pair_scale": log_scale.clone(),
    }
    for value in unknowns.values():
        value.requires_grad_(True)
    optimizer = torch.optim.Adam(unknowns.values(), lr=RATE, betas=(0.9, 0.9))
    offsets = torch.from_numpy(clouds.offsets_px).float()
    maps = [torch.from_numpy(cloud).float() for cloud in (clouds.first, clouds.second)]
    weights = [torch.from_numpy(weight).float() for weight in (clouds.first_weight, clouds.second_weight)]
    for step in range(steps):
        rate = LAST_RATE + (RATE - LAST_RATE) * (1 + math.cos(math.pi * step / steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        depth_now = unknowns["log_depth"].exp()
        focal = (unknowns["focal"] / FOCAL_GAIN).exp()
        local = torch.cat(
            [offsets / focal[:, None, None], torch.ones_like(offsets[None, :, :1]).expand(len(focal), -1, -1)], -1
        )
        local = local * depth_now[..., None]
        world = local @ _rotations(unknowns["quaternion"]).mT + _stretch(unknowns["shift"])[:, None]
        scales = (unknowns["pair_scale"] - unknowns["pair_scale"].mean() + base).exp()
        turn, shift = _rotations(unknowns["pair_quaternion"]), _stretch(unknowns["pair_shift"])
        loss = torch.zeros(())
        for points, weight, frame in zip(maps, weights, (first, second), strict=True):
            moved = scales[:, None, None] * (points @ turn.mT) + shift[:, None]
            loss = loss + (weight * (world[frame] - moved).norm(dim=-1)).sum() / weight.numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    result = np.repeat(np.eye(4)[None], clouds.frames, 0)
    result[:, :3, :3] = _rotations(unknowns["quaternion"]).detach().double().numpy()
    result[:, :3, 3] = _stretch(unknowns["shift"]).detach().double().numpy()
    return result


def _rotations(quaternion: torch.Tensor) -> torch.Tensor:
    x, y, z, w = torch.nn.functional.normalize(quaternion, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _quaternions(rotation: np.ndarray) -> torch.Tensor:
    from fw_geometry.pose import matrix_to_quaternion

    return matrix_to_quaternion(torch.from_numpy(np.ascontiguousarray(rotation))).float()


def _squash(shift: torch.Tensor) -> torch.Tensor:
    return shift.sign() * shift.abs().log1p()


def _stretch(shift: torch.Tensor) -> torch.Tensor:
    return shift.sign() * shift.abs().expm1()
