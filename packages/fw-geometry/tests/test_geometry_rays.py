"""Unproject, project and Pluecker rays, against the textbook projection matrix in float64."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fw_geometry import (
    pack_plucker,
    pixel_grid,
    plucker_rays,
    plucker_rays_double_scaled,
    project,
    se3_inverse,
    unproject,
)


@pytest.fixture
def views(path):
    return torch.from_numpy(path.K), torch.from_numpy(path.pose_c2w)


def test_pixel_centres_are_half():
    grid = pixel_grid(2, 3)
    assert grid.shape == (2, 3, 2)
    assert grid[1, 2].tolist() == [2.5, 1.5]


def test_project_is_the_textbook_matrix(views):
    K, c2w = views
    points = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    uv, depth = project(points[None], K, se3_inverse(c2w))
    P = K.numpy() @ np.linalg.inv(c2w.numpy())[:, :3]
    x = np.einsum("fij,nj->fni", P, np.concatenate([points.numpy(), np.ones((7, 1))], -1))
    assert uv.shape == (5, 7, 2)
    np.testing.assert_allclose(depth, x[..., 2])
    np.testing.assert_allclose(uv, x[..., :2] / x[..., 2:])


@given(seed=st.integers(0, 2**32 - 1))
def test_project_undoes_unproject(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, 9, 2))
    depth = torch.from_numpy(rng.uniform(0.1, 20, (2, 3, height, width)))
    K = torch.zeros(2, 3, 3, 3, dtype=torch.float64)
    K[..., 0, 0], K[..., 1, 1], K[..., 2, 2] = rng.uniform(3, 30), rng.uniform(3, 30), 1
    K[..., 0, 2], K[..., 1, 2] = rng.uniform(0, width), rng.uniform(0, height)
    q = np.linalg.qr(rng.normal(size=(2, 3, 3, 3)))[0]
    c2w = torch.eye(4, dtype=torch.float64).repeat(2, 3, 1, 1)
    c2w[..., :3, :3] = torch.from_numpy(q * np.sign(np.linalg.det(q))[..., None, None])
    c2w[..., :3, 3] = torch.from_numpy(rng.normal(size=(2, 3, 3)))
    points = unproject(depth, K, c2w)
    assert points.shape == (2, 3, height, width, 3)
    uv, z = project(points, K, se3_inverse(c2w))
    np.testing.assert_allclose(z, depth)
    np.testing.assert_allclose(uv, pixel_grid(height, width, dtype=torch.float64).expand_as(uv), atol=1e-9, rtol=0)


def test_single_camera_goes_with_any_points_and_points_at_the_camera_do_not_break():
    K = torch.tensor([[2.0, 0, 1], [0, 3.0, 1], [0, 0, 1]])
    points = torch.zeros(4, 2, 3, requires_grad=True)
    uv, z = project(points, K)
    assert uv.shape == (4, 2, 2)
    uv.sum().backward()
    assert points.grad is not None
    assert torch.isfinite(points.grad).all()
    assert (z == 0).all()
    with pytest.raises(ValueError, match=r"\(1, 3, 3\)"):
        project(torch.zeros(3), K[None])


def test_unproject_needs_no_pose_for_camera_points():
    K = torch.tensor([[2.0, 0, 1], [0, 2.0, 1], [0, 0, 1]])
    points = unproject(torch.full((2, 2), 4.0), K)
    assert points[0, 0].tolist() == [-1.0, -1.0, 4.0]
    assert points[1, 1].tolist() == [1.0, 1.0, 4.0]


def test_plucker_rays_hold_every_point_that_the_pixel_sees(views):
    K, c2w = views
    rays = plucker_rays(K, c2w, 4, 6)
    assert rays.shape == (5, 4, 6, 6)
    moment, direction = rays.split(3, dim=-1)
    np.testing.assert_allclose(direction.norm(dim=-1), torch.ones(5, 4, 6, dtype=torch.float64))
    np.testing.assert_allclose((moment * direction).sum(-1), 0, atol=1e-12)
    for depth in (0.5, 7.0):
        points = unproject(torch.full((5, 4, 6), depth, dtype=torch.float64), K, c2w)
        np.testing.assert_allclose(torch.linalg.cross(points, direction, dim=-1), moment, atol=1e-12)
        forward = ((points - c2w[:, None, None, :3, 3]) * direction).sum(-1)
        assert (forward > 0).all()


def test_double_scaled_is_the_plain_one_for_scaled_intrinsics(views):
    K, c2w = views
    scaled = torch.diag(torch.tensor([6.0, 4.0, 1.0], dtype=torch.float64)) @ K
    quirk = plucker_rays_double_scaled(K, c2w, 4, 6)
    np.testing.assert_allclose(quirk, plucker_rays(scaled, c2w, 4, 6), atol=1e-12)
    assert float((quirk - plucker_rays(K, c2w, 4, 6)).abs().max()) > 0.1


def test_pack_plucker_orders_channels_and_repeats_the_first_frame():
    plucker = torch.arange(9 * 6.0).reshape(1, 9, 1, 1, 6)
    packed = pack_plucker(plucker)[0, :, :, 0, 0]
    assert packed.shape == (24, 3)
    for channel in range(6):
        frames = [(packed[channel * 4 + sub] - channel) / 6 for sub in range(4)]
        assert [f[0].item() for f in frames] == [0, 0, 0, 0]
        assert [f[1].item() for f in frames] == [1, 2, 3, 4]
        assert all((b - a)[1:].eq(1).all() for a, b in pairwise(frames))
    with pytest.raises(ValueError, match="8 frames"):
        pack_plucker(torch.zeros(1, 8, 1, 1, 6))
