"""Encoder settings that every H.264 writer of this project shares."""

from functools import cache
from pathlib import Path


def x264_options(crf: int, parameters: str = "") -> dict[str, str]:
    """Options of libx264 with which the same frames always give the same bytes: one thread, no AVX-512.

    Args:
        crf: quality, 0 (lossless in YUV) to 51.
        parameters: further x264 parameters, such as "keyint=8:scenecut=0".
    """
    # the AVX-512 code gives other bytes from call to call (PyAV 18.1 on an AMD EPYC)
    given = ":".join(filter(None, [parameters, "asm=avx2" if _has_avx512() else ""]))
    return {"crf": str(crf), "preset": "medium", "threads": "1"} | ({"x264-params": given} if given else {})


@cache
def _has_avx512() -> bool:
    try:
        processor = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return " avx512bw" in processor
