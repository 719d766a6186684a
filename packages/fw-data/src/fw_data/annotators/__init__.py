"""Geometry backends: from the frames of a clip to depth, intrinsics and poses of every frame, behind one protocol."""

from fw_data.annotators.base import AnnotationRefused, ClipGeometry, GeometryBackend, ProgressCallback

__all__ = ["AnnotationRefused", "ClipGeometry", "GeometryBackend", "ProgressCallback"]
