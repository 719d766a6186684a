"""The records of a COLMAP model, as its files hold them: cameras, images and points.

Axis legend: world-to-camera poses, OpenCV axes (x right, y down, z forward), quaternions (w, x, y, z).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class CameraModel(NamedTuple):
    """Number of a COLMAP camera model in binary files, and how many parameters it has."""

    number: int
    params: int


CAMERA_MODELS: dict[str, CameraModel] = {
    "SIMPLE_PINHOLE": CameraModel(0, 3),
    "PINHOLE": CameraModel(1, 4),
    "SIMPLE_RADIAL": CameraModel(2, 4),
    "RADIAL": CameraModel(3, 5),
    "OPENCV": CameraModel(4, 8),
}
"""The models that are a pinhole when their distortion is zero."""


@dataclass(frozen=True, eq=False)
class CameraRecord:
    """One line of cameras.txt."""

    id: int
    model: str
    width: int
    height: int
    params: np.ndarray


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One image of images.txt, without its 2D points."""

    id: int
    q_wxyz: np.ndarray
    translation: np.ndarray
    camera_id: int
    name: str


@dataclass(frozen=True, eq=False)
class PointRecords:
    """All of points3D.txt, without errors and tracks: xyz (n, 3) float64, rgb (n, 3) uint8."""

    xyz: np.ndarray
    rgb: np.ndarray

    @staticmethod
    def empty() -> "PointRecords":
        """No points."""
        return PointRecords(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.uint8))
