"""COLMAP's text files: cameras.txt, images.txt and points3D.txt, read and written.

Axis legend: as the records: world-to-camera, OpenCV axes, quaternions (w, x, y, z).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fw_geometry.formats.colmap_records import CAMERA_MODELS, CameraRecord, ImageRecord, PointRecords
from fw_geometry.formats.rows import CameraFileError, number_text, parse_numbers, read_lines, read_text

_IMAGE_LAYOUT = "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID, then NAME"
_POINT_LAYOUT = "POINT3D_ID X Y Z R G B ERROR, then the track"


def read_cameras_text(path: Path) -> list[CameraRecord]:
    """Camera records of cameras.txt. CameraFileError for a bad line; unknown models are kept for the caller."""
    records = []
    for line, text in _data_lines(path):
        words = text.split()
        model = words[1] if len(words) > 1 else ""
        count = CAMERA_MODELS[model].params if model in CAMERA_MODELS else max(0, len(words) - 4)
        layout = f"CAMERA_ID MODEL WIDTH HEIGHT and {count} parameters of {model}"
        row = parse_numbers(path, line, [words[0], *words[2:]], 3 + count, layout)
        records.append(CameraRecord(round(row[0]), model, round(row[1]), round(row[2]), row[3:]))
    return records


def read_images_text(path: Path) -> list[ImageRecord]:
    """Image records of images.txt, with or without the second line of each image, which lists its 2D points."""
    lines = list(enumerate(read_lines(path), start=1))
    records, at = [], 0
    while at < len(lines):
        line, text = lines[at]
        at += 1
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        words = text.split(maxsplit=9)
        row = parse_numbers(path, line, words[:9], 9, _IMAGE_LAYOUT)
        if len(words) < 10:
            raise CameraFileError(path, f"line {line}", f"no image name, expected {_IMAGE_LAYOUT}", "add the name")
        records.append(ImageRecord(round(row[0]), row[1:5], row[5:8], round(row[8]), words[9].strip()))
        if at < len(lines) and _is_points_line(lines[at][1]):
            at += 1
    return records


def read_points_text(path: Path) -> PointRecords:
    """Point records of points3D.txt, which may be empty; tracks are skipped."""
    if not read_text(path).strip():
        return PointRecords.empty()
    rows = [parse_numbers(path, line, text.split()[:8], 8, _POINT_LAYOUT) for line, text in _data_lines(path)]
    values = np.array(rows).reshape(-1, 8)
    return PointRecords(xyz=values[:, 1:4].copy(), rgb=values[:, 4:7].astype(np.uint8))


def write_cameras_text(path: Path, cameras: list[CameraRecord]) -> None:
    """Write cameras.txt."""
    lines = ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    lines += [f"{c.id} {c.model} {c.width} {c.height} {number_text(c.params)}" for c in cameras]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_images_text(path: Path, images: list[ImageRecord]) -> None:
    """Write images.txt."""
    lines = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME", "# POINTS2D[] as (X, Y, POINT3D_ID)"]
    for image in images:
        numbers = number_text(np.concatenate([image.q_wxyz, image.translation]))
        points = zip(image.points_xy.tolist(), image.point_ids.tolist(), strict=True)
        lines.append(f"{image.id} {numbers} {image.camera_id} {image.name}")
        lines.append(" ".join(f"{x!r} {y!r} {point}" for (x, y), point in points))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_points_text(path: Path, points: PointRecords) -> None:
    """Write points3D.txt."""
    lines = ["# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)"]
    for i, (xyz, rgb) in enumerate(zip(points.xyz, points.rgb.tolist(), strict=True), start=1):
        track = "".join(f" {image} {index}" for image, index in points.track(i - 1).tolist())
        lines.append(f"{i} {number_text(xyz)} {rgb[0]} {rgb[1]} {rgb[2]} 0{track}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _data_lines(path: Path) -> Iterator[tuple[int, str]]:
    return (
        (line, text)
        for line, text in enumerate(read_lines(path), start=1)
        if text.strip() and not text.lstrip().startswith("#")
    )


def _is_points_line(text: str) -> bool:
    """Whether a line is the 2D points of an image: blank, or triples X Y POINT3D_ID."""
    words = text.split()
    if len(words) % 3:
        return False
    try:
        first, last = [float(word) for word in words[:3]], [float(word) for word in words[-3:]]
    except ValueError:
        return False
    return not words or (first[2].is_integer() and last[2].is_integer())
