"""Videos as the world has them: damaged, turned, oblong, of uneven rate, or no videos at all."""

from fractions import Fraction

import numpy as np
import pytest

from fw_data.errors import DataError
from fw_data.media.color import ColorConverter
from fw_data.media.decode import read_clip, read_frames, upright
from fw_data.media.probe import MediaLimits, find_videos, probe
from fw_data.media.resize import place
from fw_data.media.stored import decode_video, encode_video

LIMITS = MediaLimits()


def _error(compare: np.ndarray, with_: np.ndarray) -> float:
    return float(np.abs(compare.astype(float) - with_.astype(float)).mean())


def _soft(frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth moving colors: what survives chroma subsampling."""
    rows, columns, time = np.mgrid[:height, :width, :frames].transpose(0, 3, 1, 2)
    waves = [np.sin(columns / 9 + time / 5), np.cos(rows / 7 - time / 6), np.sin((rows + columns) / 11)]
    return (np.stack(waves, -1) * 100 + 128).astype(np.uint8)


def test_frames_come_back_in_order_with_time_stamps(tmp_path, make_video):
    frames = _soft(14)
    path = make_video(tmp_path / "a.mp4", frames, fps=20)
    info = probe(path, LIMITS)
    assert (info.width, info.height, info.fps, info.declared_frames, info.quarter_turns) == (64, 48, 20, 14, 0)
    found = list(read_frames(path, info, LIMITS))
    assert [frame.index for frame in found] == list(range(14))
    np.testing.assert_allclose([frame.time_s for frame in found], np.arange(14) / 20)
    assert not any(frame.gap for frame in found)
    assert max(_error(upright(frame.image, info, ColorConverter()), frames[frame.index]) for frame in found) < 3


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_rotated_video_is_stored_upright(tmp_path, make_video, rotation, turns):
    frames = _soft(6)
    path = make_video(tmp_path / "phone.mp4", np.rot90(frames, -turns, (1, 2)), rotation=rotation)
    info = probe(path, LIMITS)
    assert (info.height, info.width) == (48, 64)
    assert info.quarter_turns == turns
    got, _ = read_clip(path, info, LIMITS, place(48, 64, "auto"), frame_index=np.arange(6), start_pts=0)
    assert _error(got, frames) < 3


def test_oblong_pixels_are_squared(tmp_path, make_video):
    path = make_video(tmp_path / "dv.mp4", _soft(6), aspect=Fraction(3, 2))
    info = probe(path, LIMITS)
    assert (info.height, info.width, info.coded_width) == (48, 96, 64)
    got, _ = read_clip(path, info, LIMITS, place(48, 96, "auto"), frame_index=np.arange(6), start_pts=0)
    assert got.shape == (6, 48, 96, 3)


def test_odd_sizes(tmp_path, make_video):
    path = make_video(tmp_path / "odd.mp4", _soft(6, 75, 101))
    info = probe(path, LIMITS)
    placement = place(info.height, info.width, "auto")
    got, _ = read_clip(path, info, LIMITS, placement, frame_index=np.arange(6), start_pts=0)
    assert got.shape == (6, 64, 96, 3)


def test_variable_frame_rate_keeps_the_time_stamps(tmp_path, make_video):
    stamps = [0, 1, 2, 5, 6, 10, 11, 12, 20, 21]
    path = make_video(tmp_path / "vfr.mp4", _soft(10), fps=25, pts=stamps)
    info = probe(path, LIMITS)
    found = list(read_frames(path, info, LIMITS))
    np.testing.assert_allclose([frame.time_s for frame in found], np.array(stamps) / 25, atol=1e-9)
    whole, _ = read_clip(path, info, LIMITS, place(48, 64, "auto"), frame_index=np.arange(10), start_pts=0)
    for index in (np.arange(6, 9), np.array([3, 6, 9])):
        part, times = read_clip(
            path, info, LIMITS, place(48, 64, "auto"), frame_index=index, start_pts=found[index[0]].pts
        )
        np.testing.assert_array_equal(part, whole[index])
        np.testing.assert_allclose(times, np.array(stamps)[index] / 25)


def test_a_clip_read_by_seeking_is_the_clip_read_from_the_start(tmp_path, make_video):
    path = make_video(tmp_path / "long.mp4", _soft(40))
    info = probe(path, LIMITS)
    stamps = [frame.pts for frame in read_frames(path, info, LIMITS)]
    placement = place(48, 64, "auto")
    for start in (11, 12, 13, 35):
        sought, _ = read_clip(path, info, LIMITS, placement, frame_index=start + np.arange(4), start_pts=stamps[start])
        counted, _ = read_clip(path, info, LIMITS, placement, frame_index=start + np.arange(4), start_pts=None)
        np.testing.assert_array_equal(sought, counted)
    with pytest.raises(DataError, match=r"38|41"):
        read_clip(path, info, LIMITS, placement, frame_index=np.arange(38, 42), start_pts=stamps[38])


def test_a_truncated_file_gives_the_frames_before_the_cut(tmp_path, make_video):
    whole = make_video(tmp_path / "whole.mp4", _soft(40), faststart=True)
    data = whole.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: int(len(data) * 0.6)])
    info = probe(cut, LIMITS)
    found = list(read_frames(cut, info, LIMITS))
    assert info.declared_frames == 40
    assert 5 < len(found) < 40
    for ours, theirs in zip(found, read_frames(whole, info, LIMITS), strict=False):
        np.testing.assert_array_equal(
            upright(ours.image, info, ColorConverter()), upright(theirs.image, info, ColorConverter())
        )


def test_damage_in_the_middle_is_a_gap_not_the_end(tmp_path, make_video):
    path = make_video(tmp_path / "whole.mp4", _soft(60), faststart=True)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = b"\xff" * 400
    broken = tmp_path / "scratched.mp4"
    broken.write_bytes(data)
    info = probe(broken, LIMITS)
    found = list(read_frames(broken, info, LIMITS))
    assert found[-1].time_s == pytest.approx(59 / 24, abs=0.5)
    assert any(frame.gap for frame in found) or len(found) == 60


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (MediaLimits(max_pixels=1000), "too-large"),
        (MediaLimits(max_duration_s=0.1), "too-long"),
        (MediaLimits(max_frames=5), "too-long"),
        (MediaLimits(min_side=50), "too-small"),
    ],
)
def test_limits(tmp_path, make_video, limits, code):
    path = make_video(tmp_path / "a.mp4", _soft(10))
    with pytest.raises(DataError) as caught:
        probe(path, limits)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "empty"), (b"this is text\n" * 50, "unreadable"), (b"\x00\x00\x00\x18ftypmp42" + bytes(500), "no-index")],
)
def test_what_is_no_video_is_refused(tmp_path, content, code):
    path = tmp_path / "fake.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        probe(path, LIMITS)
    assert caught.value.code == code


def test_videos_are_found_everywhere_but_in_hidden_places(tmp_path):
    for name in ("b.MP4", "a/c.mov", "a/.trash/d.mp4", ".e.mp4", "f.txt", "a/g.webm"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert [p.relative_to(tmp_path).as_posix() for p in find_videos(tmp_path)] == ["a/c.mov", "a/g.webm", "b.MP4"]


def test_the_stored_video_is_deterministic_and_close_and_windows_agree():
    frames = _soft(21)
    data = encode_video(frames, 23.976, 14)
    assert data == encode_video(frames, 23.976, 14)
    assert b" threads=1 " in data  # x264 writes its settings into the stream
    whole = decode_video(data, 21)
    assert _error(whole, frames) < 3.0  # 2.1 of it is chroma at half resolution
    assert abs((whole.astype(float) - frames).mean()) < 0.3
    for window in (range(3, 9), range(7, 8), range(8, 21), range(10, 20, 3), range(20, 21)):
        np.testing.assert_array_equal(decode_video(data, 21, window), whole[window.start : window.stop : window.step])
    with pytest.raises(DataError, match="30"):
        decode_video(data, 30)
    with pytest.raises(DataError, match=r"H.264|video"):
        decode_video(b"nothing", 3)


@pytest.mark.parametrize("fps", [23.976024, 29.97003, 8.75, 119.88, 0.5, 12.345678, 1000.0, 1e-6])
def test_frames_are_found_at_any_frame_rate(fps):
    frames = np.arange(0, 240, 8, dtype=np.uint8)[:, None, None, None].repeat(32, 1).repeat(32, 2).repeat(3, 3)
    data = encode_video(frames, fps, 14)
    for window in (range(30), range(9, 17), range(29, 30), range(8, 30, 4)):
        got = decode_video(data, 30, window).mean((1, 2, 3))
        np.testing.assert_allclose(got, np.arange(30)[list(window)] * 8, atol=3)
