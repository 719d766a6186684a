"""Training of FantasyWorld: three stages, one loop, exact resume.

    from fw_train import load, train
    outcome = train(dataclasses.replace(load("tiny", "stage1"), data=..., init=..., out=...))

Names are imported on first use, so that `import fw_train` costs nothing and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fw_core import __version__ as __version__

if TYPE_CHECKING:
    from fw_train.config.flags import override
    from fw_train.config.load import load
    from fw_train.config.schema import ConfigError, TrainConfig
    from fw_train.tasks.train import Outcome, export_run, resume, train

__all__ = ["ConfigError", "Outcome", "TrainConfig", "export_run", "load", "override", "resume", "train"]

_HOME = {
    "ConfigError": "fw_train.config.schema",
    "Outcome": "fw_train.tasks.train",
    "TrainConfig": "fw_train.config.schema",
    "export_run": "fw_train.tasks.train",
    "load": "fw_train.config.load",
    "override": "fw_train.config.flags",
    "resume": "fw_train.tasks.train",
    "train": "fw_train.tasks.train",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fw_train' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
