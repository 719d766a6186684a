"""From an annotated dataset to training batches: window, crop, latents, labels, camera rays.

A prepared sample (latents, first-frame condition, depth, cameras) is a pure function of its clip and window, so it is
kept in memory; point maps and rays are derived anew for every batch, which is cheaper than keeping them.

Axes: b batch, c channels, f latent frames, y x latent rows and columns, F frames, H W pixels.
"""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.schema import ClipRecord
from fw_data.dataset.transforms import fit_labels, fit_mask, fit_video
from fw_geometry.rays import unproject
from fw_model.losses.targets import normalize_scene
from fw_train.config.schema import ClipConfig, ConfigError, TrainConfig
from fw_train.data.latent_cache import EncodedClips
from fw_train.data.rooms import RoomDataset, is_rooms
from fw_train.model_bundle import Encoded, first_of


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One window of one clip, ready for any stage."""

    latents: Float[Tensor, "c f y x"]
    """Normalised latents of the window."""
    condition: Float[Tensor, "cy f y x"] | None
    """First-frame condition (the model's `y`); None if the model takes none."""
    image_tokens: Float[Tensor, "l d"] | None
    """CLIP tokens of the window's first frame; None if the model reads none."""
    depth: Float[Tensor, "F H W"] | None
    """z-depth in the clip's unit; 0 where it is invalid or not trusted. None where no loss reads it."""
    confidence: Float[Tensor, "F H W"] | None
    """Trust in the depth, 0 to 1."""
    K: Float[Tensor, "F 3 3"]
    """Intrinsics in pixels of the window."""
    pose_c2w: Float[Tensor, "F 4 4"]
    """Camera-to-world, relative to the first frame of the window, in the clip's unit."""
    scale: float
    """Length of one unit of the normalized scene, in the clip's unit."""
    control: Float[Tensor, "k f y x"] | None = None
    """Input of a pooled control adapter; None where the model has none."""

    def nbytes(self) -> int:
        """Memory it takes."""
        values = (getattr(self, item.name) for item in fields(self))
        return sum(value.nbytes for value in values if isinstance(value, Tensor))


@dataclass(frozen=True, kw_only=True)
class Split:
    """The clips a run may use, and what became of the others."""

    train: Sequence[ClipRecord]
    """Trained on."""
    held_out: Sequence[ClipRecord]
    """Only measured."""
    unusable: dict[str, int]
    """Reason -> number of clips that cannot be used."""
    by: str
    """What the split keeps together: whole source videos, single clips, or seeds."""
    name: str = ""
    """Of clips that are made as they are read: what they are a function of."""

    def describe(self) -> list[str]:
        """What to tell before the first step."""
        lines = [f"clips: {len(self.train)} to train on, {len(self.held_out)} held out (split by {self.by})"]
        return lines + [f"clips left out: {count} ({reason})" for reason, count in self.unusable.items()]

    def digest(self) -> str:
        """Hash of which clips, with what content, in which order."""
        if self.name:
            return hashlib.sha256(self.name.encode()).hexdigest()
        rows = [(r.id, sorted((k, m.sha256) for k, m in r.members.items())) for r in (*self.train, *self.held_out)]
        return hashlib.sha256(repr(rows).encode()).hexdigest()


def split_clips(records: Sequence[ClipRecord], config: ClipConfig) -> Split:
    """Sort usable clips into training and held-out ones, by a hash, so that the split survives a growing dataset.

    With enough source videos a video's clips all go to one side; otherwise single clips are split.

    Raises:
        ConfigError: no clip can be used, or only one; the message counts the reasons.
    """
    reasons = {record.id: why_unusable(record, config) for record in records}
    usable = [record for record in records if not reasons[record.id]]
    unusable = Counter(reason for reason in reasons.values() if reason)
    if len(usable) < 2:
        causes = "; ".join(f"{count} clips: {reason}" for reason, count in unusable.items()) or "the dataset is empty"
        raise ConfigError(
            f"{len(usable)} of {len(records)} clips can be used, and training needs 2, one of them held out ({causes})"
        )
    whole_videos = len({record.source_sha256 for record in usable}) * config.held_out >= 1
    keys = [record.source_sha256 if whole_videos else record.id for record in usable]
    place = {key: int(hashlib.sha256(key.encode()).hexdigest()[:12], 16) / 16**12 for key in keys}
    chosen = {key for key in keys if place[key] < config.held_out} or {min(keys, key=place.__getitem__)}
    if chosen == set(keys):
        chosen.remove(max(chosen, key=place.__getitem__))
    return Split(
        train=tuple(r for r, key in zip(usable, keys, strict=True) if key not in chosen),
        held_out=tuple(r for r, key in zip(usable, keys, strict=True) if key in chosen),
        unusable=dict(unusable),
        by="source video" if whole_videos else "clip",
    )


def open_data(config: TrainConfig) -> tuple[ClipDataset | RoomDataset, Split]:
    """The dataset of a run and its split.

    Raises:
        ConfigError: none given, no dataset there, or no clip of it can be used.
    """
    if is_rooms(config.data):
        rooms = RoomDataset.open(config.data, config.clip)
        held_out = max(config.clip.validate_on, config.sampling.clips)
        return rooms, Split(
            train=rooms.records,
            held_out=rooms.held_out(held_out),
            unusable={},
            by="seed",
            name=f"{rooms.name} {config.clip.frames}x{config.clip.height}x{config.clip.width}",
        )
    dataset = open_dataset(config.data)
    return dataset, split_clips(dataset.records, config.clip)


def open_dataset(path: Path | None) -> ClipDataset:
    """The dataset of a configuration's `data`.

    Raises:
        ConfigError: none given, or no dataset there.
    """
    if path is None:
        raise ConfigError("data is not set: give --data DATASET, a folder written by `fw-data annotate`, or rooms")
    if not (path / "manifest.parquet").is_file():
        raise ConfigError(
            f"{path} holds no dataset (no manifest.parquet); make one with `fw-data annotate VIDEOS {path}`"
        )
    return ClipDataset(path)


class SampleSource:
    """Prepares samples of a dataset and keeps the latest ones in memory.

    Args:
        dataset: where clips come from.
        config: window size and masking.
        encode: video [1, 3, F, H, W] in [-1, 1] to the model's terms, each [1, ...].
        encoded: what `fw-train encode` kept of them; a window that is there is not decoded and not encoded.
        control: K and normalized poses [1, F, ...] to the input of a pooled control adapter; None: there is none.
        labels: keep depth and confidence, which only geometry losses read.
    """

    def __init__(
        self,
        dataset: ClipDataset | RoomDataset,
        config: ClipConfig,
        encode: Callable[[Tensor], Encoded],
        encoded: EncodedClips | None = None,
        *,
        control: Callable[[Tensor, Tensor], Tensor] | None = None,
        labels: bool = True,
    ) -> None:
        self.dataset, self.config, self.encode, self.encoded = dataset, config, encode, encoded
        self.control, self.labels = control, labels
        self._kept: OrderedDict[tuple[str, int], Sample] = OrderedDict()
        self._bytes = 0

    def load(self, clip_id: str, start: int) -> Sample:
        """The window of a clip that begins at frame `start`."""
        key = (clip_id, start)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        sample = self._prepare(clip_id, start)
        self._kept[key] = sample
        self._bytes += sample.nbytes()
        while self._bytes > self.config.cache_gb * 2**30 and self._kept:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes()
        return sample

    @torch.no_grad()
    def _prepare(self, clip_id: str, start: int) -> Sample:
        height, width = self.config.height, self.config.width
        window = slice(start, start + self.config.frames)
        stored = self.dataset.geometry(clip_id, window)
        depth, confidence, cameras = fit_labels(stored.depth_m, stored.confidence, stored.trajectory, height, width)
        trusted = confidence >= self.config.min_confidence
        if self.config.mask_moving and (masks := self.dataset.masks(clip_id, window)):
            trusted &= ~fit_mask(masks.moving | masks.sky, height, width)
        encoded = self.encoded.read(self.dataset.record(clip_id), start) if self.encoded else None
        if encoded is None:
            video = fit_video(self.dataset.video(clip_id, window), height, width)
            encoded = first_of(self.encode(rearrange(video, "F c H W -> 1 c F H W")))
        K = torch.from_numpy(cameras.K).float()
        pose_c2w = torch.from_numpy(cameras.relative_to_first().pose_c2w).float()
        depth = torch.where(trusted, depth, 0.0)
        scale, normalized = _normalized(depth, K, pose_c2w, self.config.scale_by_first_frame)
        return Sample(
            latents=encoded.latents,
            condition=encoded.condition,
            image_tokens=encoded.image_tokens,
            depth=depth if self.labels else None,
            confidence=confidence if self.labels else None,
            K=K,
            pose_c2w=pose_c2w,
            scale=scale,
            control=None if self.control is None else self.control(K[None], normalized)[0],
        )


def _normalized(
    depth: Float[Tensor, "F H W"], K: Float[Tensor, "F 3 3"], pose_c2w: Float[Tensor, "F 4 4"], first_frame_only: bool
) -> tuple[float, Float[Tensor, "1 F 4 4"]]:
    """Scale of a window and its poses in that unit, as `geometry_targets` gives them."""
    seen = slice(0, 1) if first_frame_only else slice(None)
    points = unproject(depth[None, seen], K[None, seen], pose_c2w[None, seen])
    scale = normalize_scene(depth[None, seen], points, pose_c2w[None, seen], depth[None, seen] > 0).scale
    poses = pose_c2w[None].clone()
    poses[..., :3, 3] /= scale
    return float(scale), poses


def why_unusable(record: ClipRecord, config: ClipConfig) -> str:
    """Why a clip cannot give a sample of the size that `config` asks for; empty if it can."""
    if record.num_frames < config.frames:
        return f"shorter than clip.frames = {config.frames}"
    if record.height < config.height or record.width < config.width:
        return f"stored at {record.width}x{record.height}, smaller than clip {config.width}x{config.height}"
    if "depth.zst" not in record.members:
        return "no depth (annotate them first)"
    if "cameras.npz" not in record.members:
        return "no cameras (annotate them first)"
    if config.mask_moving and not record.has_masks:
        return "no masks (annotate them again, or leave clip.mask_moving out)"
    return ""
