"""The clips that evidence is measured on: a dataset with exact truth, or held-out rooms rendered from seeds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.schema import ClipRecord
from fw_toy.rooms.clip import HELD_OUT_PATHS, HELD_OUT_WORLDS, LAST_SEED
from fw_train.config.load import is_rooms
from fw_train.config.schema import ClipConfig, ConfigError
from fw_train.data.rooms import RoomDataset
from fw_train.data.split import open_dataset, why_unusable
from fw_train.metrics.truth import TruthClip, load_truth

_ROOMS = re.compile(r"rooms(?::(\d+)-(\d+))?")


@dataclass(frozen=True, kw_only=True)
class Clips:
    """The measured clips, in order."""

    dataset: ClipDataset | RoomDataset
    """Where they are read or rendered."""
    records: Sequence[ClipRecord]
    """Their records."""
    groups: dict[str, str]
    """Clip id -> the world it shows."""
    shape: tuple[int, int, int]
    """Frames, height and width."""
    min_confidence: float
    """Minimum confidence of annotated depth."""
    first_frame_only: bool = True
    """Whether the scene unit is that of the first frame, see `load_truth`."""

    def truth(self, clip_id: str) -> TruthClip:
        """A clip with its depth and cameras in scene units."""
        frames, height, width = self.shape
        return load_truth(
            self.dataset,
            clip_id,
            frames=frames,
            height=height,
            width=width,
            min_confidence=self.min_confidence,
            first_frame_only=self.first_frame_only,
        )


def choose(data: str | Path, shape: tuple[int, int, int], *, count: int, takes: int, min_confidence: float) -> Clips:
    """The first `count` usable clips of a dataset, or rooms of held-out seeds.

    Args:
        data: dataset folder; `rooms` for new rooms with the kinds of path of training; `rooms:FIRST-LAST` for held-out
            seeds, where seeds from 2,000,000,000 have kinds of path that training never shows.
        shape: frames, height and width.
        count: maximum number of clips.
        takes: consecutive clips of a dataset that show one world.
        min_confidence: minimum confidence (0 to 1) of annotated depth.

    Raises:
        ConfigError: no such data, seeds that training may use, or no usable clip.
    """
    frames, height, width = shape
    config = ClipConfig(frames=frames, height=height, width=width)
    if is_rooms(data):
        if takes != 1:
            raise ConfigError(f"--takes {takes} cannot be used with --data {data}: every room has one clip; omit it")
        rooms = RoomDataset(_held_out_seeds(data, count), config)
        records = tuple(rooms.records)
        groups = {record.id: record.id for record in records}
        return Clips(dataset=rooms, records=records, groups=groups, shape=shape, min_confidence=min_confidence)
    dataset = open_dataset(data)
    usable = [record for record in dataset.records if not why_unusable(record, config)]
    if not usable:
        reason = why_unusable(dataset.records[0], config) if dataset.records else "the dataset is empty"
        raise ConfigError(f"none of {len(dataset.records)} clips of {data} can be measured ({reason})")
    records = tuple(islice(sorted(usable, key=lambda record: (record.source, record.start_frame)), count))
    groups = {record.id: world_of(record, takes) for record in records}
    return Clips(dataset=dataset, records=records, groups=groups, shape=shape, min_confidence=min_confidence)


def world_of(record: ClipRecord, takes: int) -> str:
    """The world that a clip shows: its source video, or the number of the source divided by `takes`.

    Raises:
        ConfigError: `takes` is above 1 and the source name has no number.
    """
    if takes == 1:
        return record.source_sha256
    number = re.search(r"(\d+)$", Path(record.source).stem)
    if number is None:
        raise ConfigError(
            f"--takes {takes}: the name of source {record.source!r} does not end in a number; omit --takes"
        )
    return f"world-{int(number[1]) // takes:06d}"


def _held_out_seeds(data: str | Path, count: int) -> range:
    found = _ROOMS.fullmatch(str(data))
    if found is None:
        raise ConfigError(f"--data {data} is invalid; write rooms, or rooms:FIRST-LAST with held-out seeds")
    first = int(found[1]) if found[1] else HELD_OUT_WORLDS
    last = min(int(found[2]) if found[2] else LAST_SEED, first + count - 1)
    if not HELD_OUT_WORLDS <= first <= last < LAST_SEED:
        raise ConfigError(
            f"--data {data}: FIRST must not exceed LAST, and seeds below {HELD_OUT_WORLDS} may have been trained on; "
            f"use {HELD_OUT_WORLDS} and above for new rooms, {HELD_OUT_PATHS} and above for new kinds of path too"
        )
    return range(first, last + 1)
