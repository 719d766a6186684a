"""Worlds over HTTP: an OpenAI-Videos-shaped service with jobs that last, supervised workers and a typed client.

Names are imported on first use, so that `import fw_serve` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fw_core import __version__ as __version__

if TYPE_CHECKING:
    from fw_serve.client import Client, ServiceError, Video

__all__ = ["Client", "ServiceError", "Video"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("fw_serve.client"), name)
    raise AttributeError(f"module 'fw_serve' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
