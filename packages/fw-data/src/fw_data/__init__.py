"""Raw video directories in, annotated training datasets out: depth, confidence, point maps and cameras of every frame.

from fw_data import ClipDataset
clip = ClipDataset("out/dataset").load(0)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fw_data.clipfiles import Clip
    from fw_data.dataset import ClipDataset
    from fw_data.errors import DataError
    from fw_data.schema import ClipRecord, DatasetCard, Refusal

_HOMES = {
    "Clip": "fw_data.clipfiles",
    "ClipDataset": "fw_data.dataset",
    "ClipRecord": "fw_data.schema",
    "DataError": "fw_data.errors",
    "DatasetCard": "fw_data.schema",
    "Refusal": "fw_data.schema",
}
__all__ = ["Clip", "ClipDataset", "ClipRecord", "DataError", "DatasetCard", "Refusal"]


def __getattr__(name: str) -> Any:  # imported on first use: `fw-data --help` must stay quick
    if name not in _HOMES:
        raise AttributeError(f"module 'fw_data' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
