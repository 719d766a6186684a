"""LoRA: low-rank adapters on the frozen video blocks, for stage 2 and distillation (Hu et al. 2021, section 4.1).

An adapted layer keeps the names of its parameters and gets `lora_down` and `lora_up`; an export has them merged into
the weights, so it loads like any other model.

Axes: r rank, i input width, o output width.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from fw_model.lora.linear import LoraLinear, initial_down, replace_layer
from fw_model.lora.save import save_lora
from fw_model.model.model import FantasyWorld
from fw_train.config.schema import LoraConfig

_DOWN = "lora_down"
_ADAPTER = re.compile(r"\.lora_(down|up)$")


def is_adapter(name: str) -> bool:
    """Whether the name is that of an adapter's parameter."""
    return _ADAPTER.search(name) is not None


def add_adapters(world: nn.Module, config: LoraConfig, *, seed: int) -> list[str]:
    """Adapt the linear layers of the video blocks that `config.targets` selects; returns their names.

    Does nothing at rank 0. The output of the model does not change before the first step.
    """
    if config.rank == 0:
        return []
    pattern = re.compile(rf"^(pcb\.\d+|irg\.\d+\.video)\.({'|'.join(config.targets)})\.")
    chosen = [n for n, m in world.named_modules() if type(m) is nn.Linear and pattern.match(n)]
    for name in chosen:
        layer = world.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        adapted = LoraLinear(layer)
        adapted.add_trained(rank=config.rank, scale=config.alpha / config.rank, seed=_seed(f"{name}.{_DOWN}", seed))
        replace_layer(world, name, adapted)
    return chosen


def initial_adapter(name: str, shape: torch.Size, seed: int) -> Tensor:
    """The value that `add_adapters` gives an adapter's parameter."""
    return initial_down(shape, _seed(name, seed)) if name.endswith(_DOWN) else torch.zeros(shape)


def save_adapters(world: FantasyWorld, folder: Path) -> Path | None:
    """Write the adapters, which are not merged yet, as a LoRA file in diffusers' layout; None if there are none."""
    adapted = {name: module.factors() for name, module in world.named_modules() if isinstance(module, LoraLinear)}
    factors = {name: pair for name, pair in adapted.items() if pair is not None}
    if not factors:
        return None
    return save_lora(folder, factors, pcb_blocks=world.config.pcb_blocks)


def take_adapters(world: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Turn every adapted layer back into a plain one without its adapter.

    Returns:
        Name of the layer's weight -> factors (down, up) of the update, see `add_update`.
    """
    taken: dict[str, tuple[Tensor, Tensor]] = {}
    for name, module in [(name, one) for name, one in world.named_modules() if isinstance(one, LoraLinear)]:
        factors = module.factors()
        assert factors is not None, "training adapts layers with trained adapters"
        taken[f"{name}.weight"] = factors
        replace_layer(world, name, module.plain())
    return taken


def merge_adapters(world: nn.Module) -> Sequence[str]:
    """Turn every adapted layer back into a plain one that does the same; returns their names."""
    adapted = [(name, module) for name, module in world.named_modules() if isinstance(module, LoraLinear)]
    for name, module in adapted:
        replace_layer(world, name, module.merged())
    return [name for name, _ in adapted]


@contextmanager
def without_adapters(world: nn.Module) -> Iterator[None]:
    """Run the model as it was before `add_adapters` inside the ``with`` block."""
    adapted = [module for module in world.modules() if isinstance(module, LoraLinear)]
    for module in adapted:
        module.use_trained = False
    try:
        yield
    finally:
        for module in adapted:
            module.use_trained = True


def _seed(name: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little") >> 1
