"""Gaussian splats: the rasterizer against a loop over pixels, its gradients, the fit of a room, and the PLY."""

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from fw_geometry import make_trajectory
from fw_model.pipeline.result import World
from fw_train.evidence.clips import choose
from fw_train.evidence.levels import true_world
from fw_train.metrics.splats.fit import fit_splats, held_out_frames
from fw_train.metrics.splats.gaussians import SH_C0, Gaussians, from_points, write_splat_ply
from fw_train.metrics.splats.rasterize import _composite, render_plain

HEIGHT, WIDTH, COUNT = 20, 33, 9
K = np.array([[30.0, 0, 16.0], [0, 28.0, 10.5], [0, 0, 1]])


def some_gaussians() -> Gaussians:
    rng = np.random.default_rng(1)

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    return Gaussians(
        centers=tensor(rng.uniform((-1, -0.6, 1.5), (1, 0.6, 4), (COUNT, 3))),
        log_scales=tensor(rng.uniform(-2.5, -1.2, (COUNT, 3))),
        quaternions=tensor(rng.normal(size=(COUNT, 4))),
        opacity_logits=tensor(rng.normal(size=COUNT)),
        colors=tensor(rng.uniform(size=(COUNT, 3))),
    )


def by_loop(g: Gaussians, pose: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Each pixel alone, nearest Gaussian first, without tiles."""
    values = [t.detach().numpy() for t in g.tensors()]
    centers, log_scales, quaternions, logits, colors = values
    w2c = np.linalg.inv(pose)
    seen = centers @ w2c[:3, :3].T + w2c[:3, 3]
    image = np.zeros((HEIGHT, WIDTH, 3))
    for row in range(HEIGHT):
        for column in range(WIDTH):
            passed = 1.0
            for i in np.argsort(seen[:, 2]):
                x, y, z = seen[i]
                R = w2c[:3, :3] @ Rotation.from_quat(np.roll(quaternions[i], -1)).as_matrix()
                J = np.array([[K[0, 0] / z, 0, -K[0, 0] * x / z**2], [0, K[1, 1] / z, -K[1, 1] * y / z**2]])
                cov = J @ R @ np.diag(np.exp(2 * log_scales[i])) @ R.T @ J.T + 0.3 * np.eye(2)
                d = np.array([column + 0.5, row + 0.5]) - (K @ seen[i] / z)[:2]
                alpha = min(0.99, np.exp(-0.5 * d @ np.linalg.inv(cov) @ d) / (1 + np.exp(-logits[i])))
                if alpha < 1 / 255:
                    continue
                image[row, column] += passed * alpha * colors[i]
                passed *= 1 - alpha
            image[row, column] += passed * background
    return image


def camera() -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("yx", (7, -4), degrees=True).as_matrix()
    pose[:3, 3] = (0.1, -0.05, -0.2)
    return pose


def rendered(g: Gaussians) -> torch.Tensor:
    background = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    return render_plain(g, torch.from_numpy(K), torch.from_numpy(camera()), HEIGHT, WIDTH, background)


def test_an_image_is_that_of_a_loop_over_pixels():
    g = some_gaussians()
    expected = by_loop(g, camera(), np.array([0.2, 0.5, 0.8]))
    # a 3-sigma box cuts what is fainter than exp(-4.5) of a Gaussian
    np.testing.assert_allclose(rendered(g).numpy(), expected, atol=0.012)
    assert np.abs(rendered(g).numpy() - expected).mean() < 3e-4


def test_gradients_are_those_of_finite_differences():
    start = some_gaussians().tensors()
    weights = torch.from_numpy(np.random.default_rng(2).normal(size=(HEIGHT, WIDTH, 3)))

    def loss(tensors: list[torch.Tensor]) -> torch.Tensor:
        names = ("centers", "log_scales", "quaternions", "opacity_logits", "colors")
        return (weights * rendered(Gaussians(**dict(zip(names, tensors, strict=True))))).sum()

    leaves = [tensor.clone().requires_grad_() for tensor in start]
    loss(leaves).backward()
    rng = np.random.default_rng(3)
    for number, leaf in enumerate(leaves):
        direction = torch.from_numpy(rng.normal(size=tuple(leaf.shape)))
        both = [[t + sign * 1e-6 * direction if i == number else t for i, t in enumerate(start)] for sign in (1, -1)]
        difference = float(loss(both[0]) - loss(both[1])) / 2e-6
        assert leaf.grad is not None
        assert float((leaf.grad * direction).sum()) == pytest.approx(difference, rel=2e-2, abs=2e-2), number


def test_behind_the_camera_there_is_only_the_background():
    g = some_gaussians()
    behind = Gaussians(**{**vars(g), "centers": g.centers * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)})
    assert torch.equal(rendered(behind)[3, 4], torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64))


def test_rounding_makes_nothing_more_opaque_than_it_is():
    density = torch.tensor([[0.0, 0, 0, 0, 0, 3.0]])  # of a needle before the camera: rounded above its maximum, 0
    faint, white = torch.tensor([0.05]).log(), torch.ones(1, 3)
    pixel = torch.ones(4, 6)
    torch.testing.assert_close(_composite(pixel, density, faint, white, torch.zeros(3)), torch.full((4, 3), 0.05))


def test_frames_between_others_are_held_out():
    assert held_out_frames(17) == [4, 12]
    assert held_out_frames(81) == list(range(4, 80, 8))
    with pytest.raises(ValueError, match="6"):
        held_out_frames(5)


def test_the_true_geometry_of_a_room_is_a_better_start_than_none():
    clips = choose(Path("rooms"), (9, 48, 64), count=1, takes=1, min_confidence=0.3)
    world: World = true_world(clips.truth(clips.records[0].id))
    fits = {geometry: fit_splats(world, geometry=geometry, count=1000, steps=30) for geometry in (True, False)}
    first = fit_splats(world, geometry=True, count=1000, steps=0)
    assert fits[True].held_out == [4]
    assert fits[True].psnr > first.psnr + 1
    assert fits[True].psnr > fits[False].psnr + 1
    assert fits[True].ssim > fits[False].ssim


def test_the_ply_is_that_of_3dgs(tmp_path: Path):
    path = make_trajectory("dolly", 3, width=8, height=8)
    points, colors = np.random.default_rng(0).normal(size=(7, 3)) + path.centers_world[0], np.full((7, 3), 0.75)
    gaussians = from_points(points, colors, device=torch.device("cpu"))
    file = write_splat_ply(tmp_path / "world.ply", gaussians)
    cloud = trimesh.load(file)
    assert isinstance(cloud, trimesh.PointCloud)
    np.testing.assert_allclose(cloud.vertices, points, rtol=1e-6)
    stored = cloud.metadata["_ply_raw"]["vertex"]["data"]
    np.testing.assert_allclose(stored["f_dc_1"], 0.25 / SH_C0, rtol=1e-6)
    np.testing.assert_allclose(stored["opacity"], 0, atol=1e-6)
    assert (stored["rot_0"] == 1).all()
    assert np.isfinite(stored["scale_2"]).all()
