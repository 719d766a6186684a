"""A whole world as one folder."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fw_geometry.camera import Trajectory
from fw_model.export.cameras import write_cameras
from fw_model.export.clouds import cloud_of_world, write_glb, write_ply
from fw_model.export.depth import write_depth_png, write_depth_video
from fw_model.export.reader import ARRAYS, SUMMARY
from fw_model.export.video import write_video
from fw_model.pipeline.result import World

COLMAP_POINTS = 50_000
"""Maximum number of points in the COLMAP model, a usual start for 3D Gaussians."""


def export_world(
    world: World, folder: str | Path, *, drop_percent: float | int = 25.0, stride: int = 2, images: bool = True
) -> list[Path]:
    """Write a world in every format and return the files, in the order of the list.

    - ``video.mp4``, ``depth.mp4``: H.264.
    - ``depth/frame_00000.png`` ..., ``depth/scale.txt``: 16-bit depth.
    - ``geometry.npz``: depth, points and confidences (float16 confidences), K and poses, recovered and requested.
    - ``points.ply``, ``points.glb``: colored clouds; PLY keeps OpenCV axes, GLB has y up.
    - ``cameras.json``, ``transforms.json``, ``colmap/sparse/0``: the recovered cameras; ``requested_cameras.json``.
    - ``images/frame_00000.png`` ...: the frames that nerfstudio and COLMAP files refer to.
    - ``gaussians/images``, ``gaussians/sparse/0``: frames, cameras and points in the layout of 3D Gaussian trainers.
    - ``world.json``: settings and figures.

    Args:
        world: the world.
        folder: made if missing; files of the same names are replaced.
        drop_percent: percentage of pixels, the least confident first, left out of the clouds.
        stride: every ``stride``-th row and column goes into the clouds.
        images: write the frames as PNG too, and the folder for 3D Gaussians.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    cloud = cloud_of_world(world, drop_percent=drop_percent, stride=stride)
    written = [
        write_video(folder / "video.mp4", world.video, world.fps),
        write_depth_video(folder / "depth.mp4", world.depth, world.fps),
        *write_depth_png(folder / "depth", world.depth),
        _write_arrays(folder / ARRAYS, world),
        write_ply(folder / "points.ply", cloud),
    ]
    if len(cloud.points):
        written.append(write_glb(folder / "points.glb", cloud))
    thinned = type(cloud)(
        points=cloud.points[:: max(1, -(-len(cloud.points) // COLMAP_POINTS))],
        colors=cloud.colors[:: max(1, -(-len(cloud.points) // COLMAP_POINTS))],
    )
    written += write_cameras(folder, world.trajectory, cloud=thinned)
    written += _write_requested(folder, world.requested)
    if images:
        frames = _write_images(folder / "images", world.video)
        written += frames
        model = [path for path in written if path.parent == folder / "colmap" / "sparse" / "0"]
        written += _write_gaussian_start(folder / "gaussians", frames, model)
    summary = _summary(world) | {"points": len(cloud.points)}
    written.append(folder / SUMMARY)
    written[-1].write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return written


def store_world(world: World, folder: str | Path) -> Path:
    """Write only what `read_world` reads: the frames, ``geometry.npz`` and ``world.json``. Returns the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_images(folder / "images", world.video)
    _write_arrays(folder / ARRAYS, world)
    (folder / SUMMARY).write_text(json.dumps(_summary(world), indent=1) + "\n", encoding="utf-8")
    return folder


def _write_arrays(path: Path, world: World) -> Path:
    np.savez_compressed(
        path,
        depth=world.depth.astype(np.float32),
        depth_confidence=world.depth_confidence.astype(np.float16),
        points=world.points.astype(np.float32),
        points_confidence=world.points_confidence.astype(np.float16),
        K=world.trajectory.K,
        pose_c2w=world.trajectory.pose_c2w,
        requested_K=world.requested.K,
        requested_pose_c2w=world.requested.pose_c2w,
    )
    return path


def _write_requested(folder: Path, path: Trajectory) -> list[Path]:
    from fw_geometry.formats import write_camera_json
    from fw_model.export.cameras import one_focal_length

    write_camera_json(folder / "requested_cameras.json", one_focal_length(path))
    return [folder / "requested_cameras.json"]


def _write_images(folder: Path, video: np.ndarray) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for i, frame in enumerate(video):
        written.append(folder / f"frame_{i:05d}.png")
        Image.fromarray(frame).save(written[-1])
    return written


def _write_gaussian_start(folder: Path, frames: list[Path], model: list[Path]) -> list[Path]:
    """The source folder of a 3D Gaussian splatting trainer: undistorted frames and a COLMAP model with points."""
    written = []
    for files, place in ((frames, folder / "images"), (model, folder / "sparse" / "0")):
        place.mkdir(parents=True, exist_ok=True)
        for file in files:
            written.append(place / file.name)
            shutil.copyfile(file, written[-1])
    return written


def _summary(world: World) -> dict[str, Any]:
    frames, height, width, _ = world.video.shape
    summary: dict[str, Any] = {
        "settings": world.settings,
        "notes": list(world.notes),
        "frames": frames,
        "height": height,
        "width": width,
        "fps": world.fps,
        "units": world.trajectory.units,
        "conventions": "OpenCV axes (x right, y down, z forward), camera-to-world poses, world = first camera; z-depth",
        "median_depth": float(np.median(world.depth)),
        "path_length": {"recovered": world.trajectory.path_length(), "requested": world.requested.path_length()},
    }
    if world.seams:
        summary["seams"] = [asdict(seam) for seam in world.seams]
    if frames > 1:
        error = world.camera_error()
        moves = bool(np.isfinite(error.translation_deg))
        summary["camera_error"] = {
            "rotation_deg": error.rotation_deg,
            "translation_deg": error.translation_deg if moves else None,
        }
    return summary
