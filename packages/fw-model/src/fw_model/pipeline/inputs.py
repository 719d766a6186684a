"""Check the image, the prompt and the camera path of a request, and fit them to the model.

The image keeps its aspect ratio: it is resized to cover the frame and cropped around its center. A camera path made for
the image's original size is resized and cropped in the same way.

Axes: F frames, H W pixels.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from fw_core.images import decode_image, read_image
from fw_geometry.camera import Trajectory
from fw_geometry.clip_shape import cover
from fw_model.pipeline.settings import Fit

ImageInput = Image.Image | np.ndarray | Path | str
"""A PIL image, a uint8 array [h, w, 3], or a file."""
_KEPT = 0.95
"""A crop that leaves less than this share of an image is noted."""


def check_types(prompt: object, trajectory: object) -> None:
    """Raise TypeError, with the argument and the type it needs, unless prompt and camera path have theirs."""
    if not isinstance(prompt, str):
        raise TypeError(f"prompt is a {type(prompt).__name__}; give a text")
    if not isinstance(trajectory, Trajectory):
        raise TypeError(
            f"trajectory is a {type(trajectory).__name__}; give a fw_geometry.Trajectory "
            "(make_trajectory makes one from a preset, fw_geometry.formats.read_trajectory from a file)"
        )


def each_of(count: int, given: Mapping[str, object]) -> list[list[object]]:
    """Every argument as a list of `count` values: a list as it is, anything else repeated.

    Raises:
        ValueError: a list of another length.
    """
    for name, values in given.items():
        if isinstance(values, list) and len(values) != count:
            raise ValueError(f"{name} is a list of {len(values)} for {count} images; give one for each, or one for all")
    return [values if isinstance(values, list) else [values] * count for values in given.values()]


def prepare_image(
    image: ImageInput, height: int, width: int, fit: Fit, notes: list[str] | None = None, name: str = "image"
) -> Float[Tensor, "3 H W"]:
    """Convert an image to values in [-1, 1] at the clip's size.

    Args:
        image: a PIL image, a uint8 array [h, w, 3], or a file.
        height: rows of the clip.
        width: columns of the clip.
        fit: "crop" keeps the aspect ratio and crops the center; "stretch" is the released behavior.
        notes: receives a note about every change that reading the image made, and about a crop of 5 % or more.
        name: the argument that the image was given as, for notes and errors.

    Raises:
        ValueError: an array of another shape, or a file that is not a readable image.
        TypeError: neither an image, nor an array, nor a file.
        FileNotFoundError: the file does not exist.
    """
    rgb = _pil_image(image, notes, name).convert("RGB")
    if fit == "crop":
        wide, tall, left, top = cover(rgb.width, rgb.height, width, height)
        kept = width * height / (wide * tall)
        if notes is not None and kept < _KEPT:
            notes.append(f"{name}: cropped to its middle {100 * kept:.0f} % for frames of {width}x{height}")
        rgb = rgb.resize((wide, tall), Image.Resampling.LANCZOS).crop((left, top, left + width, top + height))
    else:
        rgb = rgb.resize((width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(rgb, dtype=np.float32) / 127.5 - 1)
    return rearrange(pixels, "h w c -> c h w").contiguous()


def prepare_trajectory(
    trajectory: Trajectory,
    *,
    num_frames: int,
    height: int,
    width: int,
    fit: Fit,
    scene_scale: float,
    notes: list[str] | None = None,
) -> Trajectory:
    """Take the first ``num_frames`` cameras relative to the first one, for frames of H x W, in scene units.

    `notes` receives a note about cameras after the clip's end.

    Raises:
        ValueError: fewer cameras than frames.
    """
    if len(trajectory) < num_frames:
        raise ValueError(
            f"The camera path has {len(trajectory)} poses, the clip {num_frames} frames; "
            f"use trajectory.resampled({num_frames}), or a shorter clip."
        )
    if len(trajectory) > num_frames and notes is not None:
        unused = len(trajectory) - num_frames
        notes.append(
            f"the camera path has {len(trajectory)} poses; the clip has {num_frames} frames, so the last {unused} "
            "have no effect"
        )
    path = trajectory.slice(0, num_frames).relative_to_first().scaled(1 / scene_scale)
    if (path.width, path.height) == (width, height):
        return path
    if fit == "stretch":
        return path.resized(width, height)
    wide, tall, left, top = cover(path.width, path.height, width, height)
    return path.resized(wide, tall).cropped(left, top, width, height)


def _pil_image(image: ImageInput, notes: list[str] | None, name: str) -> Image.Image:
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
            raise ValueError(f"{name}: an array must be uint8 [h, w, 3], got {image.dtype} {list(image.shape)}")
        return Image.fromarray(image)
    if isinstance(image, Image.Image):
        image, changes = decode_image(image)
    elif isinstance(image, str | Path):
        image, changes = read_image(image)
    else:
        raise TypeError(f"{name} is a {type(image).__name__}; give a PIL image, a uint8 array [h, w, 3] or a file")
    if notes is not None:
        notes += [f"{name}: {change}" for change in changes]
    return Image.fromarray(image)
