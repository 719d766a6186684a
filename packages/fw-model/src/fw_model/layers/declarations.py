"""Declarations of modules about their parameters: initial values, training group, and part of the network for plans.

A weight of a new model depends on the seed and the parameter's full name alone. Gates, last adapter layers and the
output head start at zero, so a new world model equals its plain video backbone and an independent geometry branch. The
dense heads keep the power of their input from layer to layer: with PyTorch's default initialization, after twenty
convolutions the difference between two clips is 1/5000 of the biases.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn

from fw_model.layers.modulation import RMSNorm

Group = Literal["video", "geometry", "cross_branch"]
"""Sets of parameters that are trained together."""
Fill = Callable[[Tensor, Generator, int], object]
"""Fills a parameter in place; the last argument is the number of inputs of each output of its layer."""

_NORMS = (nn.LayerNorm, nn.GroupNorm, RMSNorm)


class Layer(NamedTuple):
    """Initial values of a linear or convolutional layer."""

    weight: Fill
    bias: Fill


class Declares:
    """Mixin for modules that declare something about the parameters they hold, directly or in submodules.

    For every parameter the innermost module that declares something holds.
    """

    group: ClassVar[Group | None] = None
    """Training group of the parameters."""
    part: str | None = None
    """Part of the network in training plans."""

    def initial_values(self) -> Mapping[str, Fill | Layer]:
        """Initial values by path below this module: a parameter, a layer, or a container of layers; "" is the rest.

        The longest path that fits a parameter holds. Norms start at the identity and need no entry.
        """
        return {}


@torch.no_grad()
def initialize(module: nn.Module, seed: int) -> None:
    """Fill every parameter of `module` in place; equal names, shapes and seeds give equal weights on every device.

    Raises:
        ValueError: no module declares initial values for a parameter.
    """
    for name, parameter in module.named_parameters():
        parameter.copy_(initial_value(module, name, seed))


@torch.no_grad()
def initial_value(module: nn.Module, name: str, seed: int) -> Tensor:
    """The value that `initialize` gives a parameter, also of a module on the meta device; float32 on the CPU."""
    generator = torch.Generator().manual_seed(_seed(seed, name))
    value = torch.empty(module.get_parameter(name).shape, device="cpu")
    fill, layer = _declared(module, name)
    fill(value, generator, _fan_in(getattr(layer, "weight", value)))
    return value


def owners(module: nn.Module, name: str) -> list[tuple[nn.Module, str]]:
    """Modules that contain the parameter or submodule `name`, innermost first, with its path below each of them."""
    path = name.split(".") if name else []
    found = [(module, name)]
    for i, child in enumerate(path, start=1):
        below = getattr(module, child)
        if not isinstance(below, nn.Module):
            break
        module = below
        found.append((module, ".".join(path[i:])))
    return found[::-1]


def declared_group(module: nn.Module, name: str) -> Group:
    """Training group of a parameter. ValueError if no module declares one."""
    for owner, _ in owners(module, name):
        if isinstance(owner, Declares) and owner.group is not None:
            return owner.group
    raise ValueError(f"parameter {name!r}: no module declares its training group (see Declares.group)")


def declared_part(module: nn.Module, name: str) -> str | None:
    """Part of the network of a parameter or submodule; None for a container of several parts."""
    parts = (owner.part for owner, _ in owners(module, name) if isinstance(owner, Declares))
    return next((part for part in parts if part is not None), None)


def _declared(module: nn.Module, name: str) -> tuple[Fill, nn.Module]:
    """How a parameter is filled, and the layer that it belongs to."""
    found = owners(module, name)
    layer, leaf = found[0]
    if isinstance(layer, _NORMS):
        return (ones if leaf == "weight" else zeros), layer
    for owner, path in found:
        values = owner.initial_values() if isinstance(owner, Declares) else {}
        fitting = [key for key in values if key in ("", path) or path.startswith(key + ".")]
        if fitting:
            value = values[max(fitting, key=len)]
            return (getattr(value, leaf) if isinstance(value, Layer) else value), layer
    raise ValueError(f"parameter {name!r}: no module declares its initial values (see Declares.initial_values)")


# --- initial values ---


def zeros(value: Tensor, _generator: Generator, _fan_in: int) -> None:
    """All zero."""
    value.zero_()


def ones(value: Tensor, _generator: Generator, _fan_in: int) -> None:
    """All one."""
    value.fill_(1.0)


def constant(start: float) -> Fill:
    """All `start`."""
    return lambda value, _generator, _fan_in: value.fill_(start)


def normal(std: float) -> Fill:
    """Normal numbers of this standard deviation."""
    return lambda value, generator, _fan_in: value.normal_(0.0, std, generator=generator)


def table(gate_rows: tuple[int, ...] = (), gate_start: float = 0.0) -> Fill:
    """A modulation table [1, rows, width]: normal, variance 1 / width, with `gate_start` added to the gates' rows."""

    def fill(value: Tensor, generator: Generator, _fan_in: int) -> None:
        value.normal_(0.0, value.shape[-1] ** -0.5, generator=generator)
        value[:, list(gate_rows)] += gate_start

    return fill


def _xavier(value: Tensor, generator: Generator, _fan_in: int) -> None:
    nn.init.xavier_uniform_(value.flatten(1), generator=generator)


def _kaiming(value: Tensor, generator: Generator, _fan_in: int) -> None:
    nn.init.kaiming_uniform_(value, a=math.sqrt(5), generator=generator)


def _within_fan_in(value: Tensor, generator: Generator, fan_in: int) -> None:
    value.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=generator)


def keep_power(gain: float = 1.0) -> Fill:
    """Normal; the output has `gain` times the root mean square of the input."""
    return lambda value, generator, fan_in: value.normal_(0.0, gain * fan_in**-0.5, generator=generator)


def _keep_power_enlarging(value: Tensor, generator: Generator, _fan_in: int) -> None:
    """For a transposed convolution whose stride is its kernel: every output reads one position of all inputs."""
    value.normal_(0.0, value.shape[0] ** -0.5, generator=generator)


ZERO = Layer(zeros, zeros)
XAVIER = Layer(_xavier, zeros)
EMBEDDING = Layer(normal(0.02), zeros)
KEEP_POWER = Layer(keep_power(), zeros)
KEEP_POWER_ENLARGING = Layer(_keep_power_enlarging, zeros)
TORCH_DEFAULT = Layer(_kaiming, _within_fan_in)


def _fan_in(weight: Tensor) -> int:
    return math.prod(weight.shape[1:])


def _seed(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
