"""Training of FantasyWorld: three stages, one loop, exact resume.

    from fw_train import load, train
    outcome = train(dataclasses.replace(load("tiny", "stage1"), data=..., init=..., out=...))

Names are imported on first use, so that `import fw_train` costs nothing and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fw_train.config import ConfigError, TrainConfig
    from fw_train.resolve import load, override
    from fw_train.runs import Outcome, export_run, resume, train

__all__ = ["ConfigError", "Outcome", "TrainConfig", "export_run", "load", "override", "resume", "train"]

_HOME = {
    "ConfigError": "fw_train.config",
    "Outcome": "fw_train.runs",
    "TrainConfig": "fw_train.config",
    "export_run": "fw_train.runs",
    "load": "fw_train.resolve",
    "override": "fw_train.resolve",
    "resume": "fw_train.runs",
    "train": "fw_train.runs",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fw_train' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
