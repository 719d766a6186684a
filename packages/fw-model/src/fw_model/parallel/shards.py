"""Tensors of which every process holds some rows (FSDP2): which rows these are, and a tensor made of them."""

import math
from typing import Any

from torch import Tensor

Rows = tuple[int, int]
"""The first of some consecutive rows of a tensor, and the row after the last one."""


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process holds a shard of this tensor."""
    return hasattr(tensor, "to_local")  # importing DTensor to ask takes a second


def local_part(tensor: Tensor) -> Tensor:
    """The shard of this process, sharing its memory; a tensor that is not sharded as it is."""
    sharded: Any = tensor.detach()
    return sharded.to_local() if is_sharded(tensor) else sharded


def local_rows(tensor: Tensor) -> Rows | None:
    """The rows of a tensor that this process holds; None: all of them, also of one that is not sharded.

    Raises:
        ValueError: the tensor is divided along another axis than its first, or twice.
    """
    if not is_sharded(tensor):
        return None
    sharded: Any = tensor
    axes = [(axis, placement.dim) for axis, placement in enumerate(sharded.placements) if placement.is_shard()]
    if not axes:
        return None
    if len(axes) > 1 or axes[0][1] != 0:
        raise ValueError(f"placements {sharded.placements}: shard tensors along their first axis only, as FSDP2 does")
    axis = axes[0][0]
    count, parts = tensor.shape[0], sharded.device_mesh.size(axis)
    size = math.ceil(count / parts)
    first = min(count, size * sharded.device_mesh.get_local_rank(axis))
    return first, min(count, first + size)


def holds_first_copy(tensor: Tensor) -> bool:
    """Whether this process is the one that speaks for its rows of a tensor, of those that hold the same rows."""
    sharded: Any = tensor
    mesh, placements = sharded.device_mesh, sharded.placements
    return all(mesh.get_local_rank(axis) == 0 for axis, one in enumerate(placements) if not one.is_shard())


def from_local_rows(like: Tensor, rows: Tensor) -> Tensor:
    """A tensor sharded as `like`, of the rows that this process holds."""
    from torch.distributed.tensor import DTensor

    sharded: Any = like
    return DTensor.from_local(
        rows, sharded.device_mesh, sharded.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
