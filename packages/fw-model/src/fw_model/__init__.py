"""FantasyWorld as a library: the dual-branch video and geometry model, its losses, and generation.

Names are imported on first use, so that `import fw_model` costs nothing and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fw_core import __version__ as __version__

if TYPE_CHECKING:
    from fw_model.config import WorldConfig, preset, tiny, wan21_fun_1_3b, wan21_i2v_14b, wan22_fun_a14b
    from fw_model.geometry.branch import GeometryOutput
    from fw_model.model.conditioning import Conditioning
    from fw_model.model.model import FantasyWorld, WorldOutput
    from fw_model.model.rays import RayMap
    from fw_model.pipeline.pipeline import WorldPipeline
    from fw_model.pipeline.result import Progress, World
    from fw_model.pipeline.settings import GenerationSettings

__all__ = [
    "Conditioning",
    "FantasyWorld",
    "GenerationSettings",
    "GeometryOutput",
    "Progress",
    "RayMap",
    "World",
    "WorldConfig",
    "WorldOutput",
    "WorldPipeline",
    "preset",
    "tiny",
    "wan21_fun_1_3b",
    "wan21_i2v_14b",
    "wan22_fun_a14b",
]

_HOME = {
    "Conditioning": "fw_model.model.conditioning",
    "FantasyWorld": "fw_model.model.model",
    "GenerationSettings": "fw_model.pipeline.settings",
    "GeometryOutput": "fw_model.geometry.branch",
    "Progress": "fw_model.pipeline.result",
    "RayMap": "fw_model.model.rays",
    "World": "fw_model.pipeline.result",
    "WorldConfig": "fw_model.config",
    "WorldOutput": "fw_model.model.model",
    "WorldPipeline": "fw_model.pipeline.pipeline",
    "preset": "fw_model.config",
    "tiny": "fw_model.config",
    "wan21_fun_1_3b": "fw_model.config",
    "wan21_i2v_14b": "fw_model.config",
    "wan22_fun_a14b": "fw_model.config",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fw_model' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
