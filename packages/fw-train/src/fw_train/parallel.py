"""Where a training process stands: its rank among how many, its device, and the store its checkpoints go to.

The loop knows only this. One process is rank 0 of 1; under `torchrun` the ranks come from the environment and gradients
are averaged with plain all-reduce.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from fw_train.checkpoint import CheckpointStore


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
        """Replace every gradient by its mean over the ranks; does nothing with one process."""
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

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
    """The torch device that a configuration names; `auto` takes a GPU if there is one.

    Raises:
        ValueError: a GPU was asked for and there is none.
    """
    if name == "auto":
        name = f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"compute.device = {name!r}, but torch sees no GPU here; use --compute.device cpu")
    return device


def join(store: CheckpointStore, device: str) -> Context:
    """This process's context: alone, or one of the group that `torchrun` describes in the environment."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Context(store=store, device=pick_device(device))
    local = pick_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if not dist.is_initialized():
        dist.init_process_group("nccl" if local.type == "cuda" else "gloo")
    return Context(store=store, device=local, rank=dist.get_rank(), world=world)
