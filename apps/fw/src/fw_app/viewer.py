"""View a clip or a world in the browser: points, cameras and frames, served by viser.

Axis legend: f frames, h height, w width. The world frame is the first camera (OpenCV axes: y down).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from fw_geometry import Trajectory, matrix_to_quaternion

if TYPE_CHECKING:
    from viser import ViserServer


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewerScene:
    """A clip or a world to view."""

    name: str
    """Title."""
    video: UInt8[np.ndarray, "f h w 3"]
    """Frames."""
    points: Float[np.ndarray, "f h w 3"]
    """World point of every pixel; NaN if there is none."""
    rank: Float[np.ndarray, "f h w"]
    """Rank of the confidence within the frame: share of pixels that are at most as confident, in (0, 1]."""
    cameras: Trajectory
    """Cameras of the frames."""
    requested: Trajectory | None = None
    """The requested path."""


def load(source: Path, clip: str = "0") -> ViewerScene:
    """Read the clip (number or id) of a dataset, or a world.

    Raises:
        ValueError: neither a dataset nor a world is there, or the dataset has no such clip.
    """
    if (source / "manifest.parquet").is_file():
        return _clip(source, clip)
    if (source / "geometry.npz").is_file():
        return _world(source)
    raise ValueError(
        f"{source} is neither a dataset (manifest.parquet) nor a generated world (geometry.npz); give the output "
        "folder of `fw-data annotate` or `fw generate`"
    )


def serve(scene: ViewerScene, *, host: str = "127.0.0.1", port: int = 8080) -> "ViserServer":
    """A running viser server that shows the scene; `stop()` ends it.

    Raises:
        ValueError: viser is not installed.
    """
    try:
        import viser
    except ImportError as error:
        raise ValueError("fw view needs viser: pip install 'fw-app[view]'") from error
    server = viser.ViserServer(host=host, port=port, label=scene.name, verbose=False)
    server.scene.set_up_direction("-y")
    frames, height, width = scene.rank.shape
    size = float(np.nanmedian(np.linalg.norm(scene.points.reshape(-1, 3)[:: max(1, frames)], axis=-1)))
    frame = server.gui.add_slider("frame", 0, frames - 1, 1, 0)
    together = server.gui.add_checkbox("all frames together", initial_value=False)
    surest = server.gui.add_slider("most confident pixels, %", 5, 100, 5, 60)
    point_size = server.gui.add_slider("point size", 0.2, 5.0, 0.2, 1.0)
    _paths(server, scene, size)
    fov = float(2 * np.arctan(height / (2 * scene.cameras.K[0, 1, 1])))

    def show(_: Any = None) -> None:
        chosen = np.arange(frames) if together.value else np.array([int(frame.value)])
        step = 2 if together.value else 1
        keep = scene.rank[chosen, ::step, ::step] >= 1 - surest.value / 100
        points = scene.points[chosen, ::step, ::step]
        keep &= np.isfinite(points).all(axis=-1)
        server.scene.add_point_cloud(
            "/points",
            points[keep].astype(np.float32),
            scene.video[chosen, ::step, ::step][keep],
            point_size=point_size.value * step * size * 2 * np.tan(fov / 2) / height,
            precision="float32",
        )
        pose = scene.cameras.pose_c2w[int(frame.value)]
        server.scene.add_camera_frustum(
            "/camera",
            fov,
            width / height,
            scale=0.1 * size,
            color=(220, 40, 60),
            image=scene.video[int(frame.value)],
            wxyz=_wxyz(pose),
            position=pose[:3, 3],
        )

    for control in (frame, together, surest, point_size):
        control.on_update(show)
    server.initial_camera.position = tuple(np.array([0.3, -0.3, -0.7]) * size)
    server.initial_camera.look_at = (0.0, 0.0, size)
    server.initial_camera.up = (0.0, -1.0, 0.0)
    show()
    return server


def _paths(server: "ViserServer", scene: ViewerScene, size: float) -> None:
    paths = [("/path", scene.cameras, (220, 40, 60))]
    if scene.requested is not None:
        paths.append(("/requested", scene.requested, (40, 90, 220)))
    for name, path, color in paths:
        if len(path) > 1:
            places = path.pose_c2w[:, :3, 3].astype(np.float32)
            server.scene.add_spline_catmull_rom(name, places, thickness=0.004 * size, color=color)


def _clip(folder: Path, which: str) -> ViewerScene:
    from fw_data.dataset.reader import ClipDataset

    dataset = ClipDataset(folder)
    if which.isdecimal() and int(which) >= len(dataset):
        raise ValueError(f"{folder} has {len(dataset)} clips, numbers 0 to {len(dataset) - 1}; there is no {which}")
    clip = dataset.load(int(which) if which.isdecimal() else which)
    height, width = clip.depth_m.shape[1:]
    points = np.where(clip.depth_m[..., None] > 0, clip.points_world, np.nan)
    return ViewerScene(
        name=f"{folder.name}: {clip.id}",
        video=clip.video,
        points=points,
        rank=_rank(np.where(clip.depth_m > 0, clip.confidence, -1.0)),
        cameras=Trajectory(pose_c2w=clip.pose_c2w, K=clip.K, width=width, height=height, units=clip.units),
    )


def _world(folder: Path) -> ViewerScene:
    from fw_model.export import read_world

    world = read_world(folder)
    return ViewerScene(
        name=folder.name,
        video=world.video,
        points=world.points,
        rank=_rank(world.points_confidence),
        cameras=world.trajectory,
        requested=world.requested,
    )


def _rank(confidence: Float[np.ndarray, "f h w"]) -> Float[np.ndarray, "f h w"]:
    """Share of a frame's pixels up to each value; equal values share the largest rank."""
    flat = confidence.reshape(len(confidence), -1)
    ranks = [np.searchsorted(np.sort(values), values, side="right") / values.size for values in flat]
    return np.stack(ranks).reshape(confidence.shape)


def _wxyz(pose_c2w: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4"]:
    import torch

    x, y, z, w = matrix_to_quaternion(torch.from_numpy(pose_c2w[:3, :3].copy())).tolist()
    return np.array([w, x, y, z])
