"""Plane sweep, semi-global choice, fusion and filling against planes whose depth is known exactly."""

import os

import numpy as np
import pytest
import torch
from torch import Tensor

from fw_data.annotators.sfm.config import SfmConfig
from fw_data.annotators.sfm.dense.filling import fill_depth, spread
from fw_data.annotators.sfm.dense.fusion import carry_over, compare_with_neighbors
from fw_data.annotators.sfm.dense.plane_sweep import (
    box_mean,
    matching_scores,
    pixel_rays,
    refine_between_planes,
    warp_source,
)
from fw_data.annotators.sfm.dense.semi_global import aggregate

HEIGHT, WIDTH = 48, 64
K = torch.tensor([[60.0, 0, WIDTH / 2], [0, 60.0, HEIGHT / 2], [0, 0, 1]])
OFFSETS = ((0.4, 0.0, 0.0), (-0.4, 0.1, 0.0), (0.1, 0.4, 0.1), (0.0, -0.4, -0.1))


def pose_at(center: tuple[float, float, float]) -> Tensor:
    """World-to-camera of a camera that does not turn."""
    pose = torch.eye(4)
    pose[:3, 3] = -torch.tensor(center)
    return pose


def plane_depth(center: tuple[float, float, float], slope: float, distance: float = 4.0) -> Tensor:
    """Depth of the plane z = distance + slope x, seen from `center`."""
    rays = pixel_rays(HEIGHT, WIDTH, K)
    return (distance + slope * center[0] - center[2]) / (1 - slope * rays[0])


def image(center: tuple[float, float, float], slope: float) -> Tensor:
    """The plane with a smooth random pattern fixed to it, in [0, 1]."""
    depth = plane_depth(center, slope)
    rays = pixel_rays(HEIGHT, WIDTH, K)
    x, y = rays[0] * depth + center[0], rays[1] * depth + center[1]
    generator = torch.Generator().manual_seed(7)
    waves = torch.randn(40, 2, generator=generator) * 11
    phases = torch.rand(40, generator=generator) * 6.28
    value = sum(torch.sin(a * x + b * y + c) for (a, b), c in zip(waves.tolist(), phases.tolist(), strict=True))
    return 0.5 + 0.04 * torch.as_tensor(value)


def views(slope: float) -> tuple[Tensor, Tensor, Tensor]:
    """Reference at the origin, sources, and the poses of the sources."""
    sources = torch.stack([image(center, slope) for center in OFFSETS])
    return image((0.0, 0.0, 0.0), slope), sources, torch.stack([pose_at(center) for center in OFFSETS])


def sweep(slope: float, planes: int) -> Tensor:
    """Inverse depth found between 1/8 and 1/2."""
    reference, sources, poses = views(slope)
    inverse = torch.linspace(1 / 8, 1 / 2, planes)
    score = matching_scores(reference, sources, inverse[:, None, None], K, poses, radius=2, best=2)
    cost = 1 - score
    position = refine_between_planes(cost, cost.argmin(dim=0))
    return inverse[0] + position * (inverse[1] - inverse[0])


def inner(values: Tensor, margin: int = 6) -> Tensor:
    return values[margin:-margin, margin:-margin]


def test_a_source_warped_with_the_true_depth_is_the_reference() -> None:
    reference, sources, poses = views(slope=0.3)
    truth = 1 / plane_depth((0.0, 0.0, 0.0), 0.3)
    warped, inside = warp_source(sources[0], truth[None], K, poses[0], pixel_rays(HEIGHT, WIDTH, K))
    assert inside.float().mean() > 0.8
    error = (warped[0] - reference)[inside[0]].abs()
    assert float(error.quantile(0.95)) < 0.04  # bilinear sampling of a smooth image
    assert float((sources[0] - reference).abs().mean()) > 0.1


def test_plane_sweep_finds_a_fronto_parallel_plane() -> None:
    error = inner(sweep(slope=0.0, planes=25)) * 4 - 1
    assert float(error.abs().median()) < 0.01  # a step between planes is 6 %
    assert float(error.abs().quantile(0.95)) < 0.03


def test_plane_sweep_finds_a_slanted_plane_between_its_planes() -> None:
    truth = 1 / plane_depth((0.0, 0.0, 0.0), 0.35)
    relative = inner(sweep(slope=0.35, planes=40) / truth) - 1
    assert float(relative.abs().median()) < 0.01
    assert float(relative.abs().quantile(0.9)) < 0.04


def test_nothing_seen_scores_zero() -> None:
    reference, sources, _ = views(slope=0.0)
    away = pose_at((500.0, 0.0, 0.0)).expand(4, 4, 4)
    score = matching_scores(reference, sources, torch.tensor([0.25])[:, None, None], K, away, radius=2, best=2)
    assert torch.equal(score, torch.zeros_like(score))


def test_box_mean_is_the_mean_of_the_window() -> None:
    values = torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(0))
    assert float((box_mean(values, 2)[1, 4, 5] - values[1, 2:7, 3:8].mean()).abs()) < 1e-6


