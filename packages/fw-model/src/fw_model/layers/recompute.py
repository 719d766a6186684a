"""Activation checkpointing of a block: run it again in the backward pass instead of keeping its activations."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recompute = Literal["none", "selective", "full"]

_ATTENTION = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_flash_attention_forward",
)
"""Fused attention of torch, whatever kernel it chose; kernels of other packages are recomputed."""


def recomputed(block: Callable[..., Any], *args: Any, kind: Recompute, **kwargs: Any) -> Any:
    """`block(*args, **kwargs)`, of which the backward pass finds only the inputs ("full"), or these and the results of
    attention ("selective"). Values and gradients are those of the plain call.
    """
    if kind == "none":
        return block(*args, **kwargs)
    contexts = {"context_fn": _keeping_attention()} if kind == "selective" else {}
    return checkpoint(block, *args, use_reentrant=False, preserve_rng_state=False, **contexts, **kwargs)


def _keeping_attention() -> Callable[[], Any]:
    kept = [getattr(torch.ops.aten, name).default for name in _ATTENTION if hasattr(torch.ops.aten, name)]
    return partial(create_selective_checkpoint_contexts, partial(_policy, frozenset(kept)))


def _policy(kept: frozenset[Any], _context: Any, operator: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in kept else CheckpointPolicy.PREFER_RECOMPUTE
