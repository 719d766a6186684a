"""Geometry from truth files, with noise on request.

A truth file NAME.npz beside (in another folder) the video NAME.mp4 holds depth_m (f, h, w) float32, K (f, 3, 3) and
pose_c2w (f, 4, 4) for every frame of the video, as `fw-data toy` writes them. Conventions as in annotators.base.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from fw_data.annotators.base import AnnotationRefused, ClipGeometry, ProgressCallback
from fw_data.media.resize import ResizeCrop
from fw_geometry.camera import Trajectory

VERSION = "1"
_RENDER = "write the truth of this very video, as `fw-data toy` does"


@dataclass(kw_only=True)
class OracleBackend:
    """Truth of one clip, moved to its stored size. Raises AnnotationRefused when the truth file does not fit."""

    truth: Path
    """The .npz file."""
    frame_index: Int64[np.ndarray, " f"]
    """Which frames of the video the clip has; they increase."""
    source_height: int
    """Upright height of the video."""
    source_width: int
    """Upright width of the video."""
    placement: ResizeCrop
    """From the video to the stored frames."""
    depth_noise: float = 0.0
    """Relative standard deviation of the depth error: half of it smooth over the image, half of it per pixel."""
    seed: int = 0
    """Noise seed; together with the file name and the clip it determines every value."""
    name: str = "oracle"
    version: str = VERSION

    def annotate(
        self, frames: UInt8[np.ndarray, "f h w 3"], *, progress: ProgressCallback | None = None
    ) -> ClipGeometry:
        """Depth, K and poses of these frames; the frames themselves only give the count."""
        count = len(frames)
        depth, path = self._read(count)
        depth_m = np.stack([self.placement.depth(frame) for frame in depth])
        depth_m = np.where(np.isfinite(depth_m) & (depth_m > 0), depth_m, np.float32(0))
        if self.depth_noise:
            depth_m = depth_m * self._noise(depth_m.shape)
        cameras = self.placement.trajectory(path).relative_to_first()
        if progress:
            progress("truth", 1.0)
        return ClipGeometry(
            depth_m=depth_m.astype(np.float32),
            confidence=(depth_m > 0).astype(np.float32),
            K=cameras.K,
            pose_c2w=cameras.pose_c2w,
            pose_confidence=np.ones(count, np.float32),
            units=path.units,
            scores={},
        )

    def _read(self, count: int) -> tuple[Float32[np.ndarray, "f h w"], Trajectory]:
        assert len(self.frame_index) == count
        last = int(self.frame_index[-1])
        try:
            with np.load(self.truth, allow_pickle=False) as arrays:
                depth, K, pose = (arrays[key] for key in ("depth_m", "K", "pose_c2w"))
        except FileNotFoundError as error:
            raise AnnotationRefused(
                "no-truth",
                f"{self.truth} does not exist",
                "--truth must mirror the raw folder, with one .npz per video",
            ) from error
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise AnnotationRefused(
                "bad-truth", f"{self.truth} does not read as a truth file: {error}", _RENDER
            ) from error
        if len(depth) <= last or len(K) != len(depth) or len(pose) != len(depth):
            raise AnnotationRefused(
                "bad-truth", f"{self.truth} has {len(depth)} frames; the clip needs frame {last}", _RENDER
            )
        if depth.shape[1:] != (self.source_height, self.source_width):
            raise AnnotationRefused(
                "bad-truth",
                f"{self.truth} has depth of {depth.shape[1]}x{depth.shape[2]}, the video is "
                f"{self.source_height}x{self.source_width}: they must be pixel for pixel the same",
                _RENDER,
            )
        path = Trajectory(
            pose_c2w=pose[self.frame_index],
            K=K[self.frame_index],
            width=self.source_width,
            height=self.source_height,
            units="metric",
        )
        return depth[self.frame_index].astype(np.float32), path

    def _noise(self, shape: tuple[int, int, int]) -> np.ndarray:
        frames, height, width = shape
        rng = np.random.default_rng([self.seed, zlib.crc32(self.truth.name.encode()), int(self.frame_index[0])])
        each = self.depth_noise / np.sqrt(2)
        coarse = rng.normal(0, each, (frames, 4, 4)).astype(np.float32)
        smooth = np.stack([cv2.resize(c, (width, height), interpolation=cv2.INTER_LINEAR) for c in coarse])
        return np.exp(smooth + rng.normal(0, each, shape)).astype(np.float32)
