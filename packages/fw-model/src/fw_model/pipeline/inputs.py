"""What a caller hands to generation, checked and brought to the model's size: the picture, and the camera path.

The picture keeps its aspect: it is resized until it covers the frame and cropped around its centre; a camera path that
was made for the picture's own size goes through the same resize and crop.

Axes: F frames, H W pixels.
"""

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fw_geometry.camera import Trajectory
from fw_model.pipeline.settings import Fit

ImageInput = Image.Image | np.ndarray | Path | str
"""A PIL image, a uint8 array [h, w, 3], or a file."""


def prepare_image(image: ImageInput, height: int, width: int, fit: Fit) -> Float[Tensor, "3 H W"]:
    """The picture in [-1, 1] at the clip's size.

    Args:
        image: a PIL picture, a uint8 array [h, w, 3], or a file.
        height: rows of the clip.
        width: columns of the clip.
        fit: "crop" keeps the aspect and cuts what is over; "stretch" is the released behaviour.

    Raises:
        ValueError: not a picture.
    """
    picture = _opened(image).convert("RGB")
    if fit == "crop":
        scaled, left, top = _cover(picture.width, picture.height, width, height)
        picture = picture.resize(scaled, Image.Resampling.LANCZOS).crop((left, top, left + width, top + height))
    else:
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 127.5 - 1)
    return rearrange(pixels, "h w c -> c h w").contiguous()


def prepare_trajectory(
    trajectory: Trajectory, *, num_frames: int, height: int, width: int, fit: Fit, scene_scale: float
) -> Trajectory:
    """The first ``num_frames`` cameras relative to the first one, for frames of H x W, lengths in scene units.

    Raises:
        ValueError: fewer cameras than frames.
    """
    if len(trajectory) < num_frames:
        raise ValueError(
            f"The camera path has {len(trajectory)} poses, the clip {num_frames} frames; "
            f"use trajectory.resampled({num_frames}), or a shorter clip."
        )
    path = trajectory.slice(0, num_frames).relative_to_first().scaled(1 / scene_scale)
    if (path.width, path.height) == (width, height):
        return path
    if fit == "stretch":
        return path.resized(width, height)
    scaled, left, top = _cover(path.width, path.height, width, height)
    return path.resized(*scaled).cropped(left, top, width, height)


def _opened(image: ImageInput) -> Image.Image:
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
            raise ValueError(f"A picture array must be uint8 [h, w, 3], got {image.dtype} {list(image.shape)}.")
        return Image.fromarray(image)
    if isinstance(image, Image.Image):
        return image
    try:
        with Image.open(image) as opened:
            return opened.convert("RGB")
    except FileNotFoundError:
        raise ValueError(f"There is no picture {image}.") from None
    except UnidentifiedImageError:
        raise ValueError(f"{image} is not a picture that can be read; give a PNG or JPEG file.") from None


def _cover(width: int, height: int, to_width: int, to_height: int) -> tuple[tuple[int, int], int, int]:
    """Size after the smallest resize that covers the target, and the corner of the centre crop."""
    scale = max(to_width / width, to_height / height)
    scaled = max(to_width, round(width * scale)), max(to_height, round(height * scale))
    return scaled, (scaled[0] - to_width) // 2, (scaled[1] - to_height) // 2
