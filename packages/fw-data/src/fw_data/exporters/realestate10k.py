"""RealEstate10K as CameraCtrl lays it out: one pose text and one video per clip, and a list with the captions.

OUT/cameras/ID.txt   19 columns: time in microseconds, K divided by the frame size, 0 0, world-to-camera 3x4
OUT/videos/ID.mp4    the stored video; its frame i is line i
OUT/clips.json       [{"clip_name", "clip_path", "pose_file", "caption"}]
"""

import json
from pathlib import Path

import numpy as np

from fw_data.exporters.base import ExportClip
from fw_geometry.formats import write_realestate10k


class RealEstate10KExporter:
    """Cameras, videos and captions."""

    needs_depth = False

    def __init__(self, out: Path) -> None:
        self.out = out
        self._rows: list[dict[str, str]] = []
        (out / "cameras").mkdir(parents=True, exist_ok=True)

    def add(self, clip: ExportClip) -> list[str]:
        """Write one clip; see `Exporter`."""
        video, cameras = f"videos/{clip.name}.mp4", f"cameras/{clip.name}.txt"
        clip.write_mp4(self.out / video)
        stamps_us = np.round(clip.cameras.time_s * 1e6).astype(np.int64)
        source = " ".join(clip.record.source.split())
        write_realestate10k(self.out / cameras, clip.trajectory, timestamps_us=stamps_us, source=f"source: {source}")
        self._rows.append(
            {"clip_name": clip.name, "clip_path": video, "pose_file": cameras, "caption": clip.record.caption}
        )
        return ["depth and confidence: the format has no place for them"] if clip.record.has_depth else []

    def close(self) -> None:
        """The list of clips."""
        (self.out / "clips.json").write_text(json.dumps(self._rows, indent=1, ensure_ascii=False) + "\n", "utf-8")
