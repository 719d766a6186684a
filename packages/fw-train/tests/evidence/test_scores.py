"""All measures on toy scenes with exact truth: a perfect world scores perfectly, a known fault costs what it must."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from fw_data.annotate.config import AnnotateConfig
from fw_data.annotate.pipeline import annotate
from fw_data.annotate.progress import PlainReporter
from fw_data.annotators.base import AnnotationRefused, ClipGeometry
from fw_data.annotators.oracle.spec import OracleSpec
from fw_data.dataset.reader import ClipDataset
from fw_data.engine.local import LocalEngine
from fw_geometry import unproject
from fw_model.pipeline.result import World
from fw_toy.cli import ToyOptions
from fw_toy.cli import run as render_toy
from fw_train.metrics.measure import measure
from fw_train.metrics.measures import MEASURES, ClipScores
from fw_train.metrics.perceptual import Lpips
from fw_train.metrics.truth import TruthClip, load_truth


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ClipDataset:
    """A toy clip, 9 frames of 64x96, stored without loss and annotated with their exact geometry."""
    root = tmp_path_factory.mktemp("toy")
    options = ToyOptions(out=root / "toy", clips=1, frames=9, size="96x64", scenes="indoor", supersample=1, workers=1)
    render_toy(options)
    annotate(
        root / "toy" / "raw",
        root / "dataset",
        config=AnnotateConfig(size="96x64", min_frames=9, crf=0),
        spec=OracleSpec(truth=root / "toy" / "truth"),
        engine=LocalEngine(workers=0),
        reporter=PlainReporter(),
    )
    return ClipDataset(root / "dataset")


@pytest.fixture
def truth(toy: ClipDataset) -> TruthClip:
    return load_truth(toy, toy.records[0].id, frames=9, height=64, width=96, min_confidence=0.3)


def perfect(truth: TruthClip) -> World:
    """The world that a model without fault would make."""
    cameras = truth.trajectory
    depth = np.where(truth.depth > 0, truth.depth, truth.depth.max()).astype(np.float32)
    K, pose = torch.from_numpy(cameras.K).float(), torch.from_numpy(cameras.pose_c2w).float()
    return World(
        video=truth.video,
        depth=depth,
        depth_confidence=np.full(depth.shape, 2, np.float32),
        points=unproject(torch.from_numpy(depth), K, pose).numpy(),
        points_confidence=np.full(depth.shape, 2, np.float32),
        trajectory=cameras,
        requested=cameras,
    )


def moved(world: World, pose_c2w: np.ndarray) -> World:
    return replace(world, trajectory=replace(world.trajectory, pose_c2w=pose_c2w))


def number(result: ClipScores, name: str) -> float:
    value = result.scores[name]
    assert value is not None, name
    return value


def test_lengths_are_in_units_of_what_the_first_frame_shows(toy: ClipDataset, truth: TruthClip):
    clip = toy.load(truth.record.id)
    first = clip.points_world[0][clip.depth_m[0] > 0]
    scale = np.linalg.norm(first - clip.pose_c2w[0, :3, 3], axis=-1).mean()
    assert truth.scene_scale == pytest.approx(scale, rel=1e-5)
    np.testing.assert_allclose(truth.depth, clip.depth_m / scale, rtol=1e-5)
    np.testing.assert_allclose(truth.trajectory.centers_world, clip.pose_c2w[:, :3, 3] / scale, atol=1e-6)
    np.testing.assert_array_equal(truth.video, clip.video)


def test_a_perfect_world_scores_perfectly(toy: ClipDataset):
    for frames in (5, 9):
        truth = load_truth(toy, toy.records[0].id, frames=frames, height=64, width=96, min_confidence=0.3)
        result = measure(perfect(truth), truth)
        assert result.notes == []
        assert set(result.scores) == {
            n for n in MEASURES if not n.startswith("follow_sfm") and n not in ("video/lpips", "video/st_lpips")
        }
        zero = ("depth/abs_rel", "depth/abs_rel_affine", "pose/ate", "pose/rpe_trans", "points/chamfer")
        assert max(number(result, name) for name in zero) < 2e-6
        assert max(number(result, name) for name in ("pose/rpe_rot", "follow/rotation", "follow/direction")) < 1e-3
        assert [number(result, n) for n in ("depth/delta1", "depth/delta1_affine", "video/ssim")] == [1, 1, 1]
        assert number(result, "video/psnr") == 100
        assert number(result, "consistency/depth") < 2e-3
        assert number(result, "consistency/depth_ratio") < 0.15
        assert number(result, "consistency/photometric_ratio") < 0.5
        assert [frame for frame, _ in result.curves["video/psnr"]] == list(range(frames))
        assert [gap for gap, _ in result.curves["consistency/depth"]] == [1, 2, 4, 8][: 3 if frames == 5 else 4]


def test_the_scale_of_a_world_does_not_count(truth: TruthClip):
    world = perfect(truth)
    larger = replace(
        world,
        depth=world.depth * np.float32(1.1),
        points=world.points * np.float32(1.1),
        trajectory=world.trajectory.scaled(1.1),
    )
    result = measure(larger, truth)
    for name in ("depth/abs_rel", "depth/abs_rel_affine", "pose/ate", "pose/rpe_trans", "points/chamfer"):
        assert number(result, name) < 2e-6, name
    only_depth = measure(replace(world, depth=world.depth * np.float32(1.1)), truth)
    assert number(only_depth, "depth/abs_rel") < 1e-6


def test_a_shift_in_disparity_is_forgiven_by_the_affine_fit_alone(truth: TruthClip):
    world = perfect(truth)
    bent = (1 / (0.7 / world.depth + 0.3)).astype(np.float32)
    result = measure(replace(world, depth=bent), truth)
    assert number(result, "depth/abs_rel_affine") < 1e-5
    assert number(result, "depth/abs_rel") > 0.02


def test_disparity_errors_of_known_size_cost_what_they_must(truth: TruthClip):
    """A fifth of the pixels with 1 / depth off by 30 % either way: the robust fits keep the scale of the others."""
    world = perfect(truth)
    wrong = np.random.default_rng(0).choice([1.0, 1.3, 0.7], world.depth.shape, p=[0.8, 0.1, 0.1])
    result = measure(replace(world, depth=(world.depth / wrong).astype(np.float32)), truth)
    known = truth.depth > 0
    expected = np.abs(1 / wrong[known] - 1).mean()
    assert expected == pytest.approx(0.1 * (0.3 / 1.3 + 0.3 / 0.7), rel=0.05)
    assert number(result, "depth/abs_rel") == pytest.approx(expected, rel=1e-4)
    assert number(result, "depth/delta1") == pytest.approx((wrong[known] == 1).mean())
    assert number(result, "depth/abs_rel_affine") == pytest.approx(expected, rel=0.05)


def test_depth_that_runs_the_wrong_way_falls_back_to_a_constant(truth: TruthClip):
    world = perfect(truth)
    result = measure(replace(world, depth=(1 / world.depth).astype(np.float32)), truth)
    assert any("constant" in note for note in result.notes)
    known = truth.depth[truth.depth > 0].astype(np.float64)
    constant = 1 / np.median(1 / known)
    assert number(result, "depth/abs_rel_affine") == pytest.approx(np.abs(constant / known - 1).mean(), rel=1e-6)


def test_a_turn_of_known_size_is_measured_as_that(truth: TruthClip):
    world = perfect(truth)
    poses = world.trajectory.pose_c2w.copy()
    poses[1:, :3, :3] = poses[1:, :3, :3] @ Rotation.from_euler("y", 5, degrees=True).as_matrix()
    result = measure(moved(world, poses), truth)
    assert number(result, "follow/rotation") == pytest.approx(5, abs=1e-3)
    assert number(result, "follow/direction") < 1e-3
    assert number(result, "pose/rpe_rot") == pytest.approx(5 / np.sqrt(8), abs=1e-3)
    assert number(result, "pose/ate") < 1e-6


def test_a_path_off_by_a_known_amount(truth: TruthClip):
    """Zigzag across a straight path, with no mean and no trend: Sim(3) can only shrink it, by a known factor."""
    line = np.repeat(np.eye(4)[None], 9, axis=0)
    line[:, 2, 3] = 0.1 * np.arange(9)
    straight = replace(truth, trajectory=replace(truth.trajectory, pose_c2w=line))
    zigzag = line.copy()
    zigzag[1:, 0, 3] += 0.02 * np.array([1, -1, -1, 1, -1, 1, 1, -1])
    world = replace(perfect(straight), requested=straight.trajectory)
    result = measure(moved(world, zigzag), straight)
    variance, error = line[:, 2, 3].var(), 0.02**2 * 8 / 9
    assert number(result, "pose/ate") == pytest.approx(np.sqrt(variance * error / (variance + error)))
    angles = [np.degrees(np.arctan2(0.02, 0.1 * frame)) for frame in range(1, 9)]
    assert number(result, "follow/direction") == pytest.approx(np.mean(angles))


def test_points_off_by_a_known_amount(truth: TruthClip):
    """Points that stand alone: the nearest true point of each is its own."""
    alone = np.zeros_like(truth.depth)
    alone[0, 8::24, 8::24] = truth.depth[0, 8::24, 8::24]
    sparse = replace(truth, depth=alone)
    world = perfect(truth)
    lifted = world.points + np.array([0, 0.01, 0], np.float32)
    assert number(measure(replace(world, points=lifted), sparse), "points/chamfer") == pytest.approx(0.01, rel=1e-3)


def test_noise_of_known_size_gives_its_psnr(truth: TruthClip):
    middle = np.clip(truth.video, 16, 239)
    sign = np.random.default_rng(0).choice([-8, 8], middle.shape)
    noisy = (middle.astype(int) + sign).astype(np.uint8)
    calm = replace(truth, video=middle)
    result = measure(replace(perfect(calm), video=noisy), calm)
    assert number(result, "video/psnr") == pytest.approx(20 * np.log10(255 / 8), abs=0.01)
    gaussian = middle + np.random.default_rng(1).normal(0, 4, middle.shape)
    result = measure(replace(perfect(calm), video=np.round(gaussian).clip(0, 255).astype(np.uint8)), calm)
    assert number(result, "video/psnr") == pytest.approx(10 * np.log10(255**2 / (16 + 1 / 12)), abs=0.05)


def test_lpips_is_measured_where_a_network_is_given(truth: TruthClip):
    class Network(Lpips):
        def __init__(self) -> None:
            pass

        def __call__(self, pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
            return np.arange(len(pred)) + np.abs(pred.astype(float) - truth).sum()

    result = measure(perfect(truth), truth, lpips=Network())
    assert number(result, "video/lpips") == np.mean(np.arange(1, 9))
    assert result.curves["video/lpips"][8] == (8, 8.0)


def test_the_first_frame_is_the_input_and_does_not_count(truth: TruthClip):
    video = truth.video.copy()
    video[0] = 0
    result = measure(replace(perfect(truth), video=video), truth)
    assert number(result, "video/psnr") == 100
    assert (result.curves["video/psnr"][0][1] or 0) < 20


def test_a_camera_that_stands_still(truth: TruthClip):
    still = np.repeat(np.eye(4)[None], 9, axis=0)
    world = perfect(truth)
    lazy = measure(moved(world, still), truth)
    assert number(lazy, "follow/direction") == 90
    assert any("no scale" in note for note in lazy.notes)
    asked = replace(world, requested=replace(world.requested, pose_c2w=still))
    result = measure(asked, truth)
    assert result.scores["follow/direction"] is None
    assert any("direction of travel" in note for note in result.notes)


def test_cameras_from_structure_from_motion(truth: TruthClip, monkeypatch: pytest.MonkeyPatch):
    """Its path is compared with the requested one; a refusal is a note, not a number."""
    import fw_data.annotators.sfm as sfm

    class Found:
        def annotate(self, frames: np.ndarray) -> ClipGeometry:
            poses = truth.trajectory.pose_c2w.copy()
            poses[1:, :3, :3] = poses[1:, :3, :3] @ Rotation.from_euler("x", 2, degrees=True).as_matrix()
            empty = np.ones(frames.shape[:3], np.float32)
            return ClipGeometry(
                depth_m=empty,
                confidence=empty,
                K=truth.trajectory.K,
                pose_c2w=poses,
                pose_confidence=np.ones(9, np.float32),
            )

    class Refuses:
        def annotate(self, frames: np.ndarray) -> ClipGeometry:
            raise AnnotationRefused("no-parallax", f"the camera only turns in {len(frames)} frames")

    monkeypatch.setattr(sfm, "SfmBackend", Found)
    result = measure(perfect(truth), truth, recover="sfm")
    assert number(result, "follow_sfm/rotation") == pytest.approx(2, abs=1e-3)
    assert number(result, "follow_sfm/direction") < 1e-3
    assert number(result, "follow/rotation") < 1e-3
    monkeypatch.setattr(sfm, "SfmBackend", Refuses)
    refused = measure(perfect(truth), truth, recover="sfm")
    assert refused.scores["follow_sfm/rotation"] is None
    assert any("the camera only turns in 9 frames" in note for note in refused.notes)


def test_what_cannot_be_measured_is_refused(toy: ClipDataset, truth: TruthClip):
    world = perfect(truth)
    shorter = load_truth(toy, truth.record.id, frames=5, height=64, width=96, min_confidence=0.3)
    with pytest.raises(ValueError, match="same"):
        measure(world, shorter)
    hole = world.depth.copy()
    hole[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        measure(replace(world, depth=hole), truth)
