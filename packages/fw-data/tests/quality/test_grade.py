"""Grades, jerk, field of view, and what moves by itself."""

import cv2
import numpy as np
import pytest

from fw_data.annotators.base import ClipGeometry
from fw_data.annotators.sfm.spec import SCORE_MEANINGS
from fw_data.dataset.schema import SCORES
from fw_data.quality.dynamics import moving_pixels
from fw_data.quality.grade import GRADE_MEANINGS, LIMITS, grade, grade_with_reasons, pose_jerk_deg, score_geometry
from fw_geometry import make_trajectory


def _geometry(content: dict[str, np.ndarray], **changes) -> ClipGeometry:
    depth = content["depth_m"]
    fields = {
        "depth_m": depth,
        "confidence": (depth > 0).astype(np.float32),
        "K": content["K"],
        "pose_c2w": content["pose_c2w"],
        "pose_confidence": np.ones(len(depth), np.float32),
    }
    return ClipGeometry(**(fields | changes))


def test_true_geometry_is_a_and_worse_geometry_is_worse(scene):
    content = scene(13, 96, 128)
    assert grade(score_geometry(_geometry(content))) == "A"
    rng = np.random.default_rng(0)
    letters = []
    for noise in (0.005, 0.05, 0.6):
        noisy = (content["depth_m"] * np.exp(rng.normal(0, noise, content["depth_m"].shape))).astype(np.float32)
        letters.append(grade(score_geometry(_geometry(content, depth_m=noisy))))
    assert letters[0] == "A"
    assert letters == sorted(letters)
    assert letters[-1] in "CD"
    nothing = np.zeros_like(content["depth_m"])
    assert grade(score_geometry(_geometry(content, depth_m=nothing, confidence=nothing))) == "D"


def test_the_reasons_name_the_limit_that_was_missed():
    best = {"posed_fraction": 1.0, "coverage": 1.0, "reprojection_inliers": 1.0, "reprojection_error": 0.0}
    best |= {"pose_jerk_deg": 0.0, "fov_deg": 60.0}
    assert grade_with_reasons(best) == ("A", [])
    assert grade_with_reasons(best | {"coverage": 0.3}) == ("B", ["coverage 0.3 is below 0.4 for A"])
    assert grade_with_reasons(best | {"fov_deg": 150.0})[0] == "C"
    assert grade_with_reasons(best | {"pose_jerk_deg": 90.0}) == ("D", ["pose_jerk_deg 90 is above 15 for C"])
    assert set(LIMITS["A"]) <= set(SCORES) | set(SCORE_MEANINGS)
    assert set(GRADE_MEANINGS) == {*LIMITS, "D"}


@pytest.mark.parametrize(
    ("sigma", "focal", "path", "letters"),
    [  # of frames of RedKitchen: four as recorded, whose focal length is off by 2.1, 1.2, 1.0 and 9.8 %,
        # pincushion and barrel distortion (13 and 8 %), zoomed, cut out of a corner; a good one in which one third
        # alone determines the focal length poorly (1.2 %), and one with a large sliding patch (42 %)
        (0.0166, 0.030, 0.0027, "A"),
        (0.0283, 0.071, 0.0044, "B"),
        (0.0373, 0.029, 0.0015, "C"),
        (0.0475, 0.073, 0.0067, "D"),
        (0.0464, 0.049, 0.0030, "D"),
        (0.1196, 0.066, 0.0020, "D"),
        (0.0497, 0.140, 0.0035, "D"),
        (0.0602, 0.211, 0.0352, "D"),
        (0.0158, 0.166, 0.0051, "D"),
        (0.0285, 0.292, 0.2790, "D"),
    ],
)
def test_cameras_that_the_sections_of_a_clip_do_not_share_are_graded_down(sigma, focal, path, letters):
    scores = {"coverage": 0.6, "focal_sigma": sigma, "focal_drift": focal, "path_drift": path}
    assert grade(scores) == letters


@pytest.mark.parametrize("name", ["dolly", "orbit", "pan", "roll", "spiral"])
def test_smooth_paths_have_no_jerk_and_one_wrong_pose_is_seen(name):
    pose = make_trajectory(name, 41, width=64, height=48).pose_c2w.copy()
    times = np.arange(41) / 24
    assert pose_jerk_deg(pose, times, 1.0) < 0.01
    uneven = np.delete(pose, [7, 8, 20], 0)
    assert pose_jerk_deg(uneven, np.delete(times, [7, 8, 20]), 1.0) < 0.01
    pose[20, :3, 3] += (0.1, 0.0, 0.0)
    assert pose_jerk_deg(pose, times, 1.0) == pytest.approx(5.7, abs=1.0)


def test_field_of_view_is_that_of_the_longer_side(scene):
    content = scene(5, 96, 128)
    assert score_geometry(_geometry(content))["fov_deg"] == pytest.approx(2 * np.degrees(np.arctan(0.5 / 0.9)))


def test_what_moves_against_the_scene_is_dynamic(scene):
    """A textured square that slides over the moving image of a plane."""
    content = scene(13, 120, 160)
    video = content["video"].copy()
    geometry = _geometry(content)
    assert moving_pixels(video, geometry).mean() < 0.02
    patch = cv2.resize(np.random.default_rng(1).integers(0, 256, (9, 9, 3), dtype=np.uint8), (40, 40))
    for index, frame in enumerate(video):
        frame[40:80, 20 + 5 * index : 60 + 5 * index] = patch
    moving = moving_pixels(video, geometry)
    assert moving.mean() == pytest.approx(1600 / (120 * 160), rel=0.6)
    assert moving[4, 45:75, 45:75].mean() > 0.8
    assert moving[4, :, 110:].mean() < 0.05
    assert not moving_pixels(video[:1], _geometry({k: v[:1] for k, v in content.items()})).any()
