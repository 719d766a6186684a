"""Camera files of the field, both ways: the only place where other conventions exist.

Axis legend: what comes out of a reader and goes into a writer is camera-to-world, OpenCV axes (x right, y down,
z forward), K in pixels with centers at +0.5. Each module documents the conventions of its file.
"""

from fw_geometry.formats.camera_json import (
    OPENGL_FROM_OPENCV,
    NerfstudioScene,
    read_camera_json,
    read_transforms_json,
    released_intrinsics,
    write_camera_json,
    write_transforms_json,
)
from fw_geometry.formats.colmap import ColmapModel, read_colmap, read_colmap_rig, write_colmap
from fw_geometry.formats.detect import CameraFormat, detect, detect_content, read_trajectory
from fw_geometry.formats.pose_text import (
    RealEstate10KClip,
    TumPath,
    read_kitti,
    read_realestate10k,
    read_tum,
    write_kitti,
    write_realestate10k,
    write_tum,
)
from fw_geometry.formats.rows import CameraFileError

__all__ = [
    "OPENGL_FROM_OPENCV",
    "CameraFileError",
    "CameraFormat",
    "ColmapModel",
    "NerfstudioScene",
    "RealEstate10KClip",
    "TumPath",
    "detect",
    "detect_content",
    "read_camera_json",
    "read_colmap",
    "read_colmap_rig",
    "read_kitti",
    "read_realestate10k",
    "read_trajectory",
    "read_transforms_json",
    "read_tum",
    "released_intrinsics",
    "write_camera_json",
    "write_colmap",
    "write_kitti",
    "write_realestate10k",
    "write_transforms_json",
    "write_tum",
]
