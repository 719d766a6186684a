"""Put LoRA updates on the video branch of a `FantasyWorld`: added into the weights, or as removable low-rank branches.

Axes: r rank, i input width, o output width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fw_model.checkpoints.keys import to_diffusers, to_released, to_wan
from fw_model.layers.stored_weights import is_stored
from fw_model.lora.layouts import Layout, LoraFile, LowRank, is_underscored, listed, lora_path, read_lora
from fw_model.lora.linear import LoraBranch, LoraLinear, replace_layer

if TYPE_CHECKING:
    from fw_model.model.model import FantasyWorld

_STATE = "_lora_state"
_GENERIC = ("pytorch_lora_weights", "adapter_model")


@dataclass(frozen=True, kw_only=True)
class LoadedLora:
    """One LoRA on a model."""

    name: str
    path: Path
    layout: Layout
    scale: float
    """Strength: 0 has no effect, 1 is the update as trained."""
    merged: bool
    """Whether it was added into the weights, from which it cannot be removed."""
    layers: int
    """Layers with an update of low rank."""


class _State:
    """LoRAs of one model, in loading order, and the values that unloading restores."""

    def __init__(self) -> None:
        self.loaded: dict[str, LoadedLora] = {}
        self.dense: dict[str, dict[str, Tensor]] = {}
        """LoRA -> parameter -> scaled difference."""
        self.original: dict[str, Tensor] = {}
        """Parameter -> its values without any difference."""


def load_lora(
    world: "FantasyWorld", source: str | Path, scale: float = 1.0, *, name: str | None = None, merge: bool = False
) -> LoadedLora:
    """Put a LoRA file on the video branch; several may be loaded one after the other.

    Args:
        world: the model, with its weights loaded.
        source: a safetensors file in the layout of diffusers, PEFT, kohya, ComfyUI, DiffSynth or VideoX-Fun, or the
            folder of one.
        scale: strength of the update.
        name: name for `unload_lora`; by default the file's name without its extension.
        merge: add the update into the weights (as fast as without) instead of computing it beside them (removable).

    Raises:
        ValueError: not a LoRA, keys that no layer of the model has (they are listed), an update of another shape (the
            layer is named), or a name that is taken.
    """
    if not isinstance(scale, int | float) or isinstance(scale, bool):
        raise TypeError(f"scale is {scale!r}; it must be a number")
    if not math.isfinite(scale):
        raise ValueError(f"scale is {scale}; it must be finite (1 is the update as trained)")
    path = lora_path(source)
    state = _state(world)
    name = name or (path.parent.name if path.stem in _GENERIC else path.stem)
    if name in state.loaded:
        raise ValueError(f"a LoRA named {name!r} is loaded already; unload it, or give another name")
    file = read_lora(path)
    layers, dense = _matched(world, file)
    _check_shapes(world, file, layers, dense)
    if merge:
        if any(is_stored(module) for module in world.modules()):
            raise ValueError(
                "load_lora: the weights are stored in 8 bits, so nothing can be merged into them; omit merge"
            )
        _merge(world, state, layers, dense, scale)
    else:
        _branch(world, state, layers, dense, scale, name)
    loaded = LoadedLora(name=name, path=path, layout=file.layout, scale=scale, merged=merge, layers=len(layers))
    state.loaded[name] = loaded
    return loaded


def unload_lora(world: "FantasyWorld", name: str | None = None) -> list[str]:
    """Remove one LoRA, or all (name None), and return the names; this restores the weights bit for bit.

    Raises:
        ValueError: no LoRA of this name, or one that was merged, which only loading the model again removes.
    """
    state = _state(world)
    if name is not None and name not in state.loaded:
        raise ValueError(f"no LoRA named {name!r} is loaded; loaded are: {', '.join(state.loaded) or 'none'}")
    names = list(state.loaded) if name is None else [name]
    merged = [one for one in names if state.loaded[one].merged]
    if merged:
        raise ValueError(f"LoRA {merged[0]!r} was merged into the weights; load the model again to remove it")
    for one in names:
        for path, layer in list(world.named_modules()):
            if isinstance(layer, LoraLinear):
                kept = [branch for branch in layer.branches if branch.lora != one]
                layer.branches = nn.ModuleList(kept)
                if not kept:
                    replace_layer(world, path, layer.plain())
        changed = state.dense.pop(one, {})
        del state.loaded[one]
        _write_dense(world, state, list(changed))
    return names


def loaded_loras(world: "FantasyWorld") -> list[LoadedLora]:
    """The LoRAs of a model, in loading order."""
    return list(_state(world).loaded.values())


def _state(world: nn.Module) -> _State:
    if _STATE not in world.__dict__:
        world.__dict__[_STATE] = _State()
    return world.__dict__[_STATE]


def _matched(world: "FantasyWorld", file: LoraFile) -> tuple[dict[str, LowRank], dict[str, Tensor]]:
    """The file's updates under our names. ValueError lists the keys that match nothing."""
    names = _names(world)
    layers: dict[str, LowRank] = {}
    dense: dict[str, Tensor] = {}
    unknown: list[str] = []
    for theirs, update in file.layers.items():
        ours = names.get(f"{theirs}_weight" if is_underscored(theirs) else f"{theirs}.weight")
        if ours is None:
            unknown.append(theirs)
        else:
            layers[ours.removesuffix(".weight")] = update
    for theirs, value in file.dense.items():
        ours = names.get(theirs) or names.get(theirs.replace(".", "_"))
        if ours is None:
            unknown.append(theirs)
        else:
            dense[ours] = value
    if unknown or not (layers or dense):
        blocks = world.config.video.blocks
        raise ValueError(
            f"{file.path} ({file.layout} layout): {listed(unknown)} match no layer of the video branch of "
            f"{world.config.name!r} ({blocks} blocks of width {world.config.video.dim}); "
            "is the LoRA for another model?"
        )
    return layers, dense


