"""Between the frame as it was recorded and the image an ideal pinhole camera with a global shutter would have taken.

Dense matching works on the ideal images; depth is brought back to the recorded pixels at the end. The shutter is
taken out for the camera's rotation exactly and for its translation at the scene's typical depth.
Image positions are (x, y) with pixel centers at + 0.5. Axis legend: f frames, h height, w width, o positions.
"""

import cv2
import numpy as np
from jaxtyping import Float32, Float64
from scipy.spatial.transform import Rotation

from fw_data.annotators.sfm.rolling_shutter import camera_twists
from fw_data.annotators.sfm.scene import SparseScene


class Rectifier:
    """Maps of one scene; positions are in pixels of the scene's frames."""

    def __init__(self, scene: SparseScene) -> None:
        self._scene = scene
        self._twists = camera_twists(scene)
        self._depth = _typical_depth(scene)
        self.is_identity = scene.radial == 0.0 and scene.readout == (0.0, 0.0)

    def recorded(self, frame: int, ideal: Float64[np.ndarray, "o 2"]) -> Float64[np.ndarray, "o 2"]:
        """Recorded positions of ideal ones."""
        if self.is_identity:
            return ideal
        scene = self._scene
        size = np.array([scene.width, scene.height], np.float64)
        flat = (ideal - scene.center_px) / scene.focal_px
        point = np.c_[flat, np.ones(len(flat))] * self._depth[frame]
        seen = ideal
        for _ in range(2):
            time = (seen / size - 0.5) @ np.array(scene.readout)
            twist = self._twists[frame] * time[:, None]
            moved = Rotation.from_rotvec(-twist[:, :3]).apply(point - twist[:, 3:])
            bent = scene.bend(moved[:, :2] / np.maximum(moved[:, 2:], 1e-9))
            seen = scene.focal_px * bent + scene.center_px
        return seen

    def ideal(self, frame: int, recorded: Float64[np.ndarray, "o 2"]) -> Float64[np.ndarray, "o 2"]:
        """The inverse of `recorded`, by fixed-point iteration (the distortion is small and smooth)."""
        if self.is_identity:
            return recorded
        guess = recorded
        for _ in range(4):
            guess = guess + (recorded - self.recorded(frame, guess))
        return guess

    def ideal_image(self, frame: int, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """A recorded frame (any channels), as the ideal camera sees it at `size` (width, height)."""
        reduced = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        if self.is_identity:
            return reduced
        return _remap(reduced, self._coarse_map(frame, size, to_ideal=False))

    def recorded_map(self, frame: int, values: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
        """A map made on the ideal image, at the recorded pixels of the same resolution (nearest value)."""
        if self.is_identity:
            return values
        size = (values.shape[1], values.shape[0])
        return _remap(values, self._coarse_map(frame, size, to_ideal=True), nearest=True)

    def _coarse_map(self, frame: int, size: tuple[int, int], *, to_ideal: bool, step: int = 16) -> np.ndarray:
        """Positions (h, w, 2) at `size`, computed on a coarse lattice and interpolated: the maps are smooth."""
        width, height = size
        scale = np.array([self._scene.width / width, self._scene.height / height])
        xs = np.linspace(0, width, max(2, width // step + 1))
        ys = np.linspace(0, height, max(2, height // step + 1))
        lattice = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2) * scale
        mapped = (self.ideal if to_ideal else self.recorded)(frame, lattice) / scale
        offset = (mapped - lattice / scale).reshape(len(ys), len(xs), 2)
        fx = (np.arange(width) + 0.5) / width * (len(xs) - 1)
        fy = (np.arange(height) + 0.5) / height * (len(ys) - 1)
        at = np.meshgrid(fx.astype(np.float32), fy.astype(np.float32))
        smooth = cv2.remap(offset.astype(np.float32), at[0], at[1], cv2.INTER_LINEAR)
        pixel = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
        return (pixel + smooth).astype(np.float32)


def _remap(image: np.ndarray, places: np.ndarray, *, nearest: bool = False) -> np.ndarray:
    method = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    border = cv2.BORDER_CONSTANT if nearest else cv2.BORDER_REPLICATE
    return cv2.remap(image, places[..., 0] - np.float32(0.5), places[..., 1] - np.float32(0.5), method, None, border)


def _typical_depth(scene: SparseScene) -> Float64[np.ndarray, " f"]:
    """Median depth of the points that each frame observes."""
    _, depth = scene.project(scene.obs_frame, scene.points[scene.obs_point])
    overall = float(np.median(depth))
    typical = np.full(len(scene.posed), overall)
    for frame in np.flatnonzero(scene.posed):
        own = depth[scene.obs_frame == frame]
        if len(own):
            typical[frame] = np.median(own)
    return typical
