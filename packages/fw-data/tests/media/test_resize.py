"""Stored sizes, and that pixels, depth and K move together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fw_data.media.resize import parse_stored_size, place
from fw_geometry.camera import Trajectory


@given(height=st.integers(16, 3000), width=st.integers(16, 3000), size=st.sampled_from(["auto", "source"]))
def test_sizes_are_multiples_of_16_that_the_source_fills(height, width, size):
    placement = place(height, width, size)
    assert placement.height % 16 == placement.width % 16 == 0
    assert placement.resized_height >= placement.height
    assert placement.resized_width >= placement.width
    assert placement.top + placement.height <= placement.resized_height
    assert placement.left + placement.width <= placement.resized_width
    if size == "auto":
        assert max(placement.height, placement.width) <= 640
    else:
        assert (placement.resized_height, placement.resized_width) == (height, width)
        assert placement.height > height - 16
        assert placement.width > width - 16


@pytest.mark.parametrize(
    ("source", "stored"),
    [((1080, 1920), (352, 640)), ((1920, 1080), (640, 352)), ((480, 640), (480, 640)), ((64, 96), (64, 96))],
)
def test_auto_keeps_the_aspect(source, stored):
    placement = place(source[0], source[1], "auto")
    assert (placement.height, placement.width) == stored


def test_a_given_size_is_filled_and_cropped_in_the_middle():
    placement = place(480, 640, "592x336")
    assert (placement.resized_height, placement.resized_width) == (444, 592)
    assert (placement.top, placement.left, placement.height, placement.width) == (54, 0, 336, 592)


@pytest.mark.parametrize("size", ["336", "336x", "x592", "590x336", "16x0", "big"])
def test_wrong_sizes_are_refused_with_a_hint(size):
    with pytest.raises(ValueError, match="--size"):
        parse_stored_size(size)


def test_a_projected_point_lands_on_its_pixel_after_resize_and_crop():
    """A bright pixel of the source, found again in the stored frame where the moved K projects it."""
    K = np.array([[[500.0, 0, 310], [0, 510, 250], [0, 0, 1]]])
    path = Trajectory(K=K, pose_c2w=np.eye(4)[None], width=640, height=480)
    placement = place(480, 640, "176x112")
    moved = placement.trajectory(path)
    assert (moved.width, moved.height) == (176, 112)
    image = np.zeros((480, 640, 3), np.uint8)
    at_row, at_column, size = 201, 333, 9
    image[at_row - size : at_row + size + 1, at_column - size : at_column + size + 1] = 255
    ray = np.linalg.inv(K[0]) @ (at_column + 0.5, at_row + 0.5, 1)
    expected = (moved.K[0] @ ray)[:2]
    stored = placement.rgb(image)[..., 0].astype(float)
    rows, columns = np.mgrid[: stored.shape[0], : stored.shape[1]] + 0.5
    found = ((columns * stored).sum() / stored.sum(), (rows * stored).sum() / stored.sum())
    np.testing.assert_allclose(found, expected, atol=0.06)


def test_depth_is_never_a_mixture():
    depth = np.where(np.arange(200)[None] < 97, 1.0, 9.0).astype(np.float32).repeat(160, 0)
    assert set(np.unique(place(160, 200, "96x64").depth(depth))) == {1.0, 9.0}
