"""Activation checkpointing of a block: run it again in the backward pass instead of keeping its activations.

The inputs of the block are kept, on the device or in host memory (`HostActivations`).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recompute = Literal["none", "selective", "full"]
Passes = Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]

_ATTENTION = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_flash_attention_forward",
)
"""Fused attention of torch, whatever kernel it chose; kernels of other packages are recomputed."""


class HostActivations(saved_tensors_hooks):
    """While active, tensors that autograd saves are copied to host memory, and back when the backward pass needs them.

    The copies of `torch.autograd.graph.save_on_cpu`: page-locked and queued behind the computation on a GPU. On a CPU
    they are real too, so the counts can be tested.
    """

    def __init__(self) -> None:
        self.packed = self.unpacked = 0
        """Tensors copied to host memory, and back."""
        super().__init__(self._pack, self._unpack)

    def to_host(self, tensor: Tensor) -> Tensor:
        """A copy in host memory, with the same strides."""
        cuda = tensor.device.type == "cuda"
        return torch.empty_like(tensor, device="cpu", pin_memory=cuda).copy_(tensor, non_blocking=cuda)

    def _pack(self, tensor: Tensor) -> tuple[torch.device, Tensor]:
        self.packed += 1
        return tensor.device, self.to_host(tensor)

    def _unpack(self, saved: tuple[torch.device, Tensor]) -> Tensor:
        self.unpacked += 1
        device, tensor = saved
        return tensor.to(device, non_blocking=device.type == "cuda", copy=True)


def recomputed(
    block: Callable[..., Any],
    *args: Any,
    kind: Recompute,
    inputs: HostActivations | None = None,
    passes: Passes | None = None,
    **kwargs: Any,
) -> Any:
    """`block(*args, **kwargs)`, of which the backward pass finds only the inputs ("full"), or these and the results of
    attention ("selective"). Values and gradients are those of the plain call.

    Args:
        block: what to run.
        args, kwargs: its inputs.
        kind: see above; "none" is the plain call.
        inputs: keeps the tensors among `args` in host memory; None: they stay on the device.
        passes: makes the contexts of the forward pass and of the recomputation, such as `BlockStream.passes`.
    """
    if kind == "none":
        return block(*args, **kwargs)
    contexts = _keeping_attention if kind == "selective" else None
    if passes is not None:
        contexts = partial(_nested, passes, contexts)
    options = {} if contexts is None else {"context_fn": contexts}
    with inputs or nullcontext():
        return checkpoint(block, *args, use_reentrant=False, preserve_rng_state=False, **options, **kwargs)


def _nested(outer: Passes, inner: Passes | None) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """The outer contexts around the inner ones, which are dispatch modes and must not see what the outer ones do."""
    (forward, again), within = outer(), inner() if inner is not None else (nullcontext(), nullcontext())
    return _around(forward, within[0]), _around(again, within[1])


@contextmanager
def _around(outer: AbstractContextManager[Any], inner: AbstractContextManager[Any]) -> Iterator[None]:
    with outer, inner:
        yield


def _keeping_attention() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    kept = [getattr(torch.ops.aten, name).default for name in _ATTENTION if hasattr(torch.ops.aten, name)]
    return create_selective_checkpoint_contexts(partial(_policy, frozenset(kept)))


def _policy(kept: frozenset[Any], _context: Any, operator: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in kept else CheckpointPolicy.PREFER_RECOMPUTE
