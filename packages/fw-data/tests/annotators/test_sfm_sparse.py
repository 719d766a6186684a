"""Bundle adjustment, shutter, lens, focal length and mapping against scenes of points whose truth is exact."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from fw_data.annotators.base import AnnotationRefused
from fw_data.annotators.sfm import refusals
from fw_data.annotators.sfm.bundle import adjust, drop_outliers, to_reconstruction
from fw_data.annotators.sfm.calibration import (
    FOCAL_SPREAD,
    MIN_READOUT,
    USUAL_FOCAL,
    fit_lens,
    fit_shutter,
    settle_focal,
    stretched,
)
from fw_data.annotators.sfm.dense.views import choose_sources, depth_limits
from fw_data.annotators.sfm.focal import guess_focal_px
from fw_data.annotators.sfm.lens import LensRemoval, remove_lens
from fw_data.annotators.sfm.mapping import map_keyframes, scene_from_model
from fw_data.annotators.sfm.matching.features import Features
from fw_data.annotators.sfm.matching.matching import PairMatches, verify_pair
from fw_data.annotators.sfm.refinement import refine_observations
from fw_data.annotators.sfm.reversal import candidates, likeliest, reverse, same_cameras
from fw_data.annotators.sfm.rolling_shutter import estimate_readout, residuals_px
from fw_data.annotators.sfm.scene import SparseScene
from fw_data.annotators.sfm.sections import compare_sections
from fw_data.annotators.sfm.zoom import fit_camera, fit_zoom
from fw_geometry.metrics import ate

WIDTH, HEIGHT, FOCAL = 320, 240, 260.0
FRAMES = 9


def pose_c2w(
    time: float, turn: float = 0.06, step: tuple[float, float, float] = (0.25, 0.05, 0.1), shake: float = 0.3
) -> np.ndarray:
    """Camera at a moment (in frames) of a smooth path around the scene."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec([shake * turn * np.sin(time), -turn * time, 0.2 * turn * time]).as_matrix()
    pose[:3, 3] = np.array(step) * time
    return pose


def project(points: np.ndarray, pose: np.ndarray, radial: float = 0.0, radial2: float = 0.0) -> np.ndarray:
    camera = (points - pose[:3, 3]) @ pose[:3, :3]
    flat = camera[:, :2] / camera[:, 2:]
    square = (flat**2).sum(1, keepdims=True)
    flat = flat * (1 + radial * square + radial2 * square**2)
    return FOCAL * flat + [WIDTH / 2, HEIGHT / 2]


def make_scene(
    *,
    points: int = 150,
    radial: float = 0.0,
    radial2: float = 0.0,
    readout: float = 0.0,
    noise_px: float = 0.0,
    **path,
) -> SparseScene:
    """Random points, observed wherever they are inside the image; those seen in fewer than 3 frames are left out."""
    rng = np.random.default_rng(3)
    cloud = rng.uniform([-2.5, -1.5, 4.0], [3.5, 1.5, 9.0], (points, 3))
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for frame in range(FRAMES):
        seen = project(cloud, pose_c2w(frame, **path), radial, radial2)
        for _ in range(4 if readout else 0):  # each row is read at its own moment, from its own place on the path
            moments = frame + (seen[:, 1] / HEIGHT - 0.5) * readout
            moved = [project(point[None], pose_c2w(t, **path)) for point, t in zip(cloud, moments, strict=True)]
            seen = np.concatenate(moved)
        inside = np.flatnonzero((seen > 0).all(1) & (seen < [WIDTH, HEIGHT]).all(1))
        rows.append((np.full(len(inside), frame), inside, seen[inside]))
    frame, point, xy = (np.concatenate([row[i] for row in rows]) for i in range(3))
    often = np.bincount(point, minlength=points) >= 3
    keep = often[point]
    frame, point, xy = frame[keep], (np.cumsum(often) - 1)[point[keep]], xy[keep]
    return SparseScene(
        width=WIDTH,
        height=HEIGHT,
        focal_px=FOCAL,
        pose_w2c=np.linalg.inv([pose_c2w(frame, **path) for frame in range(FRAMES)]),
        posed=np.ones(FRAMES, bool),
        points=cloud[often],
        obs_frame=frame,
        obs_point=point,
        obs_xy=xy + noise_px * rng.standard_normal(xy.shape),
    )


