"""LoRA: low-rank adapters on the frozen video blocks, for stage 2 (Hu et al. 2021, section 4.1).

An adapted layer keeps the names of its parameters and gets `lora_down` and `lora_up`; an export has them merged into
the weights, so it loads like any other model.

Axes: r rank, i input width, o output width.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from fw_model.lora.linear import LoraLinear, replace_layer
from fw_model.lora.save import save_lora
from fw_model.model.model import FantasyWorld
from fw_train.config.schema import LoraConfig

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
        digest = hashlib.sha256(f"{seed}:{name}.lora_down".encode()).digest()
        adapted = LoraLinear(layer)
        adapted.add_trained(
            rank=config.rank, scale=config.alpha / config.rank, seed=int.from_bytes(digest[:8], "little") >> 1
        )
        replace_layer(world, name, adapted)
    return chosen


def save_adapters(world: FantasyWorld, folder: Path) -> Path | None:
    """Write the adapters, which are not merged yet, as a LoRA file in diffusers' layout; None if there are none."""
    adapted = {name: module.factors() for name, module in world.named_modules() if isinstance(module, LoraLinear)}
    factors = {name: pair for name, pair in adapted.items() if pair is not None}
    if not factors:
        return None
    return save_lora(folder, factors, pcb_blocks=world.config.pcb_blocks)


def merge_adapters(world: nn.Module) -> Sequence[str]:
    """Turn every adapted layer back into a plain one that does the same; returns their names."""
    adapted = [(name, module) for name, module in world.named_modules() if isinstance(module, LoraLinear)]
    for name, module in adapted:
        replace_layer(world, name, module.merged())
    return [name for name, _ in adapted]
