"""The small measures of the evaluation against independent values: images, LPIPS, bootstrap, reprojection."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fw_core.images import MOST_DB, psnr
from fw_geometry import Trajectory, make_trajectory
from fw_model.pipeline.result import World
from fw_train.config.schema import ConfigError
from fw_train.metrics.consistency import measured_gaps, reprojection
from fw_train.metrics.images import ssim
from fw_train.metrics.perceptual import Lpips
from fw_train.metrics.statistics import summarize


def images() -> tuple[np.ndarray, np.ndarray]:
    """Two pairs of 64 x 96: noise and the same noise disturbed, waves and the same waves shifted."""
    rng = np.random.default_rng(1)
    a = rng.integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    b = np.clip(a.astype(int) + rng.integers(-40, 41, a.shape), 0, 255).astype(np.uint8)
    y, x = np.mgrid[:64, :96]
    a[1] = np.stack([128 + 100 * np.sin(x / 7), 128 + 100 * np.cos(y / 5), (x + y) % 256], -1).astype(np.uint8)
    b[1] = np.roll(a[1], 3, 1)
    return a, b


def test_psnr_and_ssim_are_those_of_scikit_image():
    """skimage 0.26: peak_signal_noise_ratio; structural_similarity with gaussian_weights, sigma 1.5, channel_axis."""
    a, b = images()
    np.testing.assert_allclose(psnr(b, a), [21.12371293026507, 21.792403329001345], rtol=1e-12)
    np.testing.assert_allclose(ssim(b, a), [0.9533469617748319, 0.9153918231747076], rtol=1e-6)
    np.testing.assert_allclose(ssim(a, a), 1)
    assert psnr(a, a).tolist() == [MOST_DB, MOST_DB]


def test_ssim_refuses_images_below_its_window():
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(np.zeros((1, 10, 20, 3), np.uint8), np.zeros((1, 10, 20, 3), np.uint8))


def lpips_weights(path: Path) -> Path:
    """Seeded weights in the names of the published network."""
    shapes = {
        "net.slice1.0": (64, 3, 11, 11),
        "net.slice2.3": (192, 64, 5, 5),
        "net.slice3.6": (384, 192, 3, 3),
        "net.slice4.8": (256, 384, 3, 3),
        "net.slice5.10": (256, 256, 3, 3),
    }
    rng, state = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        state[f"{name}.bias"] = 0.1 * rng.normal(size=shape[0])
    for index, shape in enumerate(shapes.values()):
        state[f"lin{index}.model.1.weight"] = rng.uniform(size=(1, shape[0], 1, 1))
    save_file({name: torch.from_numpy(value.astype(np.float32)) for name, value in state.items()}, path)
    return path


def test_lpips_is_that_of_the_published_package(tmp_path):
    """lpips 0.1.4, LPIPS(net="alex") with the same weights loaded."""
    a, b = images()
    network = Lpips(lpips_weights(tmp_path / "alex.safetensors"))
    np.testing.assert_allclose(network(b, a), [0.07672272622585297, 0.08185933530330658], rtol=2e-5)
    assert network(a, a).tolist() == [0, 0]
    with pytest.raises(ValueError, match="35"):
        network(a[:, :32], a[:, :32])


def test_lpips_refuses_other_weights(tmp_path):
    with pytest.raises(ConfigError, match="none"):
        Lpips(tmp_path / "none")
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(ConfigError, match="safetensors"):
        Lpips(tmp_path / "text")
    save_file({"net.slice1.0.weight": torch.zeros(3)}, tmp_path / "other")
    with pytest.raises(ConfigError, match="15"):
        Lpips(tmp_path / "other")


def test_bootstrap_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    trials, covered = 300, np.zeros(2)
    names = [str(i) for i in range(40)]
    for _ in range(trials):
        found = summarize(rng.exponential(size=40), names, resamples=400)
        assert found.mean_interval is not None
        assert found.median_interval is not None
        covered += (
            found.mean_interval[0] <= 1 <= found.mean_interval[1],
            found.median_interval[0] <= np.log(2) <= found.median_interval[1],
        )
    assert (covered / trials > 0.89).all()
    assert (covered / trials < 0.985).all()


def test_clips_of_one_video_are_drawn_together():
    """Ten clips each of twelve videos, almost equal within a video: only the grouped interval covers the mean."""
    rng = np.random.default_rng(0)
    groups = [str(i // 10) for i in range(120)]
    together, apart = 0, 0
    for _ in range(200):
        values = np.repeat(rng.normal(size=12), 10) + 0.1 * rng.normal(size=120)
        for grouped in (True, False):
            names = groups if grouped else [str(i) for i in range(120)]
            interval = summarize(values, names, resamples=300).mean_interval
            assert interval is not None
            hit = interval[0] <= 0 <= interval[1]
            together, apart = together + (grouped and hit), apart + (not grouped and hit)
    assert together / 200 > 0.85
    assert apart / 200 < 0.6


def test_a_summary_of_draws_is_that_of_repeated_values():
    values, names = [3.0, 1.0, 2.0, 10.0], ["a", "b", "b", "c"]
    found = summarize(values, names, resamples=50, seed=3)
    rng = np.random.default_rng(3)
    means, medians = [], []
    for draw in rng.integers(0, 3, (50, 3)):
        drawn = np.concatenate([[[3.0], [1.0, 2.0], [10.0]][g] for g in draw])
        means.append(drawn.mean())
        medians.append(np.median(drawn))
    assert found.mean_interval == pytest.approx(tuple(np.percentile(means, (2.5, 97.5))))
    assert found.median_interval == pytest.approx(tuple(np.percentile(medians, (2.5, 97.5))))
    assert (found.mean, found.median, found.count, found.groups) == (4, 2.5, 4, 3)
    assert summarize([2.0, 3.0], ["a", "a"]).mean_interval is None
    with pytest.raises(ValueError, match="finite"):
        summarize([float("nan")], ["a"])


def wall(frames: int = 9, height: int = 64, width: int = 96, slope: float = 0.3) -> World:
    """A camera that slides past the wall z = 3 + slope x, painted with slow waves: geometry and colors are exact."""
    path = make_trajectory("truck", frames, width=width, height=height, distance=0.8)
    column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    K = path.K[0]
    ray_x, ray_y = (column - K[0, 2]) / K[0, 0], (row - K[1, 2]) / K[1, 1]
    shift = path.pose_c2w[:, 0, 3, None, None]
    depth = (3 + slope * shift) / (1 - slope * ray_x)
    points = np.stack([shift + ray_x * depth, np.broadcast_to(ray_y, depth.shape) * depth, depth], axis=-1)
    waves = np.stack([np.sin(2 * points[..., 0]), np.cos(3 * points[..., 1]), np.sin(points[..., 0] + 1)], axis=-1)
    return World(
        video=np.round(127.5 + 100 * waves).astype(np.uint8),
        depth=depth.astype(np.float32),
        depth_confidence=np.full(depth.shape, 2, np.float32),
        points=points.astype(np.float32),
        points_confidence=np.full(depth.shape, 2, np.float32),
        trajectory=path,
        requested=path,
    )


def test_a_consistent_world_reprojects_onto_itself():
    world = wall()
    for gap in measured_gaps(9):
        found = reprojection(world, gap)
        assert found.depth < 1e-5
        assert found.photometric < 0.008
        assert found.visible > 0.6
        assert found.photometric_ratio is not None
        assert found.photometric_ratio < 0.2
        assert found.depth_ratio is not None
        assert found.depth_ratio < 1e-3


def test_depth_that_flickers_by_a_known_factor_disagrees_by_it():
    world = wall()
    factor = np.where(np.arange(9) % 2, 1.03, 1.0).astype(np.float32)
    flicker = replace(world, depth=world.depth * factor[:, None, None])
    found = reprojection(flicker, 1)
    # seen from the next frame the wall is at 1.03 or 1 / 1.03 of where that frame has it, less the tiny slide
    assert found.depth == pytest.approx(0.03, abs=0.004)
    even = reprojection(flicker, 2)
    assert even.depth < 0.002


def test_cameras_that_stand_still_explain_nothing():
    world = wall()
    still = make_trajectory("still", 9, width=96, height=64)
    found = reprojection(replace(world, trajectory=still), 4)
    assert found.photometric_ratio == pytest.approx(1, abs=1e-3)
    assert found.depth_ratio == pytest.approx(1, abs=1e-3)


def test_hidden_pixels_count_as_without_a_warp():
    """A near square in front of the wall: the wall behind it, seen later, counts as without a warp."""
    world = wall(slope=0.0)
    depth, video = world.depth.copy(), world.video.copy()
    focal = world.trajectory.K[0, 0, 0]
    for frame, pose in enumerate(world.trajectory.pose_c2w):
        left = round(float(48 + focal * (-0.2 - pose[0, 3]) / 1.5))
        depth[frame, 8:56, left : left + 16] = 1.5
        video[frame, 8:56, left : left + 16] = 255
    found = reprojection(replace(world, depth=depth, video=video), 4)
    assert found.depth < 1e-4
    alone = reprojection(world, 4)
    hidden = alone.visible - found.visible
    assert 0.03 < hidden < 0.2
    assert found.photometric == pytest.approx(alone.photometric + hidden * 0.5, rel=0.5)  # wall against white
    assert found.photometric < found.photometric_still


def test_nothing_to_compare_is_a_failure_and_too_few_frames_an_error():
    world = wall(frames=3)
    turned = Trajectory(
        pose_c2w=np.stack([np.diag([1.0, 1, 1, 1]), np.diag([-1.0, 1, -1, 1]), np.eye(4)]),
        K=world.trajectory.K,
        width=96,
        height=64,
    )
    found = reprojection(replace(world, trajectory=turned), 1)
    assert found.failed
    assert found.visible == 0
    assert found.depth == 1
    assert found.photometric == found.photometric_still
    with pytest.raises(ValueError, match="3"):
        reprojection(world, 3)
