"""Rooms as a dataset without files: clip n is the room of seed n, rendered when it is read.

`--data rooms` trains on all seeds, `--data rooms:0-39999` on a range of them. Held-out clips are rooms of seeds that
training ranges cannot contain.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import overload

import numpy as np

from fw_data.dataset.clip import Cameras
from fw_data.dataset.reader import StoredGeometry
from fw_data.dataset.schema import ClipRecord, Member
from fw_toy.rooms.clip import HELD_OUT_WORLDS, RoomClip, plan_room, render_room
from fw_train.config.schema import ClipConfig, ConfigError

RENDERING = 1
"""Version of the renderer, raised whenever a seed gives another clip."""
FPS = 16.0
_NAME = re.compile(r"rooms(?::(\d+)-(\d+))?")


class RoomDataset:
    """Rooms with the interface of a `ClipDataset`; nothing is stored.

    Args:
        seeds: of the training clips.
        clip: frames and size to render.
    """

    def __init__(self, seeds: range, clip: ClipConfig) -> None:
        self.seeds, self.clip = seeds, clip
        self.records = _Records(self, seeds)
        self._render = lru_cache(maxsize=2)(self._rendered)

    def __reduce__(self) -> tuple[type["RoomDataset"], tuple[range, ClipConfig]]:
        return type(self), (self.seeds, self.clip)

    @classmethod
    def open(cls, data: str | Path | None, clip: ClipConfig) -> "RoomDataset":
        """The dataset that `--data` names.

        Raises:
            ConfigError: not `rooms` or `rooms:FIRST-LAST`, or a range that is empty or holds held-out seeds.
        """
        found = _NAME.fullmatch(str(data))
        if found is None:
            raise ConfigError(f"data = {data} is not understood; write rooms, or rooms:FIRST-LAST, e.g. rooms:0-39999")
        first, last = (int(found[1]), int(found[2])) if found[1] else (0, HELD_OUT_WORLDS - 1)
        if not first <= last < HELD_OUT_WORLDS:
            raise ConfigError(
                f"data = {data}: FIRST must not exceed LAST, and LAST must be below {HELD_OUT_WORLDS}, the first "
                "held-out room"
            )
        return cls(range(first, last + 1), clip)

    @property
    def name(self) -> str:
        """Everything that the clips are a function of."""
        return f"rooms:{self.seeds[0]}-{self.seeds[-1]} version {RENDERING}"

    @property
    def path(self) -> Path:
        """A name instead of a folder, so nothing is cached beside the clips."""
        return Path(self.name.split(" ")[0])

    def held_out(self, count: int) -> "Sequence[ClipRecord]":
        """Records of rooms outside of every training range."""
        return _Records(self, range(HELD_OUT_WORLDS, HELD_OUT_WORLDS + count))

    def record(self, clip_id: str) -> ClipRecord:
        """The record of a clip."""
        seed, clip = _seed(clip_id), self.clip
        plan = plan_room(seed, frames=clip.frames, height=clip.height, width=clip.width)
        source = hashlib.sha256(f"room {RENDERING} {seed}".encode()).hexdigest()
        file = Member(offset=0, size=0, sha256=source)
        return ClipRecord(
            id=clip_id,
            source=f"rooms/{seed}",
            source_sha256=source,
            source_width=clip.width,
            source_height=clip.height,
            start_frame=0,
            num_frames=clip.frames,
            start_time_s=0.0,
            fps=FPS,
            width=clip.width,
            height=clip.height,
            caption=plan.caption,
            units="metric",
            backend="rooms",
            backend_version=str(RENDERING),
            config_hash=source,
            grade="A",
            motion_tags=plan.move.split("+"),
            members=dict.fromkeys(("mp4", "depth.zst", "cameras.npz"), file),
        )

    def video(self, clip_id: str, frames: slice | None = None) -> np.ndarray:
        """Frames [f, h, w, 3], uint8."""
        return self._render(_seed(clip_id)).video[frames or slice(None)]

    def geometry(self, clip_id: str, frames: slice | None = None) -> StoredGeometry:
        """Exact depth and cameras."""
        clip, chosen = self._render(_seed(clip_id)), frames or slice(None)
        count = len(clip.video)
        cameras = Cameras(
            K=np.repeat(clip.plan.K[None], count, axis=0),
            pose_c2w=clip.plan.pose_c2w,
            pose_confidence=np.ones(count, np.float32),
            frame_index=np.arange(count),
            time_s=np.arange(count) / FPS,
        )
        depth_m = clip.depth_m[chosen]
        return StoredGeometry(depth_m, np.ones_like(depth_m), cameras.select(chosen))

    def masks(self, clip_id: str, frames: slice | None = None) -> None:
        """None: rooms have no moving objects and no sky."""

    def _rendered(self, seed: int) -> RoomClip:
        return render_room(seed, frames=self.clip.frames, height=self.clip.height, width=self.clip.width)


class _Records(Sequence[ClipRecord]):
    """Records made on access, since there are a billion."""

    def __init__(self, dataset: RoomDataset, seeds: range) -> None:
        self.dataset, self.seeds = dataset, seeds

    def __len__(self) -> int:
        return len(self.seeds)

    @overload
    def __getitem__(self, index: int) -> ClipRecord: ...
    @overload
    def __getitem__(self, index: slice) -> "_Records": ...
    def __getitem__(self, index: int | slice) -> "ClipRecord | _Records":
        if isinstance(index, slice):
            return _Records(self.dataset, self.seeds[index])
        return self.dataset.record(f"room-{self.seeds[index]}")


def _seed(clip_id: str) -> int:
    return int(clip_id.removeprefix("room-"))
