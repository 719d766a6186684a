"""Point maps for pairs of frames, from whatever can make them: the one protocol, and the network behind it.

Axis legend: f frames, h height, w width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from fw_data.annotators.depth.depth_anything import Resolution
from fw_data.annotators.dust3r.network import Dust3rNetwork, EncodedFrames

_PAIRS_AT_ONCE = {"cpu": 2}
_PAIRS_AT_ONCE_ELSEWHERE = 16


@dataclass(frozen=True, kw_only=True)
class PairPointmaps:
    """Points of both frames of a pair in the camera of the first one (OpenCV axes), in a unit of the pair's own."""

    first: int
    """Index of the first frame."""
    second: int
    """Index of the second frame."""
    first_points: Float32[np.ndarray, "h w 3"]
    """Points of each pixel of the first frame."""
    second_points: Float32[np.ndarray, "h w 3"]
    """Points of each pixel of the second frame."""
    first_confidence: Float32[np.ndarray, "h w"]
    """At least 1; 1 = none. Its logarithm is the weight of a point."""
    second_confidence: Float32[np.ndarray, "h w"]
    """The same of the second frame."""


@runtime_checkable
class PairPredictor(Protocol):
    """Network from pairs of images to point maps; a permissively licensed successor of DUSt3R fits in here."""

    name: str
    """Short name and settings; part of the fingerprint of what is annotated."""

    def predict(
        self,
        images: UInt8[np.ndarray, "f h w 3"],
        pairs: Sequence[tuple[int, int]],
        on_done: Callable[[float], None],
    ) -> Iterator[PairPointmaps]:
        """Maps of all pairs of sRGB images whose sides are multiples of 16, in the order of `pairs`."""
        ...


@runtime_checkable
class DisparityPredictor(Protocol):
    """Network from single frames to disparity; see depth.depth_anything.DepthAnything."""

    metric: bool
    """Whether its disparity is 1 / meters, which fixes the size of the scene."""

    def disparity(
        self, frames: UInt8[np.ndarray, "f h w 3"], *, resolution: Resolution, on_done: Callable[[float], None]
    ) -> Float32[np.ndarray, "f h w"]:
        """Disparity of every pixel, right up to a scale and a shift per frame; larger is nearer."""
        ...


class NetworkPredictor:
    """The pair network: every frame is encoded once, then its tokens serve all its pairs."""

    def __init__(self, network: Dust3rNetwork, *, name: str = "dust3r") -> None:
        self.network = network
        self.name = name

    def predict(
        self,
        images: UInt8[np.ndarray, "f h w 3"],
        pairs: Sequence[tuple[int, int]],
        on_done: Callable[[float], None],
    ) -> Iterator[PairPointmaps]:
        """See PairPredictor."""
        device = self.network.mask_token.device
        batch = _PAIRS_AT_ONCE.get(device.type, _PAIRS_AT_ONCE_ELSEWHERE)
        features = self._encode(images, device, batch)
        for begin in range(0, len(pairs), batch):
            some = pairs[begin : begin + batch]
            with torch.inference_mode():
                out = self.network.decode(
                    *(EncodedFrames(features.tokens[[pair[side] for pair in some]], features.grid) for side in (0, 1))
                )
            points1, confidence1, points2, confidence2 = (part.float().cpu().numpy() for part in out)
            for index, (first, second) in enumerate(some):
                yield PairPointmaps(
                    first=first,
                    second=second,
                    first_points=points1[index],
                    second_points=points2[index],
                    first_confidence=confidence1[index],
                    second_confidence=confidence2[index],
                )
            on_done(min(1.0, (begin + batch) / len(pairs)))

    def _encode(self, images: UInt8[np.ndarray, "f h w 3"], device: torch.device, batch: int) -> EncodedFrames:
        tokens: list[Tensor] = []
        grid = (0, 0)
        for begin in range(0, len(images), batch):
            image = torch.from_numpy(images[begin : begin + batch]).to(device).movedim(-1, 1).float() / 127.5 - 1
            with torch.inference_mode():
                features = self.network.encode(image)
            tokens.append(features.tokens)
            grid = features.grid
        return EncodedFrames(torch.cat(tokens), grid)
