"""Camera paths in the formats of other programs: the released JSON, COLMAP and nerfstudio."""

from pathlib import Path

import numpy as np

from fw_geometry import formats
from fw_geometry.camera import Trajectory
from fw_model.export.clouds import PointCloud


def write_cameras(folder: str | Path, trajectory: Trajectory, *, cloud: PointCloud | None = None) -> list[Path]:
    """Write a path in every format; return the files.

    - ``cameras.json``: the released layout. It holds one focal length for square pixels and a centered principal
      point, so K is replaced by its mean there; the others keep every K.
    - ``transforms.json``: nerfstudio; images are expected as ``images/frame_00000.png``.
    - ``colmap/sparse/0``: COLMAP binary model, with the points of ``cloud``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"frame_{i:05d}.png" for i in range(len(trajectory))]
    formats.write_camera_json(folder / "cameras.json", one_focal_length(trajectory))
    formats.write_transforms_json(
        folder / "transforms.json", trajectory, file_paths=[f"images/{name}" for name in names]
    )
    model = folder / "colmap" / "sparse" / "0"
    model.mkdir(parents=True, exist_ok=True)
    formats.write_colmap(
        model,
        trajectory,
        names=names,
        points_world=None if cloud is None else cloud.points.astype(np.float64),
        colors=None if cloud is None else cloud.colors,
    )
    return [folder / "cameras.json", folder / "transforms.json", *sorted(model.iterdir())]


def one_focal_length(trajectory: Trajectory) -> Trajectory:
    """The same path with the mean focal length, square pixels and a centered principal point in every frame."""
    focal = float(np.mean(trajectory.K[:, [0, 1], [0, 1]]))
    K = np.array([[focal, 0.0, trajectory.width / 2], [0.0, focal, trajectory.height / 2], [0.0, 0.0, 1.0]])
    return Trajectory(
        pose_c2w=trajectory.pose_c2w,
        K=np.repeat(K[None], len(trajectory), axis=0),
        width=trajectory.width,
        height=trajectory.height,
        units=trajectory.units,
    )
