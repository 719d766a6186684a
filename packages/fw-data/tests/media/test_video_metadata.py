"""Display matrices, HDR, untagged color, interlaced fields, edit lists, damaged containers: against exact images."""

import math
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.container import InputContainer
from av.video.reformatter import Colorspace, VideoReformatter

from fw_data.annotate.scan import ScanConfig, scan
from fw_data.errors import DataError
from fw_data.media.color import ColorConverter
from fw_data.media.decode import read_clip, read_frames, upright
from fw_data.media.probe import MediaLimits, find_videos, probe
from fw_data.media.resize import place
from fw_data.media.tone_mapping import to_sdr

LIMITS = MediaLimits()
CONFIG = ScanConfig(max_frames=81, min_frames=3)
CORNERS = {"left": (230, 40, 40), "right": (40, 200, 40), "below": (40, 40, 220), "last": (210, 210, 40)}


def quarters(height: int = 48, width: int = 64) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    places = ((0, 0), (0, 1), (1, 0), (1, 1))
    for (row, column), color in zip(places, CORNERS.values(), strict=True):
        image[row * height // 2 :, column * width // 2 :] = color
    image[: height // 2, : width // 2] = CORNERS["left"]
    image[: height // 2, width // 2 :] = CORNERS["right"]
    image[height // 2 :, : width // 2] = CORNERS["below"]
    return image


def set_matrix(path: Path, a: float, b: float, c: float, d: float) -> None:
    """Rewrite the display matrix in the track header of an MP4 file."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    fixed = [round(value * 65536) for value in (a, b)] + [0] + [round(value * 65536) for value in (c, d)]
    content[at : at + 36] = struct.pack(">9i", *fixed, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def shown(image: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """The image whose pixel (x, y) is at (a x + c y, b x + d y), moved into view."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    x, y = a * columns + c * rows, b * columns + d * rows
    out = np.zeros((np.ptp(y) + 1, np.ptp(x) + 1, 3), np.uint8)
    out[y - y.min(), x - x.min()] = image
    return out


@pytest.mark.parametrize(
    "matrix",
    [
        *((1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)),
        *((-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)),
    ],
)
def test_every_display_matrix_is_obeyed(tmp_path, make_video, matrix):
    path = make_video(tmp_path / "a.mp4", np.stack([quarters()] * 6))
    set_matrix(path, *matrix)
    info = probe(path, LIMITS)
    expected = shown(quarters(), *matrix)
    assert (info.height, info.width) == expected.shape[:2]
    placement = place(info.height, info.width, "source")
    found, _ = read_clip(path, info, LIMITS, placement, frame_index=np.arange(6), start_pts=0)
    assert np.abs(found[0].astype(int) - expected).mean() < 6
    mirrored = matrix[0] * matrix[3] - matrix[1] * matrix[2] < 0
    assert any("mirrored" in note for note in info.notes) == mirrored


def test_other_angles_are_refused(tmp_path, make_video):
    path = make_video(tmp_path / "a.mp4", np.stack([quarters()] * 3))
    cos, sin = math.cos(math.radians(30)), math.sin(math.radians(30))
    set_matrix(path, cos, sin, -sin, cos)
    with pytest.raises(DataError, match="30") as error:
        probe(path, LIMITS)
    assert error.value.code == "rotation"


def hdr_reference(level: float, transfer: str) -> float:
    """8-bit gray of a gray HDR signal, in float64: BT.2100, diffuse white 203 cd/m2, knee at 0.7, display gamma 2.4."""
    if transfer == "hlg":
        scene = level**2 / 3 if level <= 0.5 else (math.exp((level - 0.55991073) / 0.17883277) + 0.28466892) / 12
        light = 1000 / 203 * scene**1.2
    else:
        power = level ** (32 / 2523)
        light = 10000 / 203 * (max(power - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * power)) ** (8192 / 1305)
    light = light if light <= 0.7 else 0.7 + 0.3 * (1 - math.exp((0.7 - light) / 0.3))
    return 255 * light ** (1 / 2.4)


@pytest.mark.parametrize("transfer", ["hlg", "pq"])
def test_tone_mapping_follows_the_standard(transfer):
    levels = np.array([0.0, 0.1, 0.3, 0.5, 0.58, 0.75, 0.9, 1.0])
    signal = np.repeat(np.round(levels * 65535).astype(np.uint16)[None, :, None], 3, axis=2)
    expected = [hdr_reference(level, transfer) for level in levels]
    np.testing.assert_allclose(to_sdr(signal, transfer)[0, :, 1], expected, atol=1.6)
    assert (np.diff(to_sdr(signal, transfer)[0, :, 1].astype(int)) >= 0).all()


@pytest.mark.parametrize(("transfer", "number", "white"), [("hlg", 18, 0.75), ("pq", 16, 0.58)])
def test_hdr_video_becomes_sdr_and_is_noted(tmp_path, transfer, number, white):
    path = tmp_path / "phone.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = 9, 9, number, 1
        for index in range(6):
            image = av.VideoFrame(64, 48, "yuv420p10le")
            for plane, value in zip(image.planes, (64 + white * 876, 512, 512), strict=True):
                plane.update(np.full(plane.buffer_size // 2, round(value), "<u2").tobytes())
            image.pts = index
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    found = scan(path, "phone.mp4", limits=LIMITS, config=CONFIG, config_hash="x")
    info = probe(path, LIMITS)
    assert info.transfer == transfer
    assert transfer.upper() in found.clips[0].notes[0]
    rgb = upright(next(read_frames(path, info, LIMITS)).image, info, ColorConverter())
    assert 235 < rgb.mean() < 250  # diffuse white is almost white, with room for highlights


@pytest.mark.parametrize(("width", "height", "matrix"), [(1280, 720, Colorspace.ITU709), (64, 48, Colorspace.ITU601)])
def test_untagged_color_is_bt709_for_hd(tmp_path, width, height, matrix):
    path = tmp_path / "a.mp4"
    image = quarters(height, width)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "1", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = VideoReformatter().reformat(
            av.VideoFrame.from_ndarray(image, "rgb24"), format="yuv420p", dst_colorspace=matrix
        )
        frame.colorspace = 2  # untagged
        for index in range(3):
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    info = probe(path, LIMITS)
    rgb = upright(next(read_frames(path, info, LIMITS)).image, info, ColorConverter())
    off = rgb.astype(int) - image
    quarter = (
        off[: height // 2 - 4, : width // 2 - 4].mean((0, 1)),
        off[height // 2 + 4 :, width // 2 + 4 :].mean((0, 1)),
    )
    assert np.abs(quarter).max() < 4


def test_interlaced_video_is_deinterlaced(tmp_path):
    """A bar that moves 8 pixels per field: combs in the woven frames, none after."""
    path = tmp_path / "camcorder.mp4"
    fields = [np.full((96, 128), 40, np.uint8) for _ in range(20)]
    for index, field in enumerate(fields):
        field[:, 10 + 4 * index : 30 + 4 * index] = 220
    with av.open(path, "w") as container:
        options = {"crf": "5", "x264-params": "interlaced=1:tff=1"}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for index in range(10):
            woven = fields[2 * index].copy()
            woven[1::2] = fields[2 * index + 1][1::2]
            frame = av.VideoFrame.from_ndarray(np.repeat(woven[..., None], 3, 2), "rgb24").reformat(format="yuv420p")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    info = probe(path, LIMITS)
    frames = list(read_frames(path, info, LIMITS))
    assert len(frames) == 10
    assert all(frame.deinterlaced for frame in frames)
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(10) / 25, atol=1e-6)
    for index, frame in enumerate(frames[1:-1], 1):
        gray = upright(frame.image, info, ColorConverter())[..., 1].astype(int)
        assert np.abs(np.diff(gray, axis=0)).mean() < 2.5, "lines of two fields alternate"
        assert abs(gray[::2].mean() - fields[2 * index].mean()) < 6
    notes = scan(path, "c.mp4", limits=LIMITS, config=CONFIG, config_hash="x").clips[0].notes
    assert any("deinterlaced: 10" in note for note in notes)


def test_frames_behind_an_edit_list_are_not_missed(tmp_path, make_video):
    whole = make_video(tmp_path / "whole.mp4", np.stack([np.roll(quarters(), 2 * i, 1) for i in range(24)]))
    trimmed = tmp_path / "trimmed.mp4"
    with av.open(whole, "r") as source, av.open(trimmed, "w") as sink:
        assert isinstance(source, InputContainer)
        stream = source.streams.video[0]
        copy = sink.add_stream_from_template(stream)
        assert stream.time_base is not None
        shift = round(Fraction(8, 24) / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is not None and packet.pts is not None:
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = copy
                sink.mux(packet)
    found = scan(trimmed, "trimmed.mp4", limits=LIMITS, config=CONFIG, config_hash="x")
    assert sum(clip.num_frames for clip in found.clips) == 16
    assert found.clips[0].notes == []


def test_empty_and_unfinished_files_have_their_own_words(tmp_path, make_video):
    (tmp_path / "empty.mp4").touch()
    whole = make_video(tmp_path / "whole.mp4", np.stack([quarters()] * 12)).read_bytes()
    (tmp_path / "stopped.mp4").write_bytes(whole[: whole.index(b"moov") - 4])
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 20)
    codes = {}
    for name in ("empty", "stopped", "noise"):
        refusal = scan(tmp_path / f"{name}.mp4", name, limits=LIMITS, config=CONFIG, config_hash="x").refusals[0]
        codes[name] = refusal.code
        assert refusal.hint
    assert codes == {"empty": "empty", "stopped": "no-index", "noise": "unreadable"}


def test_gif_y4m_and_folders_of_images_are_videos(tmp_path):
    images = [np.roll(quarters(), 3 * index, 1) for index in range(8)]
    folder = tmp_path / "take.1"
    folder.mkdir()
    for index, image in enumerate(images):
        number = index + 1 if index < 4 else index + 5  # 5 to 8 are missing
        av.VideoFrame.from_ndarray(image, "rgb24").to_image().save(folder / f"{number}.png")
    (tmp_path / "photos").mkdir()
    av.VideoFrame.from_ndarray(images[0], "rgb24").to_image().save(tmp_path / "photos" / "cover.png")
    for name, codec, pixels in (("a.gif", "gif", "rgb8"), ("a.y4m", "wrapped_avframe", "yuv444p")):
        with av.open(tmp_path / name, "w") as container:
            stream = container.add_stream(codec, rate=10)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
            for index, image in enumerate(images):
                frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pixels)
                frame.pts, frame.time_base = index, Fraction(1, 10)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    assert [path.name for path in find_videos(tmp_path)] == ["a.gif", "a.y4m", "take.1"]
    frames = []
    for path in find_videos(tmp_path):
        info = probe(path, LIMITS, image_fps=10.0)
        frames = list(read_frames(path, info, LIMITS))
        assert len(frames) == 8, path
        assert np.abs(upright(frames[3].image, info, ColorConverter()).astype(int) - images[3]).mean() < 25
    np.testing.assert_allclose([f.time_s for f in frames], np.r_[0:4, 8:12] / 10, atol=1e-6)
    clips = scan(folder, "take.1", limits=LIMITS, config=CONFIG, config_hash="x").clips
    assert [(clip.start_frame, clip.num_frames) for clip in clips] == [(0, 4), (4, 4)]
    av.VideoFrame.from_ndarray(images[0][:32], "rgb24").to_image().save(folder / "13.png")
    refusals = scan(folder, "take.1", limits=LIMITS, config=CONFIG, config_hash="x").refusals
    assert [refusal.code for refusal in refusals] == ["size"]
    assert "13.png" in refusals[0].reason
