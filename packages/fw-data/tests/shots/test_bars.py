"""Black bars: exact rows and columns, on frames with and without them."""

import numpy as np
import pytest

from fw_data import ClipDataset
from fw_data.annotate.scan import ScanConfig, scan
from fw_data.media.probe import MediaLimits
from fw_data.quality.filters import FilterConfig
from fw_data.shots.bars import BarFinder


def found(frames: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    finder = BarFinder()
    for frame in frames:
        finder.add(frame)
    return finder.bars(height, width)


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(30, 255, (5, 100, 160, 3), dtype=np.uint8)


def test_bars_at_both_ends_are_cut(noise):
    assert found(noise, 100, 160) == (0, 0, 0, 0)
    noise[:, :10] = noise[:, 90:] = 3
    top, bottom, left, right = found(noise, 400, 640)
    assert (left, right) == (0, 0)
    assert 40 <= top <= 46  # rows 0 to 9 of 100 are 0 to 39 of 400, and the next one may be half black
    assert top == bottom
    noise[2, :10] = 200  # a subtitle or credit in the bar of one frame
    assert found(noise, 400, 640) == (0, 0, 0, 0)


@pytest.mark.parametrize("rows", [slice(0, 20), slice(70, 100)])
def test_a_dark_sky_or_floor_is_no_bar(noise, rows):
    noise[:, rows] = 3
    assert found(noise, 100, 160) == (0, 0, 0, 0)


def test_a_black_video_keeps_its_size():
    assert found(np.zeros((5, 40, 60, 3), np.uint8), 40, 60) == (0, 0, 0, 0)


@pytest.mark.parametrize("rotation", [0, 90])
def test_a_letterboxed_video_is_stored_without_bars(tmp_path, make_video, scene, run_annotate, rotation):
    content = scene(13, height=96, width=160)
    boxed = np.zeros((13, 144, 160, 3), np.uint8)
    boxed[:, 24:120] = content["video"]
    path = make_video(tmp_path / "raw" / "film.mp4", boxed, rotation=rotation)
    plan = scan(path, "film.mp4", limits=MediaLimits(), config=ScanConfig(max_frames=81, min_frames=3), config_hash="x")
    info = plan.clips[0].info
    sides = (info.height, info.width) if rotation == 0 else (info.width, info.height)
    assert sides[1] == 160
    assert 90 <= sides[0] <= 96
    assert "black bars" in plan.clips[0].notes[0]
    (tmp_path / "truth").mkdir()
    cut = (96 - sides[0]) // 2
    depth, K = content["depth_m"][:, cut : 96 - cut], content["K"].copy()
    K[:, 1, 2] -= cut
    if rotation:  # the truth below is for the upright one
        return
    np.savez(tmp_path / "truth" / "film.npz", depth_m=depth, K=K, pose_c2w=content["pose_c2w"])
    run_annotate(tmp_path / "raw", tmp_path / "out", config={"filters": FilterConfig(min_sharpness=0.0)})
    clip = ClipDataset(tmp_path / "out").load(0)
    assert clip.video[:, [0, -1]].mean() > 40, "rows at the edge show the scene"
