"""The shared settings of libx264."""

from pathlib import Path

import pytest

from fw_core import video
from fw_core.video import x264_options


@pytest.mark.parametrize(
    ("flags", "given"),
    [
        ("flags: avx2 avx512bw", {"x264-params": "keyint=8:asm=avx2"}),
        ("flags: avx2", {"x264-params": "keyint=8"}),
        (None, {"x264-params": "keyint=8"}),
    ],
)
def test_one_thread_and_no_avx512(flags: str | None, given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def read_text(path: Path, encoding: str) -> str:
        assert (str(path), encoding) == ("/proc/cpuinfo", "utf-8")
        if flags is None:
            raise FileNotFoundError
        return flags

    video._has_avx512.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", read_text)
        options = x264_options(20, "keyint=8")
    video._has_avx512.cache_clear()
    assert options == {"crf": "20", "preset": "medium", "threads": "1", **given}