def _names(world: "FantasyWorld") -> dict[str, str]:
    """Every name that a file may use for a parameter of the video branch -> our name."""
    count = world.config.pcb_blocks
    table: dict[str, str] = {}
    for ours, _ in world.named_parameters():
        if world.parameter_group(ours) == "video":
            known = (to_wan(ours, count), to_diffusers(ours, count), to_released(ours).removeprefix("pipe.dit."))
            for theirs in known:
                table[theirs] = table[theirs.replace(".", "_")] = ours
    return table


def _check_shapes(
    world: "FantasyWorld", file: LoraFile, layers: Mapping[str, LowRank], dense: Mapping[str, Tensor]
) -> None:
    wrong: list[str] = []
    for layer, update in layers.items():
        weight = world.get_parameter(f"{layer}.weight")
        if weight.is_meta:
            raise ValueError(f"load_lora: {layer} has no weights yet; load the model first")
        want, got = (weight.shape[0], weight[0].numel()), (update.up.shape[0], update.down.shape[1])
        if want != got:
            wrong.append(f"{layer} is {want[0]} x {want[1]} in the model and {got[0]} x {got[1]} in the file")
        module = world.get_submodule(layer)
        if isinstance(module, LoraLinear) and module.factors() is not None:
            raise ValueError(f"load_lora: {layer} has an adapter in training; merge it first")
        if update.up_bias is not None and getattr(module, "bias", None) is None:
            wrong.append(f"{layer} has no bias in the model and one in the file")
    for name, value in dense.items():
        shape = world.get_parameter(name).shape
        if math.prod(shape) != value.numel():
            wrong.append(f"{name} is {list(shape)} in the model and {list(value.shape)} in the file")
    if wrong:
        raise ValueError(
            f"{file.path} ({file.layout} layout) does not fit model {world.config.name!r}: {len(wrong)} "
            f"{'layer' if len(wrong) == 1 else 'layers'} of another shape, first {'; '.join(wrong[:3])}"
        )


@torch.no_grad()
def _merge(
    world: nn.Module, state: _State, layers: Mapping[str, LowRank], dense: Mapping[str, Tensor], scale: float
) -> None:
    """Add the updates into the weights, computed in float32 and rounded once."""
    updates: list[tuple[str, Tensor]] = [(name, scale * value.float()) for name, value in dense.items()]
    for layer, update in layers.items():
        device, factor = world.get_parameter(f"{layer}.weight").device, scale * update.scale
        updates.append((f"{layer}.weight", update.up.to(device).float() @ update.down.to(device).float() * factor))
        if update.up_bias is not None:
            updates.append((f"{layer}.bias", update.up_bias.float() * factor))
    for name, value in updates:
        _add(world.get_parameter(name), value)
        if name in state.original:  # removing the other LoRAs restores this
            _add(state.original[name], value)


def _branch(
    world: nn.Module, state: _State, layers: Mapping[str, LowRank], dense: dict[str, Tensor], scale: float, name: str
) -> None:
    """Compute the updates beside linear layers; add those of convolutions, and full differences, removably."""
    for layer, update in layers.items():
        linear = world.get_submodule(layer)
        if isinstance(linear, nn.Linear):
            _adapted(world, layer).branches.append(LoraBranch(name, update, scale, linear))
        else:
            product = (update.up.float() @ update.down.float() * update.scale).reshape(
                world.get_parameter(f"{layer}.weight").shape
            )
            dense[f"{layer}.weight"] = product + dense.get(f"{layer}.weight", 0)
    state.dense[name] = {parameter: scale * value.float() for parameter, value in dense.items()}
    for parameter in dense:
        state.original.setdefault(parameter, world.get_parameter(parameter).detach().clone())
    _write_dense(world, state, list(dense))


def _add(parameter: Tensor, update: Tensor) -> None:
    update = update.to(parameter.device).reshape(parameter.shape)
    parameter.copy_((parameter.float() + update).to(parameter.dtype))


@torch.no_grad()
def _write_dense(world: nn.Module, state: _State, names: list[str]) -> None:
    """Set parameters to their original values plus the differences of all loaded LoRAs."""
    for name in names:
        parameter = world.get_parameter(name)
        parameter.copy_(state.original[name])
        updates = [parts[name] for parts in state.dense.values() if name in parts]
        for update in updates:
            _add(parameter, update)
        if not updates:
            del state.original[name]


def _adapted(world: nn.Module, name: str) -> LoraLinear:
    layer = world.get_submodule(name)
    if not isinstance(layer, LoraLinear):
        assert isinstance(layer, nn.Linear)
        layer = LoraLinear(layer)
        replace_layer(world, name, layer)
    return layer
