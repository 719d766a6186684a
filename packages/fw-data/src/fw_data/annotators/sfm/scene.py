"""The sparse reconstruction of a clip as plain arrays: cameras, points and who sees what.

OpenCV axes, poses world-to-camera inside this package's sparse stage. Image positions are (x, y) in pixels with pixel
centers at + 0.5. Axis legend: f frames, p points, o observations.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from fw_geometry.lenses import Lens


@dataclass(frozen=True, kw_only=True)
class SparseScene:
    """Cameras and points of a clip; frames without a pose are marked, not left out."""

    width: int
    height: int
    focal_px: float
    """Shared by all frames."""
    principal_px: tuple[float, float] = (0.0, 0.0)
    """Principal point (x, y), from the center of the image. Shared by all frames."""
    radial: float = 0.0
    """Lens distortion k: a normalized position u is seen at u (1 + k |u|^2). Shared by all frames."""
    readout: tuple[float, float] = (0.0, 0.0)
    """Rolling shutter: how much of the time between two frames passes from the left to the right edge of the image,
    and from the top to the bottom; poses are those of the image center. (0, 0) for a global shutter."""
    pose_w2c: Float64[np.ndarray, "f 4 4"]
    """Identity where `posed` is false."""
    posed: Bool[np.ndarray, " f"]
    points: Float64[np.ndarray, "p 3"]
    obs_frame: Int64[np.ndarray, " o"]
    obs_point: Int64[np.ndarray, " o"]
    obs_xy: Float64[np.ndarray, "o 2"]

    @property
    def K(self) -> Float64[np.ndarray, "3 3"]:  # noqa: N802 - the name of the field
        """Intrinsics of every frame."""
        x, y = self.center_px
        return np.array([[self.focal_px, 0, x], [0, self.focal_px, y], [0, 0, 1.0]])

    @property
    def center_px(self) -> Float64[np.ndarray, " 2"]:
        """Principal point (x, y) in the image."""
        return np.array([self.width / 2, self.height / 2]) + self.principal_px

    @property
    def lens(self) -> Lens:
        """Focal length, principal point and distortion of every frame."""
        x, y = self.center_px.tolist()
        return Lens(fx=self.focal_px, fy=self.focal_px, cx=x, cy=y, radial=(self.radial,))

    @property
    def centers(self) -> Float64[np.ndarray, "f 3"]:
        """Camera centers in the world."""
        return -np.einsum("fji,fj->fi", self.pose_w2c[:, :3, :3], self.pose_w2c[:, :3, 3])

    def project(
        self, frames: Int64[np.ndarray, " o"], points: Float64[np.ndarray, "o 3"]
    ) -> tuple[Float64[np.ndarray, "o 2"], Float64[np.ndarray, " o"]]:
        """Global-shutter projections of points into the given frames (one each), and their depths.

        Depth <= 0 means behind the camera.
        """
        pose = self.pose_w2c[frames]
        camera = np.einsum("oij,oj->oi", pose[:, :3, :3], points) + pose[:, :3, 3]
        depth = camera[:, 2]
        safe = np.where(np.abs(depth) > 1e-12, depth, 1e-12)
        return self.focal_px * self.bend(camera[:, :2] / safe[:, None]) + self.center_px, depth

    def bend(self, flat: Float64[np.ndarray, "o 2"]) -> Float64[np.ndarray, "o 2"]:
        """Where the lens shows normalized positions, normalized too."""
        return flat * (1 + self.radial * np.einsum("oi,oi->o", flat, flat))[:, None]

    def triangulation_angle_deg(self) -> Float64[np.ndarray, " p"]:
        """For each point, the angle between the two of its rays that lie furthest apart (0 without observations).

        The furthest is measured from the point's first observation and doubled back once, which is within a factor of
        two of the true maximum and needs no pairwise search.
        """
        rays = self.points[self.obs_point] - self.centers[self.obs_frame]
        rays /= np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-12)
        count = len(self.points)
        anchor = np.zeros((count, 3))
        angle = np.zeros(count)
        anchor[self.obs_point[::-1]] = rays[::-1]
        for _ in range(2):
            cosine = np.einsum("oi,oi->o", rays, anchor[self.obs_point])
            order = np.lexsort((cosine, self.obs_point))
            first = np.r_[True, np.diff(self.obs_point[order]) > 0] if len(order) else np.zeros(0, bool)
            furthest = order[first]
            angle = np.zeros(count)
            angle[self.obs_point[furthest]] = np.degrees(np.arccos(np.clip(cosine[furthest], -1, 1)))
            anchor[self.obs_point[furthest]] = rays[furthest]
        return angle
