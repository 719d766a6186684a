"""Checkpoints: a folder with config.json and model.safetensors, and video backbones in their own layouts.

A model is built on the meta device and its parameters are put in one by one, so loading needs little more host memory
than the weights. Names and shapes are compared before anything is read.
"""

import json
import logging
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from fw_core.devices import choose_dtype
from fw_core.files import write_text
from fw_model.checkpoints.keys import released_names, to_diffusers, to_wan
from fw_model.checkpoints.opening import is_fp8, read_json
from fw_model.checkpoints.sources import local_folder
from fw_model.checkpoints.weights import SHARD_BYTES, WeightFolder, compare_names, looks_like, save_weights
from fw_model.config import WorldConfig
from fw_model.layers.float32 import Float32Module
from fw_model.layers.stored_weights import StoredWeights, is_stored, store_weight
from fw_model.lora.apply import loaded_loras
from fw_model.model.model import FantasyWorld

CONFIG_FILE = "config.json"
FORMAT = "fantasy-world-1"
_LOG = logging.getLogger(__name__)

Layout = Literal["original", "diffusers"]
"""How a Wan transformer names its parameters: Wan, VideoX-Fun and DiffSynth alike, or WanTransformer3DModel."""


def save_world(
    world: FantasyWorld, folder: str | Path, *, dtype: torch.dtype | None = None, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write config.json and model.safetensors (shards and an index above `shard_bytes`), in `dtype` if given."""
    beside = [one.name for one in loaded_loras(world) if not one.merged]
    if beside:
        raise ValueError(f"LoRA {beside[0]!r} is not merged, so the checkpoint would lose it; unload it, or merge it")
    if any(is_stored(module) for module in world.modules()):
        raise ValueError("the weights are stored in 8 bits, for inference; load the model without that to save it")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder, dict(world.named_parameters()), dtype=dtype, shard_bytes=shard_bytes)
    content = {"format": FORMAT, **world.config.to_dict()}
    write_text(folder / CONFIG_FILE, json.dumps(content, indent=2) + "\n")


def load_world(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    preset: str | None = None,
    revision: str | None = None,
    weights: StoredWeights | None = None,
) -> FantasyWorld:
    """Build and load a model from a folder, or from a Hugging Face id.

    Args:
        source: folder with config.json and weights, "owner/name" to download, or "small-world" (see `shipped`).
        device: where the parameters go.
        dtype: their type, also by name ("bfloat16"); None keeps the file's. The heads are float32 in any case.
        preset: refuse a checkpoint of any other preset.
        revision: branch, tag or commit of a hub id.
        weights: store the matrices of the blocks in 8 bits ("fp8" or "int8") and compute in `dtype`; each is rounded as
            it is read. For inference.

    Raises:
        ValueError: not a FantasyWorld checkpoint, another preset, or weights that do not fit the config.
    """
    dtype, folder = choose_dtype(dtype), local_folder(source, revision=revision)
    config = read_config(folder)
    if preset is not None and config.name != preset:
        raise ValueError(
            f"{source} is a checkpoint of preset {config.name!r}, but {preset!r} was asked for. "
            "Give a checkpoint of that preset, or ask for the one you have."
        )
    with torch.device("meta"):
        world = FantasyWorld(config)
    load_weights(world, folder, device=device, dtype=dtype, weights=weights)
    return world.to(device).eval()


def load_weights(
    world: FantasyWorld,
    folder: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    weights: StoredWeights | None = None,
) -> None:
    """Put the weights of a checkpoint folder into a model of the same config (our names, or the released ones).

    Parameters on the meta device are replaced by the file's tensors; others are copied into, keeping their type.
    Raises ValueError for a checkpoint of another config, by name, and for names or shapes that differ.
    """
    folder = Path(folder)
    if (folder / CONFIG_FILE).exists():
        stored = read_config(folder)
        if stored != world.config:
            raise ValueError(
                f"{folder} is a checkpoint of preset {stored.name!r}, the model is {world.config.name!r}: "
                f"{_first_difference(stored, world.config)}."
            )
    files = WeightFolder(folder)
    names = {name: name for name, _ in world.named_parameters()}
    if "released" in looks_like(set(files.shapes)):
        names = released_names(world)
    _fill(world, files, names, f"preset {world.config.name!r}", device, dtype, weights)


def load_video_backbone(
    world: FantasyWorld,
    source: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Layout:
    """Load a Wan transformer into the video branch and return its layout; all other parameters stay as they are.

    Args:
        world: the model; its config defines the backbone that fits.
        source: folder (or one file) of safetensors in the original Wan, VideoX-Fun, DiffSynth or diffusers layout.
        device, dtype: for parameters that are still on the meta device.

    Raises:
        ValueError: not a Wan transformer, or one of another size or family, with the first differing names.
    """
    weights = WeightFolder(Path(source))
    kind = looks_like(set(weights.shapes))
    rename = {"a Wan video transformer in diffusers' layout": to_diffusers}.get(kind, to_wan)
    if "Wan video transformer" not in kind:
        raise ValueError(f"{source} looks like {kind}; a Wan video transformer was expected as the video backbone.")
    video = [n for n, _ in world.named_parameters() if world.parameter_group(n) == "video"]
    names = {rename(name, world.config.pcb_blocks): name for name in video}
    _fill(world, weights, names, f"the video backbone of preset {world.config.name!r}", device, dtype)
    return "diffusers" if rename is to_diffusers else "original"


def read_config(folder: Path) -> WorldConfig:
    """The config of a checkpoint folder. Raises ValueError, with a guess at the format, if it is not one."""
    path = folder / CONFIG_FILE
    if not path.exists():
        kind = looks_like(set(WeightFolder(folder).shapes)) if folder.is_dir() else "no folder"
        raise ValueError(
            f"{folder} has no {CONFIG_FILE}: it looks like {kind}. A FantasyWorld checkpoint is a folder with "
            f"{CONFIG_FILE} and model.safetensors; a Wan backbone is loaded with load_video_backbone, and "
            "released .pth files are turned into a folder by `fw convert`."
        )
    content = read_json(path)
    if content.pop("format", None) != FORMAT:
        kind = content.get("_class_name") or content.get("model_type") or "another program's model"
        raise ValueError(f"{path} is the config of {kind}, not of a FantasyWorld model (format {FORMAT!r}).")
    return WorldConfig.from_dict(content)


def _fill(
    world: nn.Module,
    weights: WeightFolder,
    names: dict[str, str],
    purpose: str,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    stored: StoredWeights | None = None,
) -> None:
    parameters = dict(world.named_parameters())
    wanted = {theirs: tuple(parameters[ours].shape) for theirs, ours in names.items()}
    compare_names(weights.shapes, wanted, source=str(weights.path), purpose=purpose)
    for note in weights.notes:
        _LOG.warning("%s: %s", weights.path, note)
    exact = tuple(f"{name}." for name, module in world.named_modules() if isinstance(module, Float32Module))
    compact = 0
    for theirs, tensor in weights.tensors():
        if is_fp8(tensor.dtype):
            compact += 1
            tensor = tensor.to(torch.bfloat16)  # fp8 stores weights, it does not compute
        name = names[theirs]
        _put(world, name, tensor, device, torch.float32 if name.startswith(exact) else dtype)
        layer = world.get_submodule(name.rpartition(".")[0])
        if stored and isinstance(layer, nn.Linear) and name.endswith(".weight") and name.startswith(("pcb.", "irg.")):
            store_weight(layer, stored)
    if compact:
        _LOG.warning("%s: %d tensors stored in fp8 were loaded as bfloat16", weights.path, compact)


@torch.no_grad()
def _put(
    world: nn.Module, name: str, tensor: Tensor, device: str | torch.device | None, dtype: torch.dtype | None
) -> None:
    owner, _, leaf = name.rpartition(".")
    module = world.get_submodule(owner)
    old = module.get_parameter(leaf)
    if not old.is_meta:
        old.copy_(tensor)
        return
    value = tensor.to(device=device or "cpu", dtype=dtype or tensor.dtype, copy=True)
    module._parameters[leaf] = nn.Parameter(value, requires_grad=old.requires_grad)


def _first_difference(stored: WorldConfig, wanted: WorldConfig) -> str:
    left, right = _flat(stored.to_dict()), _flat(wanted.to_dict())
    different = [key for key in {**left, **right} if key != "name" and left.get(key) != right.get(key)]
    shown = [f"{key} is {left.get(key)} there and {right.get(key)} here" for key in different[:3]]
    return "; ".join(shown) if shown else "only the names differ"


def _flat(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
