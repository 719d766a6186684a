"""The layout that the earlier 1.3B reproduction of FantasyWorld trains from, for those who still run it.

    OUT/metadata.json      [{"video", "prompt", "depth", "points", "camera_params"}], paths relative to OUT
    OUT/videos/ID.mp4
    OUT/depths/ID.npy      float32 (f, h, w), 0 = invalid
    OUT/points/ID.npy      float32 (f, h, w, 3) in the frame of the first camera, 0 = invalid
    OUT/cameras/ID.txt     19 columns without a header line: frame, K divided by the frame size, 0 0, w2c 3x4

Its reader takes the last 12 columns, and K as if the source had been 16:9; it divides depth by 100. Point maps make
this layout about 20 times as large as ours.
"""

import json
from pathlib import Path

import numpy as np

from fw_data.exporters.base import ExportClip
from fw_geometry.formats import write_realestate10k


class LegacyExporter:
    """Videos, arrays and a list."""

    needs_depth = True

    def __init__(self, out: Path) -> None:
        self.out = out
        self._rows: list[dict[str, str]] = []
        for name in ("videos", "depths", "points", "cameras"):
            (out / name).mkdir(parents=True, exist_ok=True)

    def add(self, clip: ExportClip) -> list[str]:
        """Write one clip; see `Exporter`."""
        row = {
            "video": f"videos/{clip.name}.mp4",
            "prompt": clip.record.caption,
            "depth": f"depths/{clip.name}.npy",
            "points": f"points/{clip.name}.npy",
            "camera_params": f"cameras/{clip.name}.txt",
        }
        clip.write_mp4(self.out / row["video"])
        np.save(self.out / row["depth"], clip.clip.depth_m, allow_pickle=False)
        np.save(self.out / row["points"], clip.clip.points_world, allow_pickle=False)
        cameras = self.out / row["camera_params"]
        write_realestate10k(cameras, clip.trajectory)
        cameras.write_text("".join(cameras.read_text(encoding="utf-8").splitlines(keepends=True)[1:]), "utf-8")
        self._rows.append(row)
        return ["confidence and time stamps: the format has no place for them"]

    def close(self) -> None:
        """The list of clips."""
        (self.out / "metadata.json").write_text(json.dumps(self._rows, indent=2, ensure_ascii=False) + "\n", "utf-8")
