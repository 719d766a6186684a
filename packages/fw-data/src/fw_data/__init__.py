"""Raw video directories in, annotated training datasets out: depth, confidence, point maps and cameras of every frame.

from fw_data import ClipDataset
clip = ClipDataset("out/dataset").load(0)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fw_core import __version__ as __version__

if TYPE_CHECKING:
    from fw_data.dataset.clip import Clip
    from fw_data.dataset.reader import ClipDataset
    from fw_data.dataset.schema import ClipRecord, DatasetCard, Refusal
    from fw_data.errors import DataError

_HOMES = {
    "Clip": "fw_data.dataset.clip",
    "ClipDataset": "fw_data.dataset.reader",
    "ClipRecord": "fw_data.dataset.schema",
    "DataError": "fw_data.errors",
    "DatasetCard": "fw_data.dataset.schema",
    "Refusal": "fw_data.dataset.schema",
}
__all__ = ["Clip", "ClipDataset", "ClipRecord", "DataError", "DatasetCard", "Refusal"]


def __getattr__(name: str) -> Any:  # imported on first use: `fw-data --help` must stay quick
    if name not in _HOMES:
        raise AttributeError(f"module 'fw_data' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
