"""Camera models against OpenCV and COLMAP, their inverse, and the pinhole view of a distorted image."""

import cv2
import numpy as np
import pycolmap
import pytest

from fw_geometry.lenses import LENS_PARAMETERS, Lens, pinhole_view, undistortion_maps

W, H = 640, 480
CAMERAS = {
    "SIMPLE_PINHOLE": [500, 330, 235],
    "PINHOLE": [500, 480, 330, 235],
    "SIMPLE_RADIAL": [500, 330, 235, -0.12],
    "RADIAL": [500, 330, 235, 0.08, -0.03],
    "OPENCV": [500, 480, 330, 235, -0.21, 0.05, 0.002, -0.003],
    "FULL_OPENCV": [500, 480, 330, 235, 0.4, -0.1, 0.001, -0.002, 0.02, 0.6, -0.05, 0.01],
    "OPENCV_FISHEYE": [300, 290, 330, 235, 0.05, -0.01, 0.003, -0.0005],
    "SIMPLE_RADIAL_FISHEYE": [300, 330, 235, -0.02],
    "RADIAL_FISHEYE": [300, 330, 235, -0.02, 0.004],
    "SIMPLE_FISHEYE": [300, 330, 235],
    "FISHEYE": [300, 290, 330, 235],
}


def rays(lens: Lens, n: int = 500) -> np.ndarray:
    """Unit directions of random pixels of the image."""
    pixels = np.random.default_rng(0).uniform((0, 0), (W, H), (n, 2))
    found = lens.unproject(pixels)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(lens.project(found * 3.7), pixels, atol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-12)
    return found


@pytest.mark.parametrize("model", LENS_PARAMETERS)
def test_projects_as_colmap(model):
    camera = pycolmap.Camera(model=model, width=W, height=H, params=CAMERAS[model])
    lens = Lens.from_parameters(model, CAMERAS[model])
    points = rays(lens)
    np.testing.assert_allclose(lens.project(points), np.array(camera.img_from_cam(points), np.float64), atol=1e-8)


@pytest.mark.parametrize("model", ["OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE"])
def test_projects_as_opencv(model):
    params = CAMERAS[model]
    lens = Lens.from_parameters(model, params)
    points = rays(lens)
    K = lens.K
    K[:2, 2] -= 0.5  # OpenCV's pixel centers
    zero = np.zeros(3)
    if model == "OPENCV_FISHEYE":
        found, _ = cv2.fisheye.projectPoints(points[:, None], zero, zero, K, np.array(params[4:], np.float64))
    else:
        found, _ = cv2.projectPoints(points[:, None], zero, zero, K, np.array(params[4:], np.float64))
    np.testing.assert_allclose(lens.project(points), found[:, 0] + 0.5, atol=1e-6)


def test_domain_is_checked():
    lens = Lens(fx=100, fy=100, cx=50, cy=50, radial=(-0.3,))
    assert lens.limit() == pytest.approx(np.sqrt(1 / 0.9))  # where 1 - 0.9 r^2 = 0
    last = lens.limit() * (1 - 0.1 / 0.3 / 3)
    assert np.isfinite(lens.project(np.array([last, 0.0, 1.0]))).all()
    assert np.isnan(lens.project(np.array([1.2, 0.0, 1.0]))).all()  # beyond: it would fold back
    assert np.isnan(lens.project(np.array([0.1, 0.0, -1.0]))).all()  # behind
    peak = 100 * lens.limit() * (1 - 0.3 * lens.limit() ** 2)
    assert np.isfinite(lens.unproject(np.array([50 + 0.999 * peak, 50.0]))).all()
    assert np.isnan(lens.unproject(np.array([50 + 1.001 * peak, 50.0]))).all()
    fisheye = Lens(kind="fisheye", fx=100, fy=100, cx=200, cy=200)
    np.testing.assert_allclose(fisheye.project(np.array([1.0, 0.0, 0.0])), (200 + 50 * np.pi, 200))
    np.testing.assert_allclose(fisheye.unproject(np.array([200 + 200.0, 200.0])), (np.sin(2), 0, np.cos(2)))


