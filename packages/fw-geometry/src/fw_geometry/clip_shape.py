"""The shape of a clip: 4 n + 1 frames whose sides are multiples of 16, and how users write sizes.

The Wan autoencoder maps the first frame and then every four frames to one latent frame, and 8 x 8 pixels to one latent
cell; a video token covers 2 x 2 cells. Every command, the HTTP service and the library check shapes here.
"""

import re
from typing import NamedTuple

FRAME_STEP = 4
"""Frames per latent frame, after the first."""
SIDE = 16
"""Sides of a video are multiples of this many pixels."""
_SIZE = re.compile(r"\s*(\d+)\s*[xX×]\s*(\d+)\s*")


def nearest_num_frames(num_frames: int, *, least: int = 1) -> int:
    """The valid frame count closest to `num_frames`, at least `least` (itself valid)."""
    return max(least, round((num_frames - 1) / FRAME_STEP) * FRAME_STEP + 1)


def longest_num_frames(available: int) -> int:
    """The largest valid frame count that needs no more than `available` frames, which is at least 1."""
    return (available - 1) // FRAME_STEP * FRAME_STEP + 1


def nearest_side(pixels: int) -> int:
    """The multiple of 16 closest to `pixels`, at least 16."""
    return max(SIDE, round(pixels / SIDE) * SIDE)


def check_num_frames(num_frames: int, *, name: str = "num_frames", least: int = 1) -> None:
    """Raise ValueError, with the nearest valid count, unless `num_frames` is 4 n + 1 and at least `least`."""
    if num_frames < least or num_frames % FRAME_STEP != 1:
        near = nearest_num_frames(num_frames, least=least)
        raise ValueError(f"{name} is {num_frames}; it must be 4n + 1 and at least {least}. The nearest is {near}")


def check_side(pixels: int, *, name: str, multiple: int = SIDE) -> None:
    """Raise ValueError, with the nearest valid length, unless `pixels` is a positive multiple of `multiple`."""
    if pixels < multiple or pixels % multiple:
        near = max(multiple, round(pixels / multiple) * multiple)
        raise ValueError(f"{name} is {pixels}; it must be a positive multiple of {multiple}. The nearest is {near}")


def check_clip_shape(num_frames: int, height: int, width: int) -> None:
    """Raise ValueError unless a clip of this shape can be encoded; names and nearest values are in the message."""
    check_num_frames(num_frames)
    check_side(height, name="height")
    check_side(width, name="width")


def parse_size(
    text: str, *, name: str = "size", multiple: int = SIDE, least: int = SIDE, largest: int = 8192
) -> tuple[int, int]:
    """`832x480` to (width, height) = (832, 480).

    Args:
        text: WIDTHxHEIGHT in pixels.
        name: the option or field, for the message.
        multiple: both sides must be multiples of this.
        least: shortest side allowed, itself a multiple.
        largest: longest side allowed.

    Raises:
        ValueError: not two whole numbers, or sides that are not allowed; the message gives the nearest valid size.
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"{name} is {text!r}; write WIDTHxHEIGHT in pixels, such as 832x480")
    width, height = int(found[1]), int(found[2])
    near = [
        min(max(least, round(side / multiple) * multiple), largest - largest % multiple) for side in (width, height)
    ]
    if near != [width, height]:
        raise ValueError(
            f"{name} is {text!r}; both sides must be multiples of {multiple} between {least} and {largest}. "
            f"The nearest is {near[0]}x{near[1]}"
        )
    return width, height


class Cover(NamedTuple):
    """Resize to `width` x `height`, then crop the center at (`left`, `top`)."""

    width: int
    height: int
    left: int
    top: int


def cover(source_width: int, source_height: int, width: int, height: int) -> Cover:
    """The smallest resize of a source that covers width x height, and the corner of its center crop."""
    scale = max(width / source_width, height / source_height)
    wide, tall = max(width, round(source_width * scale)), max(height, round(source_height * scale))
    return Cover(wide, tall, (wide - width) // 2, (tall - height) // 2)
