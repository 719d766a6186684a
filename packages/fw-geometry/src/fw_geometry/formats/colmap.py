"""COLMAP sparse models, text and binary: cameras, images and points, read and written.

Axis legend: inside, poses are camera-to-world with OpenCV axes (x right, y down, z forward) and pixel centers at +0.5.
COLMAP stores world-to-camera as quaternion (w, x, y, z) and translation, same axes and same pixel centers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fw_geometry.camera import Trajectory
from fw_geometry.formats.colmap_binary import (
    read_cameras_binary,
    read_images_binary,
    read_points_binary,
    write_cameras_binary,
    write_images_binary,
    write_points_binary,
)
from fw_geometry.formats.colmap_records import CameraRecord, ImageRecord, PointRecords
from fw_geometry.formats.colmap_text import (
    read_cameras_text,
    read_images_text,
    read_points_text,
    write_cameras_text,
    write_images_text,
    write_points_text,
)
from fw_geometry.formats.names import natural_key, portable_path
from fw_geometry.formats.rows import CameraFileError
from fw_geometry.lenses import LENS_PARAMETERS, Lens, pinhole_view
from fw_geometry.rigid import compose_poses, invert_poses, quaternions_from_rotations, rotations_from_quaternions


@dataclass(frozen=True, kw_only=True, eq=False)
class ColmapModel:
    """A COLMAP sparse model: cameras by image, and points."""

    trajectory: Trajectory
    """The cameras in the natural order of the image names; units "scene"."""
    names: tuple[str, ...]
    """Image name per frame, with / between folders."""
    lenses: tuple[Lens, ...] = ()
    """The camera model per frame if an image is distorted, else empty; `trajectory` is for undistorted images then."""
    points_world: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    """(n, 3) float64 points in the world frame; empty if the model has none."""
    colors: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), dtype=np.uint8))
    """(n, 3) uint8 RGB of the points."""


def read_colmap(folder: str | PathLike[str], *, undistort: bool = False) -> ColmapModel:
    """Read a COLMAP sparse model folder: cameras, images and, if there, points3D; .bin if present, else .txt.

    Args:
        folder: the model folder.
        undistort: accept cameras with lens distortion: `trajectory` then is the pinhole view (see
            `fw_geometry.lenses.pinhole_view`) and `lenses` undistort the images.

    Raises:
        CameraFileError: (a ValueError) truncated or malformed file, a camera model that cannot be used, lens distortion
            without `undistort`, images of different sizes, no images; names file and line or record.
        OSError: cameras or images are missing.
    """
    model = _read_model(Path(folder))
    return model.frames(model.images, undistort)


def read_colmap_rig(folder: str | PathLike[str], *, undistort: bool = False) -> dict[str, ColmapModel]:
    """Read a COLMAP model as one path per camera: one per folder of images, and per camera that several images share.

    Keys are the folder and the camera id as far as they tell the paths apart; "" for a model of one camera. Arguments
    and errors are those of `read_colmap`.
    """
    model = _read_model(Path(folder))
    folders: dict[str, list[ImageRecord]] = {}
    for image in model.images:
        folders.setdefault(image.name.rpartition("/")[0], []).append(image)
    groups: dict[str, list[ImageRecord]] = {}
    for place, images in folders.items():
        ids = sorted({image.camera_id for image in images})
        shared = 1 < len(ids) <= len(images) // 2  # more cameras are one camera per image, refined frame by frame
        for number in ids if shared else [None]:
            key = "/".join(([place] if len(folders) > 1 else []) + ([f"camera {number}"] if shared else []))
            groups[key] = [image for image in images if number is None or image.camera_id == number]
    return {key: model.frames(images, undistort) for key, images in groups.items()}


class _Model(NamedTuple):
    """Records of a model folder, images in the natural order of their names."""

    cameras_file: Path
    images_file: Path
    cameras: dict[int, CameraRecord]
    images: list[ImageRecord]
    points: PointRecords

    def frames(self, images: list[ImageRecord], undistort: bool) -> ColmapModel:
        """The cameras of some images as a path."""
        poses, lenses = [], []
        first = None
        for image in images:
            place = f"image {image.name!r}"
            camera = self.cameras.get(image.camera_id)
            if camera is None:
                problem = f"camera {image.camera_id} is not in {self.cameras_file.name}"
                raise CameraFileError(self.images_file, place, problem, "use files of one model")
            first = camera if first is None else first
            if (camera.width, camera.height) != (first.width, first.height):
                problem = f"size {camera.width} x {camera.height}, the first image has {first.width} x {first.height}"
                raise CameraFileError(self.images_file, place, problem, "make all images one size first")
            length = float(np.linalg.norm(image.q_wxyz))
            if not abs(length - 1) <= 0.01:
                problem = f"the quaternion has length {length:.4g}, expected 1"
                raise CameraFileError(self.images_file, place, problem, "normalize it")
            lenses.append(_lens(self.cameras_file, camera, undistort))
            poses.append(compose_poses(rotations_from_quaternions(np.roll(image.q_wxyz, -1)), image.translation))
        assert first is not None
        trajectory = Trajectory(
            pose_c2w=invert_poses(np.stack(poses)),
            K=np.stack([pinhole_view(lens, first.width, first.height).K for lens in lenses]),
            width=first.width,
            height=first.height,
        )
        return ColmapModel(
            trajectory=trajectory,
            names=tuple(image.name for image in images),
            lenses=() if all(lens.is_pinhole for lens in lenses) else tuple(lenses),
            points_world=self.points.xyz,
            colors=self.points.rgb,
        )


def _read_model(folder: Path) -> _Model:
    binary = (folder / "cameras.bin").exists()
    suffix = ".bin" if binary else ".txt"
    cameras_file, images_file, points_file = (folder / f"{name}{suffix}" for name in ("cameras", "images", "points3D"))
    cameras = {record.id: record for record in (read_cameras_binary if binary else read_cameras_text)(cameras_file)}
    images = (read_images_binary if binary else read_images_text)(images_file)
    if not images:
        problem = "no registered images, expected at least one"
        raise CameraFileError(images_file, "whole file", problem, "run the mapper")
    images = [replace(image, name=portable_path(image.name)) for image in images]
    images.sort(key=lambda image: natural_key(image.name))
    points = PointRecords.empty()
    if points_file.exists():
        points = (read_points_binary if binary else read_points_text)(points_file)
    return _Model(cameras_file, images_file, cameras, images, points)


def _lens(path: Path, camera: CameraRecord, undistort: bool) -> Lens:
    place = f"camera {camera.id}"
    if camera.model not in LENS_PARAMETERS:
        problem = f"camera model {camera.model!r}, expected one of {', '.join(LENS_PARAMETERS)}"
        raise CameraFileError(path, place, problem, "undistort the images first (colmap image_undistorter)")
    try:
        lens = Lens.from_parameters(camera.model, camera.params)
        if not lens.is_pinhole and undistort:
            pinhole_view(lens, camera.width, camera.height)
    except ValueError as error:
        raise CameraFileError(path, place, str(error), "calibrate the camera again") from error
    if not lens.is_pinhole and not undistort:
        bent = camera.params[[i for i, name in enumerate(LENS_PARAMETERS[camera.model]) if name[0] in "kp"]]
        remedy = "undistort the images first (colmap image_undistorter), or import them with fw-data import"
        raise CameraFileError(path, place, f"{camera.model} with lens distortion {bent.tolist()}", remedy)
    return lens


def write_colmap(
    folder: str | PathLike[str],
    trajectory: Trajectory,
    *,
    names: Sequence[str] | None = None,
    points_world: np.ndarray | None = None,
    colors: np.ndarray | None = None,
    observations: Sequence[tuple[int, int, np.ndarray | tuple[float, float]]] = (),
    binary: bool = True,
) -> None:
    """Write a COLMAP sparse model folder with PINHOLE cameras (one, or one per image if K changes) and points.

    Args:
        folder: made if missing; cameras, images and points3D in it are replaced, of the other kind (.bin/.txt) removed.
        trajectory: the cameras. The unit is not stored.
        names: image name per frame; frame_00001.png, ... if None. A name must not repeat or hold a line break.
        points_world: (n, 3) points in the world frame.
        colors: (n, 3) uint8 RGB; mid gray if None.
        observations: (point, frame, pixel) of the 2D points that make the tracks: row of points_world, frame number,
            and (x, y) with pixel centers at +0.5. Points without any are written without a track.
        binary: .bin files, else .txt.

    Raises:
        ValueError: not one name per frame, points or colors of wrong shape or not finite, an observation of a point or
            frame that does not exist.
    """
    folder = Path(folder)
    names = [f"frame_{i:05d}.png" for i in range(1, len(trajectory) + 1)] if names is None else list(names)
    if len(names) != len(trajectory) or len(set(names)) != len(names):
        raise ValueError(f"write_colmap: {len(set(names))} different names for {len(trajectory)} frames; give one each")
    bad = [name for name in names if not name.strip() or any(c in name for c in "\n\r\0")]
    if bad:
        raise ValueError(f"write_colmap: image name {bad[0]!r} is empty or holds a line break or null; rename it")
    points = _point_records(points_world, colors)
    per_image, points = _tracks(points, observations, len(trajectory))
    shared = bool((trajectory.K[0] == trajectory.K).all())
    cameras = [
        CameraRecord(
            id=i + 1,
            model="PINHOLE",
            width=trajectory.width,
            height=trajectory.height,
            params=np.array([K[0, 0], K[1, 1], K[0, 2], K[1, 2]]),
        )
        for i, K in enumerate(trajectory.K[:1] if shared else trajectory.K)
    ]
    w2c = trajectory.pose_w2c
    q_wxyz = np.roll(quaternions_from_rotations(w2c[:, :3, :3]), 1, axis=-1)
    images = [
        ImageRecord(i + 1, q_wxyz[i], w2c[i, :3, 3], 1 if shared else i + 1, names[i], *per_image[i])
        for i in range(len(trajectory))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    other = ".txt" if binary else ".bin"
    for stem in ("cameras", "images", "points3D"):
        (folder / f"{stem}{other}").unlink(missing_ok=True)
    if binary:
        write_cameras_binary(folder / "cameras.bin", cameras)
        write_images_binary(folder / "images.bin", images)
        write_points_binary(folder / "points3D.bin", points)
    else:
        write_cameras_text(folder / "cameras.txt", cameras)
        write_images_text(folder / "images.txt", images)
        write_points_text(folder / "points3D.txt", points)


def _tracks(
    points: PointRecords, observations: Sequence[tuple[int, int, np.ndarray | tuple[float, float]]], frames: int
) -> tuple[list[tuple[np.ndarray, np.ndarray]], PointRecords]:
    """2D points and point ids of each image, and the points with their tracks."""
    pixels: list[list[tuple[float, float]]] = [[] for _ in range(frames)]
    ids: list[list[int]] = [[] for _ in range(frames)]
    tracks: list[list[tuple[int, int]]] = [[] for _ in range(len(points.xyz))]
    for point, frame, (x, y) in observations:
        if not (0 <= point < len(tracks) and 0 <= frame < frames):
            raise ValueError(
                f"write_colmap: observation of point {point} in frame {frame}; there are {len(tracks)} points and "
                f"{frames} frames"
            )
        tracks[point].append((frame + 1, len(ids[frame])))
        pixels[frame].append((float(x), float(y)))
        ids[frame].append(point + 1)
    per_image = [
        (np.array(xy).reshape(-1, 2), np.array(own, dtype=np.int64)) for xy, own in zip(pixels, ids, strict=True)
    ]
    if not observations:
        return per_image, points
    stored = tuple(np.array(track, dtype=np.int64).reshape(-1, 2) for track in tracks)
    return per_image, replace(points, tracks=stored)


def _point_records(points_world: np.ndarray | None, colors: np.ndarray | None) -> PointRecords:
    if points_world is None:
        if colors is not None:
            raise ValueError("write_colmap: colors without points_world; give both or neither")
        return PointRecords.empty()
    xyz = np.asarray(points_world, dtype=np.float64)
    if xyz.ndim != 2 or xyz.shape[1] != 3 or not np.isfinite(xyz).all():
        raise ValueError(
            f"write_colmap: points_world of shape {xyz.shape} must be (n, 3) and finite; mask the rest out"
        )
    rgb = np.full(xyz.shape, 128, dtype=np.uint8) if colors is None else np.asarray(colors)
    if rgb.shape != xyz.shape or rgb.dtype != np.uint8:
        raise ValueError(f"write_colmap: colors are {rgb.dtype} of shape {rgb.shape}; expected uint8 {xyz.shape}")
    return PointRecords(xyz=xyz, rgb=rgb)
