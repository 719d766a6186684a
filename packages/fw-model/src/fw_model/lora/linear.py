"""`LoraLinear`: a linear layer with low-rank updates beside it, loaded from files or trained.

Axes: r rank, i input width, o output width.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fw_model.layers.stored_weights import compute_dtype, take_over
from fw_model.lora.layouts import LowRank


class LoraLinear(nn.Linear):
    """W x + b + sum of scale * up (down x) over the adapters (Hu et al. 2021, section 4.1).

    Takes over the parameters of a linear layer under their names. Adapters of files are `branches`, which no checkpoint
    stores. The trained adapter, if there is one, is the parameters `lora_down` and `lora_up`; `use_trained =
    False` leaves it out.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        take_over(layer, self)
        self.branches = nn.ModuleList()
        self.scale, self.use_trained = 1.0, True
        self.lora_down: nn.Parameter | None = None
        self.lora_up: nn.Parameter | None = None
        self.train(layer.training)

    def add_trained(self, *, rank: int, scale: float, seed: int) -> None:
        """Add a trained adapter. `lora_up` starts at zero, so the output does not change.

        Args:
            rank: r, width between `lora_down` and `lora_up`.
            scale: factor of the update, alpha / rank.
            seed: the random `lora_down` is a function of it.
        """
        self.scale = scale
        like = {"dtype": torch.float32, "device": self.weight.device}
        self.lora_down = nn.Parameter(torch.empty(rank, self.in_features, **like))
        self.lora_up = nn.Parameter(torch.zeros(self.out_features, rank, **like))
        if not self.lora_down.is_meta:
            with torch.no_grad():
                self.lora_down.copy_(initial_down(self.lora_down.shape, seed))

    def forward(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Apply the layer and its adapters."""
        y = super().forward(x)
        for branch in self.branches:
            y = y + branch(x)
        if self.use_trained and self.lora_down is not None and self.lora_up is not None:
            y = y + self.scale * F.linear(F.linear(x, self.lora_down.to(x.dtype)), self.lora_up.to(x.dtype))
        return y

    def factors(self) -> tuple[Float[Tensor, "r i"], Float[Tensor, "o r"]] | None:
        """Factors (down, up) of the trained update, `up` with the scale in it; None without a trained adapter."""
        if self.lora_down is None or self.lora_up is None:
            return None
        return self.lora_down, self.scale * self.lora_up

    def plain(self) -> nn.Linear:
        """The linear layer without any adapter."""
        layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        layer.weight, layer.bias = self.weight, self.bias
        take_over(self, layer)
        return layer.train(self.training)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain layer with the trained adapter added into its weight (computed in float32, rounded once).

        Raises:
            ValueError: a LoRA file is loaded, whose update would be lost.
        """
        if len(self.branches):
            raise ValueError(f"LoRA {self.branches[0].lora!r} is loaded beside the trained adapter; unload it first")
        layer, factors = self.plain(), self.factors()
        if factors is not None:
            value = add_update(self.weight, *factors)
            layer.weight = nn.Parameter(value, requires_grad=self.weight.requires_grad)
        return layer


def add_update(
    weight: Float[Tensor, "o i"], down: Float[Tensor, "r i"], up: Float[Tensor, "o r"]
) -> Float[Tensor, "o i"]:
    """A weight with a low-rank update added, computed in float32 and rounded once."""
    return (weight.float() + up.float() @ down.float()).to(weight.dtype)


def initial_down(shape: torch.Size, seed: int) -> Float[Tensor, "r i"]:
    """The value that `lora_down` of a trained adapter starts with."""
    start = torch.empty(shape)
    nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=torch.Generator().manual_seed(seed))
    return start


class LoraBranch(nn.Module):
    """One LoRA file in one layer. Its tensors are buffers outside the state dict, so checkpoints do not change.

    Args:
        lora: name of the LoRA.
        update: factors from the file.
        scale: strength of the LoRA.
        layer: the layer, whose device and type of computation the factors take.
    """

    def __init__(self, lora: str, update: LowRank, scale: float, layer: nn.Linear) -> None:
        super().__init__()
        self.lora, self.scale = lora, scale * update.scale
        for name, value in (("down", update.down), ("up", update.up), ("up_bias", update.up_bias)):
            moved = None if value is None else value.to(layer.weight.device, compute_dtype(layer))
            self.register_buffer(name, moved, persistent=False)
        self.down: Tensor
        self.up: Tensor
        self.up_bias: Tensor | None

    def forward(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """Compute the scaled update of an input."""
        return F.linear(F.linear(x, self.down), self.up, self.up_bias) * self.scale


def replace_layer(world: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` in the place of the submodule `name`."""
    owner, _, leaf = name.rpartition(".")
    parent = world.get_submodule(owner)
    if isinstance(parent, nn.Sequential):
        parent[int(leaf)] = layer
    else:
        setattr(parent, leaf, layer)
