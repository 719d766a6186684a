"""The records of a COLMAP model, as its files hold them: cameras, images and points.

Axis legend: world-to-camera poses, OpenCV axes (x right, y down, z forward), quaternions (w, x, y, z).
"""

from dataclasses import dataclass, field
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
    "OPENCV_FISHEYE": CameraModel(5, 8),
    "FULL_OPENCV": CameraModel(6, 12),
    "FOV": CameraModel(7, 5),
    "SIMPLE_RADIAL_FISHEYE": CameraModel(8, 4),
    "RADIAL_FISHEYE": CameraModel(9, 5),
    "THIN_PRISM_FISHEYE": CameraModel(10, 12),
    "RAD_TAN_THIN_PRISM_FISHEYE": CameraModel(11, 16),
    "SIMPLE_DIVISION": CameraModel(12, 4),
    "DIVISION": CameraModel(13, 5),
    "SIMPLE_FISHEYE": CameraModel(14, 3),
    "FISHEYE": CameraModel(15, 4),
    "EUCM": CameraModel(16, 6),
    "EQUIRECTANGULAR": CameraModel(17, 2),
}
"""Every model of COLMAP's files; those in `fw_geometry.lenses.LENS_PARAMETERS` can be used."""


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
    """One image of images.txt; readers leave out its 2D points."""

    id: int
    q_wxyz: np.ndarray
    translation: np.ndarray
    camera_id: int
    name: str
    points_xy: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    """(m, 2) pixels of its 2D points."""
    point_ids: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """(m,) id of the 3D point that each of them shows."""


@dataclass(frozen=True, eq=False)
class PointRecords:
    """All of points3D.txt, without errors: xyz (n, 3) float64, rgb (n, 3) uint8; readers leave out the tracks."""

    xyz: np.ndarray
    rgb: np.ndarray
    tracks: tuple[np.ndarray, ...] = ()
    """Per point (m, 2): image id and index of the 2D point in that image; empty if no point has a track."""

    def track(self, point: int) -> np.ndarray:
        """The track of one point, (m, 2)."""
        return self.tracks[point] if self.tracks else np.zeros((0, 2), dtype=np.int64)

    @staticmethod
    def empty() -> "PointRecords":
        """No points."""
        return PointRecords(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.uint8))
