"""Selects the geometry backend of a run from the options of the command.

`auto` takes dust3r if its weights are on this machine, otherwise sfm; it downloads nothing.
"""

from dataclasses import fields
from importlib import import_module
from typing import Any

from fw_data.annotators import BACKENDS
from fw_data.annotators.plugin import PluginSpec
from fw_data.annotators.spec import Selection
from fw_data.options import AnnotateOptions


def select_backend(options: AnnotateOptions) -> Selection:
    """The backend that the options ask for.

    Raises:
        ValueError: options that contradict each other, or missing weights; the message gives the fix.
    """
    if ":" in options.geometry:
        _check_options(options, "MODULE:CLASS")
        spec = PluginSpec(path=options.geometry)
        return Selection(spec, (f"geometry: {spec.name} {spec.version} from {spec.path}, not part of fw-data",))
    name, reason = options.geometry, {}
    if name == "auto":
        name, reason = _auto(options)
    elif name not in BACKENDS:
        raise ValueError(f"--geometry is {name!r}; use {', '.join(BACKENDS)}, auto or MODULE:CLASS")
    _check_options(options, name)
    return backend_spec(name).select(options, **reason)


def backend_spec(name: str) -> type[Any]:
    """The class of a backend in the registry, a `GeometrySpec`."""
    module, _, found = BACKENDS[name].partition(":")
    return getattr(import_module(module), found)


def _auto(options: AnnotateOptions) -> tuple[str, dict[str, str]]:
    from fw_data.annotators.dust3r.spec import Dust3rSpec

    if options.dust3r_weights is not None:
        return "dust3r", {"reason": "--dust3r-weights are given"}
    if found := Dust3rSpec.cached():
        return "dust3r", {"reason": f"weights found in {found.parent}"}
    return "sfm", {"reason": "because this machine has no DUSt3R weights; set --dust3r-weights to use them"}


def _check_options(options: AnnotateOptions, name: str) -> None:
    """Refuse options that only another backend reads."""
    usual = {field.name: field.default for field in fields(AnnotateOptions)}
    own = backend_spec(name).options if name in BACKENDS else ()
    for other in BACKENDS:
        for option in backend_spec(other).options:
            if option not in own and getattr(options, option) != usual[option]:
                flag = option.replace("_", "-")
                raise ValueError(
                    f"--{flag} belongs to --geometry {other}, but the geometry is {name}; change one of them"
                    + (", or give --dust3r-weights" if options.geometry == "auto" else "")
                )
