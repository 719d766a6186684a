"""Edits of the grade bench, their true focal lengths, and the rank of refused clips."""

import numpy as np
import pytest
from benchmarks import grades

from fw_geometry.lenses import Lens


def dots(*places: tuple[int, int], size: tuple[int, int] = (480, 640)) -> grades.Frames:
    rgb = np.zeros((3, *size, 3), np.uint8)
    for x, y in places:
        rgb[:, y - 2 : y + 3, x - 2 : x + 3] = 255
    return grades.Frames(rgb=rgb, focal_px=np.full(3, 525.0))


def center_of_light(image: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(image.shape[:2]) + 0.5
    light = image[..., 0].astype(float)
    return np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum()


def test_a_bent_lens_shows_a_point_where_its_model_says_and_leaves_no_border() -> None:
    radial = (-0.35, 0.12)
    bent = grades.distorted(dots((520, 360)), radial=radial)
    lens = Lens(fx=bent.focal_px[0], fy=bent.focal_px[0], cx=320, cy=240, radial=radial)
    where = lens.project(np.array([(520.5 - 320) / 525, (360.5 - 240) / 525, 1.0]))
    assert center_of_light(bent.rgb[1]) == pytest.approx(where, abs=0.2)
    assert bent.focal_px[0] == pytest.approx(626, abs=2)
    corner = lens.unproject(np.array([0.5, 0.5]))
    assert (corner[:2] / corner[2] * 525 + [320, 240]).min() > 0


def test_a_zoom_moves_points_from_the_center_as_its_focal_lengths_say() -> None:
    zoomed = grades.zoomed(dots((420, 300)), to=1.44)
    assert zoomed.focal_px == pytest.approx([525, 630, 756])
    for frame, factor in zip(zoomed.rgb, (1.0, 1.2, 1.44), strict=True):
        expected = np.array([320, 240]) + factor * np.array([100.5, 60.5])
        assert center_of_light(frame) == pytest.approx(expected, abs=0.2)


def test_a_crop_keeps_the_focal_length_and_a_patch_moves_at_its_speed() -> None:
    cropped = grades.cropped(dots((100, 100)), share=0.7)
    assert cropped.rgb.shape == (3, 336, 448, 3)
    assert center_of_light(cropped.rgb[0]) == pytest.approx([100.5, 100.5])
    patched = grades.patched(dots(), speed_px=20.0).rgb
    assert (patched[0, 60:360, 40:340] == patched[1, 68:368, 60:360]).all()


def test_refused_clips_rank_behind_all_kept_ones() -> None:
    scores = {"focal_sigma": 0.02, "focal_drift": 0.06, "path_drift": 0.003}
    right = grades.ClipResult(clip="right", grade="A", error=0.1, focal_error=0.008, ate=0.005, scores=scores)
    worse = grades.ClipResult(
        clip="worse", grade="B", error=0.6, focal_error=0.048, ate=0.01, scores=scores | {"focal_sigma": 0.03}
    )
    zoom = grades.ClipResult(clip="zoom", grade="refused", reason="zoom", error=1.6)
    assert (right.worst_score, worse.worst_score) == pytest.approx((0.5, 0.75))
    assert grades.correlation([right, worse, zoom]) == pytest.approx(1.0)
    assert grades.correlation([zoom, right, worse]) == pytest.approx(1.0)
    text = grades.markdown([right, worse, zoom])
    assert "1.00 over 3 clips" in text
    assert "refused (zoom)" in text
    assert "A, B or C: none" in text
