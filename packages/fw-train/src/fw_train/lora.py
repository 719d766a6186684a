"""LoRA: stage 2 may adapt the frozen video blocks by trained matrices of low rank (Hu et al. 2021, section 4.1).

An adapted layer keeps its parameters under their names and gains `lora_down` and `lora_up`; an export has them added
into the weights, so a model that was trained with adapters is loaded like any other.

Axes: r rank, i input width, o output width.
"""

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fw_model.lora.save import save_lora
from fw_model.model.model import FantasyWorld
from fw_train.config.schema import LoraConfig

_ADAPTER = re.compile(r"\.lora_(down|up)$")


class LowRankLinear(nn.Linear):
    """W x + bias + scale * up (down x); takes over the layer's own parameters. `up` starts at zero.

    Args:
        layer: the linear layer to adapt.
        rank: r, width between `down` and `up`.
        scale: alpha / rank.
        seed: the random `down` is a function of it.
    """

    def __init__(self, layer: nn.Linear, *, rank: int, scale: float, seed: int) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = scale
        like = {"dtype": torch.float32, "device": layer.weight.device}
        self.lora_down = nn.Parameter(torch.empty(rank, layer.in_features, **like))
        self.lora_up = nn.Parameter(torch.zeros(layer.out_features, rank, **like))
        if not self.lora_down.is_meta:
            start = torch.empty(self.lora_down.shape)
            nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                self.lora_down.copy_(start)

    def forward(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The layer and its adapter."""
        down = F.linear(x, self.lora_down.to(x.dtype))
        return super().forward(x) + self.scale * F.linear(down, self.lora_up.to(x.dtype))

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain layer with the adapter added into its weight (computed in float32, rounded once)."""
        layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        update = self.scale * self.lora_up.float() @ self.lora_down.float()
        value = (self.weight.float() + update).to(self.weight.dtype)
        layer.weight, layer.bias = nn.Parameter(value, requires_grad=self.weight.requires_grad), self.bias
        return layer


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return _ADAPTER.search(name) is not None


def add_adapters(world: nn.Module, config: LoraConfig, *, seed: int) -> list[str]:
    """Adapt the linear layers of the video blocks that `config.targets` names; returns the layers' names.

    Nothing happens at rank 0. The model's output does not change before the first step.
    """
    if config.rank == 0:
        return []
    pattern = re.compile(rf"^(pcb\.\d+|irg\.\d+\.video)\.({'|'.join(config.targets)})\.")
    chosen = [n for n, m in world.named_modules() if type(m) is nn.Linear and pattern.match(n)]
    for name in chosen:
        layer = world.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        digest = hashlib.sha256(f"{seed}:{name}.lora_down".encode()).digest()
        adapted = LowRankLinear(
            layer, rank=config.rank, scale=config.alpha / config.rank, seed=int.from_bytes(digest[:8], "little") >> 1
        )
        _replace(world, name, adapted)
    return chosen


def save_adapters(world: FantasyWorld, folder: Path) -> Path | None:
    """Write the adapters, which are not merged yet, as a LoRA file in diffusers' layout; None if there are none."""
    adapted = {name: module for name, module in world.named_modules() if isinstance(module, LowRankLinear)}
    if not adapted:
        return None
    factors = {name: (module.lora_down, module.scale * module.lora_up) for name, module in adapted.items()}
    return save_lora(folder, factors, pcb_blocks=world.config.pcb_blocks)


def merge_adapters(world: nn.Module) -> Sequence[str]:
    """Turn every adapted layer back into a plain one that does the same; returns their names."""
    adapted = [(name, module) for name, module in world.named_modules() if isinstance(module, LowRankLinear)]
    for name, module in adapted:
        _replace(world, name, module.merged())
    return [name for name, _ in adapted]


def _replace(world: nn.Module, name: str, layer: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    parent = world.get_submodule(owner)
    if isinstance(parent, nn.Sequential):
        parent[int(leaf)] = layer
    else:
        setattr(parent, leaf, layer)
