"""The ten containers of PyPI's iscc-samples (CC-BY-4.0) hold one recording; they decode alike."""

from functools import cache

import cv2
import iscc_samples
import numpy as np
import pytest

from fw_data.media.color import ColorConverter
from fw_data.media.decode import read_frames, upright
from fw_data.media.probe import MediaLimits, probe

FPS = 24
SECONDS = 2.0


@cache
def _beginning(suffix: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Frame numbers by time since the first frame, small images, and how often something was missing."""
    limits, convert = MediaLimits(), ColorConverter()
    path = iscc_samples.VIDEO / f"demo.{suffix}"
    info = probe(path, limits)
    assert info.fps == pytest.approx(FPS, rel=1e-3)
    times, images, gaps = [], [], 0
    for frame in read_frames(path, info, limits):
        if times and frame.time_s > times[0] + SECONDS:
            break
        gaps += frame.gap
        times.append(frame.time_s)
        images.append(cv2.resize(upright(frame.image, info, convert), (64, 48), interpolation=cv2.INTER_AREA))
    return ((np.array(times) - times[0]) * FPS).round().astype(int), np.stack(images).astype(float), gaps


@pytest.mark.parametrize("suffix", ["3gp", "avi", "m4v", "mkv", "mov", "mpg", "ogv", "webm", "wmv"])
def test_containers_decode_alike(suffix: str) -> None:
    numbers, images, gaps = _beginning(suffix)
    reference_numbers, reference, _ = _beginning("mp4")
    assert reference_numbers.tolist() == list(range(49))
    # FFmpeg (6.1 to 8) cannot decode 1,074 of this Theora stream's images: they are missing, and reported
    assert gaps > 4 if suffix == "ogv" else gaps == 0
    assert len(numbers) == len(set(numbers)) >= (15 if suffix == "ogv" else 47)

    def difference(shift: int) -> float:
        there = numbers + shift
        both = (numbers > 0) & (there >= 0) & (there < len(reference))
        return float(np.median(np.abs(images[both] - reference[there[both]]).mean((1, 2, 3))))

    shifts = {shift: difference(shift) for shift in range(-3, 4)}
    best = min(shifts, key=lambda shift: shifts[shift])
    assert abs(best) <= (2 if suffix == "avi" else 0)  # the avi begins with two empty frames too many
    assert shifts.pop(best) < 2 < 3 < min(shifts.values())