def perturbed(scene: SparseScene, focal: float = 1.08) -> SparseScene:
    rng = np.random.default_rng(5)
    pose = scene.pose_w2c.copy()
    for frame in range(1, FRAMES):
        pose[frame, :3, :3] = Rotation.from_rotvec(rng.normal(0, 0.01, 3)).as_matrix() @ pose[frame, :3, :3]
        pose[frame, :3, 3] += rng.normal(0, 0.03, 3)
    points = scene.points + rng.normal(0, 0.05, scene.points.shape)
    return replace(scene, pose_w2c=pose, points=points, focal_px=focal * scene.focal_px)


def center_error(scene: SparseScene, truth: SparseScene) -> float:
    return ate(np.linalg.inv(scene.pose_w2c[scene.posed]), np.linalg.inv(truth.pose_w2c[scene.posed])).rmse


def test_bundle_adjustment_recovers_a_perturbed_scene() -> None:
    truth = make_scene()
    start = perturbed(truth)
    assert np.median(residuals_px(start)) > 3
    found = adjust(start, max_iterations=100, threads=1)
    assert np.median(residuals_px(found)) < 1e-3
    assert found.focal_px == pytest.approx(FOCAL, rel=1e-3)
    assert center_error(found, truth) < 1e-3 < 0.02 < center_error(start, truth)


def test_a_fixed_focal_length_stays() -> None:
    assert adjust(perturbed(make_scene()), refine_focal=False, threads=1).focal_px == pytest.approx(1.08 * FOCAL)


def test_a_reversed_scene_looks_alike_from_afar_and_twice_is_the_same_scene() -> None:
    truth = make_scene()
    far = replace(truth, focal_px=1000 * FOCAL, pose_w2c=truth.pose_w2c + 0.0)
    far.pose_w2c[:, 2, 3] += 4000.0
    seen, twin = (scene.project(scene.obs_frame, scene.points[scene.obs_point])[0] for scene in (far, reverse(far)))
    assert np.abs(seen - twin).max() < 0.5  # of thousands of pixels
    back = reverse(reverse(truth))
    seen, again = (scene.project(scene.obs_frame, scene.points[scene.obs_point])[0] for scene in (truth, back))
    np.testing.assert_allclose(seen, again, atol=1e-8)
    assert center_error(reverse(truth), truth) > 0.1 > 1e-9 > center_error(back, truth)


def test_a_reversed_start_is_found_out_and_a_right_one_stays() -> None:
    truth = make_scene(noise_px=0.2)
    right = adjust(perturbed(truth), loss_px=1.0, max_iterations=100, threads=1)
    wrong = adjust(reverse(right), loss_px=1.0, max_iterations=100, threads=1)
    assert center_error(wrong, truth) > 0.05  # more steps do not lead out of it
    found = likeliest([wrong, candidates(wrong, threads=1)[1]])
    assert center_error(found, truth) < 0.01
    assert candidates(right, threads=1) == [right]
    assert same_cameras(right, right)
    assert same_cameras(truth, adjust(perturbed(truth), max_iterations=100, threads=1))
    assert not same_cameras(right, wrong)


def test_fewer_observations_are_no_smaller_residuals() -> None:
    scene = make_scene(noise_px=0.5)
    few = drop_outliers(scene, max_error_px=0.5)
    assert len(few.obs_xy) < len(scene.obs_xy)
    assert np.median(residuals_px(few)) < np.median(residuals_px(scene))
    assert likeliest([few, scene]) is scene


def test_outliers_are_dropped_and_nothing_else() -> None:
    scene = make_scene()
    bad = np.zeros(len(scene.obs_xy), bool)
    bad[::17] = True
    spoilt = replace(scene, obs_xy=scene.obs_xy + bad[:, None] * [30.0, 0.0])
    kept = drop_outliers(spoilt, max_error_px=5.0, min_views=1)
    assert len(kept.obs_xy) == (~bad).sum()
    assert residuals_px(kept).max() < 1e-6
    model = to_reconstruction(kept)
    assert model.num_points3D() == len(kept.points)


