"""Reading a dataset: any clip, or any window of its frames, by index or id, from a folder or from object storage.

    dataset = ClipDataset("out/dataset")                     # or "s3://bucket/dataset", "gs://...", "memory://..."
    clip = dataset.load(0, frames=slice(0, 17))
    clip.video, clip.depth_m, clip.pose_c2w, clip.points_world

No file stays open between calls, and pickling keeps the path only, so a dataset goes to data-loader workers as it is.
Axis legend: f frames, h height, w width.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from fw_data.dataset import depth_codec
from fw_data.dataset.clip import MOVING, SKY, Cameras, Clip, unpack_cameras
from fw_data.dataset.manifest import MANIFEST_NAME, parse_manifest, read_manifest
from fw_data.dataset.schema import MASK_SUFFIX, ClipRecord
from fw_data.dataset.storage import LocalStorage, open_storage
from fw_data.errors import DataError
from fw_data.media.stored import decode_video
from fw_geometry.camera import Trajectory

_WHOLE = 1 << 18
"""Blobs up to this size are read whole; of longer ones only the wanted frames."""


class StoredGeometry(NamedTuple):
    """Depth, confidence and cameras of some frames."""

    depth_m: Float32[np.ndarray, "f h w"]
    """z-depth; 0 = invalid, 0 everywhere if `has_depth` of the record is false."""
    confidence: Float32[np.ndarray, "f h w"]
    """Trust in the depth, in [0, 1]."""
    cameras: Cameras
    """One entry per frame."""

    @property
    def trajectory(self) -> Trajectory:
        """The cameras as a path of the stored frames; its unit is that of the record."""
        _, height, width = self.depth_m.shape
        return Trajectory(pose_c2w=self.cameras.pose_c2w, K=self.cameras.K, width=width, height=height)


class StoredMasks(NamedTuple):
    """Moving pixels and sky of some frames."""

    moving: Bool[np.ndarray, "f h w"]
    """True for moving pixels."""
    sky: Bool[np.ndarray, "f h w"]
    """Looks like open sky."""


class ClipDataset:
    """The clips of a folder that `fw-data annotate` or `fw-data import` wrote, in the order of its manifest.

    Args:
        path: the folder, or an address that fsspec knows.
        verify: compare every file that is read with its recorded checksum; then blobs are always read whole.
    """

    def __init__(self, path: str | Path, *, verify: bool = False) -> None:
        self.location, self.verify = str(path), verify
        self._storage = open_storage(path)
        if isinstance(self._storage, LocalStorage):
            self.records: list[ClipRecord] = read_manifest(self._storage.root / MANIFEST_NAME)
        else:
            self.records = parse_manifest(self._storage.read(MANIFEST_NAME), f"{self.location}/{MANIFEST_NAME}")
        self._index = {record.id: index for index, record in enumerate(self.records)}

    @property
    def path(self) -> Path:
        """The folder; raises DataError for a dataset that is not on this machine."""
        if not isinstance(self._storage, LocalStorage):
            raise DataError("remote", f"{self.location} is not a folder of this machine; make a local copy for this")
        return self._storage.root

    def file(self, name: str) -> bytes:
        """The bytes of a file beside the manifest, such as dataset.json; raises DataError if there is none."""
        return self._storage.read(name)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Clip]:
        return (self.load(index) for index in range(len(self)))

    def __repr__(self) -> str:
        return f"ClipDataset({self.location!r}, {len(self)} clips)"

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.location, "verify": self.verify}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], verify=state["verify"])

    def record(self, clip: int | str) -> ClipRecord:
        """The manifest row of a clip, by index or id."""
        if isinstance(clip, str):
            if clip not in self._index:
                raise DataError("no-clip", f"{self.location} has no clip {clip!r}")
            return self.records[self._index[clip]]
        return self.records[clip]

    def read(self, clip: int | str, suffix: str) -> bytes:
        """The bytes of one file of a clip, e.g. "mp4" or "json".

        Raises DataError when the clip has no such file, or `verify` finds that it has changed.
        """
        record = self.record(clip)
        if suffix not in record.members:
            raise DataError("no-member", f"clip {record.id} of {self.location} has no {suffix}")
        data = self._part(record, suffix)
        if self.verify and hashlib.sha256(data).hexdigest() != record.members[suffix].sha256:
            raise DataError(
                "checksum", f"{suffix} of clip {record.id} in {self.location}/{record.shard} is not what was written"
            )
        return data

    def cameras(self, clip: int | str) -> Cameras:
        """Cameras of every frame of a clip, without touching its video."""
        return unpack_cameras(self.read(clip, "cameras.npz"))

    def geometry(self, clip: int | str, frames: slice | None = None) -> StoredGeometry:
        """Depth, confidence and cameras as `load` gives them, without decoding the video."""
        record = self.record(clip)
        return self._geometry(record, _pick(record, frames))

    def video(self, clip: int | str, frames: slice | None = None) -> UInt8[np.ndarray, "f h w 3"]:
        """The images as `load` gives them, and nothing else."""
        record = self.record(clip)
        return decode_video(self.read(record.id, "mp4"), record.num_frames, _pick(record, frames))

    def masks(self, clip: int | str, frames: slice | None = None) -> StoredMasks | None:
        """Moving pixels and sky, as from `load`; None if the clip has no masks."""
        record = self.record(clip)
        return self._masks(record, _pick(record, frames))

    def load(self, clip: int | str, frames: slice | None = None, *, masks: bool = True) -> Clip:
        """A clip, or the frames of it that a slice with a positive step picks; `masks` False leaves those out.

        Raises DataError when the files are torn or the slice picks no frame.
        """
        record = self.record(clip)
        wanted = _pick(record, frames)
        depth_m, confidence, cameras = self._geometry(record, wanted)
        moving, sky = (self._masks(record, wanted) if masks else None) or (None, None)
        return Clip(
            id=record.id,
            video=self.video(record.id, frames),
            depth_m=depth_m,
            confidence=confidence,
            K=cameras.K,
            pose_c2w=cameras.pose_c2w,
            pose_confidence=cameras.pose_confidence,
            caption=record.caption,
            fps=record.fps / wanted.step,
            units=record.units,
            frame_index=cameras.frame_index,
            moving=moving,
            sky=sky,
        )

    def _geometry(self, record: ClipRecord, wanted: range) -> StoredGeometry:
        cameras = self.cameras(record.id).select(wanted)
        if not record.has_depth:
            nothing = np.zeros((len(wanted), record.height, record.width), np.float32)
            return StoredGeometry(nothing, nothing.copy(), cameras)
        return StoredGeometry(self._blob(record, "depth.zst", wanted), self._blob(record, "conf.zst", wanted), cameras)

    def _masks(self, record: ClipRecord, wanted: range) -> StoredMasks | None:
        if not record.has_masks:
            return None
        labels = self._blob(record, MASK_SUFFIX, wanted).astype(np.uint8)
        return StoredMasks((labels & MOVING) > 0, (labels & SKY) > 0)

    def _blob(self, record: ClipRecord, suffix: str, frames: range) -> Float32[np.ndarray, "f h w"]:
        small = suffix not in record.members or record.members[suffix].size <= _WHOLE
        if small or self.verify or len(frames) == record.num_frames:
            return depth_codec.decode(self.read(record.id, suffix), frames)
        table = self._part(record, suffix, end=depth_codec.HEADER.size + 8 * (record.num_frames + 1))
        header = depth_codec.read_header(table)
        offsets = depth_codec.read_offsets(table, header)
        begin, end = offsets[frames[0]], offsets[frames[-1] + 1]
        payload = self._part(record, suffix, begin=header.payload_start + begin, end=header.payload_start + end)
        return depth_codec.decode_frames(payload, header, offsets, frames, payload_offset=begin)

    def _part(self, record: ClipRecord, suffix: str, *, begin: int = 0, end: int | None = None) -> bytes:
        member = record.members[suffix]
        end = member.size if end is None else end
        return self._storage.read_range(record.shard, member.offset + begin, member.offset + end)


def _pick(record: ClipRecord, frames: slice | None) -> range:
    wanted = range(record.num_frames)[frames or slice(None)]
    if not len(wanted) or wanted.step < 1:
        raise DataError("no-frames", f"{frames} picks no increasing frames of {record.num_frames} in {record.id}")
    return wanted
