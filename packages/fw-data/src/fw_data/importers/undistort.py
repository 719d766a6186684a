"""Images and depth of distorted lenses, resampled to pinhole cameras.

Axis legend: f frames, h height, w width, 3 = RGB. Pixel centers at +0.5; OpenCV's maps count from 0.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from fw_data.importers.base import DepthReader, ImageFrames, check_size
from fw_data.importers.files import DOWNSCALED
from fw_geometry.camera import Trajectory
from fw_geometry.lenses import Lens, pinhole_view, undistortion_maps


class Undistortion:
    """Pinhole images of a scene with one lens per frame; images stay at their size and have no black borders."""

    def __init__(self, lenses: Sequence[Lens], width: int, height: int) -> None:
        self.lenses, self.width, self.height = list(lenses), width, height
        self._maps = lru_cache(maxsize=2)(self._make_maps)

    @property
    def K(self) -> Float[np.ndarray, "f 3 3"]:  # noqa: N802
        """Intrinsics of the undistorted images."""
        return np.stack([pinhole_view(lens, self.width, self.height).K for lens in self.lenses])

    @property
    def note(self) -> str:
        """The field of view before and after, for the record."""
        lens = self.lenses[0]
        view = pinhole_view(lens, self.width, self.height)
        down, across = np.rad2deg(view.fov_rad)
        lost = np.rad2deg(view.lost_fov_rad)
        return (
            f"undistorted ({lens.kind} lens): {across:.1f} x {down:.1f} degrees of "
            f"{across + lost[1]:.1f} x {down + lost[0]:.1f} are kept"
        )

    def image(self, frame: int, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """The undistorted image of a frame."""
        columns, rows = self._maps(self.lenses[frame], image.shape[1], image.shape[0])
        return cv2.remap(image, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)

    def depth(self, read: DepthReader) -> DepthReader:
        """A reader of undistorted depth; z-depth does not change along a ray, only its pixel does."""

        def undistorted(frame: int) -> Float32[np.ndarray, "h w"] | None:
            depth = read(frame)
            if depth is None:
                return None
            columns, rows = self._maps(self.lenses[frame], depth.shape[1], depth.shape[0])
            return cv2.remap(depth, columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)

        return undistorted

    def _make_maps(self, lens: Lens, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        scale_x, scale_y = width / self.width, height / self.height
        K = pinhole_view(lens, self.width, self.height).K * [[scale_x], [scale_y], [1.0]]
        return undistortion_maps(lens.resized(scale_x, scale_y), K, width, height)


def fit_cameras(
    frames: ImageFrames, cameras: Trajectory, lenses: Sequence[Lens], what: str
) -> tuple[Trajectory, Undistortion | None]:
    """Cameras for images that may be smaller copies (images_2, ...) or distorted.

    Distorted images are undistorted when they are read; the returned cameras are those of the undistorted images.
    """
    folder = next((part for part in reversed(frames.paths[0].parts) if part in DOWNSCALED), None)
    if folder is not None:
        factor = int(folder.rpartition("_")[2])
        off = max(abs(frames.width - cameras.width / factor), abs(frames.height - cameras.height / factor))
        if off <= 1:
            scale_x, scale_y = frames.width / cameras.width, frames.height / cameras.height
            cameras = cameras.resized(frames.width, frames.height)
            lenses = [lens.resized(scale_x, scale_y) for lens in lenses]
    check_size(frames, cameras, what)
    if not lenses:
        return cameras, None
    undistortion = Undistortion(lenses, cameras.width, cameras.height)
    frames.change = undistortion.image
    return replace(cameras, K=undistortion.K), undistortion
