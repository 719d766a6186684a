"""Two hundred damaged videos and every trick with names, links and headers: none stops a scan, each is classified.

The scan runs in this process, so a crash of the decoder would end the test. Everything is seeded.
"""

import os
import struct
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from fw_data.annotate.config import AnnotateConfig
from fw_data.annotate.pipeline import RunMode, annotate
from fw_data.annotate.progress import PlainReporter
from fw_data.annotate.scan import ScanConfig, VideoScan, scan
from fw_data.annotate.scan_pass import merge
from fw_data.annotators.oracle.spec import OracleSpec
from fw_data.dataset.schema import Refusal
from fw_data.engine.local import LocalEngine
from fw_data.errors import DataError
from fw_data.media.probe import MediaLimits, find_videos, probe

LIMITS = MediaLimits()
CONFIG = ScanConfig(max_frames=81, min_frames=5, trim_s=0.08)
KNOWN = {
    "unreadable",
    "empty",
    "no-index",
    "no-frames",
    "no-video",
    "no-decoder",
    "too-large",
    "too-long",
    "too-small",
    "too-short",
    "transition",
}


def _encode(path: Path, frames: np.ndarray, codec: str, *, rate: int = 24, group: int = 6, **options: str) -> bytes:
    with av.open(str(path), "w", options={"movflags": "+faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=rate, options={"g": str(group), **options})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for index, frame in enumerate(frames):
            image = av.VideoFrame.from_ndarray(frame, format="rgb24")
            image.pts, image.time_base = index, Fraction(1, rate)
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, bytes]:
    """Small videos of several containers and codecs."""
    folder = tmp_path_factory.mktemp("sources")
    rng = np.random.default_rng(0)
    wide = np.kron(rng.integers(0, 256, (4, 30, 3), dtype=np.uint8), np.ones((12, 12, 1), np.uint8))
    frames = np.stack([wide[:, 2 * i : 2 * i + 64] for i in range(24)])
    return {
        "mp4": _encode(folder / "a.mp4", frames, "libx264", preset="ultrafast"),
        "mkv": _encode(folder / "a.mkv", frames, "libx264", preset="ultrafast"),
        "avi": _encode(folder / "a.avi", frames, "mpeg4"),
        "mpg": _encode(folder / "a.mpg", frames, "mpeg1video"),
        "ts": _encode(folder / "a.ts", frames, "mpeg2video"),
        "mov": _encode(folder / "long_group.mov", frames, "libx264", group=1000, preset="ultrafast"),
    }


def _survey(path: Path) -> VideoScan:
    return scan(path, path.name, limits=LIMITS, config=CONFIG, config_hash="test")


def _outcome(found: VideoScan) -> str:
    """ "kept", or the codes of what was left out; fails when a video is neither."""
    codes = {refusal.code for refusal in found.refusals}
    assert codes <= KNOWN, codes
    assert found.clips or found.refusals, f"{found.source} vanished"
    for clip in found.clips:
        assert clip.num_frames >= CONFIG.min_frames
    return "kept" if found.clips else "+".join(sorted(codes))


def _mutations(data: bytes, rng: np.random.Generator):
    """(name, bytes) of one video damaged in every way."""
    size = len(data)
    for share in (0.02, 0.2, 0.5, 0.8, 0.97):
        yield f"cut at {share}", data[: int(size * share)]
    yield "without its start", data[size // 10 :]
    for count in (1, 4, 16, 64, 256):
        for _ in range(2):
            bits = bytearray(data)
            for at in rng.integers(0, size, count):
                bits[at] ^= 1 << rng.integers(0, 8)
            yield f"{count} bits", bytes(bits)
    for _ in range(6):  # damage to what describes the file
        head = bytearray(data)
        for at in rng.integers(0, min(size, 900), 12):
            head[at] = rng.integers(0, 256)
        yield "head", bytes(head)
    for _ in range(4):
        start, length = int(rng.integers(0, size)), int(rng.integers(1, size // 4))
        yield "zeros", data[:start] + bytes(min(length, size - start)) + data[start + length :]
        yield "gone", data[:start] + data[start + length :]
        yield "twice", data[: start + length] + data[start:]
    yield "noise", rng.integers(0, 256, size, dtype=np.uint8).tobytes()
    yield "padded", data + bytes(5000)


def test_two_hundred_damaged_videos(tmp_path, sources):
    rng = np.random.default_rng(1)
    outcomes: Counter[str] = Counter()
    number = 0
    for suffix, data in sources.items():
        for name, damaged in _mutations(data, rng):
            path = tmp_path / f"{number}.{suffix}"
            path.write_bytes(damaged)
            outcomes[_outcome(_survey(path))] += 1
            assert name
            number += 1
            path.unlink()
    assert number >= 200
    assert outcomes["kept"] > 50  # damage in the middle costs some frames, not the video
    assert outcomes["unreadable"] > 20


def test_wrong_suffixes_and_what_is_no_video(tmp_path, sources):
    for suffix in ("mp4", "mkv", "avi", "webm", "flv", "wmv", "ogv", "3gp"):
        path = tmp_path / f"wrong.{suffix}"
        path.write_bytes(sources["mp4"])
        assert _outcome(_survey(path)) == "kept"
    others = {
        "empty": b"",
        "text": b"hello\n" * 400,
        "zip": b"PK\x03\x04" + bytes(300),
        "png": b"\x89PNG\r\n\x1a\n" * 9,
    }
    others |= {
        "riff": b"RIFF\xff\xff\xff\xffAVI " * 40,
        "ebml": b"\x1a\x45\xdf\xa3" + b"\xff" * 200,
        "ff": b"\xff" * 4096,
    }
    others |= {
        "playlist": b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n",
        "concat": b"ffconcat version 1.0\nfile /etc/hostname\n",
    }
    for name, content in others.items():
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(content)
        assert _outcome(_survey(path)) in {"unreadable", "no-video", "empty"}, name


def _boxes(data: bytes, name: bytes) -> list[int]:
    return [at for at in range(len(data) - 4) if data[at : at + 4] == name]


def _huge_mp4(data: bytes) -> dict[str, bytes]:
    """MP4 files whose headers ask for the impossible."""
    made = {}

    def patched(box: bytes, offset: int, value: bytes) -> bytes:
        out = bytearray(data)
        for at in _boxes(data, box):
            out[at + offset : at + offset + len(value)] = value
        return bytes(out)

    made["dimensions"] = patched(b"avc1", 28, struct.pack(">HH", 65535, 65535))
    made["track dimensions"] = patched(b"tkhd", 80, struct.pack(">II", 0xFFFF0000, 0xFFFF0000))
    made["movie lasts for ever"] = patched(b"mvhd", 20, b"\xff\xff\xff\xfe")
    made["track lasts for ever"] = patched(b"mdhd", 20, b"\xff\xff\xff\xfe")
    made["no time scale"] = patched(b"mdhd", 16, bytes(4))
    made["no frame rate"] = patched(b"stts", 12, struct.pack(">I", 0))
    made["frames without number"] = patched(b"stsz", 12, b"\x7f\xff\xff\xff")
    made["chunks without number"] = patched(b"stco", 8, b"\x7f\xff\xff\xff")
    made["box of 2 GB"] = patched(b"moov", -4, b"\x7f\xff\xff\xff")
    made["box of nothing"] = patched(b"trak", -4, bytes(4))
    made["offsets past the end"] = patched(b"stco", 12, b"\xff\xff\xff\x00")
    nested = b""
    for _ in range(400):
        nested = struct.pack(">I", len(nested) + 8) + b"moov" + nested
    made["boxes in boxes"] = nested
    return made


def test_headers_that_ask_for_the_impossible(tmp_path, sources):
    for name, content in _huge_mp4(sources["mp4"]).items():
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(content)
        assert _outcome(_survey(path)) in {*KNOWN, "kept", "too-short+transition"}, name


def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path):
    """A few kilobytes that unfold into images of 100 megapixels."""
    path = tmp_path / "bomb.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 9600, 4800, "gray"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((4800, 9600), np.uint8), format="gray")))
        container.mux(stream.encode(None))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError) as caught:
        probe(path, LIMITS)
    assert caught.value.code == "too-large"


def test_many_times_the_frames_that_are_allowed(tmp_path, sources):
    path = tmp_path / "long.mp4"
    path.write_bytes(sources["mp4"])
    limits = MediaLimits(max_frames=10)
    found = scan(path, path.name, limits=limits, config=CONFIG, config_hash="test")
    assert [refusal.code for refusal in found.refusals] == ["too-long"]


def _run(raw: Path, out: Path, **options: bool) -> dict[str, set[str]]:
    """VideoScan only, all of it; outcome by source."""
    mode = RunMode(stop_after="scan", **options)
    spec, engine = OracleSpec(truth=raw), LocalEngine(workers=0)
    summary = annotate(raw, out, config=AnnotateConfig(), spec=spec, engine=engine, reporter=PlainReporter(), mode=mode)
    assert summary.count("failed") == 0
    lines = (out / "refusals.jsonl").read_text().splitlines()
    found: dict[str, set[str]] = {}
    for refusal in map(Refusal.model_validate_json, lines):
        found.setdefault(refusal.source, set()).add(refusal.code)
    return found


def test_names_and_links(tmp_path, sources):
    raw, outside = tmp_path / "raw", tmp_path / "elsewhere"
    raw.mkdir()
    outside.mkdir()
    names = [
        "new\nline.mp4",
        "tab\there.mp4",
        "quote'\".mp4",
        "semi;colon && rm.mp4",
        "$(echo x).mp4",
        "`x`.mp4",
        "%s%d.mp4",
    ]
    names += [
        "-y.mp4",
        "file:a.mp4",
        "concat:a|b.mp4",
        "http:..b.mp4",
        "<b>.mp4",
        "[0:5].mp4",
        "日本語 видео.mp4",
        "e\u0301.mp4",
    ]
    names += ["a" * 200 + ".mp4", ".mp4.mp4", "UPPER.MP4", "two  spaces .mp4", "pipe:0.mp4", "\u202eabc.mp4"]
    for name in names:
        (raw / name).write_bytes(b"not a video: " + name.encode())
    (outside / "secret.mp4").write_bytes(sources["mp4"])
    (outside / "folder").mkdir()
    (outside / "folder" / "inner.mp4").write_bytes(sources["mp4"])
    (raw / "link out.mp4").symlink_to(outside / "secret.mp4")
    (raw / "up.mp4").symlink_to("../elsewhere/secret.mp4")
    (raw / "linked folder").symlink_to(outside / "folder")
    (raw / "loop.mp4").symlink_to("loop.mp4")
    (raw / "broken link.mp4").symlink_to("nowhere.mp4")
    (raw / "round").symlink_to(raw)
    (raw / "folder.mp4").mkdir()
    os.mkfifo(raw / "pipe.mp4")
    (raw / "z good.mp4").write_bytes(sources["mp4"])
    (raw / "inside link.mp4").symlink_to("z good.mp4")

    listed = {path.relative_to(raw).as_posix() for path in find_videos(raw)}
    assert listed == {*names, "z good.mp4", "inside link.mp4", "link out.mp4", "up.mp4"} - {".mp4.mp4"}
    outcomes = _run(raw, tmp_path / "out")
    assert {name for name, codes in outcomes.items() if codes == {"unreadable"}} == set(names) - {".mp4.mp4"}
    assert outcomes["z good.mp4"] == {"duplicate"}  # of the link that sorts before it
    assert outcomes["link out.mp4"] == outcomes["up.mp4"] == {"link-outside"}
    followed = _run(raw, tmp_path / "out", follow_links=True)
    assert followed["link out.mp4"] == followed["up.mp4"] == {"duplicate"}


def test_a_file_that_cannot_be_opened_or_goes_away_is_refused(tmp_path, sources):
    path = tmp_path / "gone.mp4"
    with pytest.raises(DataError) as caught:
        probe(path, LIMITS)
    assert caught.value.code == "unreadable"
    path.write_bytes(sources["mp4"])
    one = _survey(path)
    plans, refusals = merge([one, one.model_copy(update={"source": "copy.mp4"})])
    assert len(plans) == len(one.clips)
    assert [refusal.code for refusal in refusals] == ["duplicate"]
