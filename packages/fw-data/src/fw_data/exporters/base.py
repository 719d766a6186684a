"""The protocol of exporters and their input, a clip that is decoded on first use.

Axis legend: f frames, h height, w width, 3 = RGB or xyz.
"""

from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from fw_data.dataset.clip import Cameras, Clip
from fw_data.dataset.reader import ClipDataset, StoredGeometry
from fw_data.dataset.schema import ClipRecord
from fw_geometry.camera import Trajectory


class ExportClip:
    """One clip of a dataset; video and depth are decoded on first use."""

    def __init__(self, dataset: ClipDataset, record: ClipRecord) -> None:
        self.dataset, self.record = dataset, record

    @property
    def name(self) -> str:
        """Base name of its files."""
        return self.record.id

    @cached_property
    def clip(self) -> Clip:
        """The whole clip, decoded."""
        return self.dataset.load(self.record.id)

    @cached_property
    def geometry(self) -> StoredGeometry:
        """Depth, confidence and cameras."""
        if "clip" in self.__dict__:
            return StoredGeometry(self.clip.depth_m, self.clip.confidence, self.cameras)
        return self.dataset.geometry(self.record.id)

    @cached_property
    def cameras(self) -> Cameras:
        """Cameras and times of every frame."""
        return self.dataset.cameras(self.record.id)

    @property
    def trajectory(self) -> Trajectory:
        """The camera path of the stored frames."""
        record, cameras = self.record, self.cameras
        return Trajectory(
            pose_c2w=cameras.pose_c2w, K=cameras.K, width=record.width, height=record.height, units=record.units
        )

    def write_mp4(self, path: Path) -> None:
        """The stored video, byte for byte."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.dataset.read(self.record.id, "mp4"))


@runtime_checkable
class Exporter(Protocol):
    """Writer of one format."""

    needs_depth: bool
    """Clips without depth can't be written."""

    def add(self, clip: ExportClip) -> list[str]:
        """Write one clip; returns the parts that the format cannot hold."""
        ...

    def close(self) -> None:
        """Write what lists all clips."""
        ...


def write_frames(folder: Path, frames: UInt8[np.ndarray, "f h w 3"]) -> list[str]:
    """PNG files frame_00001.png, ...; returns their names."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    names = [f"frame_{index:05d}.png" for index in range(1, len(frames) + 1)]
    for name, frame in zip(names, frames, strict=True):
        Image.fromarray(frame).save(folder / name)
    return names
