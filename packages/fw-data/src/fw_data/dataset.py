"""Reading a dataset: any clip, or any window of its frames, by index or id.

    dataset = ClipDataset("out/dataset")
    clip = dataset.load(0, frames=slice(0, 17))
    clip.video, clip.depth_m, clip.pose_c2w, clip.points_world

No file stays open between calls, and pickling keeps the path only, so a dataset goes to data-loader workers as it is.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from fw_data import depth_codec
from fw_data.clipfiles import Cameras, Clip, unpack_cameras
from fw_data.errors import DataError
from fw_data.manifest import MANIFEST_NAME, read_manifest
from fw_data.media.stored import decode_video
from fw_data.schema import ClipRecord
from fw_data.shards import read_member

_WHOLE = 1 << 18
"""Blobs up to this size are read whole; of longer ones only the wanted frames."""


class ClipDataset:
    """The clips of a folder that `fw-data annotate` wrote, in the order of its manifest."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.records: list[ClipRecord] = read_manifest(self.path / MANIFEST_NAME)
        self._index = {record.id: index for index, record in enumerate(self.records)}

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Clip]:
        return (self.load(index) for index in range(len(self)))

    def __repr__(self) -> str:
        return f"ClipDataset({str(self.path)!r}, {len(self)} clips)"

    def __getstate__(self) -> dict[str, Path]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__init__(state["path"])

    def record(self, clip: int | str) -> ClipRecord:
        """The manifest row of a clip, by index or id."""
        if isinstance(clip, str):
            if clip not in self._index:
                raise DataError("no-clip", f"{self.path} has no clip {clip!r}")
            return self.records[self._index[clip]]
        return self.records[clip]

    def read(self, clip: int | str, suffix: str) -> bytes:
        """The bytes of one file of a clip, e.g. "mp4" or "json"."""
        record = self.record(clip)
        return read_member(self.path / record.shard, record.members[suffix])

    def cameras(self, clip: int | str) -> Cameras:
        """Cameras of every frame of a clip, without touching its video."""
        return unpack_cameras(self.read(clip, "cameras.npz"))

    def load(self, clip: int | str, frames: slice | None = None) -> Clip:
        """A clip, or the frames of it that a slice with a positive step picks.

        Raises DataError when the files are torn or the slice picks no frame.
        """
        record = self.record(clip)
        wanted = range(record.num_frames)[frames or slice(None)]
        if not len(wanted) or wanted.step < 1:
            raise DataError("no-frames", f"{frames} picks no increasing frames of {record.num_frames} in {record.id}")
        cameras = self.cameras(clip).select(wanted)
        return Clip(
            id=record.id,
            video=decode_video(self.read(clip, "mp4"), record.num_frames, wanted),
            depth_m=self._blob(record, "depth.zst", wanted),
            confidence=self._blob(record, "conf.zst", wanted),
            K=cameras.K,
            pose_c2w=cameras.pose_c2w,
            pose_confidence=cameras.pose_confidence,
            caption=record.caption,
            fps=record.fps / wanted.step,
            units=record.units,
            frame_index=cameras.frame_index,
        )

    def _blob(self, record: ClipRecord, suffix: str, frames: range) -> Float32[np.ndarray, "f h w"]:
        shard, member = self.path / record.shard, record.members[suffix]
        if member.size <= _WHOLE or len(frames) == record.num_frames:
            return depth_codec.decode(read_member(shard, member), frames)
        table_end = depth_codec.HEADER.size + 8 * (record.num_frames + 1)
        table = read_member(shard, member, end=table_end)
        header = depth_codec.read_header(table)
        offsets = depth_codec.read_offsets(table, header)
        begin = offsets[frames[0]]
        payload = read_member(
            shard, member, begin=header.payload_start + begin, end=header.payload_start + offsets[frames[-1] + 1]
        )
        return depth_codec.decode_frames(payload, header, offsets, frames, payload_offset=begin)
