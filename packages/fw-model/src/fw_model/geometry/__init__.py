"""The geometry branch: latent bridge, tokens, frame and global attention blocks, DPT heads and the camera head."""

from fw_model.geometry.block import GeometryBlock, GeometryStep
from fw_model.geometry.branch import GeometryBranch, GeometryOutput
from fw_model.geometry.camera_head import CameraHead
from fw_model.geometry.dpt import DPTHead
from fw_model.geometry.temporal import TemporalUpsampler

__all__ = [
    "CameraHead",
    "DPTHead",
    "GeometryBlock",
    "GeometryBranch",
    "GeometryOutput",
    "GeometryStep",
    "TemporalUpsampler",
]
