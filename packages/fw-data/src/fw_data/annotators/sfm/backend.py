"""The backend: frames in, depth, cameras and confidence of every frame out, with nothing but the footage itself.

OpenCV axes, poses camera-to-world, first pose identity, units of the scene (up to one scale factor per clip).
Axis legend: f frames, h height, w width; a height and b width of another size.
"""

import cv2
import numpy as np
import torch
from jaxtyping import Float32, Float64, UInt8

from fw_data.annotators.base import ClipGeometry, ProgressCallback, StageProgress
from fw_data.annotators.sfm import refusals
from fw_data.annotators.sfm.config import SfmConfig
from fw_data.annotators.sfm.dense.dense import dense_depth, with_flow
from fw_data.annotators.sfm.reconstruction import Reconstruction, reconstruct
from fw_data.annotators.sfm.rectify import Rectifier
from fw_data.annotators.sfm.rolling_shutter import residuals_px
from fw_data.annotators.sfm.scene import SparseScene
from fw_data.annotators.sfm.workers import map_parallel, single_threaded_operations

STAGES = {"motion": 0.0, "features": 0.02, "matching": 0.06, "mapping": 0.25, "adjusting": 0.32, "depth": 0.55}
"""Start of each stage, as a fraction of the whole work."""
FLOW_START = 0.3
"""Start of the flow in the stage of the depth."""
OFF_CENTER = 0.03
"""Distance of the principal point from the image center that uncut frames hardly have, in long sides."""


class SfmBackend:
    """Structure from motion and multi-view stereo on the processor, without any downloaded model.

    One focal length for the clip (found from the footage), lens distortion, an off-center principal point and rolling
    shutter where they show, poses of all frames, and dense depth. Strong distortion is taken out of the frames. Needs
    a moving camera in a mostly static scene.

    Scores of the result: `reprojection_px` (median error of the scene points, in pixels of the frames),
    `parallax_deg` (median angle under which points are seen), `points_per_frame`, `match_inlier_fraction` (how rigid
    the footage is), `depth_confirmed` (part of the pixels whose depth other frames confirm), `rolling_shutter`
    (readout as a part of the frame interval, across or down, whichever is larger), `radial_distortion` (of the given
    frames), `focal_sigma` (standard deviation of the logarithm of the focal length), `focal_drift` and `path_drift`
    (how far the cameras of each third of the clip alone are from those of the whole; absent in short clips),
    `second_matcher` (1 where ALIKED with LightGlue found the matches, absent elsewhere).
    """

    name = "sfm"
    version = "9"

    def __init__(self, config: SfmConfig | None = None) -> None:
        self.config = config or SfmConfig()

    def annotate(
        self, frames: UInt8[np.ndarray, "f h w 3"], *, progress: ProgressCallback | None = None
    ) -> ClipGeometry:
        """Geometry of each frame (sRGB, uint8); raises AnnotationRefused with a reason where there is none."""
        count, height, width = frames.shape[:3]
        refusals.check_shape(count, height, width)
        report = StageProgress(STAGES, progress)
        with single_threaded_operations():
            small = _reduce(frames, self.config.long_side)
            gray = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in small])
            result = reconstruct(small, gray, self.config, report)
            ideal = None
            if result.removal is not None:
                ideal = result.removal.frames(frames, self.config.threads)
                small = _reduce(ideal, self.config.long_side)
                gray = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in small])
            depth, confidence = self._depth(result.scene, small, gray, (height, width), report)
        report("depth", 1.0)
        refusals.check_depth(confidence, result.drift)
        return clip_geometry(result, depth, confidence, ideal)

    def _depth(
        self,
        scene: SparseScene,
        frames: UInt8[np.ndarray, "f h w 3"],
        gray: UInt8[np.ndarray, "f h w"],
        size: tuple[int, int],
        report: StageProgress,
    ) -> tuple[Float32[np.ndarray, "f a b"], Float32[np.ndarray, "f a b"]]:
        rectifier = Rectifier(scene)
        scale = min(1.0, (self.config.depth_pixels / (scene.width * scene.height)) ** 0.5)
        search_size = (max(16, round(scene.width * scale)), max(16, round(scene.height * scale)))
        images = np.stack([rectifier.ideal_image(i, image, search_size) for i, image in enumerate(gray)])
        end = 0.95 if self.config.flow == "none" else FLOW_START
        dense = dense_depth(
            scene, torch.from_numpy(images).float() / 255, self.config, lambda part: report("depth", end * part)
        )
        if self.config.flow == "gmflow":
            color = np.stack([rectifier.ideal_image(i, frame, search_size) for i, frame in enumerate(frames)])
            dense = with_flow(dense, scene, color, self.config, lambda part: report("depth", end + (0.95 - end) * part))
        depth = np.zeros((len(gray), *size), np.float32)
        confidence = np.zeros_like(depth)

        def finish(index: int) -> None:
            for source, target in ((dense.depth, depth), (dense.confidence, confidence)):
                recorded = rectifier.recorded_map(index, source[index].numpy())
                target[index] = cv2.resize(recorded, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)
            confidence[index][depth[index] <= 0] = 0

        map_parallel(finish, list(range(len(gray))), self.config.threads)
        return depth, confidence


