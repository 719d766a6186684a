"""Frames of a distorted lens become those of an ideal one, for the geometry and for the dataset.

A lens that the matches show is taken out before positions are refined; what is left of it then is taken out at the
end. The frames are resampled once, through both steps. Axis legend: f frames, h height, w width, o positions.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from fw_data.annotators.sfm.bundle import drop_outliers
from fw_data.annotators.sfm.scene import SparseScene
from fw_data.annotators.sfm.workers import map_parallel
from fw_geometry.lenses import Lens, pinhole_view

MIN_REMOVED = 0.05
"""Weaker distortion stays in the frames, unless they are resampled anyway; only the geometry is corrected for it."""
MAX_REMOVED = 0.6
MIN_OBSERVATIONS = 2500


@dataclass(frozen=True, kw_only=True)
class LensRemoval:
    """From recorded frames to those of an ideal lens: the same size, the largest view without black borders."""

    width: int
    height: int
    lenses: tuple[Lens, ...]
    """The lens of the recorded frames, then that of the frames without the first one, and so on."""

    @property
    def K(self) -> Float64[np.ndarray, "3 3"]:  # noqa: N802 - the name of the field
        """Intrinsics of the ideal frames, with the focal length of the last lens."""
        return self._view(self.lenses[-1])

    @property
    def radial(self) -> float:
        """First radial coefficient of the recorded frames, for the focal length that the last lens has."""
        total, scale = 0.0, 1.0
        for lens, following in zip(self.lenses[::-1], (None, *self.lenses[:0:-1]), strict=True):
            scale *= 1.0 if following is None else following.fx / self._view(lens)[0, 0]
            total += lens.radial[0] * scale**2
        return float(total)

    def recorded(self, ideal: Float64[np.ndarray, "o 2"]) -> Float64[np.ndarray, "o 2"]:
        """Recorded positions of ideal ones."""
        for lens in self.lenses[::-1]:
            ideal = lens.project(np.c_[ideal, np.ones(len(ideal))] @ np.linalg.inv(self._view(lens)).T)
        return ideal

    def ideal(self, recorded: Float64[np.ndarray, "o 2"]) -> Float64[np.ndarray, "o 2"]:
        """The inverse of `recorded`; NaN for positions that no direction reaches."""
        for lens in self.lenses:
            rays = lens.unproject(recorded)
            recorded = ((rays / rays[:, 2:]) @ self._view(lens).T)[:, :2]
        return recorded

    def frames(self, frames: UInt8[np.ndarray, "f h w *c"], threads: int) -> UInt8[np.ndarray, "f h w *c"]:
        """The ideal frames of recorded ones; their size may differ from that of the lenses by a factor."""
        height, width = frames.shape[1:3]
        scale = np.array([self.width / width, self.height / height])
        pixels = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1).reshape(-1, 2)
        places = self.recorded(pixels * scale) / scale - 0.5
        columns, rows = places.T.reshape(2, height, width).astype(np.float32)

        def remap(frame: np.ndarray) -> np.ndarray:
            return cv2.remap(frame, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)

        return np.stack(map_parallel(remap, list(frames), threads))

    def note(self) -> str:
        """What was done, for the record."""
        width, height = self.width, self.height
        ends = np.array([(0.0, height / 2), (width, height / 2), (width / 2, 0.0), (width / 2, height)])
        left, right, top, bottom = self.recorded(ends)
        across, down = (right[0] - left[0]) / width, (bottom[1] - top[1]) / height
        return (
            f"undistorted (first radial coefficient {self.radial:.2f}): the middle {100 * across:.0f} % of the width "
            f"and {100 * down:.0f} % of the height fill the frame"
        )

    def _view(self, lens: Lens) -> Float64[np.ndarray, "3 3"]:
        return pinhole_view(lens, self.width, self.height).K


def remove_lens(scene: SparseScene, before: LensRemoval | None) -> tuple[SparseScene, LensRemoval | None]:
    """The same cameras and points seen through an ideal lens, and the steps to there, `before` included.

    Both stay as they are where the lens bends too little, too much, or is not known well enough.
    """
    least = MIN_REMOVED if before is None else 1e-6
    if not least <= abs(scene.radial) <= MAX_REMOVED or len(scene.obs_xy) < MIN_OBSERVATIONS:
        return scene, before
    corners = np.array([(x, y) for x in (0.0, scene.width) for y in (0.0, scene.height)])
    if not np.isfinite(scene.lens.unproject(corners)).all():  # the model folds inside the image
        return scene, before
    step = LensRemoval(width=scene.width, height=scene.height, lenses=(scene.lens,))
    xy = step.ideal(scene.obs_xy)
    inside = np.flatnonzero((xy > 0).all(axis=1) & (xy < [scene.width, scene.height]).all(axis=1))
    ideal = replace(
        scene,
        focal_px=float(step.K[0, 0]),
        radial=0.0,
        obs_frame=scene.obs_frame[inside],
        obs_point=scene.obs_point[inside],
        obs_xy=xy[inside],
    )
    lenses = (*(before.lenses if before else ()), scene.lens)
    return drop_outliers(ideal, max_error_px=np.inf, min_views=2), replace(step, lenses=lenses)
