"""The ground truth of an evaluation: select clips and load their frames, depth and cameras at the size of the worlds.

Lengths are in scene units: 1 is the mean distance of the points in the first frame (or in all frames, as the model was
trained), so errors of clips of any scale can be averaged. Axis legend: F frames, H W pixels; z-depth, 0 = unknown.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float32, UInt8

from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.schema import ClipRecord
from fw_data.dataset.transforms import fit_window
from fw_geometry import Trajectory, unproject
from fw_model.losses.targets import normalize_scene
from fw_train.config.schema import ClipConfig, ConfigError
from fw_train.data.rooms import RoomDataset
from fw_train.data.split import split_clips, why_unusable
from fw_train.evaluate.options import Subset


@dataclass(frozen=True, kw_only=True, eq=False)
class TruthClip:
    """The first frames of a clip with their annotation."""

    record: ClipRecord
    """Row of the clip in the manifest."""
    video: UInt8[np.ndarray, "F H W 3"]
    """Real frames."""
    depth: Float32[np.ndarray, "F H W"]
    """z-depth in scene units; 0 = unknown or below the minimum confidence."""
    trajectory: Trajectory
    """Cameras relative to the first one, in scene units."""
    scene_scale: float
    """Length of one scene unit in the unit of the dataset."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The clips to measure, and why others cannot be measured."""

    records: tuple[ClipRecord, ...]
    """Clips in the order of generation and measurement."""
    unusable: dict[str, int]
    """Reason -> number of unusable clips."""

    def describe(self) -> list[str]:
        """Lines to print before generation starts."""
        lines = [f"clips: {len(self.records)} of {len({r.source_sha256 for r in self.records})} source videos"]
        return lines + [f"clips omitted: {count} ({reason})" for reason, count in self.unusable.items()]


def choose_clips(
    records: Sequence[ClipRecord], config: ClipConfig, *, subset: Subset, count: int | None, training: ClipConfig
) -> Choice:
    """Select the clips to measure, ordered by a hash of their ids, so a larger `count` only appends clips.

    Args:
        records: the dataset's clips.
        config: frames, height and width of the worlds; shorter or smaller clips and clips without depth are omitted.
        subset: held-out clips, or all.
        count: maximum number of clips; None for all.
        training: clip settings of the training run, which determine the held-out clips.

    Raises:
        ConfigError: no clip is usable; the message counts the reasons.
    """
    if count is not None and count < 1:
        raise ConfigError(f"--clips is {count}; it must be 1 or more")
    pool = list(split_clips(records, training).held_out) if subset == "held-out" else list(records)
    reasons = {record.id: why_unusable(record, config) for record in pool}
    unusable = Counter(reason for reason in reasons.values() if reason)
    usable = [record for record in pool if not reasons[record.id]]
    if not usable:
        causes = "; ".join(f"{n} clips: {reason}" for reason, n in unusable.items()) or "the dataset is empty"
        raise ConfigError(f"none of {len(pool)} clips ({subset}) can be measured ({causes})")
    usable.sort(key=lambda record: hashlib.sha256(record.id.encode()).hexdigest())
    return Choice(records=tuple(usable[:count]), unusable=dict(unusable))


def load_truth(
    dataset: ClipDataset | RoomDataset,
    clip_id: str,
    *,
    frames: int,
    height: int,
    width: int,
    min_confidence: float,
    first_frame_only: bool = True,
) -> TruthClip:
    """Load the first `frames` frames of a clip at height x width (resized to cover and center-cropped, as in training).

    Args:
        dataset: where the clip is.
        clip_id: its id.
        frames: number of frames.
        height: height in pixels.
        width: width in pixels.
        min_confidence: minimum confidence (0 to 1) of annotated depth.
        first_frame_only: the scene unit is the mean distance of the points in the first frame; otherwise in all frames.
            It must be that of the model's training (`clip.scale_by_first_frame`), as lengths differ by up to 7 %.

    Raises:
        ConfigError: the clip cannot be measured (too short, too small, or no depth of sufficient confidence).
    """
    record = dataset.record(clip_id)
    reason = why_unusable(record, ClipConfig(frames=frames, height=height, width=width))
    if reason:
        raise ConfigError(f"clip {clip_id} ({record.source}) cannot be measured: {reason}")
    window = slice(0, frames)
    stored = dataset.geometry(clip_id, window)
    color, depth, confidence, cameras = fit_window(
        dataset.video(clip_id, window), stored.depth_m, stored.confidence, stored.trajectory, height, width
    )
    depth = torch.where(depth.isfinite() & (depth > 0) & (confidence >= min_confidence), depth, 0.0)
    if not (depth > 0).any():
        raise ConfigError(
            f"clip {clip_id} ({record.source}) has no depth with a confidence of {min_confidence} or more; "
            "use a smaller --min-confidence, or annotate it again"
        )
    cameras = cameras.relative_to_first()
    scale = _scene_scale(depth, cameras, first_frame_only)
    frames_8bit = ((rearrange(color, "f c h w -> f h w c") + 1) * 127.5).round().to(torch.uint8)
    return TruthClip(
        record=record,
        video=frames_8bit.numpy(),
        depth=(depth / scale).numpy().astype(np.float32),
        trajectory=replace(cameras.scaled(1 / scale), units="scene"),
        scene_scale=scale,
    )


def _scene_scale(depth: torch.Tensor, cameras: Trajectory, first_frame_only: bool) -> float:
    """Mean distance of the points in the first frame, or in all frames if asked for or if the first has no depth."""
    shown = 1 if first_frame_only and bool((depth[0] > 0).any()) else len(depth)
    K = torch.from_numpy(cameras.K[:shown]).float()
    pose = torch.from_numpy(cameras.pose_c2w[:shown]).float()
    seen = depth[:shown]
    scene = normalize_scene(seen[None], unproject(seen, K, pose)[None], pose[None], (seen > 0)[None])
    return float(scene.scale[0])
