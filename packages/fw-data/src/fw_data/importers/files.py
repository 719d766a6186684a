"""Image files of a scene, and their times.

Axis legend: f frames.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from fw_data.errors import DataError
from fw_geometry.formats.names import frame_numbers, portable_path

DOWNSCALED = ("images_2", "images_4", "images_8")
"""Folders of smaller copies, as Mip-NeRF 360 and nerfstudio name them."""
_SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")


def locate(bases: Sequence[Path], names: Sequence[str]) -> list[Path]:
    """The image files of `names` below the first of `bases` that holds the first one.

    Suffixes may be missing or another image suffix. Of absolute paths, of any system, the longest part that exists
    counts. Images in images/ are also found in images_2/, images_4/ and images_8/.

    Raises:
        DataError: an image that is in none of the folders.
    """
    names = [portable_path(name) for name in names]
    for base in bases:
        for variant in (lambda name: name, _tail, *(_downscaled(folder) for folder in DOWNSCALED)):
            if _file(base, variant(names[0])) is None:
                continue
            found = [_file(base, variant(name)) for name in names]
            missing = [name for name, file in zip(names, found, strict=True) if file is None]
            if missing:
                raise DataError(
                    "no-frames",
                    f"{len(missing)} of {len(names)} images are missing in {base}; the first is {missing[0]}",
                )
            return [file for file in found if file is not None]
    looked = ", ".join(str(base) for base in bases)
    raise DataError("no-frames", f"there is no image {names[0]} in {looked}")


def numbered_times(names: Sequence[str], fps: float) -> tuple[Float64[np.ndarray, " f"], list[str]]:
    """Seconds of images without time stamps, and notes: missing numbers in their names leave gaps in time.

    The usual distance between two numbers is one frame: names that count 0, 5, 10 have no gaps.
    """
    numbers = frame_numbers([Path(name).name for name in names])
    if numbers is None:
        return np.arange(len(names)) / fps, []
    steps, counts = np.unique(np.diff(numbers), return_counts=True)
    step = int(steps[counts.argmax()])
    gaps = int((np.diff(numbers) != step).sum())
    notes = [f"{gaps} gaps in the frame numbers, where clips end"] if gaps else []
    return (numbers - numbers[0]) / step / fps, notes


def _file(base: Path, name: str) -> Path | None:
    path = base / name
    for candidate in (path, *(base / (name + suffix) for suffix in _SUFFIXES[1:])):
        if candidate.is_file():
            return candidate
    return next((p for suffix in _SUFFIXES[1:] if path.name and (p := path.with_suffix(suffix)).is_file()), None)


def _tail(name: str) -> str:
    """An absolute path from its last folder on: C:/data/images/a.png becomes images/a.png."""
    absolute = name.startswith("/") or name[1:2] == ":"
    return "/".join(name.split("/")[-2:]) if absolute else name


def _downscaled(folder: str) -> Callable[[str], str]:
    def variant(name: str) -> str:
        first, _, rest = name.partition("/")
        return f"{folder}/{rest}" if first == "images" and rest else f"{folder}/{name}"

    return variant
