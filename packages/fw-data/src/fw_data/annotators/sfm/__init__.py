"""Geometry from the footage alone: structure from motion with a shared focal, then dense multi-view stereo.

`SfmBackend(SfmConfig()).annotate(frames)`. The heavy libraries load when the backend is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fw_data.annotators.sfm.backend import SfmBackend
    from fw_data.annotators.sfm.config import SfmConfig

__all__ = ["SfmBackend", "SfmConfig"]


def __getattr__(name: str) -> Any:
    if name == "SfmBackend":
        from fw_data.annotators.sfm.backend import SfmBackend

        return SfmBackend
    if name == "SfmConfig":
        from fw_data.annotators.sfm.config import SfmConfig

        return SfmConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
