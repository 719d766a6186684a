"""Where a training process stands: its rank among how many, its device, and the store its checkpoints go to.

The loop knows only this. One process is rank 0 of 1; under a launcher the ranks come from the environment. Several
ranks either hold the same network and average their gradients (plain all-reduce), or each hold a piece of every
parameter (FSDP2, `shard`); `piece`, `whole` and `fill` are all that the rest of the program needs to know of pieces.
"""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from fw_model.layers.attention import has_fast_bfloat16
from fw_train.engine.checkpoint import CheckpointStore


@dataclass(frozen=True, kw_only=True)
class Context:
    """One process of a run."""

    store: CheckpointStore
    """Where checkpoints go."""
    device: torch.device
    """Where this process computes."""
    rank: int = 0
    """Number of this process, 0 to world - 1; rank 0 writes files."""
    world: int = 1
    """Number of processes."""

    @property
    def leads(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the ranks; sharded ones are averaged already."""
        gradients = [p.grad for p in parameters if p.grad is not None and not is_sharded(p)]
        if self.world == 1 or not gradients:
            return
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def clip_gradients(self, parameters: Sequence[nn.Parameter], limit: float) -> Float[Tensor, ""]:
        """Scale averaged gradients down to a global norm of `limit`; returns the norm they had."""
        if not any(is_sharded(p) for p in parameters):
            return nn.utils.clip_grad_norm_(parameters, limit)
        gradients = [piece(p.grad) for p in parameters if p.grad is not None]
        square = torch.stack(torch._foreach_norm(gradients)).square().sum()
        dist.all_reduce(square)
        norm = square.sqrt()
        torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def mean(self, values: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Mean of a vector over the ranks."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.world
        return values

    def any(self, flag: bool) -> bool:
        """Whether any rank says so; all ranks get the same answer."""
        if self.world == 1:
            return flag
        votes = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(votes)
        return bool(votes.item() > 0)

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.world > 1:
            dist.barrier()


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The torch device that a configuration names; `auto` takes a GPU if there is one, `cuda` that of this local rank.

    Raises:
        ValueError: a GPU was asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device("cuda", local_rank) if name == "cuda" else torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"compute.device = {name!r}, but torch sees no GPU here; use --compute.device cpu")
    return device


def half_precision(precision: str, device: torch.device) -> bool:
    """Whether the network runs under bfloat16 autocast; `auto` says yes where that is the faster way."""
    if precision != "auto":
        return precision == "bf16"
    return device.type != "cpu" or has_fast_bfloat16()


def join(store: CheckpointStore, device: str) -> Context:
    """This process's context: alone, or one of the group that a launcher describes in the environment."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Context(store=store, device=pick_device(device))
    local = pick_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if local.type == "cuda":
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if local.type == "cuda" else "gloo")
    return Context(store=store, device=local, rank=dist.get_rank(), world=world)


def shard(root: nn.Module, units: Iterable[nn.Module], *, device: torch.device, also: Iterable[str] = ()) -> None:
    """Cut every parameter over all ranks (FSDP2): each unit is gathered while it runs, the rest with the first call.

    Args:
        root: the network; moved to the device piece by piece.
        units: submodules that are gathered and given back on their own, inner ones first.
        device: of this rank.
        also: methods of `root`, beside `forward`, that are called to run it.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # blocks return views; nobody writes into them in place, which is what the warning is about
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for unit in units:
        fully_shard(unit, mesh=mesh)
    fully_shard(root, mesh=mesh)
    for name in also:
        register_fsdp_forward_method(root, name)


@contextmanager
def unsharded(root: nn.Module) -> Iterator[None]:
    """Have a network whole, for calls besides those it was sharded for; all ranks enter this together.

    It costs the memory of the whole network. A block that runs inside gives its pieces back, and is gathered again.
    """
    if not any(is_sharded(parameter) for parameter in root.parameters()):
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    units = [module for module in root.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()


def is_sharded(tensor: Tensor) -> bool:
    """Whether this is a tensor of which every rank holds a piece."""
    return hasattr(tensor, "to_local")  # asked so, because importing DTensor costs a second


def piece(tensor: Tensor) -> Tensor:
    """What this rank holds of a sharded tensor, sharing its memory; any other tensor as it is."""
    sharded: Any = tensor.detach()
    return sharded.to_local() if is_sharded(tensor) else sharded


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor put together from all ranks, which must all call this; any other tensor as it is."""
    sharded: Any = tensor.detach()
    return sharded.full_tensor() if is_sharded(tensor) else sharded


def fill(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded; every rank takes its piece."""
    sharded: Any = target
    if is_sharded(target):
        from torch.distributed.tensor import distribute_tensor

        there = value.to(sharded.device)
        value = distribute_tensor(there, sharded.device_mesh, sharded.placements, src_data_rank=None).to_local()
    piece(target).copy_(value)
