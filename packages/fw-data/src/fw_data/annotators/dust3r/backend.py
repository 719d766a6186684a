"""The `dust3r` backend: pairs of frames to point maps, these to one scene, and its depth for every pixel of the clip.

OpenCV axes, poses camera-to-world, first pose identity; units of the scene (up to one scale factor per clip), or meters
with a metric depth network.
Axis legend: f frames, h height, w width.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from fw_data.annotators.base import AnnotationRefused, ClipGeometry, ProgressCallback, StageProgress
from fw_data.annotators.depth.alignment import align_disparity
from fw_data.annotators.depth.depth_anything import Resolution
from fw_data.annotators.dust3r.alignment import AlignmentConfig, AlignmentFailed, SceneAlignment
from fw_data.annotators.dust3r.pairs import Graph, Window, pair_graph, windows
from fw_data.annotators.dust3r.predictor import DisparityPredictor, PairPredictor
from fw_data.annotators.dust3r.scene import PairScene, WindowMaps, join
from fw_data.media.resize import ResizeCrop

STAGES = {"pairs": 0.0, "alignment": 0.75, "depth": 0.9}
"""Start of each stage, as a fraction of the whole work."""
SCORE_MEANINGS = {
    "pairs_accepted": "fraction of the frame pairs whose point maps agree with the rest",
    "pairs_conspiring": "fraction of the frame pairs that agree on another scene",
    "across_px": "typical error of the point maps across the line of sight, in pixels of the frames",
    "along": "typical relative depth error of single point maps",
    "path_over_depth": "length of the camera's way over the median depth",
    "disparity_residual": "median relative difference between the depth network and the point maps",
}
MULTIPLE = 16
MIN_ACCEPTED = 0.3
"""Part of the pairs that must agree on one scene."""
MAX_CONSPIRING = 0.05
"""Fraction of the pairs that may agree on another scene."""
MAX_ACROSS, MAX_ALONG = 0.02, 0.25
"""Typical errors beyond which they agree in name only: across in parts of the image's width, along of the depth."""
SURE = 0.3
"""Confidence from which points say how large the scene is."""
FAR = 50.0
"""Depth of the network is cut at this many median depths of the scene."""


@dataclass(frozen=True, kw_only=True)
class Dust3rBackendConfig:
    """Settings of the backend."""

    long_side: int = 512
    """Long side of the images the pair network sees; released networks were trained on 512 (or 224)."""
    graph: Graph = "logwin"
    """Which pairs of frames are looked at."""
    reach: int = 5
    """Reach of the graph; logwin 5 pairs each frame with those 1, 2, 4, 8 and 16 frames away."""
    window: int = 120
    """Frames that are aligned together; longer clips are done in windows that share frames."""
    overlap: int = 16
    """Frames that neighboring windows share."""
    depth_resolution: Resolution = "native"
    """Image size of the depth network."""
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    """Settings of the global alignment."""

    def __post_init__(self) -> None:
        if self.long_side < 2 * MULTIPLE:
            raise ValueError(f"long_side {self.long_side}: give at least {2 * MULTIPLE}")
        if not 2 <= self.overlap < self.window:
            raise ValueError(f"windows of {self.window} frames sharing {self.overlap}: need 2 <= overlap < window")


class Dust3rBackend:
    """Geometry from a pair predictor; with a depth network, dense depth comes from it, aligned to the point maps.

    Handles clips that give structure from motion little to hold on to (few frames, little texture, small motion), as
    far as the predictor's weights do. Scores: see SCORE_MEANINGS.
    """

    name = "dust3r"
    version = "3"

    def __init__(
        self,
        predictor: PairPredictor,
        config: Dust3rBackendConfig | None = None,
        depth: DisparityPredictor | None = None,
    ) -> None:
        self.predictor = predictor
        self.config = config or Dust3rBackendConfig()
        self.depth = depth

    def annotate(
        self, frames: UInt8[np.ndarray, "f h w 3"], *, progress: ProgressCallback | None = None
    ) -> ClipGeometry:
        """Geometry of each frame (sRGB, uint8); raises AnnotationRefused with a reason where there is none."""
        count, height, width = frames.shape[:3]
        if count < 2:
            raise AnnotationRefused(
                "too-few-frames", "The clip has one frame; pairs need at least 2.", "Give a longer clip."
            )
        placement = image_placement(height, width, self.config.long_side)
        report = StageProgress(STAGES, progress)
        scene = self._scene(np.stack([placement.rgb(frame) for frame in frames]), report)
        _check(scene, placement.width)
        depth, confidence = _at_frame_size(scene, placement, height, width)
        known = depth > 0
        typical = float(np.median(depth[known]))
        scores = {
            "pairs_accepted": scene.accepted,
            "pairs_conspiring": scene.conspiring,
            "across_px": scene.across_px * width / placement.resized_width,
            "along": scene.along,
            "path_over_depth": float(np.linalg.norm(np.diff(scene.pose_c2w[:, :3, 3], axis=0), axis=1).sum() / typical),
        }
        pose, units = scene.pose_c2w.copy(), "scene"
        if self.depth is not None:
            disparity = self.depth.disparity(
                frames, resolution=self.config.depth_resolution, on_done=lambda part: report("depth", 0.9 * part)
            )
            if self.depth.metric:
                sure = known & (confidence > SURE) if (confidence > SURE).any() else known
                size = float(np.median(1 / (disparity[sure] * depth[sure])))
                depth, typical, units = depth * np.float32(size), typical * size, "metric"
                pose[:, :3, 3] *= size
            depth, confidence, scores["disparity_residual"] = _dense(disparity, depth, confidence, FAR * typical)
        report("depth", 1.0)
        K = np.repeat(np.eye(3)[None], count, axis=0)
        K[:, 0, 0] = scene.focal_px * width / placement.resized_width
        K[:, 1, 1] = scene.focal_px * height / placement.resized_height
        K[:, 0, 2] = (placement.width / 2 + placement.left) * width / placement.resized_width
        K[:, 1, 2] = (placement.height / 2 + placement.top) * height / placement.resized_height
        return ClipGeometry(
            depth_m=depth,
            confidence=np.where(depth > 0, confidence, np.float32(0)),
            K=K,
            pose_c2w=pose,
            pose_confidence=scene.frame_confidence.astype(np.float32),
            units=units,
            scores=scores,
        )

    def _scene(self, images: UInt8[np.ndarray, "f a b 3"], report: StageProgress) -> PairScene:
        height, width = images.shape[1:3]
        config = self.config
        cut = list(windows(len(images), config.window, config.overlap))
        maps: list[WindowMaps] = []
        found: list[SceneAlignment] = []
        for number, window in enumerate(cut):
            pairs = self._pairs(window)
            part = WindowMaps(len(window), height, width, pairs, config.alignment.max_points)

            def done(fraction: float, number: int = number) -> None:
                report("pairs", (number + fraction) / len(cut))

            for pointmaps in self.predictor.predict(images[window.start : window.stop], pairs, done):
                part.add(pointmaps)
            maps.append(part)
            try:
                found.append(part.align(config.alignment))
            except AlignmentFailed as error:
                raise AnnotationRefused(
                    "pairs-disagree",
                    f"The frame pairs give no scene: {error}.",
                    "Use footage of a mostly static scene.",
                ) from error
        report("alignment", 0.5)
        return join(cut, maps, found, height, width)

    def _pairs(self, window: Window) -> list[tuple[int, int]]:
        return pair_graph(len(window), self.config.graph, self.config.reach)


