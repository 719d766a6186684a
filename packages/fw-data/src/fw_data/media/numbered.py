"""Folders of numbered images as videos: 0001.png, 0002.png, ... at a given frame rate.

Axis legend: h height, w width, 3 = RGB.
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fw_core.images import ImageError, read_image
from fw_data.errors import DataError
from fw_geometry.formats.names import frame_numbers, natural_key

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
IMAGE_FPS = 24.0
"""Frame rate of images without time stamps."""


def numbered_images(folder: Path) -> list[Path]:
    """The images of a folder in order of their numbers; empty unless all of its images are numbered."""
    images = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    images = sorted((p for p in images if p.is_file()), key=lambda path: natural_key(path.name))
    return images if frame_numbers([path.name for path in images]) is not None else []


def read_numbered(path: Path, max_pixels: int) -> UInt8[np.ndarray, "h w 3"]:
    """One upright image; DataError if it does not decode."""
    try:
        return read_image(path, max_pixels=max_pixels).rgb
    except (ImageError, OSError) as error:
        raise DataError("unreadable", str(error)) from error


def file_numbers(images: list[Path]) -> list[int]:
    """Frame numbers in steps of their usual distance: names that count 0, 5, 10 are frames 0, 1, 2.

    Missing images leave gaps.
    """
    numbers = frame_numbers([path.name for path in images])
    assert numbers is not None
    steps, counts = np.unique(np.diff(numbers), return_counts=True)
    return ((numbers - numbers[0]) / int(steps[counts.argmax()])).round().astype(int).tolist()
