"""The one protocol of every geometry backend, what it returns, and how it refuses a clip.

Conventions: OpenCV axes (x right, y down, z forward); poses camera-to-world; pixel (column i, row j) has its center
at (i + 0.5, j + 0.5); depth is z-depth, 0 = no depth. Axis legend: f frames, h height, w width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, UInt8

ProgressCallback = Callable[[str, float], None]
"""Called with the name of the stage and the fraction of the whole work that is done, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class ClipGeometry:
    """Geometry of every frame of one clip, at the size of the frames that were given."""

    depth_m: Float32[np.ndarray, "f h w"]
    """z-depth in `units` (meters only where units is "metric"); 0 = invalid."""
    confidence: Float32[np.ndarray, "f h w"]
    """Trust in the depth of each pixel, in [0, 1]; 0 where the depth is invalid."""
    K: Float64[np.ndarray, "f 3 3"]
    """Intrinsics in pixels of the frames; a centered principal point is (w / 2, h / 2)."""
    pose_c2w: Float64[np.ndarray, "f 4 4"]
    """Camera-to-world, rigid; the first one is the identity."""
    pose_confidence: Float32[np.ndarray, " f"]
    """Trust in each pose, in [0, 1]."""
    units: Literal["scene", "metric"] = "scene"
    """"scene": the clip is right up to one scale factor."""
    scores: dict[str, float] = field(default_factory=dict)
    """Quality figures of the clip by name; the spec of the backend gives their meaning."""
    frames: UInt8[np.ndarray, "f h w 3"] | None = None
    """The frames that the geometry belongs to, where they are not the given ones but undistorted; store these."""
    notes: list[str] = field(default_factory=list)
    """What a user of the clip should know."""

    def __post_init__(self) -> None:
        frames, height, width = self.depth_m.shape
        expected = {
            "confidence": (self.confidence.shape, (frames, height, width)),
            "K": (self.K.shape, (frames, 3, 3)),
            "pose_c2w": (self.pose_c2w.shape, (frames, 4, 4)),
            "pose_confidence": (self.pose_confidence.shape, (frames,)),
        }
        for name, (got, wanted) in expected.items():
            if got != wanted:
                raise ValueError(
                    f"ClipGeometry.{name} has shape {got}, but depth_m {self.depth_m.shape} asks for {wanted}; "
                    "give one entry per frame, at the size of the depth."
                )
        if self.frames is not None and self.frames.shape[:3] != self.depth_m.shape:
            raise ValueError(f"ClipGeometry.frames has shape {self.frames.shape}, but depth_m {self.depth_m.shape}.")
        for name in ("depth_m", "confidence", "K", "pose_c2w", "pose_confidence"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"ClipGeometry.{name} holds NaN or infinity; mark unknown depth with 0 instead.")
        if frames and float(self.depth_m.min()) < 0:
            raise ValueError("ClipGeometry.depth_m holds negative depth; mark unknown depth with 0 instead.")


class AnnotationRefused(ValueError):  # noqa: N818 - the name of the contract: a refusal is an answer, not a fault
    """A clip that a backend will not annotate, with a reason a person understands.

    `code` is short and stable (kebab-case, e.g. "no-parallax"); the message gives the finding,
    `hint` the fix.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.hint = code, hint

    def __reduce__(self) -> tuple[type["AnnotationRefused"], tuple[str, str, str]]:
        return type(self), (self.code, str(self), self.hint)


@runtime_checkable
class GeometryBackend(Protocol):
    """Interface that `fw-data annotate` calls for each clip."""

    name: str
    """Short name of the backend, as on the command line."""
    version: str
    """Changes whenever the output for the same frames changes."""

    def annotate(
        self, frames: UInt8[np.ndarray, "f h w 3"], *, progress: ProgressCallback | None = None
    ) -> ClipGeometry:
        """Geometry of each frame (sRGB, uint8); raises AnnotationRefused when the clip cannot be annotated."""
        ...


class StageProgress:
    """Turns (stage, part of the stage) into (stage, part of the whole), for backends that work in stages.

    Args:
        starts: where each stage starts, as a part of the whole work, in order.
        callback: who wants to know; None for nobody.
    """

    def __init__(self, starts: Mapping[str, float], callback: ProgressCallback | None) -> None:
        self._names, self._starts, self._callback = list(starts), [*starts.values(), 1.0], callback

    def __call__(self, stage: str, part: float) -> None:
        """Report a part (0 to 1) of a stage."""
        if self._callback is None:
            return
        index = self._names.index(stage)
        start, end = self._starts[index : index + 2]
        self._callback(stage, start + part * (end - start))
