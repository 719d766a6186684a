"""Geometry from the footage alone: structure from motion with a shared focal, then dense multi-view stereo.

`SfmBackend(SfmConfig()).annotate(frames)`. The heavy libraries load when the backend is first used.
"""

import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fw_data.annotators.sfm.backend import SfmBackend
    from fw_data.annotators.sfm.config import SfmConfig

__all__ = ["SfmBackend", "SfmConfig"]


def __getattr__(name: str) -> Any:
    if name == "SfmBackend":
        return _load_backend()
    if name == "SfmConfig":
        from fw_data.annotators.sfm.config import SfmConfig

        return SfmConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _load_backend() -> "type[SfmBackend]":
    """Import the backend, and undo what pycolmap does to a process: its handler answers SIGTERM with a native stack."""
    handler = signal.getsignal(signal.SIGTERM)
    from fw_data.annotators.sfm.backend import SfmBackend

    if handler is not None and threading.current_thread() is threading.main_thread():  # Python allows it there only
        signal.signal(signal.SIGTERM, handler)
    return SfmBackend