@pytest.mark.parametrize(("shake", "tolerance"), [(0.0, 0.06), (0.3, 0.13)])
def test_the_shutter_is_recovered(shake: float, tolerance: float) -> None:
    """The path between frames is taken to be straight, so a camera that shakes has a longer readout."""
    rolling = make_scene(readout=0.5, noise_px=0.05, points=400, shake=shake)
    start = adjust(replace(rolling, readout=(0.0, 0.0)), loss_px=0.5, threads=1)
    assert estimate_readout(start)[1] == pytest.approx(0.5, abs=tolerance)  # poses and points have not hidden it
    found = fit_shutter(fit_shutter(start, threads=1), threads=1)  # as `polish` does
    assert found.readout[0] == 0
    assert found.readout[1] == pytest.approx(0.5, abs=tolerance)
    assert np.median(residuals_px(found)) < np.median(residuals_px(start))


def test_a_global_shutter_is_left_alone() -> None:
    still = fit_shutter(adjust(make_scene(noise_px=0.2), loss_px=0.5, threads=1), threads=1)
    assert still.readout == (0.0, 0.0)


@pytest.mark.parametrize("shift", [(-12.0, 0.0), (12.0, 0.0), (0.0, 12.0)])
def test_an_off_center_principal_point_is_no_rolling_shutter(shift: tuple[float, float]) -> None:
    curve = make_scene(noise_px=0.05, points=400, step=(0.02, 0.01, 0.4))
    start = adjust(replace(curve, obs_xy=curve.obs_xy + shift), loss_px=0.5, threads=1)
    assert abs(estimate_readout(start)[1]) > MIN_READOUT
    still = fit_shutter(start, threads=1)
    assert still.readout == (0.0, 0.0)
    found = fit_lens(adjust(still, loss_px=0.5, threads=1), threads=1).scene
    assert found.principal_px == pytest.approx(shift, abs=0.5)
    assert found.focal_px == pytest.approx(FOCAL, rel=0.01)


def test_the_lens_bends_only_where_it_shows() -> None:
    bent = make_scene(radial=-0.06, noise_px=0.05, points=400)
    start = adjust(replace(bent, radial=0.0), loss_px=0.5, threads=1)
    assert fit_lens(start, threads=1).scene.radial == pytest.approx(-0.06, abs=0.01)
    assert fit_lens(replace(start, radial=0.05), threads=1).scene.radial == pytest.approx(-0.06, abs=0.01)
    ideal = adjust(make_scene(noise_px=0.3), loss_px=0.5, threads=1)
    assert fit_lens(ideal, threads=1).scene.radial == pytest.approx(0, abs=0.003)


def test_what_noisy_views_tell_of_the_lens_is_weighed_with_what_is_usual() -> None:
    clear, vague = (
        adjust(make_scene(radial=-0.03, noise_px=noise, points=400), loss_px=0.5, threads=1) for noise in (0.05, 0.8)
    )
    known, unknown = (fit_lens(scene, threads=1) for scene in (clear, vague))
    assert known.scene.radial == pytest.approx(-0.03, abs=0.003)
    best = adjust(unknown.scene, loss_px=0.5, refine_radial=True, max_iterations=200, threads=1)
    assert 0 < abs(unknown.scene.radial) < 0.8 * abs(best.radial)
    assert unknown.focal_spread > 3 * known.focal_spread > 0
    for fit in (known, unknown):
        assert settle_focal(fit.scene, threads=1, lens_spread=fit.focal_spread)[1] > fit.focal_spread


