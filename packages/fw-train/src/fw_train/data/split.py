"""Training and held-out clips of a run: usable clips, their buckets, and a summary.

Axes: F frames, H W pixels.
"""

import difflib
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fw_data.dataset.buckets import Bucket, BucketTable, cropped_share
from fw_data.dataset.clip_order import window_start
from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.schema import ClipRecord
from fw_data.dataset.windows import RATE_TOLERANCE, frame_ratio, frames_spanned
from fw_train.config.load import is_rooms
from fw_train.config.preflight import dataset_place
from fw_train.config.schema import ClipConfig, ConfigError, TrainConfig
from fw_train.data.order import ClipOrder
from fw_train.data.rooms import FPS, RoomDataset

if TYPE_CHECKING:
    from fw_model.encoders.base import TextEncoder

_ANY_CROP = 1 - 1e-6
_NOTABLE_CROP = 0.05
"""Clips that lose more than this share are reported."""


class Shape(NamedTuple):
    """Frames and size of a sample."""

    frames: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """Video tokens of a sample."""
        return (self.frames // 4 + 1) * (self.height // 16) * (self.width // 16)

    def __str__(self) -> str:
        return f"{self.frames} frames of {self.width}x{self.height}"


@dataclass(frozen=True, kw_only=True)
class Split:
    """The clips of a run, and the reasons why others are left out."""

    train: Sequence[ClipRecord]
    """Training clips."""
    held_out: Sequence[ClipRecord]
    """Validation clips."""
    unusable: dict[str, int]
    """Reason -> number of clips that cannot be used."""
    by: str
    """Unit of the split: source video, clip, or seed."""
    shapes: tuple[Shape, ...]
    """Shape of each bucket; the first is that of the configuration."""
    assigned: Mapping[str, int] = field(default_factory=dict)
    """Clip id -> its bucket, for clips outside of the first."""
    fps: float = FPS
    """Frame rate of the samples: the one they are resampled to, or the most frequent one."""
    rates: Mapping[float, int] = field(default_factory=dict)
    """Recorded frame rate -> number of clips."""
    name: str = ""
    """For rendered clips: everything that they are a function of."""
    skipped: tuple[str, ...] = ()
    """Ids of training clips to leave out."""

    def shape(self, clip_id: str) -> Shape:
        """Shape of the samples of a clip."""
        return self.shapes[self.assigned.get(clip_id, 0)]

    def order(self) -> ClipOrder:
        """The training clips for the sampler."""
        if not self.assigned and not self.skipped:
            return ClipOrder(clips=len(self.train), held_out=len(self.held_out))
        buckets: list[list[int]] = [[] for _ in self.shapes]
        place: dict[str, int] = {}
        for index, record in enumerate(self.train):
            buckets[self.assigned.get(record.id, 0)].append(index)
            place[record.id] = index
        skipped = frozenset(place[clip_id] for clip_id in self.skipped)
        return ClipOrder(
            clips=len(self.train),
            held_out=len(self.held_out),
            buckets=buckets if self.assigned else (),
            skipped=skipped,
        )

    def describe(self, config: TrainConfig) -> list[str]:
        """Lines to print before the first step."""
        lines = [f"clips: {len(self.train)} to train on, {len(self.held_out)} held out (split by {self.by})"]
        lines += [f"clips left out: {count} ({reason})" for reason, count in self.unusable.items()]
        lines += [f"clips skipped: {', '.join(self.skipped)}"] if self.skipped else []
        if self.name:
            return lines
        records = [*self.train, *self.held_out]
        if len(self.shapes) > 1:
            counts = Counter(self.assigned.get(record.id, 0) for record in records)
            for index, shape in enumerate(self.shapes):
                few = (
                    f", fewer than batch = {config.batch}: batches repeat clips" if counts[index] < config.batch else ""
                )
                lines += [f"bucket {shape}: {counts[index]} clips{few}"] if counts[index] else []
        return [*lines, *self._cropping(records, config.clip), *self._captions(records), *self._rates(config.clip)]

    def summary(self) -> dict[str, object]:
        """The same as JSON values, for the run folder."""
        counts = Counter(str(self.shapes[bucket]) for bucket in self.assigned.values())
        counts[str(self.shapes[0])] = 0 if self.name else len(self.train) + len(self.held_out) - len(self.assigned)
        return {
            "train": len(self.train),
            "held_out": len(self.held_out),
            "split_by": self.by,
            "left_out": self.unusable,
            "buckets": dict(counts),
            "skipped": list(self.skipped),
            "fps": self.fps,
            "recorded_fps": {f"{rate:g}": count for rate, count in self.rates.items()},
        }

    def digest(self, train: int | None = None, held_out: int | None = None) -> str:
        """Hash of the clips, their content and their order; with `train` and `held_out`, of that many first ones."""
        if self.name:
            return hashlib.sha256(self.name.encode()).hexdigest()
        rows = [record.content for record in (*self.train[:train], *self.held_out[:held_out])]
        return hashlib.sha256(repr(rows).encode()).hexdigest()

    def _cropping(self, records: Sequence[ClipRecord], clip: ClipConfig) -> list[str]:
        shares = sorted(cropped_share(record, _bucket(self.shape(record.id))) for record in records)
        shares = [share for share in shares if share > _NOTABLE_CROP]
        if not shares:
            return []
        hint = "" if clip.aspect_buckets else "; --clip.aspect-buckets trains portrait and square samples"
        span = f"{shares[0]:.0%}" if shares[0] == shares[-1] else f"{shares[0]:.0%} to {shares[-1]:.0%}"
        return [f"cropping: {len(shares)} of {len(records)} clips lose {span} of the image{hint}"]

    @staticmethod
    def _captions(records: Sequence[ClipRecord]) -> list[str]:
        bare = sum(not record.caption.strip() for record in records)
        return [f"captions: {bare} of {len(records)} clips have none"] if bare else []

    def long_captions(self, encoder: "TextEncoder") -> list[str]:
        """A line about captions beyond the encoder's length, whose ends have no effect; nothing for rooms."""
        captions = [] if self.name else [record.caption for record in (*self.train, *self.held_out)]
        # a word or token has at least one byte
        long = sum(len(text.encode()) >= encoder.text_len and bool(encoder.truncation(text)) for text in captions)
        read = f"the text encoder reads {encoder.text_len} words or tokens"
        return [f"captions: {long} of {len(captions)} clips have longer ones; {read}"] if long else []

    def _rates(self, clip: ClipConfig) -> list[str]:
        if clip.fps:
            resampled = sum(n for rate, n in self.rates.items() if abs(rate / clip.fps - 1) >= RATE_TOLERANCE)
            return [f"frame rate: {clip.fps:g} fps, {resampled} clips are resampled"]
        if not self.rates or max(self.rates) / min(self.rates) - 1 < RATE_TOLERANCE:
            return []
        listed = ", ".join(f"{count} of {rate:g} fps" for rate, count in sorted(self.rates.items()))
        return [
            f"frame rates are mixed: {listed}; exports play at {self.fps:g} fps. Set --clip.fps {min(self.rates):g} to "
            "resample them"
        ]


@lru_cache(maxsize=8)
def bucket_table(clip: ClipConfig) -> BucketTable:
    """The buckets of a configuration: its own shape first, then portrait and square, each at every length."""
    sizes = [(clip.height, clip.width)]
    if clip.aspect_buckets:
        side = max(16, round(math.sqrt(clip.height * clip.width) / 16) * 16)
        sizes = list(dict.fromkeys([*sizes, (clip.width, clip.height), (side, side)]))
    lengths = [clip.frames, *sorted(clip.frame_buckets, reverse=True)]
    buckets = [Bucket(frames=frames, height=height, width=width) for frames in lengths for height, width in sizes]
    return BucketTable(buckets=tuple(buckets), max_crop=clip.max_crop if clip.aspect_buckets else _ANY_CROP)


def shapes_of(clip: ClipConfig) -> tuple[Shape, ...]:
    """The shapes of a configuration's buckets."""
    return tuple(Shape(bucket.frames, bucket.height, bucket.width) for bucket in bucket_table(clip).buckets)


def why_unusable(record: ClipRecord, config: ClipConfig) -> str:
    """Why a clip gives no sample of the configuration; empty if it does."""
    found = assign(record, config, bucket_table(config))
    return found if isinstance(found, str) else ""


def assign(record: ClipRecord, config: ClipConfig, table: BucketTable) -> int | str:
    """The bucket of a clip, or the reason why it has none."""
    ratio = frame_ratio(record, config.fps)
    if ratio < 1:
        return f"recorded at {record.fps:g} fps, slower than clip.fps = {config.fps:g}"
    shortest = table.buckets[-1].frames
    if record.num_frames < frames_spanned(record, shortest, config.fps):
        return f"shorter than {'clip.frame_buckets' if config.frame_buckets else 'clip.frames'} = {shortest}"
    if len({(b.height, b.width) for b in table.buckets}) == 1 and not (
        record.height >= config.height and record.width >= config.width
    ):
        return f"stored at {record.width}x{record.height}, smaller than clip {config.width}x{config.height}"
    if "depth.zst" not in record.members:
        return "no depth (annotate them first)"
    if "cameras.npz" not in record.members:
        return "no cameras (annotate them first)"
    if config.mask_moving and not record.has_masks:
        return "no masks (annotate them again, or leave clip.mask_moving out)"
    if ratio == 1:
        return table.place(record)
    available = 1 + math.floor((record.num_frames - 1) / ratio + 1e-9)
    return table.place(record.model_copy(update={"num_frames": available}))


def split_clips(records: Sequence[ClipRecord], config: ClipConfig) -> Split:
    """Sort usable clips into training and held-out ones, by a hash, so that a growing dataset keeps its split.

    With enough source videos, all clips of a video go to the same side; otherwise single clips are split.

    Raises:
        ConfigError: fewer than two clips can be used; the message counts the reasons.
    """
    table = bucket_table(config)
    places = {record.id: assign(record, config, table) for record in records}
    usable = [record for record in records if not isinstance(places[record.id], str)]
    unusable = Counter(place for place in places.values() if isinstance(place, str))
    if len(usable) < 2:
        raise ConfigError(_too_few(len(usable), len(records), unusable))
    whole_videos = len({record.source_sha256 for record in usable}) * config.held_out >= 1
    keys = [record.source_sha256 if whole_videos else record.id for record in usable]
    place = {key: int(hashlib.sha256(key.encode()).hexdigest()[:12], 16) / 16**12 for key in keys}
    chosen = {key for key in keys if place[key] < config.held_out} or {min(keys, key=place.__getitem__)}
    if chosen == set(keys):
        chosen.remove(max(chosen, key=place.__getitem__))
    rates = Counter(round(record.fps, 3) for record in usable)
    return Split(
        train=tuple(r for r, key in zip(usable, keys, strict=True) if key not in chosen),
        held_out=tuple(r for r, key in zip(usable, keys, strict=True) if key in chosen),
        unusable=dict(unusable),
        by="source video" if whole_videos else "clip",
        shapes=shapes_of(config),
        assigned={record.id: bucket for record in usable if isinstance(bucket := places[record.id], int) and bucket},
        fps=config.fps or rates.most_common(1)[0][0],
        rates=dict(rates),
    )


def open_data(config: TrainConfig) -> tuple[ClipDataset | RoomDataset, Split]:
    """The dataset of a run and its split.

    Raises:
        ConfigError: no dataset, too few usable clips, or `skip` names no training clip.
    """
    if is_rooms(config.data):
        rooms = RoomDataset.open(config.data, config.clip)
        clip, held_out = config.clip, max(config.clip.validate_on, config.sampling.clips)
        if clip.aspect_buckets or clip.frame_buckets or clip.fps or config.skip:
            raise ConfigError(
                "data = rooms renders every clip at clip.frames, clip.width x clip.height and 16 fps; leave out "
                "clip.aspect_buckets, clip.frame_buckets, clip.fps and skip"
            )
        return rooms, Split(
            train=rooms.records,
            held_out=rooms.held_out(held_out),
            unusable={},
            by="seed",
            shapes=shapes_of(clip),
            name=f"{rooms.name} {clip.frames}x{clip.height}x{clip.width}",
        )
    dataset = open_dataset(config.data)
    return dataset, without(split_clips(dataset.records, config.clip), config.skip)


def without(split: Split, skip: Sequence[str]) -> Split:
    """The split with some training clips skipped.

    Raises:
        ConfigError: an id that is not that of a training clip.
    """
    train = {record.id for record in split.train}
    for clip_id in skip:
        if clip_id in train:
            continue
        if any(record.id == clip_id for record in split.held_out):
            raise ConfigError(f"skip: clip {clip_id} is held out, so it is never trained on")
        near = difflib.get_close_matches(clip_id, train, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"skip: {clip_id} is not the id of a training clip{hint}")
    return replace(split, skipped=tuple(sorted(set(skip))))


def open_dataset(data: str | Path | None) -> ClipDataset:
    """The dataset of a configuration's `data`.

    Raises:
        ConfigError: not set, or no dataset there.
    """
    return ClipDataset(dataset_place(data))


def training_starts(record: ClipRecord, shape: Shape, clip: ClipConfig) -> range:
    """First frames of the windows that training may draw from a clip."""
    last = _spare_frames(record, shape, clip) if clip.random_start else 0
    return range(0, last + 1, clip.start_step)


def training_start(record: ClipRecord, shape: Shape, config: TrainConfig, epoch: int) -> int:
    """First frame of the window of a clip in an epoch; a pure function of (seed, epoch, clip)."""
    starts = training_starts(record, shape, config.clip)
    return starts[window_start(config.seed, epoch, record.id, len(starts) - 1)] if config.clip.random_start else 0


def middle_start(record: ClipRecord, shape: Shape, clip: ClipConfig) -> int:
    """First frame of the window in the middle of a clip, which validation uses."""
    return _spare_frames(record, shape, clip) // 2


def _spare_frames(record: ClipRecord, shape: Shape, clip: ClipConfig) -> int:
    return record.num_frames - frames_spanned(record, shape.frames, clip.fps)


def _too_few(usable: int, total: int, unusable: Mapping[str, int]) -> str:
    if total == 0:
        return "the dataset is empty; training needs at least 2 clips"
    causes = "; ".join(f"{count} clips: {reason}" for reason, count in unusable.items())
    have = {0: "no clip", 1: "only 1 clip"}[usable]
    counted = f" of {total} can be used ({causes})" if causes else " is in the dataset"
    return f"{have}{counted}; training needs at least 2, since one is held out for validation"


def _bucket(shape: Shape) -> Bucket:
    return Bucket(frames=shape.frames, height=shape.height, width=shape.width)
