"""Camera files of every format are told apart by their content alone, and read at the size of the images."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fw_geometry import DEFAULT_FOV_RAD, make_trajectory
from fw_geometry.formats import (
    CameraFileError,
    detect,
    detect_content,
    read_trajectory,
    write_camera_json,
    write_colmap,
    write_kitti,
    write_realestate10k,
    write_transforms_json,
    write_tum,
)

CAMERAS = make_trajectory("orbit", 4, width=64, height=40)


@pytest.mark.parametrize(
    ("kind", "write"),
    [
        ("camera-json", write_camera_json),
        ("nerfstudio", write_transforms_json),
        ("realestate10k", write_realestate10k),
        ("colmap", write_colmap),
    ],
)
def test_formats_with_intrinsics_are_found_and_read(tmp_path: Path, kind: str, write) -> None:
    path = tmp_path / "cameras"  # the name says nothing
    write(path, CAMERAS)
    assert detect(path) == kind
    found = read_trajectory(path, width=64, height=40)
    np.testing.assert_allclose(found.pose_c2w, CAMERAS.pose_c2w, atol=1e-9)
    np.testing.assert_allclose(found.K, CAMERAS.K, atol=1e-9)


def test_cameras_of_another_size_are_fitted(tmp_path: Path) -> None:
    write_transforms_json(tmp_path / "a.json", CAMERAS)
    found = read_trajectory(tmp_path / "a.json", width=64, height=80)
    assert (found.width, found.height) == (64, 80)
    np.testing.assert_allclose(found.K[:, 0, 0], 2 * CAMERAS.K[:, 0, 0])
    np.testing.assert_allclose(found.K[:, :2, 2], [[32, 40]] * 4)


@pytest.mark.parametrize(("kind", "write"), [("tum", write_tum), ("kitti", write_kitti)])
def test_formats_without_intrinsics_get_the_default_field_of_view(tmp_path: Path, kind: str, write) -> None:
    write(tmp_path / "path.txt", CAMERAS.pose_c2w)
    assert detect(tmp_path / "path.txt") == kind
    notes: list[str] = []
    found = read_trajectory(tmp_path / "path.txt", width=64, height=40, notes=notes)
    np.testing.assert_allclose(found.pose_c2w, CAMERAS.pose_c2w, atol=1e-9)
    np.testing.assert_allclose(found.fov_rad[:, 0], DEFAULT_FOV_RAD)
    assert notes == ["the file has no intrinsics: a vertical field of view of 50° is used"]


def test_intrinsics_of_another_size_are_refused(tmp_path: Path) -> None:
    wrong = replace(CAMERAS, K=CAMERAS.K * [[2], [2], [1]])
    write_transforms_json(tmp_path / "a.json", wrong)
    with pytest.raises(CameraFileError, match="128x80, 2 times"):
        read_trajectory(tmp_path / "a.json", width=64, height=40)


def test_other_content_is_refused(tmp_path: Path) -> None:
    assert detect_content({"preset": "orbit"}) is None
    for text, part in (
        (json.dumps({"poses": []}), "cameras_interp"),
        ("{", "line 1"),
        ("", "empty"),
        ("1 0 0 0 0 1 0 0 0 0 1\n" * 5, "11 columns.*8 of TUM, 12 of KITTI"),
    ):
        (tmp_path / "bad").write_text(text)
        with pytest.raises(CameraFileError, match=part):
            detect(tmp_path / "bad")