def test_a_frame_that_sees_no_point_gets_no_positions() -> None:
    scene = make_scene(points=40)
    image = torch.rand(FRAMES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    away = scene.pose_w2c.copy()
    away[-1] = np.diag([-1.0, 1.0, -1.0, 1.0]) @ away[-1]
    away = replace(scene, pose_w2c=away)
    keep = scene.obs_frame < FRAMES - 1
    away = drop_outliers(
        replace(away, obs_frame=scene.obs_frame[keep], obs_point=scene.obs_point[keep], obs_xy=scene.obs_xy[keep]),
        max_error_px=np.inf,
    )
    found = refine_observations(away, image, max_shift_px=8.0, max_points=40)
    assert FRAMES - 1 not in found.obs_frame
    assert len(found.points) == len(away.points)


@pytest.mark.parametrize(("radial", "radial2"), [(-0.25, 0.05), (0.2, 0.0)])
def test_a_strong_distortion_is_found_with_the_focal_length_and_taken_out(radial: float, radial2: float) -> None:
    bent = make_scene(radial=radial, radial2=radial2, noise_px=0.2, points=900)
    start = adjust(replace(bent, radial=0.0), loss_px=1.0, max_iterations=60, threads=1)
    assert abs(np.log(start.focal_px / FOCAL)) > 0.1  # an ideal lens hides the distortion in the focal length
    found = fit_lens(start, threads=1).scene
    assert found.radial == pytest.approx(radial + 0.4 * radial2, abs=0.03)
    assert found.focal_px == pytest.approx(FOCAL, rel=0.03)
    ideal, removal = remove_lens(found, None)
    assert removal is not None
    assert ideal.radial == 0
    assert np.median(residuals_px(ideal)) < 0.5
    assert ideal.focal_px == removal.K[0, 0]
    assert f"coefficient {found.radial:.2f}" in removal.note()
    refusals.check_lens(ideal)


@pytest.mark.parametrize(("radial", "points"), [(-0.2, 250), (-0.35, 900)], ids=["few points", "folds"])
def test_a_strong_lens_that_cannot_be_taken_out_is_refused(radial: float, points: int) -> None:
    bent = make_scene(radial=radial, noise_px=0.2, points=points)
    found = fit_lens(adjust(replace(bent, radial=0.0), loss_px=1.0, max_iterations=60, threads=1), threads=1).scene
    kept, removal = remove_lens(found, None)
    assert removal is None
    assert kept is found
    with pytest.raises(AnnotationRefused, match=r"-0\.[23]") as refusal:
        refusals.check_camera(kept)
    assert refusal.value.code == "lens-distortion"


def test_two_steps_of_a_lens_are_resampled_as_one() -> None:
    truth = replace(make_scene(points=900), radial=-0.2)
    first, removal = remove_lens(truth, None)
    second, both = remove_lens(replace(first, radial=-0.04), removal)
    assert isinstance(both, LensRemoval)
    assert len(both.lenses) == 2
    assert both.radial == pytest.approx(-0.24, abs=0.04)
    at = np.array([[20.0, 30.0], [160.0, 120.0], [300.0, 200.0]])
    np.testing.assert_allclose(both.ideal(both.recorded(at)), at, atol=1e-6)
    columns, rows = np.meshgrid(np.arange(2 * WIDTH) + 0.5, np.arange(2 * HEIGHT) + 0.5)
    recorded = np.stack([columns / 4, rows / 4], axis=-1).astype(np.uint8)  # says where it is, at twice the size
    ideal = both.frames(recorded[None], threads=1)[0]
    for x, y in at:
        np.testing.assert_allclose(
            2.0 * ideal[int(2 * y), int(2 * x)].astype(float), both.recorded(np.array([[x, y]]))[0], atol=3
        )
    corners = both.recorded(np.array([[0.5, 0.5], [WIDTH - 0.5, HEIGHT - 0.5]]))
    assert (corners > 0).all()
    assert (corners < [WIDTH, HEIGHT]).all()
    assert len(second.obs_xy) <= len(first.obs_xy) < len(truth.obs_xy)


def test_the_principal_point_of_a_crop_is_found_and_a_centered_one_stays() -> None:
    whole = make_scene(noise_px=0.2, points=900)
    width, height = round(0.7 * WIDTH), round(0.7 * HEIGHT)
    inside = (whole.obs_xy < [width, height]).all(axis=1)
    crop = replace(
        whole,
        width=width,
        height=height,
        obs_frame=whole.obs_frame[inside],
        obs_point=whole.obs_point[inside],
        obs_xy=whole.obs_xy[inside],
    )
    start = adjust(drop_outliers(crop, max_error_px=np.inf), loss_px=1.0, max_iterations=60, threads=1)
    found = fit_lens(start, threads=1).scene
    assert found.principal_px == pytest.approx(((WIDTH - width) / 2, (HEIGHT - height) / 2), abs=6)
    assert found.focal_px == pytest.approx(FOCAL, rel=0.03)
    np.testing.assert_allclose(found.K[:2, 2], found.center_px)
    xy, _ = found.project(found.obs_frame, found.points[found.obs_point])
    assert np.median(np.linalg.norm(xy - found.obs_xy, axis=1)) < 0.5
    assert fit_lens(adjust(whole, loss_px=0.5, threads=1), threads=1).scene.principal_px == (0.0, 0.0)


@pytest.mark.parametrize("trend", [np.log(1.6), -np.log(1.6), np.log(1.15)])
def test_a_zoom_within_the_shot_is_found_and_refused(trend: float) -> None:
    scene = make_scene(noise_px=0.2, points=300)
    center = np.array([WIDTH, HEIGHT]) / 2
    factor = np.exp(trend * (scene.obs_frame / (FRAMES - 1) - 0.5))[:, None]
    start = adjust(
        replace(scene, obs_xy=center + (scene.obs_xy - center) * factor), loss_px=1.0, max_iterations=60, threads=1
    )
    assert start.focal_px > 1.1 * FOCAL
    found = fit_zoom(start, threads=1)
    assert found == pytest.approx(trend, rel=0.15)
    with pytest.raises(AnnotationRefused) as refusal:
        refusals.check_zoom(found)
    assert refusal.value.code == "zoom"
    kept, zoom = fit_camera(start, threads=1)  # neither lens nor principal point takes its place
    assert kept.scene is start
    assert zoom == pytest.approx(trend, rel=0.15)
    few = replace(start, posed=np.arange(FRAMES) < 4)
    assert fit_zoom(few, threads=1) == 0


@pytest.mark.parametrize("path", [{}, {"step": (0.02, 0.01, 0.4)}, {"turn": 0.0, "step": (0.02, 0.01, 0.4)}])
def test_a_dolly_is_no_zoom(path: dict) -> None:
    scene = adjust(make_scene(noise_px=0.3, points=300, **path), loss_px=0.5, threads=1)
    assert fit_zoom(scene, threads=1) == 0
    refusals.check_camera(scene)


def test_an_implausible_focal_length_is_refused() -> None:
    with pytest.raises(AnnotationRefused) as refusal:
        refusals.check_camera(replace(make_scene(), focal_px=6.1 * WIDTH))
    assert refusal.value.code == "focal-implausible"


def test_the_sections_of_a_right_scene_agree_and_those_of_a_zoom_do_not() -> None:
    scene = make_scene(noise_px=0.2, points=300)
    right = compare_sections(adjust(scene, loss_px=0.5, threads=1), threads=1)
    assert right is not None
    assert right.focal < 0.05
    assert right.path < 0.01
    center = np.array([WIDTH, HEIGHT]) / 2
    factor = np.exp(0.5 * (scene.obs_frame / (FRAMES - 1) - 0.5))[:, None]
    zoomed = replace(scene, obs_xy=center + (scene.obs_xy - center) * factor)
    wrong = compare_sections(adjust(zoomed, loss_px=0.5, max_iterations=60, threads=1), threads=1)
    assert wrong is not None
    assert wrong.focal > 0.1
    assert compare_sections(replace(scene, posed=np.arange(FRAMES) < 7), threads=1) is None
    resting = replace(scene, pose_w2c=scene.pose_w2c[np.minimum(np.arange(FRAMES), 4)])
    assert compare_sections(resting, threads=1) is None


def test_a_focal_length_that_the_motion_determines_is_kept() -> None:
    found, sigma = settle_focal(adjust(make_scene(noise_px=0.1), loss_px=0.5, threads=1), threads=1)
    assert sigma < 0.06
    assert found.focal_px == pytest.approx(FOCAL, rel=0.003)
    assert pytest.approx(USUAL_FOCAL * WIDTH, rel=0.05) != FOCAL


def test_a_scene_stretched_with_the_focal_length_looks_the_same_to_cameras_that_do_not_turn() -> None:
    scene = make_scene(turn=0.0)
    longer = stretched(scene, 1.3 * FOCAL)
    assert longer.focal_px == 1.3 * FOCAL
    assert residuals_px(longer).max() < 1e-6
    assert residuals_px(replace(scene, focal_px=1.3 * FOCAL)).max() > 10


def test_a_focal_length_that_nothing_determines_becomes_the_usual_one() -> None:
    """Without turns, a scene stretched in depth looks the same through a longer lens."""
    scene = make_scene(turn=0.0)
    stretch = np.array([1.0, 1.0, 1.5])
    pose = scene.pose_w2c.copy()
    pose[:, :3, 3] *= stretch
    wrong = replace(scene, points=scene.points * stretch, pose_w2c=pose, focal_px=1.5 * FOCAL)
    assert residuals_px(wrong).max() < 1e-6
    found, sigma = settle_focal(wrong, threads=1)
    assert sigma == pytest.approx(FOCAL_SPREAD, rel=0.02)  # that of the prior: the footage adds nothing
    assert found.focal_px == pytest.approx(USUAL_FOCAL * WIDTH, rel=0.02)
    assert np.median(residuals_px(found)) < 0.01


def as_features(scene: SparseScene) -> tuple[list[Features], list[PairMatches]]:
    """The observations as if they had been found and matched in every frame."""
    features, pairs = [], []
    seen = [scene.obs_point[scene.obs_frame == frame] for frame in range(FRAMES)]
    for frame in range(FRAMES):
        xy = torch.from_numpy(scene.obs_xy[scene.obs_frame == frame]).float()
        features.append(Features(positions=xy, descriptors=torch.zeros(len(xy), 64), size=(WIDTH, HEIGHT)))
    for first in range(FRAMES):
        for second in range(first + 1, FRAMES):
            _, a, b = np.intersect1d(seen[first], seen[second], return_indices=True)
            verified = verify_pair(features[first], features[second], np.stack([a, b], 1), 0)
            if verified is not None:
                pairs.append(
                    PairMatches(
                        first=first,
                        second=second,
                        indices=verified[0],
                        candidates=len(a),
                        homography_fraction=verified[1],
                    )
                )
    return features, pairs


def test_the_first_guess_of_the_focal_length() -> None:
    features, pairs = as_features(make_scene(noise_px=0.1))
    assert guess_focal_px(features, pairs, seed=0) == pytest.approx(FOCAL, rel=0.08)
    flat = [replace(pair, homography_fraction=0.95) for pair in pairs]
    assert guess_focal_px(features, flat, seed=0) == USUAL_FOCAL * WIDTH


@pytest.mark.parametrize("step", [(0.25, 0.05, 0.1), (0.02, 0.01, 0.3)], ids=["sideways", "forward"])
def test_mapping_poses_every_key_frame(step: tuple[float, float, float]) -> None:
    truth = make_scene(noise_px=0.2, step=step)
    features, pairs = as_features(truth)
    model = map_keyframes(features, pairs, focal_px=FOCAL, seed=0, threads=1)
    assert model is not None
    scene = scene_from_model(model, list(range(FRAMES)), FRAMES)
    assert scene.posed.all()
    assert center_error(scene, truth) < 0.01 * FRAMES * float(np.linalg.norm(step))


def test_mapping_without_matches_finds_nothing() -> None:
    features, _ = as_features(make_scene())
    assert map_keyframes(features, [], focal_px=FOCAL, seed=0, threads=1) is None


def test_sources_are_other_frames_at_useful_angles_and_limits_hold_the_scene() -> None:
    scene = make_scene()
    sources = choose_sources(scene, 4)
    assert all(len(found) == 4 and frame not in found for frame, found in enumerate(sources))
    near, far = depth_limits(scene)[0]
    depth = scene.points[scene.obs_point[scene.obs_frame == 0], 2]
    assert near < depth.min()
    assert far > depth.max()
