"""TUM RGB-D: a folder per clip with images, depth, and the camera path in seconds.

OUT/ID/groundtruth.txt   timestamp tx ty tz qx qy qz qw, camera-to-world
OUT/ID/rgb.txt, depth.txt   timestamp and file name
OUT/ID/rgb/*.png, depth/*.png   depth in 16 bits, 5000 a unit, 0 = invalid
OUT/ID/calibration.txt   fx fy cx cy; TUM keeps K elsewhere, so this file is ours
"""

from pathlib import Path

import numpy as np

from fw_data.exporters.base import ExportClip, write_frames
from fw_geometry.formats import write_tum

DEPTH_PER_UNIT = 5000.0
_LARGEST = 65535


class TumExporter:
    """One sequence folder per clip."""

    needs_depth = False

    def __init__(self, out: Path) -> None:
        self.out = out

    def add(self, clip: ExportClip) -> list[str]:
        """Write one clip; see `Exporter`."""
        folder = self.out / clip.name
        names = write_frames(folder / "rgb", clip.clip.video)
        times = clip.cameras.time_s
        write_tum(folder / "groundtruth.txt", clip.trajectory.pose_c2w, times)
        _write_list(folder / "rgb.txt", "rgb", names, times)
        rows = ["# fx fy cx cy, one line, or one per frame; the center of the first pixel is (0.5, 0.5)"]
        K = clip.cameras.K
        intrinsics = np.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], axis=-1)
        constant = bool((intrinsics == intrinsics[0]).all())
        rows += [" ".join(map(repr, row)) for row in intrinsics[: 1 if constant else None].tolist()]
        (folder / "calibration.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
        lost = ["confidence and caption: the format has no place for them"]
        if clip.record.has_depth:
            far = _write_depth(folder / "depth", names, clip.clip.depth_m)
            _write_list(folder / "depth.txt", "depth", names, times)
            if far:
                lost.append(f"depth beyond {_LARGEST / DEPTH_PER_UNIT:.1f} units, which 16 bits do not hold")
        return lost

    def close(self) -> None:
        """Nothing lists the sequences."""


def _write_depth(folder: Path, names: list[str], depth_m: np.ndarray) -> bool:
    from PIL import Image

    folder.mkdir()
    values = np.round(depth_m.astype(np.float64) * DEPTH_PER_UNIT)
    far = values > _LARGEST
    values[far] = 0
    for name, frame in zip(names, values.astype(np.uint16), strict=True):
        Image.fromarray(frame).save(folder / name)
    return bool(far.any())


def _write_list(path: Path, folder: str, names: list[str], times: np.ndarray) -> None:
    rows = [f"{time!r} {folder}/{name}" for time, name in zip(times.tolist(), names, strict=True)]
    path.write_text("# timestamp filename\n" + "\n".join(rows) + "\n", encoding="utf-8")
