"""Gaps in time stamps, and the repair of repeated ones, against lists written out by hand."""

from fractions import Fraction

import av
import numpy as np
import pytest
from av.container import InputContainer

from fw_data import ClipDataset
from fw_data.cli import main
from fw_data.media.times import TimedImage, time_gaps, with_times


def timed(stamps: list[int | None], fps: float = 10.0) -> list[TimedImage]:
    images = []
    for stamp in stamps:
        image = av.VideoFrame(16, 16, "rgb24")
        image.pts, image.time_base = stamp, Fraction(1, round(fps))
        images.append(TimedImage(image=image, gap=False))
    return list(with_times(images, fps))


@pytest.mark.parametrize(
    ("stamps", "times", "repaired"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3], []),
        ([0, 1, 1, 2, 3], [0, 1, 1.5, 2, 3], [2]),  # between its neighbors
        ([0, 1, 1, 1, 4], [0, 1, 2, 3, 4], [2, 3]),  # a run fills the hole it left
        ([0, 1, 1, 40, 41], [0, 1, 2, 40, 41], [2]),  # not spread over a pause
        ([0, 3, 1, 2, 6], [0, 3, 4, 5, 6], [2, 3]),  # out of order
        ([0, 1, 1], [0, 1, 2], [2]),  # at the end
        ([None, None, None], [0, 1, 2], []),  # no stamps: the nominal rate
    ],
)
def test_repeated_stamps_never_overtake_the_next(stamps, times, repaired):
    found = timed(stamps)
    np.testing.assert_allclose([item.time_s * 10 for item in found], times, atol=1e-9)
    assert [i for i, item in enumerate(found) if item.repaired] == repaired
    assert all((item.pts is None) == item.repaired or item.image.pts is None for item in found)


def test_a_clock_that_restarts_is_a_gap():
    found = timed([50, 51, 52, 0, 1, 2])
    np.testing.assert_allclose([item.time_s * 10 for item in found], [50, 51, 52, 53, 54, 55], atol=1e-9)
    assert [item.gap for item in found] == [False] * 3 + [True] + [False] * 2
    assert [item.pts for item in found[3:]] == [None] * 3  # these stamps name other frames


@pytest.mark.parametrize(
    ("steps", "gaps"),
    [
        ([1] * 12, []),
        ([1] * 6 + [40] + [1] * 6, [7]),  # a pause
        ([1] * 6 + [2] + [1] * 6, [7]),  # one frame is missing
        ([1, 1, 1, 2] * 6, []),  # regularly dropped repeats
        ([1] * 12 + [2] * 12, []),  # another rate: the time stamps are kept
        ([1, 1.3, 0.8, 1.2, 0.9, 1.4, 1] * 3, []),  # jitter
        ([1, 1, 9, 1, 1, 1, 9, 1, 1], [3, 7]),
        ([5], []),
    ],
)
def test_gaps(steps, gaps):
    times = np.concatenate([[0.0], np.cumsum(steps)]) / 30
    found = time_gaps(times).tolist()
    assert found == gaps


def remux(source, target, stamps: list[int]) -> None:
    """Copy an intra-only video with other time stamps, in milliseconds."""
    with av.open(source, "r") as container, av.open(target, "w") as sink:
        assert isinstance(container, InputContainer)
        stream = container.streams.video[0]
        copy = sink.add_stream_from_template(stream)
        packets = [packet for packet in container.demux(stream) if packet.dts is not None]
        for packet, stamp in zip(packets, stamps, strict=True):
            packet.pts = packet.dts = stamp
            packet.time_base = Fraction(1, 1000)
            packet.stream = copy
            sink.mux(packet)


@pytest.fixture
def raw(tmp_path, scene):
    """A raw folder with an intra-only video of 24 frames, and its truth."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "truth").mkdir()
    content = scene(24, height=96, width=128)
    with av.open(tmp_path / "whole.mkv", "w") as container:
        stream = container.add_stream("mjpeg", rate=30)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuvj420p"
        for frame in content["video"]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24").reformat(format="yuvj420p")))
        container.mux(stream.encode(None))
    truth = {key: content[key] for key in ("depth_m", "K", "pose_c2w")}
    np.savez(tmp_path / "truth" / "a.npz", **truth)
    return tmp_path / "raw"


def test_a_repeated_stamp_gives_a_valid_dataset(raw, run_annotate, tmp_path):
    stamps = [round(1000 / 30 * index) for index in range(24)]
    stamps[9] = stamps[8]
    remux(tmp_path / "whole.mkv", raw / "a.mkv", stamps)
    run_annotate(raw, tmp_path / "out")
    assert main(["validate", str(tmp_path / "out")]) == 0
    dataset = ClipDataset(tmp_path / "out")
    assert len(dataset) == 1
    assert any("time stamps, interpolated: 1" in note for note in dataset.records[0].notes)
    assert (np.diff(dataset.cameras(0).time_s) > 0.01).all()


def test_a_pause_ends_a_clip(raw, run_annotate, tmp_path):
    remux(tmp_path / "whole.mkv", raw / "a.mkv", [33 * i + (4000 if i >= 12 else 0) for i in range(24)])
    run_annotate(raw, tmp_path / "out")
    records = ClipDataset(tmp_path / "out").records
    assert [(record.start_frame, record.num_frames) for record in records] == [(0, 12), (12, 12)]
    for record in records:
        assert record.fps == pytest.approx(30, rel=0.02)
        assert any("where clips end: 1" in note for note in record.notes)
