"""COLMAP's binary files, byte by byte (little endian); every count is checked against the bytes that are left.

Axis legend: as the records: world-to-camera, OpenCV axes, quaternions (w, x, y, z).
"""

import struct
from pathlib import Path

import numpy as np

from fw_geometry.formats.colmap_records import CAMERA_MODELS, CameraRecord, ImageRecord, PointRecords
from fw_geometry.formats.rows import CameraFileError

_POINT2D_BYTES = 24  # x, y float64, point id int64
_TRACK_BYTES = 8  # image id, index, both uint32


def read_cameras_binary(path: Path) -> list[CameraRecord]:
    """Camera records of cameras.bin. CameraFileError if it is cut short or holds another camera model."""
    cursor = _Cursor(path)
    records = []
    for i in range(cursor.count("cameras", least_bytes=24 + 2 * 8)):
        place = f"camera record {i + 1}"
        number, model_number, width, height = cursor.take("<IiQQ", place)
        model = next((name for name, entry in CAMERA_MODELS.items() if entry.number == model_number), None)
        if model is None:
            raise CameraFileError(
                path,
                place,
                f"camera model number {model_number}, expected 0 to {len(CAMERA_MODELS) - 1}",
                "undistort the images first (colmap image_undistorter)",
            )
        params = np.array(cursor.take(f"<{CAMERA_MODELS[model].params}d", place))
        _check_finite(path, place, params)
        records.append(CameraRecord(number, model, width, height, params))
    cursor.finish()
    return records


def read_images_binary(path: Path) -> list[ImageRecord]:
    """Image records of images.bin, 2D points skipped. CameraFileError if it is cut short or not finite."""
    cursor = _Cursor(path)
    records = []
    for i in range(cursor.count("images", least_bytes=64 + 1 + 8)):
        place = f"image record {i + 1}"
        number, *numbers, camera_id = cursor.take("<I7dI", place)
        pose = np.array(numbers)
        _check_finite(path, place, pose)
        name = cursor.text(place)
        (points,) = cursor.take("<Q", place)
        cursor.skip(points * _POINT2D_BYTES, place)
        records.append(ImageRecord(number, pose[:4], pose[4:], camera_id, name))
    cursor.finish()
    return records


def read_points_binary(path: Path) -> PointRecords:
    """Point records of points3D.bin, tracks skipped. CameraFileError if it is cut short or not finite."""
    cursor = _Cursor(path)
    count = cursor.count("points", least_bytes=51)
    xyz, rgb = np.empty((count, 3)), np.empty((count, 3), dtype=np.uint8)
    for i in range(count):
        place = f"point record {i + 1}"
        _, *values, _, track = cursor.take("<Q3d3BdQ", place)
        xyz[i], rgb[i] = values[:3], values[3:]
        cursor.skip(track * _TRACK_BYTES, place)
    _check_finite(path, "points", xyz)
    cursor.finish()
    return PointRecords(xyz, rgb)


def write_cameras_binary(path: Path, cameras: list[CameraRecord]) -> None:
    """Write cameras.bin."""
    parts = [struct.pack("<Q", len(cameras))]
    for camera in cameras:
        parts.append(struct.pack("<IiQQ", camera.id, CAMERA_MODELS[camera.model].number, camera.width, camera.height))
        parts.append(camera.params.astype("<f8").tobytes())
    path.write_bytes(b"".join(parts))


def write_images_binary(path: Path, images: list[ImageRecord]) -> None:
    """Write images.bin."""
    parts = [struct.pack("<Q", len(images))]
    for image in images:
        parts.append(struct.pack("<I7dI", image.id, *image.q_wxyz, *image.translation, image.camera_id))
        parts.append(image.name.encode("utf-8") + b"\0" + struct.pack("<Q", len(image.points_xy)))
        table = np.zeros(len(image.points_xy), dtype=[("xy", "<f8", 2), ("point", "<i8")])
        table["xy"], table["point"] = image.points_xy, image.point_ids
        parts.append(table.tobytes())
    path.write_bytes(b"".join(parts))


def write_points_binary(path: Path, points: PointRecords) -> None:
    """Write points3D.bin with error 0."""
    parts = [struct.pack("<Q", len(points.xyz))]
    for i, (xyz, rgb) in enumerate(zip(points.xyz.tolist(), points.rgb.tolist(), strict=True)):
        track = points.track(i)
        parts.append(struct.pack("<Q3d3BdQ", i + 1, *xyz, *rgb, 0.0, len(track)) + track.astype("<u4").tobytes())
    path.write_bytes(b"".join(parts))


class _Cursor:
    """A read position in a file's bytes that refuses to run past the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path.read_bytes()
        self.at = 0
        if not self.data:
            raise CameraFileError(path, "byte 0", "the file is empty, expected a COLMAP model", "export it again")

    def take(self, layout: str, place: str) -> tuple:
        size = struct.calcsize(layout)
        self._need(size, place)
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += size
        return values

    def skip(self, size: int, place: str) -> None:
        self._need(size, place)
        self.at += size

    def count(self, what: str, least_bytes: int) -> int:
        (count,) = self.take("<Q", "header")
        self._need(count * least_bytes, f"header ({count} {what})")
        return count

    def text(self, place: str) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            self._need(len(self.data) + 1, place)
        raw = self.data[self.at : end]
        self.at = end + 1
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CameraFileError(self.path, place, "the image name is not UTF-8", "rename the image") from error

    def finish(self) -> None:
        left = len(self.data) - self.at
        if left:
            raise CameraFileError(
                self.path, f"byte {self.at}", f"{left} bytes after the last record, expected the end", "export it again"
            )

    def _need(self, size: int, place: str) -> None:
        left = len(self.data) - self.at
        if size > left:
            raise CameraFileError(
                self.path,
                f"{place}, byte {self.at}",
                f"{size} more bytes expected, {left} left: the file is cut short or of another kind",
                "export the model again",
            )


def _check_finite(path: Path, place: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise CameraFileError(
            path, place, "a number is NaN or infinite, expected finite ones", "export the model again"
        )
