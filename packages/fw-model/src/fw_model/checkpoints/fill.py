"""Put tensors of weight files into the parameters of a model, whole or the shards of this process.

A parameter that FSDP2 has sharded is read by rows: every process reads its own from the file, in the type they are
stored in. So no process holds the model, or a whole tensor of it.
"""

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fw_model.checkpoints.opening import is_fp8
from fw_model.checkpoints.weights import WeightFolder
from fw_model.layers.float32 import Float32Module
from fw_model.layers.stored_weights import StoredWeights, store_weight
from fw_model.parallel.shards import from_local_rows, is_sharded, local_part, local_rows

_LOG = logging.getLogger(__name__)


def fill(
    model: nn.Module,
    files: WeightFolder,
    names: Mapping[str, str],
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    stored: StoredWeights | None = None,
) -> None:
    """Put the tensors `names` (name in the files -> parameter) into a model.

    A parameter on the meta device is replaced, and gets `device` and the type `dtype` (None: the file's; float32 in a
    `Float32Module` in any case). Any other one is copied into and keeps its type, and so does a sharded one, of which
    only the rows of this process are read.
    """
    parameters = dict(model.named_parameters())
    exact = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, Float32Module))
    compact = 0
    for theirs, tensor in files.tensors({theirs: local_rows(parameters[ours]) for theirs, ours in names.items()}):
        name = names[theirs]
        compact += is_fp8(tensor.dtype)
        put(model, name, tensor, device=device, dtype=torch.float32 if name.startswith(exact) else dtype)
        layer = model.get_submodule(name.rpartition(".")[0])
        if stored and isinstance(layer, nn.Linear) and name.endswith(".weight") and name.startswith(("pcb.", "irg.")):
            store_weight(layer, stored)
    if compact:
        _LOG.warning("%s: %d tensors stored in fp8 were loaded as bfloat16", files.path, compact)


def fill_computed(
    model: nn.Module, values: Mapping[str, Callable[[], Tensor]], *, device: str | torch.device | None = None
) -> None:
    """Put computed tensors (parameter -> function) into a model, one at a time; a sharded one gets its rows."""
    for name, compute in values.items():
        parameter = model.get_parameter(name)
        rows = local_rows(parameter)
        value = compute()
        put(model, name, value if rows is None else value[slice(*rows)], device=device, dtype=parameter.dtype)


@torch.no_grad()
def put(
    model: nn.Module,
    name: str,
    tensor: Tensor,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Put one tensor, of a sharded parameter its rows in this process, into a parameter; see `fill`."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    old = module.get_parameter(leaf)
    if is_fp8(tensor.dtype):
        tensor = tensor.to(torch.bfloat16)  # fp8 stores weights, it does not compute
    if not old.is_meta:
        local_part(old).copy_(tensor)
        return
    if is_sharded(old):
        dtype = old.dtype
    value = tensor.to(device=device or "cpu", dtype=dtype or tensor.dtype, copy=True)
    if is_sharded(old):
        value = from_local_rows(old, value)
    module._parameters[leaf] = nn.Parameter(value, requires_grad=old.requires_grad)
