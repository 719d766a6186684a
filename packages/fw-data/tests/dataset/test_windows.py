"""Windows: what they hold, at which frame rate, and that worker processes change nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fw_data import ClipDataset, DataError
from fw_data.dataset.windows import Window, WindowLoader, frame_ratio, frames_spanned, load_window


class OtherRate(ClipDataset):
    """The dataset with another recorded frame rate."""

    rate = 24.0

    def record(self, clip: int | str):
        return super().record(clip).model_copy(update={"fps": self.rate})


@pytest.mark.parametrize(("fps", "frames"), [(0.0, [0, 1, 2, 3]), (8.0, [0, 3]), (9.6, [0, 3, 5]), (24.5, [0, 1, 2])])
def test_resampling_takes_the_nearest_frames(shared_dataset: tuple[Path, ...], fps: float, frames: list[int]) -> None:
    dataset = OtherRate(shared_dataset[0])
    clip = ClipDataset(shared_dataset[0]).load(0)
    height, width = clip.video.shape[1:3]
    window = Window(clip.id, 1, len(frames), height, width, fps)
    found = load_window(dataset, window)
    assert frames_spanned(dataset.record(clip.id), len(frames), fps) == frames[-1] + 1
    chosen = [1 + frame for frame in frames]
    assert found.video is not None
    assert found.cameras is not None
    np.testing.assert_allclose((found.video.transpose(0, 2, 3, 1) + 1) * 127.5, clip.video[chosen], atol=1e-3)
    np.testing.assert_array_equal(found.depth, clip.depth_m[chosen])
    np.testing.assert_allclose(found.cameras.pose_c2w, clip.pose_c2w[chosen], atol=1e-9)


def test_a_slower_clip_has_a_ratio_below_one(shared_dataset: tuple[Path, ...]) -> None:
    record = OtherRate(shared_dataset[0]).record(0)
    assert frame_ratio(record, 30.0) == pytest.approx(0.8)
    assert frame_ratio(record, 23.976) == 1.0


@pytest.mark.slow
def test_workers_load_the_same_windows(shared_dataset: tuple[Path, ...]) -> None:
    dataset = ClipDataset(shared_dataset[0])
    windows = [Window(record.id, 4, 5, 32, 48) for record in dataset.records]
    with WindowLoader(dataset, workers=1) as loader:
        loader.request([*windows, Window("nowhere", 0, 5, 32, 48)])
        for window in windows:
            assert loader.requested(window)
            ours, theirs = load_window(dataset, window), loader.load(window)
            assert not loader.requested(window)
            for one, other in zip(ours[:3], theirs[:3], strict=True):
                np.testing.assert_array_equal(one, other)
        with pytest.raises(DataError, match="nowhere"):
            loader.load(Window("nowhere", 0, 5, 32, 48))


@pytest.mark.slow
def test_workers_end_with_a_parent_that_was_killed(shared_dataset: tuple[Path, ...]) -> None:
    program = (
        "import sys, time\nfrom fw_data import ClipDataset\nfrom fw_data.dataset.windows import Window, WindowLoader\n"
        "if __name__ == '__main__':\n"
        "    data = ClipDataset(sys.argv[1]); loader = WindowLoader(data, workers=1)\n"
        "    window = Window(data.records[0].id, 0, 5, 32, 48); loader.request([window]); loader.load(window)\n"
        "    print(*loader._pool._processes, flush=True); time.sleep(600)\n"
    )
    words = [sys.executable, "-c", program, str(shared_dataset[0])]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 300
    while Path(f"/proc/{worker}").exists() and Path(f"/proc/{worker}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.1)
