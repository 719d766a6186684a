"""Geometry backends from outside this package, which `--geometry MODULE:CLASS` names."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from fw_data.annotate.plugins import load_function
from fw_data.annotate.scan import ClipPlan
from fw_data.annotators.base import GeometryBackend
from fw_data.annotators.spec import Settings, plain
from fw_data.media.resize import ResizeCrop


@dataclass(frozen=True, kw_only=True)
class PluginSpec:
    """A GeometryBackend class from outside this package, which takes no arguments, named as MODULE:CLASS.

    The class has the attributes `name` and `version`. It may have `settings` (name -> value: whatever else changes its
    output, such as the weights) and `score_meanings` (score -> meaning). Each process creates it once, for its first
    clip.
    """

    path: str
    """MODULE:CLASS."""

    def __post_init__(self) -> None:
        found = _plugin_class(self.path)
        for attribute in ("name", "version"):
            if not isinstance(getattr(found, attribute, None), str):
                raise ValueError(f"--geometry {self.path}: the class needs a str attribute {attribute!r}")
        if not callable(getattr(found, "annotate", None)):
            raise ValueError(f"--geometry {self.path}: the class needs a method annotate(frames, *, progress)")

    @property
    def name(self) -> str:
        """Attribute of the class."""
        return _plugin_class(self.path).name

    @property
    def version(self) -> str:
        """Attribute of the class."""
        return _plugin_class(self.path).version

    def settings(self) -> Settings:
        """`settings` of the class, and its import path."""
        given = getattr(_plugin_class(self.path), "settings", {})
        return {"path": self.path} | {str(name): plain(value) for name, value in given.items()}

    def score_meanings(self) -> dict[str, str]:
        """`score_meanings` of the class."""
        return dict(getattr(_plugin_class(self.path), "score_meanings", {}))

    def backend(self, plan: ClipPlan, placement: ResizeCrop) -> GeometryBackend:  # noqa: ARG002 - one for all clips
        """The backend of this process."""
        return _plugin(self.path)


def _plugin_class(path: str) -> Any:
    return load_function(path, "--geometry")


@cache
def _plugin(path: str) -> GeometryBackend:
    return _plugin_class(path)()
