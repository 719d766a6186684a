"""Count FLOPs and live memory of a training step without computing it, on the meta device.

Meta tensors have shapes, types and lifetimes but no values, so the code of a training step runs in seconds for a model
of any size. `StepMeter` sees every operation (with FLOPs from torch's formulas) and every allocation, and lists the
distinct operations, so each can be timed separately. `fw_model.planning.meta_model` adds features that the meta device
lacks.
"""

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, no_type_check

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

Phase = Literal["forward", "backward", "recompute", "update"]
HOST = "host"
"""Label of tensors in host memory, which are counted apart from those of the device."""

_aten = torch.ops.aten
_ATTEND = _aten._scaled_dot_product_flash_attention_for_cpu
_ATTEND_BACKWARD = _aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass
class Operation:
    """An operation on tensors of given shapes, strides and types, and its number of calls in a step."""

    function: Any
    """Operator overload of torch."""
    arguments: tuple[Any, ...]
    """Positional arguments, with meta tensors in place of those of the step."""
    options: dict[str, Any]
    """Keyword arguments."""
    count: int
    """Calls in one micro-batch and the optimizer update."""
    flops: int
    """FLOPs of one call; 0 for operations that only move data."""


@no_type_check  # runs for every operation: runtime type checks, as in the tests, would dominate
class StepMeter(TorchDispatchMode):
    """Count every operation and all live tensors while active.

    Args:
        root: the network, whose parts operations are assigned to.
        part: maps the name of a submodule to its part; None for containers of several parts.
    """

    def __init__(self, root: nn.Module, part: Callable[[str], str | None]) -> None:
        super().__init__()
        self.flops: Counter[tuple[str, Phase]] = Counter()
        self.label = "activations"
        """Label of newly allocated tensors."""
        self.phase: Phase = "forward"
        self.peak: Counter[str] = Counter()
        """Bytes by label at peak memory of the device."""
        self.host_peak = 0
        """Most bytes in host memory."""
        self._labels: dict[int, tuple[str, int]] = {}
        self._live: Counter[str] = Counter()
        self._stack: list[str] = []
        self._backward_of = "rest"
        self._known: dict[Any, _Known] = {}
        self._install(root, part)

    def adopt(self, tensors: Iterable[Tensor], label: str) -> None:
        """Assign existing tensors to `label`, replacing their former label."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._labels:
                before, size = self._labels[key]
                self._live[before] -= size
                self._live[label] += size
                self._labels[key] = (label, size)
            else:
                self._born(storage, label)
        self._look()

    @contextlib.contextmanager
    def booking(self, label: str) -> Iterator[None]:
        """Assign tensors allocated in this block to `label`."""
        before, self.label = self.label, label
        try:
            yield
        finally:
            self.label = before

    def operations(self) -> list[Operation]:
        """The distinct operations, without views."""
        return [operation for known in self._known.values() for operation in known.operations.values()]

    def live(self) -> dict[str, int]:
        """Live bytes by label."""
        return {label: size for label, size in self._live.items() if size}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Avoid importing torch's compiler, which takes seconds and is not needed for this mode."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        known = self._known.get(func)
        if known is None:
            known = self._known[func] = _Known(func)
        out, results, flops = known.call(args, kwargs)
        phase: Phase = "recompute" if self._stack and self.phase == "backward" else self.phase
        if flops:
            part = self._stack[-1] if self._stack else self._backward_of
            self.flops[part, phase] += flops
        for result in results:
            storage = result.untyped_storage()
            if storage._cdata not in self._labels:
                self._born(storage, self.label)
        self._look()
        return out

    def _born(self, storage: torch.UntypedStorage, label: str) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._labels[key] = (label, size)
        self._live[label] += size
        weakref.finalize(storage, self._died, key).atexit = False

    def _died(self, key: int) -> None:
        label, size = self._labels.pop(key)
        self._live[label] -= size

    def _look(self) -> None:
        host = self._live[HOST]
        self.host_peak = max(self.host_peak, host)
        if self._live.total() - host > self.peak.total():
            self.peak = Counter(self._live)
            del self.peak[HOST]

    def _install(self, root: nn.Module, part: Callable[[str], str | None]) -> None:
        for name, module in root.named_modules():
            where = part(name)
            if where is not None:
                module.register_forward_pre_hook(lambda _m, _args, where=where: self._stack.append(where))
                module.register_forward_hook(self._leave, always_call=True)
        for parameter in root.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._take_gradient)

    def _take_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.adopt([parameter.grad], "gradients")

    def _leave(self, _module: nn.Module, _args: Any, out: Any) -> None:
        where = self._stack.pop()

        def enter(_gradients: Any) -> None:
            self._backward_of = where

        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.grad_fn is not None:
                leaf.grad_fn.register_prehook(enter)


@no_type_check
class _Known:
    """One operation, with its cached results by argument shapes.

    Torch computes most results on the meta device in Python, at half a millisecond each, and a network repeats the same
    operations in every block.
    """

    def __init__(self, func: Any) -> None:
        self.func = func
        self.is_view = func.is_view or func.overloadpacket is _aten._unsafe_view
        schema = func._schema
        name = func.overloadpacket.__name__
        self.in_place = schema.is_mutable and name.endswith("_") and not name.endswith("__") and "set" not in name
        self.repeatable = not self.is_view and (self.in_place or not schema.is_mutable)
        self._seen: dict[Any, tuple[Any, int]] = {}
        self.operations: dict[Any, Operation] = {}
        """Operations by shapes, strides and types of the arguments."""

    def call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, list[Tensor], int]:
        """Call the operation; returns the result, its tensors, and FLOPs."""
        key = None if self.is_view else _key((args, kwargs))
        if self.repeatable and key is not None and key in self._seen:
            recipe, flops = self._seen[key]
            out = (args[0] if recipe else None) if self.in_place else _make(recipe)
            self.operations[key].count += 1
            return out, _leaves(out), flops
        out = self.func(*args, **kwargs)
        results = _leaves(out)
        flops = _flops(self.func.overloadpacket, args, kwargs, out)
        if key is None:
            return out, results, flops
        if key not in self.operations:
            arguments, options = tree_map(_stand_in, (args, dict(kwargs)))
            self.operations[key] = Operation(self.func, arguments, options, 0, flops)
        self.operations[key].count += 1
        if self.repeatable and all(result.is_meta for result in results):
            given = {t.untyped_storage()._cdata for t in _leaves((args, kwargs))}
            if self.in_place:
                self._seen[key] = (out is not None, flops)
            elif not given & {t.untyped_storage()._cdata for t in results}:
                self._seen[key] = (_recipe(out), flops)
        return out, results, flops


@no_type_check
def _stand_in(value: Any) -> Any:
    """A meta tensor of the same kind that keeps no storage alive."""
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


@no_type_check
def _leaves(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


@no_type_check
def _key(value: Any) -> Any:
    """Cache key: everything that result shapes depend on; None if an argument is not a meta tensor."""
    if isinstance(value, Tensor):
        return (value.shape, value.stride(), value.dtype) if value.is_meta else None
    if isinstance(value, dict):
        value = tuple(value.items())
    if isinstance(value, tuple | list):
        keys = tuple(_key(entry) for entry in value)
        return None if None in keys else keys
    return (type(value), value)


@no_type_check
def _recipe(out: Any) -> Any:
    if isinstance(out, Tensor):
        return (out.shape, out.stride(), out.dtype)
    return [_recipe(entry) for entry in out] if isinstance(out, tuple | list) else type(out)()


@no_type_check
def _make(recipe: Any) -> Any:
    if isinstance(recipe, tuple):
        return torch.empty_strided(*recipe[:2], dtype=recipe[2], device="meta")
    return tuple(_make(entry) for entry in recipe) if isinstance(recipe, list) else recipe


@no_type_check
def _flops(packet: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    if packet is _ATTEND:
        return sdpa_flop_count(args[0].shape, args[1].shape, args[2].shape)
    if packet is _ATTEND_BACKWARD:
        return sdpa_backward_flop_count(args[0].shape, args[1].shape, args[2].shape, args[3].shape)
    if packet not in flop_registry:
        return 0
    return flop_registry[packet](*args, **kwargs, out_val=out)
