"""Repository-wide pytest setup: array shapes are checked with beartype, and property tests are reproducible."""

import dataclasses
import inspect
import os
from functools import partial
from typing import Any, ForwardRef, get_args

os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jaxtyping
from hypothesis import settings

settings.register_profile("house", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("house")

_with_shapes = jaxtyping.jaxtyped


def _has_shapes(hint: Any) -> bool:
    """Whether an annotation names the axes of an array; one that is not evaluated yet may."""
    shaped = inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray)
    return shaped or isinstance(hint, str | ForwardRef) or any(_has_shapes(argument) for argument in get_args(hint))


def _checked(target: Any = None, *, typechecker: Any) -> Any:
    """The decorator of the import hook: jaxtyping's for shapes; beartype alone, which is much cheaper, for other types.

    Functions in functions would be decorated again at every call, and are not checked.
    """
    if target is None:
        return partial(_checked, typechecker=typechecker)
    if "<locals>" in getattr(target, "__qualname__", ""):
        return target
    function = target.__init__ if dataclasses.is_dataclass(target) else target
    if not inspect.isfunction(function) or any(map(_has_shapes, function.__annotations__.values())):
        return _with_shapes(target, typechecker=typechecker)
    if function is target:
        return typechecker(target)
    target.__init__ = typechecker(function)
    return target


jaxtyping.jaxtyped = _checked
for _package in ("fw_geometry", "fw_model", "fw_data", "fw_toy", "fw_train"):
    jaxtyping.install_import_hook(_package, "beartype.beartype").__enter__()
