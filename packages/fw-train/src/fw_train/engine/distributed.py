"""Distributed context of a training process: rank, world size, device, and the collectives of a run.

One process is rank 0 of 1; a launcher sets rank and world size in the environment. Several ranks either hold the same
network and average their gradients (all-reduce), or each hold a shard of every parameter (FSDP2, `shard`).
`full_tensor` and `copy_into`, with `fw_model.parallel.shards`, hide that difference from the rest of the package.
"""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from fw_core.devices import choose_device
from fw_model.layers.attention import has_fast_bfloat16
from fw_model.parallel.sequence import SequenceGroup
from fw_model.parallel.shards import is_sharded, local_part, local_rows
from fw_train.engine.checkpoint import CheckpointStore
from fw_train.engine.checkpoint_files import StoredTensors

COLLECTIVE_TIMEOUT: timedelta | None = None
"""Limit of a collective of the training step, after which a hang is an error; None: torch's default for the backend."""
PATIENCE = timedelta(days=1)
"""Limit of waiting for work that one rank does alone, such as writing a checkpoint or an export."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Context:
    """One process of a run."""

    store: CheckpointStore
    """Checkpoints of the run."""
    device: torch.device
    """Device of this process."""
    rank: int = 0
    """Number of this process, 0 to world_size - 1; rank 0 writes the files."""
    world_size: int = 1
    """Number of processes."""
    patient: Any = None
    """Process group whose collectives wait up to PATIENCE; None with one process."""
    sequence: SequenceGroup | None = None
    """The processes that divide samples with this one; None: this one computes whole samples."""

    @property
    def data_rank(self) -> int:
        """Number of the part of the batch that this process computes, alone or with others."""
        return self.rank if self.sequence is None else self.rank // self.sequence.size

    @property
    def data_size(self) -> int:
        """Number of parts of the batch."""
        return self.world_size if self.sequence is None else self.world_size // self.sequence.size

    @property
    def counts(self) -> bool:
        """Whether this process enters its part of the batch into sums; one of those that compute it does."""
        return self.sequence is None or self.sequence.rank == 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs, checkpoints and exports."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the ranks; sharded gradients are averaged already."""
        gradients = [p.grad for p in parameters if p.grad is not None and not is_sharded(p)]
        if self.world_size == 1 or not gradients:
            return
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.world_size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def clip_gradients(self, parameters: Sequence[nn.Parameter], limit: float) -> Float[Tensor, ""]:
        """Scale averaged gradients down to a global norm of `limit`; returns the norm before."""
        if not any(is_sharded(p) for p in parameters):
            return nn.utils.clip_grad_norm_(parameters, limit)
        gradients = [local_part(p.grad) for p in parameters if p.grad is not None]
        square = torch.stack(torch._foreach_norm(gradients)).square().sum()
        dist.all_reduce(square)
        norm = (square / _copies(parameters)).sqrt()
        torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def mean(self, values: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Mean of a vector over the ranks."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; the same answer on all ranks."""
        if self.world_size == 1:
            return flag
        votes = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(votes)
        return bool(votes.item() > 0)

    def wait_for_all(self) -> None:
        """Wait until every rank has come here, however long one of them works alone (up to PATIENCE)."""
        if self.world_size > 1:
            dist.barrier(group=self.patient)

    def from_main(self, value: T) -> T:
        """The value that rank 0 passes, on every rank; pickled, so for small objects."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.patient, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: T) -> list[T]:
        """The values of all ranks in the order of their ranks, on every rank; pickled, so for small objects."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.patient)
        return values


def half_precision(precision: str, device: torch.device) -> bool:
    """Whether the network runs under bfloat16 autocast; `auto` does so where bfloat16 is faster than float32."""
    if precision != "auto":
        return precision == "bf16"
    return device.type != "cpu" or has_fast_bfloat16()


def join(store: CheckpointStore, device: str, *, sequence: int = 1) -> Context:
    """Context of this process: alone, or one of the group that a launcher describes in the environment.

    Args:
        store: checkpoints of the run.
        device: name of the device.
        sequence: number of processes, with consecutive ranks, that divide each sample.

    Raises:
        ValueError: the device does not exist on this machine, or `sequence` does not divide the number of processes.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size % sequence:
        raise ValueError(
            f"compute.sequence = {sequence} does not divide the number of processes, {world_size}; use a divisor"
        )
    if world_size == 1:
        return Context(store=store, device=choose_device(device))
    local = choose_device(device, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    if local.type == "cuda":
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if local.type == "cuda" else "gloo", timeout=COLLECTIVE_TIMEOUT)
    patient = dist.new_group(backend="gloo", timeout=PATIENCE)
    rank = dist.get_rank()
    return Context(
        store=store,
        device=local,
        rank=rank,
        world_size=world_size,
        patient=patient,
        sequence=None if sequence == 1 else _sequence_group(rank, world_size, sequence),
    )


def shard(
    root: nn.Module,
    units: Iterable[nn.Module],
    *,
    device: torch.device,
    also: Iterable[str] = (),
    copies: int = 1,
) -> None:
    """Shard every parameter (FSDP2): a unit is gathered while it runs, the rest with the first call.

    Args:
        root: the network; moved to the device shard by shard.
        units: submodules that are gathered and freed separately, inner ones first.
        device: device of this rank.
        also: methods of `root`, besides `forward`, that are called to run it.
        copies: number of groups of consecutive ranks that hold all parameters (HSDP); 1: all ranks together hold one.

    Raises:
        ValueError: the number of ranks is not a multiple of `copies`.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # blocks return views that are never modified in place, so the warning does not apply
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    ranks = dist.get_world_size()
    if ranks % copies:
        raise ValueError(f"{ranks} processes cannot form {copies} equal groups; start as many on every node")
    if copies == 1:
        mesh = init_device_mesh(device.type, (ranks,))
    else:
        mesh = init_device_mesh(device.type, (copies, ranks // copies), mesh_dim_names=("replicate", "shard"))
    for unit in units:
        fully_shard(unit, mesh=mesh)
    fully_shard(root, mesh=mesh)
    for name in also:
        register_fsdp_forward_method(root, name)


def nodes() -> int:
    """Number of nodes of the run, all with as many processes."""
    return max(1, int(os.environ.get("WORLD_SIZE", "1")) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def unsharded(root: nn.Module) -> Iterator[None]:
    """Gather a whole network, for calls other than those it was sharded for; all ranks enter this together.

    Takes the memory of the whole network. A block that runs inside is sharded again after it, and gathered for its
    next call.
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


def full_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered from all ranks, which must all call this; any other tensor as it is."""
    sharded: Any = tensor.detach()
    return sharded.full_tensor() if is_sharded(tensor) else sharded


def copy_into(target: Tensor, saved: Mapping[str, Tensor], name: str) -> None:
    """Copy a saved tensor into one that may be sharded; of stored ones, every rank reads its rows alone."""
    part, rows = local_part(target), local_rows(target)
    if rows is not None and isinstance(saved, StoredTensors):
        saved.copy_rows(name, rows, part)
    else:
        part.copy_(saved[name] if rows is None else saved[name][slice(*rows)])


def _sequence_group(rank: int, world_size: int, size: int) -> SequenceGroup:
    """The ranks that divide samples with this one; every rank makes all groups, in the same order."""
    groups = [dist.new_group(list(range(first, first + size))) for first in range(0, world_size, size)]
    return SequenceGroup(size=size, rank=rank % size, process_group=groups[rank // size])


def _copies(parameters: Iterable[nn.Parameter]) -> int:
    """Number of groups of ranks that each hold all shards (HSDP)."""
    sharded: Any = next(p for p in parameters if is_sharded(p))
    return sharded.device_mesh.size(0) if sharded.device_mesh.ndim == 2 else 1
