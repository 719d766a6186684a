"""Results of generation: a `World` of frames, geometry and cameras, and `Progress` reports.

Axes: F frames, H W pixels. Arrays are numpy, on the host. Lengths are in the unit of the requested camera path.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

if TYPE_CHECKING:
    from torch import Tensor

    from fw_geometry.metrics import CameraError

from fw_geometry.camera import Trajectory


@dataclass(frozen=True, kw_only=True)
class Seam:
    """How well two consecutive segments of a long world agree on the frame that they share."""

    segment: int
    """Number of the later segment, from 1; the first segment is 0."""
    frame: int
    """Number of the shared frame in the whole world."""
    overlap_psnr_db: float
    """PSNR between the two segments' images of the shared frame, in dB, at most 100."""
    scale: float
    """Factor that was applied to the later segment's lengths, so that its depth fits the earlier one's."""
    depth_abs_rel: float
    """Mean relative difference between the two depths of the shared frame after that, 0 for none."""
    rotation_deg: float
    """Pose jump: the rotation that remains between the two segments' points of the shared frame."""
    translation_share: float | None
    """Pose jump: the translation that remains, as a fraction of the length of the requested path; None if the requested
    path has no length."""


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """One generated clip and the geometry read from the same denoising pass; the world frame is the first camera.

    A long world, merged from several such clips, has seams.
    """

    video: UInt8[np.ndarray, "F H W 3"]
    """RGB frames."""
    depth: Float[np.ndarray, "F H W"]
    """z-depth of every pixel, float32, above 0."""
    depth_confidence: Float[np.ndarray, "F H W"]
    """Confidence of the depth, above 1; larger is surer. Only the order has a meaning."""
    points: Float[np.ndarray, "F H W 3"]
    """World point of every pixel, from the point head."""
    points_confidence: Float[np.ndarray, "F H W"]
    """Confidence of the points, above 1."""
    trajectory: Trajectory
    """The cameras that the geometry branch recovered from the video."""
    requested: Trajectory
    """The cameras that were asked for, relative to the first, for frames of H x W."""
    fps: float = 16.0
    """Frames per second to play the video at."""
    settings: dict[str, Any] = field(default_factory=dict)
    """How it was made: prompt, seed, steps, guidance, ... (plain JSON values)."""
    notes: tuple[str, ...] = ()
    """Inputs that were changed or had no effect, such as the end of a prompt that the text encoder cannot read."""
    seams: tuple[Seam, ...] = ()
    """The seams of a long world, in order."""

    def camera_error(self) -> "CameraError":
        """How far the recovered path strays from the requested one (rotation and direction, degrees)."""
        from fw_geometry.metrics import camera_error

        return camera_error(self.trajectory.pose_c2w, self.requested.pose_c2w)

    def points_from_depth(self) -> Float[np.ndarray, "F H W 3"]:
        """World points of every pixel from its depth and the recovered camera, as the released scripts export them."""
        import torch

        from fw_geometry.rays import unproject

        cameras = (torch.from_numpy(self.trajectory.K).float(), torch.from_numpy(self.trajectory.pose_c2w).float())
        return unproject(torch.from_numpy(self.depth), *cameras).numpy()


@dataclass(frozen=True, kw_only=True, eq=False)
class Progress:
    """One report of a running generation."""

    stage: str
    """encode, denoise or decode, in this order; after the segments of a long world, merge."""
    step: int
    """Steps of the stage that are done."""
    steps: int
    """Steps of the stage in all."""
    seconds: float
    """Time since the start."""
    eta_seconds: float | None = None
    """Estimate of the time left; None while unknown."""
    clean_latents: "Tensor | None" = None
    """Estimate of the clean latents [b, c, f, y, x] after a denoising step, for `WorldPipeline.decode_frames`."""
    world: World | None = None
    """The result; only in the last report. Of a pass of several worlds, the last reports hold one each."""
    samples: tuple[int, ...] = (0,)
    """Numbers of the worlds that the report is about; several are denoised in one pass."""
    segment: int = 0
    """Segment of a long world that is generated, from 0."""
    segments: int = 1
    """Segments of the world in all."""