def test_semi_global_choice_removes_noise_and_keeps_the_edge() -> None:
    truth = torch.full((30, 40), 3)
    truth[:, 20:] = 11
    guide = (truth > 5).float()
    generator = torch.Generator().manual_seed(1)
    cost = torch.rand(16, 30, 40, generator=generator)
    cost.scatter_add_(0, truth[None], torch.full((1, 30, 40), -0.6))
    wrong = (cost.argmin(dim=0) != truth).float().mean()
    chosen = aggregate(cost, guide, small_step=0.06, large_step=0.6).argmin(dim=0)
    far_off = ((chosen - truth).abs() > 1).float().mean()
    assert wrong > 0.2
    assert far_off < 0.1 * wrong


def plane_maps(slope: float = 0.2) -> tuple[Tensor, Tensor]:
    """Depth of the plane from the origin and the four offsets, and the poses."""
    centers = ((0.0, 0.0, 0.0), *OFFSETS)
    return torch.stack([plane_depth(c, slope) for c in centers]), torch.stack([pose_at(c) for c in centers])


def test_depth_maps_that_agree_confirm_each_other() -> None:
    depth, poses = plane_maps()
    fused = compare_with_neighbors(0, [1, 2, 3, 4], depth, torch.ones_like(depth), K, poses, tolerance=0.02)
    assert float(inner(fused.support).min()) >= 2
    assert float(inner(fused.conflict).max()) == 0
    assert float((inner(fused.depth) / inner(depth[0]) - 1).abs().max()) < 0.01


def test_a_depth_that_others_see_through_is_in_conflict_and_one_behind_is_only_unconfirmed() -> None:
    depth, poses = plane_maps()
    depth[0, 10:20, 10:20] *= 0.6  # floats in front of what the others see
    depth[0, 10:20, 40:50] *= 1.5  # lies behind it
    fused = compare_with_neighbors(0, [1, 2, 3, 4], depth, torch.ones_like(depth), K, poses, tolerance=0.02)
    front, behind = (slice(12, 18), slice(12, 18)), (slice(12, 18), slice(42, 48))
    assert float(fused.support[front].max()) == 0
    assert float(fused.support[behind].max()) == 0
    assert float(fused.conflict[front].min()) >= 2
    assert float(fused.conflict[behind].max()) == 0


def test_a_noisy_depth_moves_towards_those_that_agree() -> None:
    depth, poses = plane_maps(slope=0.0)
    depth[0] *= 1.015
    truth = plane_depth((0.0, 0.0, 0.0), 0.0)
    fused = compare_with_neighbors(0, [1, 2, 3, 4], depth, torch.ones_like(depth), K, poses, tolerance=0.03)
    assert float((inner(fused.depth) / inner(truth) - 1).abs().max()) < 0.008


def test_carry_over_brings_what_neighbors_know() -> None:
    depth, poses = plane_maps()
    trusted = torch.ones_like(depth)
    trusted[4] = 0
    depth[4] *= 3  # not trusted, so it must not be seen
    carried, count = carry_over(0, [1, 2, 3, 4], depth, trusted, K, poses)
    known = inner(count, 10) >= 2
    assert known.float().mean() > 0.9
    assert float((inner(carried, 10) / inner(depth[0], 10) - 1).abs()[known].quantile(0.95)) < 0.03
    assert float(count.max()) == 3


def test_filling_continues_a_plane_from_few_points() -> None:
    truth = plane_depth((0.0, 0.0, 0.0), 0.3)
    generator = torch.Generator().manual_seed(2)
    trust = (torch.rand(HEIGHT, WIDTH, generator=generator) < 0.1).float()
    wrong = torch.where(trust > 0, truth, 20.0)
    filled, left = fill_depth(wrong, trust, torch.full((HEIGHT, WIDTH), 0.5))
    assert float((filled / truth - 1).abs().quantile(0.95)) < 0.05
    assert torch.equal(filled[trust > 0], truth[trust > 0])
    assert float(left[trust == 0].max()) <= 0.15 + 1e-6


def test_filling_stops_at_edges_of_the_image() -> None:
    guide = torch.zeros(HEIGHT, WIDTH)
    guide[:, 32:] = 1
    values, weight = torch.zeros(HEIGHT, WIDTH), torch.zeros(HEIGHT, WIDTH)
    values[:, 32:] = 1.0
    weight[24, 4] = weight[24, 60] = 1.0  # one known pixel on either side
    smooth, reached = spread(values, weight, guide, smoothness=200.0, edge=0.015)
    assert float(smooth[:, :31].max()) < 0.05
    assert float(smooth[:, 33:].min()) > 0.95
    assert float(reached.min()) > 0


def test_filled_depth_is_always_a_number() -> None:
    filled, trust = fill_depth(torch.zeros(8, 9), torch.zeros(8, 9), torch.rand(8, 9))
    assert np.isfinite(filled.numpy()).all()
    assert np.isfinite(trust.numpy()).all()
    assert float(filled.abs().max()) == 0


def test_a_clip_uses_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert SfmConfig().threads == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert SfmConfig().threads == os.cpu_count()
