"""Points and descriptors of key frames, by XFeat.

Image positions are (x, y) in pixels with pixel centers at + 0.5. Axis legend: n points, d length of a descriptor,
h height, w width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float32, UInt8
from torch import Tensor

from fw_data.annotators.sfm.matching.networks import load_xfeat

MIN_SIDE_FOR_NETWORK = 32


@dataclass(frozen=True, kw_only=True)
class Features:
    """The points of one frame, most reliable first."""

    positions: Float32[Tensor, "n 2"]
    """(x, y), pixel centers at + 0.5."""
    descriptors: Float32[Tensor, "n d"]
    """Unit length."""
    size: tuple[int, int]
    """(width, height) of the frame."""


def extract_features(frame: UInt8[np.ndarray, "h w 3"], max_keypoints: int) -> Features:
    """At most `max_keypoints` points of one frame; small frames are enlarged first, so points lie dense enough."""
    height, width = frame.shape[:2]
    scale = max(1.0, 512 / max(height, width), MIN_SIDE_FOR_NETWORK / min(height, width))
    image = rearrange(torch.from_numpy(np.ascontiguousarray(frame)), "h w c -> 1 c h w").float() / 255
    # The network wants multiples of 32; resize once, here, so that the scale of the positions is known exactly.
    target = [max(32, round(side * scale / 32) * 32) for side in (height, width)]
    image = torch.nn.functional.interpolate(image, target, mode="bilinear", align_corners=False)
    found = load_xfeat().detectAndCompute(image, top_k=max_keypoints)[0]  # pyright: ignore[reportCallIssue]
    to_frame = torch.tensor([width / target[1], height / target[0]])
    positions = (found["keypoints"].float() + 0.5) * to_frame
    return Features(
        positions=positions.clone(),
        descriptors=found["descriptors"].float().clone(),
        size=(width, height),
    )
