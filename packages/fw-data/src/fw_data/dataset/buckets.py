"""Which clips are trained on at which length and size: a table of buckets, as a TOML file or as dataclasses.

    max_crop = 0.35          # at most this share of an image may be cut away
    [[bucket]]
    frames = 81
    height = 336
    width = 592
    batch = 8

A clip goes to the bucket whose shape is nearest its own, among those that it fills without being enlarged.
"""

import math
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from fw_data.dataset.schema import ClipRecord
from fw_geometry.clip_shape import check_num_frames, check_side, cover


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """One shape of training samples."""

    frames: int
    """Frames of a sample, 4n + 1."""
    height: int
    """Rows, a multiple of 16."""
    width: int
    """Columns, a multiple of 16."""
    batch: int = 1
    """Samples per step over all ranks."""

    def __post_init__(self) -> None:
        check_num_frames(self.frames, name=f"bucket {self}: frames")
        for side in ("height", "width"):
            check_side(getattr(self, side), name=f"bucket {self}: {side}")
        if self.batch < 1:
            raise ValueError(f"bucket {self}: batch must be at least 1")

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"


class Assignment(NamedTuple):
    """Buckets of the clips of a dataset."""

    clips: tuple[tuple[ClipRecord, ...], ...]
    """Clips of each bucket."""
    unusable: dict[str, int]
    """Reason -> number of clips that fit no bucket."""

    def describe(self, table: "BucketTable") -> list[str]:
        """One line a bucket, and one a reason."""
        filled = zip(table.buckets, self.clips, strict=True)
        lines = [f"bucket {bucket}: {len(clips)} clips" for bucket, clips in filled]
        return lines + [f"clips left out: {count} ({reason})" for reason, count in self.unusable.items()]


@dataclass(frozen=True, kw_only=True)
class BucketTable:
    """All buckets, and how much of an image may be lost to one."""

    buckets: tuple[Bucket, ...]
    """In the order of the file."""
    max_crop: float = 0.35
    """Largest share of an image that the crop may cut away."""

    def __post_init__(self) -> None:
        if not self.buckets:
            raise ValueError("a bucket table needs at least one [[bucket]]")
        if not 0 <= self.max_crop < 1:
            raise ValueError(f"max_crop is {self.max_crop}; give a share from 0 to below 1")

    @classmethod
    def read(cls, path: Path) -> "BucketTable":
        """The table of a TOML file; ValueError names what is wrong in it."""
        try:
            tree = tomllib.loads(path.read_text(encoding="utf-8"))
            tree["buckets"] = tree.pop("bucket", [])
            known = {field.name for field in fields(Bucket)}
            unknown = sorted(set(tree) - {"buckets", "max_crop"}) or sorted(set().union(*tree["buckets"]) - known)
            if unknown:
                raise ValueError(
                    f"there is no key {unknown[0]!r}; keys are max_crop, and in [[bucket]] {sorted(known)}"
                )
            return TypeAdapter(cls).validate_python(tree)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "bucket table"
            raise ValueError(f"{path}: {place}: {first['msg']}") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def place(self, record: ClipRecord) -> int | str:
        """The index of the bucket of a clip, or the reason why it has none.

        Of the buckets that the clip fills: nearest aspect ratio, then most frames, then most pixels.
        """
        long = [i for i, bucket in enumerate(self.buckets) if record.num_frames >= bucket.frames]
        if not long:
            return f"shorter than {min(bucket.frames for bucket in self.buckets)} frames"
        large = [i for i in long if self._covers(record, self.buckets[i])]
        if not large:
            return "smaller than every bucket"
        near = [i for i in large if cropped_share(record, self.buckets[i]) <= self.max_crop]
        if not near:
            return f"more than {self.max_crop:.0%} of the image would be cut away"

        def rank(index: int) -> tuple[float, int, int]:
            bucket = self.buckets[index]
            aspect = abs(math.log(record.width / record.height) - math.log(bucket.width / bucket.height))
            return round(aspect, 6), -bucket.frames, -bucket.height * bucket.width

        return min(near, key=rank)

    def assign(self, records: Sequence[ClipRecord], *, need_depth: bool = True, need_masks: bool = False) -> Assignment:
        """Sort clips into buckets; those without depth, or without masks, are left out where they are needed."""
        clips: list[list[ClipRecord]] = [[] for _ in self.buckets]
        unusable: Counter[str] = Counter()
        for record in records:
            if need_depth and not record.has_depth:
                found = "no depth"
            elif need_masks and not record.has_masks:
                found = "no masks"
            else:
                found = self.place(record)
            if isinstance(found, str):
                unusable[found] += 1
            else:
                clips[found].append(record)
        return Assignment(tuple(tuple(group) for group in clips), dict(unusable))

    @staticmethod
    def _covers(record: ClipRecord, bucket: Bucket) -> bool:
        return record.height >= bucket.height and record.width >= bucket.width


def default_table(batch: int = 1) -> BucketTable:
    """The released size and length in landscape, portrait and square, and shorter ones."""
    sizes = [(336, 592), (592, 336), (448, 448)]
    return BucketTable(
        buckets=tuple(
            Bucket(frames=frames, height=height, width=width, batch=batch)
            for frames in (81, 49, 17)
            for height, width in sizes
        )
    )


def cropped_share(record: ClipRecord, bucket: Bucket) -> float:
    """Share of a clip's images that is cut away when they are fitted to a bucket, 0 to 1."""
    covering = cover(record.width, record.height, bucket.width, bucket.height)
    return 1 - bucket.height * bucket.width / (covering.height * covering.width)
