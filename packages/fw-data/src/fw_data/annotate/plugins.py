"""Code of others, named on the command line as MODULE:NAME: how it is found, and how a captioner is called.

Axis legend: f frames, h height, w width, 3 = RGB.
"""

from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fw_data.quality.image_scores import some_frames

CAPTION_FRAMES = 8
"""Frames that a captioner sees, spread evenly over the clip."""


def load(path: str, option: str) -> Any:
    """The object at MODULE:NAME. Raises ValueError that names the option if there is none."""
    module, _, name = path.partition(":")
    if not module or not name:
        raise ValueError(f"{option} {path!r}: give MODULE:NAME, such as my_package.my_module:my_name")
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        raise ValueError(
            f"{option} {path}: {module} cannot be imported ({error}); install it, or put its folder on PYTHONPATH"
        ) from error
    except AttributeError as error:
        raise ValueError(f"{option} {path}: {error}") from error


def load_function(path: str, option: str) -> Any:
    """`load`, for what must be callable."""
    found = load(path, option)
    if not callable(found):
        raise ValueError(f"{option} {path}: {type(found).__name__} cannot be called; name a function or a class")
    return found


def caption(captioner: str, frames: UInt8[np.ndarray, "f h w 3"]) -> tuple[str, list[str]]:
    """The caption by MODULE:FUNCTION, in one line, and notes about it.

    If the captioner fails, the clip is kept without a caption, and a note gives the reason.
    """
    try:
        text = load_function(captioner, "--captioner")(some_frames(frames, CAPTION_FRAMES))
        if not isinstance(text, str):
            raise TypeError(f"it returned {type(text).__name__}, not str")
    except Exception as error:
        return "", [f"no caption: {captioner} failed: {type(error).__name__}: {' '.join(str(error).split())}"]
    return " ".join(text.split()), []
