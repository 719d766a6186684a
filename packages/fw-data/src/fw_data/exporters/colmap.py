"""COLMAP: a workspace per clip with images, a sparse model, and depth maps in COLMAP's own array files.

    OUT/ID/images/frame_00001.png
    OUT/ID/sparse/0/{cameras,images,points3D}.{bin,txt}
    OUT/ID/stereo/depth_maps/frame_00001.png.geometric.bin

The points are a sample of the confident depth pixels, with tracks: the 2D points of up to a few frames that see them.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from fw_data.exporters.base import ExportClip, write_frames
from fw_data.exporters.points import observe, sample_points
from fw_geometry.formats import write_colmap


class ColmapExporter:
    """One workspace per clip.

    Args:
        out: folder to write.
        text: text files in place of binary ones.
    """

    needs_depth = False

    def __init__(self, out: Path, text: bool = False) -> None:
        self.out, self.text = out, text

    def add(self, clip: ExportClip) -> list[str]:
        """Write one clip; see `Exporter`."""
        folder = self.out / clip.name
        names = write_frames(folder / "images", clip.clip.video)
        points, colors, frame = sample_points(clip)
        write_colmap(
            folder / "sparse" / "0",
            clip.trajectory,
            names=names,
            points_world=points,
            colors=colors,
            observations=observe(clip, points, frame),
            binary=not self.text,
        )
        if not clip.record.has_depth:
            return ["time stamps and caption: the format has no place for them"]
        maps = folder / "stereo" / "depth_maps"
        maps.mkdir(parents=True)
        for name, depth_m in zip(names, clip.clip.depth_m, strict=True):
            write_array(maps / f"{name}.geometric.bin", depth_m)
        return ["confidence, time stamps and caption: the format has no place for them"]

    def close(self) -> None:
        """Nothing lists the workspaces."""


def write_array(path: Path, array: Float32[np.ndarray, "h w"]) -> None:
    """COLMAP's array file: "width&height&1&", then float32 row by row."""
    height, width = array.shape
    path.write_bytes(f"{width}&{height}&1&".encode() + np.ascontiguousarray(array, "<f4").tobytes())
