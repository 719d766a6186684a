"""nerfstudio: a folder per clip with transforms.json, images and depth.

    OUT/ID/transforms.json          camera-to-world in OpenGL axes, K in pixels, depth_file_path per frame
    OUT/ID/images/frame_00001.png
    OUT/ID/points.ply               confident points, which start a Gaussian splatting (ply_file_path)
    OUT/ID/depth/frame_00001.npy    float32 thousandths of the pose unit: nerfstudio multiplies by 1e-3 by default

Depth is stored as .npy, not as 16-bit PNG, because a scene of unknown scale may lie anywhere on the scale.
"""

import json
from pathlib import Path

import numpy as np

from fw_data.exporters.base import ExportClip, write_frames
from fw_data.exporters.points import sample_points, write_ply
from fw_geometry.formats import write_transforms_json

PLY_NAME = "points.ply"
DEPTH_UNIT = 1e-3
"""Pose units per stored depth unit; nerfstudio's `depth_unit_scale_factor`."""


class NerfstudioExporter:
    """One scene folder per clip."""

    needs_depth = False

    def __init__(self, out: Path) -> None:
        self.out = out

    def add(self, clip: ExportClip) -> list[str]:
        """Write one clip; see `Exporter`."""
        folder = self.out / clip.name
        names = write_frames(folder / "images", clip.clip.video)
        path = folder / "transforms.json"
        points, colors, _ = sample_points(clip)
        if len(points):
            write_ply(folder / PLY_NAME, points, colors)
        write_transforms_json(
            path,
            clip.trajectory,
            file_paths=[f"images/{name}" for name in names],
            ply_file_path=PLY_NAME if len(points) else None,
        )
        scene = json.loads(path.read_text(encoding="utf-8"))
        if clip.record.has_depth:
            (folder / "depth").mkdir()
            for name, row, depth_m in zip(names, scene["frames"], clip.clip.depth_m, strict=True):
                row["depth_file_path"] = f"depth/{Path(name).stem}.npy"
                np.save(folder / row["depth_file_path"], depth_m / np.float32(DEPTH_UNIT), allow_pickle=False)
        # keys that nerfstudio passes over and fw-data import reads
        scene |= {"fps": clip.record.fps, "caption": clip.record.caption, "units": clip.record.units}
        path.write_text(json.dumps(scene, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return ["confidence: the format has no place for it"] if clip.record.has_depth else []

    def close(self) -> None:
        """Nothing lists the scenes."""