def image_placement(height: int, width: int, long_side: int) -> ResizeCrop:
    """From frames to the network's images: one scale, then a center cut to multiples of 16 (592x336 to 512x288)."""
    scale = long_side / max(height, width)
    resized = [max(MULTIPLE, round(side * scale)) for side in (height, width)]
    kept = [side // MULTIPLE * MULTIPLE for side in resized]
    return ResizeCrop(
        resized_height=resized[0],
        resized_width=resized[1],
        top=(resized[0] - kept[0]) // 2,
        left=(resized[1] - kept[1]) // 2,
        height=kept[0],
        width=kept[1],
    )


def _check(scene: PairScene, width: int) -> None:
    """Refuse clips whose pairs do not tell of one scene."""
    if not (scene.confidence > 0).any():
        raise AnnotationRefused(
            "no-confidence",
            "The pair network trusts none of its points: the images may be black, plain or blurred.",
            "Use sharp footage with visible detail.",
        )
    if scene.conspiring > MAX_CONSPIRING:
        raise AnnotationRefused(
            "pairs-ambiguous",
            f"{100 * scene.conspiring:.0f} % of the frame pairs agree on another scene than the rest, so two camera "
            "paths explain the clip. Repeated structures (equal rooms, facades) or a large moving thing cause this.",
            "Split the clip, or use footage without repeated structures.",
        )
    if scene.accepted < MIN_ACCEPTED or scene.across_px > MAX_ACROSS * width or scene.along > MAX_ALONG:
        raise AnnotationRefused(
            "pairs-disagree",
            f"The frame pairs do not agree on one scene ({100 * scene.accepted:.0f} % of them do; typical errors are "
            f"{100 * scene.across_px / width:.1f} % of the image and {100 * scene.along:.0f} % of the depth). Much "
            "of the scene may move, or the clip contains a cut.",
            "Use footage of a mostly static scene.",
        )


def _at_frame_size(
    scene: PairScene, placement: ResizeCrop, height: int, width: int
) -> tuple[Float32[np.ndarray, "f h w"], Float32[np.ndarray, "f h w"]]:
    """Depth and trust at every frame pixel: the nearest image pixel; 0 in the strip that was cut off."""
    columns, rows = (
        np.floor((np.arange(size) + 0.5) * resized / size - start).astype(int)
        for size, resized, start in (
            (width, placement.resized_width, placement.left),
            (height, placement.resized_height, placement.top),
        )
    )
    inside = ((rows >= 0) & (rows < placement.height))[:, None] & (columns >= 0) & (columns < placement.width)
    at = np.ix_(
        np.arange(len(scene.depth)), np.clip(rows, 0, placement.height - 1), np.clip(columns, 0, placement.width - 1)
    )
    return np.where(inside, scene.depth[at], np.float32(0)), np.where(inside, scene.confidence[at], np.float32(0))


def _dense(
    disparity: Float32[np.ndarray, "f h w"],
    depth: Float32[np.ndarray, "f h w"],
    confidence: Float32[np.ndarray, "f h w"],
    depth_max: float,
) -> tuple[Float32[np.ndarray, "f h w"], Float32[np.ndarray, "f h w"], float]:
    """The depth network's detail at the scene's scale; trust is the point maps', less where the two differ."""
    try:
        aligned = align_disparity(disparity, depth, confidence)
    except ValueError as error:
        raise AnnotationRefused(
            "depth-disagrees",
            f"Depth network and point maps contradict each other: {error}",
            "Leave out --depth-weights to use the point maps alone.",
        ) from error
    dense = aligned.depth(disparity, depth_max)
    known = depth > 0
    differ = np.abs(np.log(np.where(known, dense / np.where(known, depth, 1), 1)))
    nearby = np.stack([cv2.blur(part, (31, 31)) for part in confidence])
    trust = np.where(known, confidence * np.exp(-differ / 0.2), 0.5 * nearby)
    return dense, trust.astype(np.float32), float(np.nanmedian(aligned.residual))
