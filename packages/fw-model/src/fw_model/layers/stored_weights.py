"""Weights of the blocks' linear layers stored in 8 bits and computed in 16 or 32: half the memory of bfloat16.

A row w of a weight is stored as q = w / s with s = max|w| / m, where m is the largest number of the type: 448 for fp8
(float8 e4m3) and 127 for int8. Before a layer runs its weight is q s in the type of computation, after it q again, as
in diffusers' layerwise casting. For inference: a stored weight has no gradient.

Axes: o output width, i input width.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

StoredWeights = Literal["fp8", "int8"]
_TYPES: dict[str, tuple[torch.dtype, float]] = {"fp8": (torch.float8_e4m3fn, 448.0), "int8": (torch.int8, 127.0)}


def store_weight(layer: nn.Linear, kind: StoredWeights) -> None:
    """Store the weight of a layer in 8 bits; it computes in the weight's former type."""
    weight = layer.weight
    stored, scale = quantize(weight.data, kind)
    compute = weight.dtype
    weight.requires_grad_(False)
    weight.data = stored
    _expand_in_calls(layer, scale, compute)


def take_over(old: nn.Linear, new: nn.Linear) -> None:
    """Let a layer that has been given the weight of another one treat it as that one does."""
    if is_stored(old):
        _expand_in_calls(new, old.get_buffer("weight_scale"), compute_dtype(old))


def compute_dtype(layer: nn.Linear) -> torch.dtype:
    """The type that a layer computes in."""
    return layer.__dict__.get("compute_dtype", layer.weight.dtype)


def is_stored(module: nn.Module) -> bool:
    """Whether a layer's weight is stored in 8 bits."""
    return isinstance(module, nn.Linear) and "weight_scale" in module._buffers


def quantize(weight: Float[Tensor, "o i"], kind: StoredWeights) -> tuple[Tensor, Float[Tensor, "o 1"]]:
    """8-bit values and the float32 scale of every row; values times scale are the weight, rounded."""
    dtype, largest = _TYPES[kind]
    exact = weight.float()
    scale = exact.abs().amax(dim=1, keepdim=True) / largest
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    values = exact / scale
    return (values.round() if kind == "int8" else values).to(dtype), scale


def _expand_in_calls(layer: nn.Linear, scale: Tensor, compute: torch.dtype) -> None:
    layer.register_buffer("weight_scale", scale, persistent=False)
    layer.__dict__["compute_dtype"] = compute
    layer.register_forward_pre_hook(_expand)
    layer.register_forward_hook(_shrink, always_call=True)


def _expand(module: nn.Module, args: Any) -> None:
    assert isinstance(module, nn.Linear)
    if torch.is_grad_enabled() and args[0].requires_grad:
        raise ValueError(
            "the weights are stored in 8 bits, for inference: use torch.no_grad(), or load them without that"
        )
    stored = module.__dict__["stored_weight"] = module.weight.data
    module.weight.data = (stored.to(torch.float32) * module.get_buffer("weight_scale")).to(compute_dtype(module))


def _shrink(module: nn.Module, _args: Any, _output: Any) -> None:
    assert isinstance(module, nn.Linear)
    stored = module.__dict__.pop("stored_weight", None)
    if stored is not None:  # None: the call was refused
        module.weight.data = stored
