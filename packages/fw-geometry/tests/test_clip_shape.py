"""The one home of the clip shape and of sizes as users write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fw_geometry.clip_shape import check_clip_shape, check_num_frames, nearest_num_frames, nearest_side, parse_size


@given(st.integers(-50, 500))
def test_the_nearest_count_is_valid_and_nearest(number: int) -> None:
    near = nearest_num_frames(number)
    check_num_frames(near)
    assert abs(near - number) <= min(abs(other - number) for other in range(1, 600, 4))


@pytest.mark.parametrize(("number", "near"), [(18, "17"), (0, "1"), (80, "81"), (20, "21")])
def test_other_counts_are_refused_with_the_nearest(number: int, near: str) -> None:
    with pytest.raises(ValueError, match=rf"clip\.frames is {number}.*{near}$"):
        check_num_frames(number, name="clip.frames")


def test_a_clip_shape_names_the_side() -> None:
    check_clip_shape(17, 480, 832)
    with pytest.raises(ValueError, match=r"height is 481.*480"):
        check_clip_shape(17, 481, 832)
    assert nearest_side(1) == 16


@pytest.mark.parametrize("text", ["832x480", " 832 X 480 ", "832×480"])
def test_sizes_are_width_by_height(text: str) -> None:
    assert parse_size(text) == (832, 480)


@pytest.mark.parametrize(
    ("text", "hint"), [("832", "832x480"), ("854x480", "848x480"), ("0x16", "16x16"), ("-8x16", "832x480")]
)
def test_other_sizes_are_refused_with_the_nearest(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"--size is .*{hint}"):
        parse_size(text, name="--size")
