"""COLMAP sparse models, text and binary: cameras, images and points, read and written.

Axis legend: inside, poses are camera-to-world with OpenCV axes (x right, y down, z forward) and pixel centres at +0.5.
COLMAP stores world-to-camera as quaternion (w, x, y, z) and translation, same axes and same pixel centres.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

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
from fw_geometry.formats.colmap_records import CAMERA_MODELS, CameraRecord, ImageRecord, PointRecords
from fw_geometry.formats.rows import CameraFileError, number_text, parse_numbers, read_lines
from fw_geometry.rigid import compose_poses, invert_poses, quaternions_from_rotations, rotations_from_quaternions


@dataclass(frozen=True, kw_only=True, eq=False)
class ColmapModel:
    """A COLMAP sparse model: cameras by image, and points."""

    trajectory: Trajectory
    """The cameras in the order of the image names; units "scene"."""
    names: tuple[str, ...]
    """Image name per frame."""
    points_world: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    """(n, 3) float64 points in the world frame; empty if the model has none."""
    colors: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), dtype=np.uint8))
    """(n, 3) uint8 RGB of the points."""


def read_colmap(folder: str | PathLike[str]) -> ColmapModel:
    """Read a COLMAP sparse model folder: cameras, images and, if there, points3D; .bin if present, else .txt.

    Camera models SIMPLE_PINHOLE and PINHOLE are read, and SIMPLE_RADIAL, RADIAL and OPENCV if their distortion is 0.

    Raises:
        CameraFileError: (a ValueError) truncated or malformed file, another camera model, lens distortion, images of
            different sizes, no images; names file and line or record.
        OSError: cameras or images are missing.
    """
    folder = Path(folder)
    binary = (folder / "cameras.bin").exists()
    suffix = ".bin" if binary else ".txt"
    cameras_file, images_file, points_file = (folder / f"{name}{suffix}" for name in ("cameras", "images", "points3D"))
    cameras = {record.id: record for record in (read_cameras_binary if binary else _read_cameras_text)(cameras_file)}
    images = sorted((read_images_binary if binary else _read_images_text)(images_file), key=lambda image: image.name)
    if not images:
        raise CameraFileError(
            images_file, "whole file", "no registered images, expected at least one", "run the mapper"
        )
    poses, intrinsics = [], []
    first = None
    for image in images:
        place = f"image {image.name!r}"
        camera = cameras.get(image.camera_id)
        if camera is None:
            raise CameraFileError(
                images_file, place, f"camera {image.camera_id} is not in {cameras_file.name}", "use files of one model"
            )
        first = camera if first is None else first
        if (camera.width, camera.height) != (first.width, first.height):
            raise CameraFileError(
                images_file,
                place,
                f"size {camera.width} x {camera.height}, the first image has {first.width} x {first.height}",
                "make all images one size first",
            )
        length = float(np.linalg.norm(image.q_wxyz))
        if not abs(length - 1) <= 0.01:
            raise CameraFileError(images_file, place, f"the quaternion has length {length:.4g}, expected 1", "mend it")
        intrinsics.append(_intrinsics(cameras_file, camera))
        poses.append(compose_poses(rotations_from_quaternions(np.roll(image.q_wxyz, -1)), image.translation))
    assert first is not None
    points = PointRecords.empty()
    if points_file.exists():
        points = (read_points_binary if binary else _read_points_text)(points_file)
    return ColmapModel(
        trajectory=Trajectory(
            pose_c2w=invert_poses(np.stack(poses)), K=np.stack(intrinsics), width=first.width, height=first.height
        ),
        names=tuple(image.name for image in images),
        points_world=points.xyz,
        colors=points.rgb,
    )


def write_colmap(
    folder: str | PathLike[str],
    trajectory: Trajectory,
    *,
    names: Sequence[str] | None = None,
    points_world: np.ndarray | None = None,
    colors: np.ndarray | None = None,
    binary: bool = True,
) -> None:
    """Write a COLMAP sparse model folder with PINHOLE cameras (one, or one per image if K changes) and free points.

    Args:
        folder: made if missing; cameras, images and points3D in it are replaced, of the other kind (.bin/.txt) removed.
        trajectory: the cameras. The unit is not stored.
        names: image name per frame; frame_00001.png, ... if None. A name must not repeat or hold a line break.
        points_world: (n, 3) points in the world frame.
        colors: (n, 3) uint8 RGB; mid grey if None.
        binary: .bin files, else .txt.

    Raises:
        ValueError: not one name per frame, points or colours of wrong shape or not finite.
    """
    folder = Path(folder)
    names = [f"frame_{i:05d}.png" for i in range(1, len(trajectory) + 1)] if names is None else list(names)
    if len(names) != len(trajectory) or len(set(names)) != len(names):
        raise ValueError(f"write_colmap: {len(set(names))} different names for {len(trajectory)} frames; give one each")
    bad = [name for name in names if not name.strip() or any(c in name for c in "\n\r\0")]
    if bad:
        raise ValueError(f"write_colmap: image name {bad[0]!r} is empty or holds a line break or null; rename it")
    points = _point_records(points_world, colors)
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
        ImageRecord(
            id=i + 1, q_wxyz=q_wxyz[i], translation=w2c[i, :3, 3], camera_id=1 if shared else i + 1, name=names[i]
        )
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
        _write_cameras_text(folder / "cameras.txt", cameras)
        _write_images_text(folder / "images.txt", images)
        _write_points_text(folder / "points3D.txt", points)


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


def _intrinsics(path: Path, camera: CameraRecord) -> np.ndarray:
    place = f"camera {camera.id}"
    params = camera.params
    if camera.model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"):
        fx, fy, cx, cy, rest = params[0], params[0], params[1], params[2], params[3:]
    else:
        fx, fy, cx, cy, rest = params[0], params[1], params[2], params[3], params[4:]
    if np.any(rest != 0):
        raise CameraFileError(
            path,
            place,
            f"{camera.model} with lens distortion {rest.tolist()}, expected none",
            "undistort the images first (colmap image_undistorter)",
        )
    if not (fx > 0 and fy > 0):
        raise CameraFileError(path, place, f"focal lengths are {fx}, {fy}, expected pixels above zero", "mend it")
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def _data_lines(path: Path) -> Iterator[tuple[int, str]]:
    return (
        (line, text)
        for line, text in enumerate(read_lines(path), start=1)
        if text.strip() and not text.lstrip().startswith("#")
    )


def _read_cameras_text(path: Path) -> list[CameraRecord]:
    records = []
    for line, text in _data_lines(path):
        words = text.split()
        model = words[1] if len(words) > 1 else ""
        if model not in CAMERA_MODELS:
            raise CameraFileError(
                path,
                f"line {line}",
                f"camera model {model!r}, expected one of {', '.join(CAMERA_MODELS)}",
                "undistort the images first (colmap image_undistorter)",
            )
        count = CAMERA_MODELS[model].params
        row = parse_numbers(
            path, line, [words[0], *words[2:]], 3 + count, f"CAMERA_ID WIDTH HEIGHT and {count} parameters of {model}"
        )
        records.append(CameraRecord(round(row[0]), model, round(row[1]), round(row[2]), row[3:]))
    return records


def _read_images_text(path: Path) -> list[ImageRecord]:
    lines = iter(enumerate(read_lines(path), start=1))
    records = []
    for line, text in lines:
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        words = text.split(maxsplit=9)
        layout = "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID, then NAME"
        row = parse_numbers(path, line, words[:9], 9, layout)
        if len(words) < 10:
            raise CameraFileError(path, f"line {line}", f"no image name, expected {layout}", "add the name")
        next(lines, None)  # the image's 2D points, which may be a blank line
        records.append(ImageRecord(round(row[0]), row[1:5], row[5:8], round(row[8]), words[9].strip()))
    return records


def _read_points_text(path: Path) -> PointRecords:
    if not path.read_text(encoding="utf-8").strip():
        return PointRecords.empty()
    layout = "POINT3D_ID X Y Z R G B ERROR, then the track"
    rows = [parse_numbers(path, line, text.split()[:8], 8, layout) for line, text in _data_lines(path)]
    values = np.array(rows).reshape(-1, 8)
    return PointRecords(xyz=values[:, 1:4].copy(), rgb=values[:, 4:7].astype(np.uint8))


def _write_cameras_text(path: Path, cameras: list[CameraRecord]) -> None:
    lines = ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    lines += [f"{c.id} {c.model} {c.width} {c.height} {number_text(c.params)}" for c in cameras]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_images_text(path: Path, images: list[ImageRecord]) -> None:
    lines = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME", "# POINTS2D[] as (X, Y, POINT3D_ID)"]
    for image in images:
        numbers = number_text(np.concatenate([image.q_wxyz, image.translation]))
        lines += [f"{image.id} {numbers} {image.camera_id} {image.name}", ""]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_points_text(path: Path, points: PointRecords) -> None:
    lines = ["# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)"]
    for i, (xyz, rgb) in enumerate(zip(points.xyz, points.rgb.tolist(), strict=True), start=1):
        lines.append(f"{i} {number_text(xyz)} {rgb[0]} {rgb[1]} {rgb[2]} 0")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
