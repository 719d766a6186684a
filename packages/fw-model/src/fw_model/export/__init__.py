"""A world as files that other programs read: video, depth, point clouds and cameras.

Axes: F frames, H W pixels, n points. Arrays are numpy, on the host.
"""

from fw_model.export.bundle import export_world
from fw_model.export.cameras import write_cameras
from fw_model.export.clouds import PointCloud, cloud_of_world, write_glb, write_ply
from fw_model.export.depth import colorize, write_depth_png, write_depth_video
from fw_model.export.reader import read_shape, read_world
from fw_model.export.video import write_video

__all__ = [
    "PointCloud",
    "cloud_of_world",
    "colorize",
    "export_world",
    "read_shape",
    "read_world",
    "write_cameras",
    "write_depth_png",
    "write_depth_video",
    "write_glb",
    "write_ply",
    "write_video",
]