def _reduce(frames: UInt8[np.ndarray, "f h w 3"], long_side: int) -> UInt8[np.ndarray, "f a b 3"]:
    height, width = frames.shape[1:3]
    scale = long_side / max(height, width)
    if scale >= 1:
        return frames
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def clip_geometry(
    result: Reconstruction,
    depth: Float32[np.ndarray, "f h w"],
    confidence: Float32[np.ndarray, "f h w"],
    frames: UInt8[np.ndarray, "f h w 3"] | None = None,
) -> ClipGeometry:
    """Poses relative to the first frame, intrinsics at the size of the depth, the scores, and undistorted frames."""
    scene = result.scene
    count, height, width = depth.shape
    pose = np.linalg.inv(scene.pose_w2c)
    pose = scene.pose_w2c[0] @ pose
    pose[0] = np.eye(4)
    K = scene.K * np.array([[width / scene.width], [height / scene.height], [1.0]])
    residual = residuals_px(scene)
    observations = np.bincount(scene.obs_frame, minlength=count)
    typical = np.array([_median(residual[scene.obs_frame == i]) for i in range(count)])
    trust = np.clip(observations / 60, 0, 1) * np.clip(1.5 - typical / 2, 0.1, 1)
    return ClipGeometry(
        depth_m=depth,
        confidence=np.clip(confidence, 0, 1).astype(np.float32),
        K=np.repeat(K[None], count, axis=0),
        pose_c2w=pose,
        pose_confidence=(trust * scene.posed).astype(np.float32),
        units="scene",
        scores={
            "reprojection_px": _median(residual) * width / scene.width,
            "parallax_deg": _median(scene.triangulation_angle_deg()),
            "points_per_frame": float(observations.mean()),
            "match_inlier_fraction": result.match_inlier_fraction,
            "depth_confirmed": float((confidence > refusals.SURE).mean()),
            "rolling_shutter": float(max(scene.readout, key=abs)),
            "radial_distortion": result.removal.radial if result.removal else scene.radial,
            "focal_sigma": result.focal_sigma,
        }
        | ({"focal_drift": result.drift.focal, "path_drift": result.drift.path} if result.drift else {})
        | ({"second_matcher": 1.0} if result.second_matcher else {}),
        frames=frames,
        notes=_notes(result),
    )


def _notes(result: Reconstruction) -> list[str]:
    """What was not as usual about the camera."""
    notes = [result.removal.note()] if result.removal else []
    right, down = np.array(result.scene.principal_px) / max(result.scene.width, result.scene.height)
    if max(abs(right), abs(down)) > 0:
        side, height = "right" if right > 0 else "left", "below" if down > 0 else "above"
        cut = ": the frames may be cut out of larger ones" if np.hypot(right, down) > OFF_CENTER else ""
        notes.append(
            f"the principal point is {100 * abs(right):.1f} % of the long side {side} of the image center, and "
            f"{100 * abs(down):.1f} % {height} it{cut}"
        )
    return notes


def _median(values: Float64[np.ndarray, " n"]) -> float:
    return float(np.median(values)) if len(values) else 0.0