def test_refuses_what_is_no_lens():
    with pytest.raises(ValueError, match="FOV"):
        Lens.from_parameters("FOV", [1, 2, 3, 4, 5])
    with pytest.raises(ValueError, match="4 parameters"):
        Lens.from_parameters("RADIAL", [1, 2, 3, 4])
    with pytest.raises(ValueError, match="above zero"):
        Lens(fx=-1, fy=1, cx=0, cy=0)
    with pytest.raises(ValueError, match="principal point"):
        pinhole_view(Lens(fx=100, fy=100, cx=700, cy=20, radial=(0.1,)), W, H)


def test_zero_distortion_is_a_pinhole():
    lens = Lens.from_parameters("FULL_OPENCV", [*CAMERAS["PINHOLE"], *[0] * 8])
    assert lens.is_pinhole
    view = pinhole_view(lens, W, H)
    np.testing.assert_array_equal(view.K, lens.K)
    assert view.lost_fov_rad == (0, 0)
    assert not Lens.from_parameters("OPENCV_FISHEYE", [*CAMERAS["PINHOLE"], *[0] * 4]).is_pinhole


@pytest.mark.parametrize("model", [name for name in CAMERAS if name not in ("PINHOLE", "SIMPLE_PINHOLE")])
def test_view_has_no_black_border_and_is_the_largest(model):
    lens = Lens.from_parameters(model, CAMERAS[model])
    view = pinhole_view(lens, W, H)
    columns, rows = undistortion_maps(lens, view.K, W, H)
    slack = 0.02  # the border is sampled
    assert columns.min() > -slack
    assert columns.max() < W - 1 + slack
    assert rows.min() > -slack
    assert rows.max() < H - 1 + slack
    wider = view.K * [[0.98], [0.98], [1]]
    wider[:2, 2] = view.K[:2, 2]
    columns, rows = undistortion_maps(lens, wider, W, H)
    assert columns.min() < 0 or columns.max() > W - 1 or rows.min() < 0 or rows.max() > H - 1
    np.testing.assert_array_equal(view.K[:2, 2], lens.K[:2, 2])
    assert view.K[0, 0] / view.K[1, 1] == pytest.approx(lens.fx / lens.fy)


def test_lost_field_of_view_in_closed_form():
    # equidistant fisheye, 90 degrees wide and 45 high, the view reaches the middle of the top and bottom border first
    f = 200 / (np.pi / 2)
    view = pinhole_view(Lens(kind="fisheye", fx=f, fy=f, cx=100, cy=50), 200, 100)
    height = 49.5 / f  # angle of the last pixel center above the axis
    zoom_focal = 49.5 / np.tan(height)
    assert view.K[1, 1] == pytest.approx(zoom_focal, rel=1e-4)
    assert view.fov_rad[1] == pytest.approx(2 * np.arctan(100 / zoom_focal), rel=1e-4)
    assert view.lost_fov_rad[1] == pytest.approx(np.pi / 2 - 2 * np.arctan(100 / zoom_focal), abs=1e-4)
    assert view.lost_fov_rad[0] == pytest.approx(0, abs=5e-3)


def test_wide_fisheye_is_capped():
    view = pinhole_view(Lens(kind="fisheye", fx=150, fy=150, cx=240, cy=240), 480, 480)  # 183 degrees
    assert view.fov_rad[1] == pytest.approx(np.deg2rad(120))
    assert view.lost_fov_rad[1] == pytest.approx(3.2 - np.deg2rad(120))


def test_maps_agree_with_opencv():
    lens = Lens.from_parameters("OPENCV", CAMERAS["OPENCV"])
    K_new = pinhole_view(lens, W, H).K
    columns, rows = undistortion_maps(lens, K_new, W, H)
    shift = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    expected = cv2.initUndistortRectifyMap(
        lens.K - shift, np.array(CAMERAS["OPENCV"][4:], np.float64), None, K_new - shift, (W, H), cv2.CV_32FC1
    )
    np.testing.assert_allclose(columns, expected[0], atol=1e-3)
    np.testing.assert_allclose(rows, expected[1], atol=1e-3)


def test_resized_lens_sees_the_same():
    lens = Lens.from_parameters("OPENCV", CAMERAS["OPENCV"])
    pixels = np.array([[10.0, 20.0], [600.0, 400.0]])
    np.testing.assert_allclose(lens.resized(0.5, 0.25).unproject(pixels * (0.5, 0.25)), lens.unproject(pixels))
