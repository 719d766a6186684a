"""Checkpoints: a folder with config.json and model.safetensors, and video backbones in their own layouts.

A model is built on the meta device and its parameters are put in one by one, so loading needs little more host memory
than the weights. Names and shapes are compared before anything is read.
"""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fw_core.devices import choose_dtype
from fw_core.files import write_text
from fw_model.checkpoints.fill import fill
from fw_model.checkpoints.keys import released_names, to_diffusers, to_wan
from fw_model.checkpoints.opening import read_json
from fw_model.checkpoints.sources import local_folder
from fw_model.checkpoints.weights import SHARD_BYTES, WeightFolder, compare_names, looks_like, save_weights
from fw_model.config import WorldConfig
from fw_model.layers.stored_weights import StoredWeights, is_stored
from fw_model.lora.apply import loaded_loras
from fw_model.model.model import FantasyWorld

CONFIG_FILE = "config.json"
FORMAT = "fantasy-world-1"
_LOG = logging.getLogger(__name__)

Layout = Literal["original", "diffusers"]
"""How a Wan transformer names its parameters: Wan, VideoX-Fun and DiffSynth alike, or WanTransformer3DModel."""


def save_world(
    world: FantasyWorld,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
    read: Callable[[str], Tensor] | None = None,
) -> None:
    """Write config.json and model.safetensors (shards and an index above `shard_bytes`), in `dtype` if given.

    `read` gives the value of a parameter by name when it is written, for models on the meta device; one shard is in
    memory at a time.
    """
    beside = [one.name for one in loaded_loras(world) if not one.merged]
    if beside:
        raise ValueError(f"LoRA {beside[0]!r} is not merged, so the checkpoint would lose it; unload it, or merge it")
    if any(is_stored(module) for module in world.modules()):
        raise ValueError("the weights are stored in 8 bits, for inference; load the model without that to save it")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder, dict(world.named_parameters()), dtype=dtype, shard_bytes=shard_bytes, read=read)
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

    Parameters on the meta device are replaced by the file's tensors; others are copied into, keeping their type. Of
    sharded parameters (`torch.distributed.fsdp.fully_shard`), on the meta device or not, every process reads its own
    rows, and they keep their type.
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
    names = names_in(files, world)
    check_names(world, files, names, f"preset {world.config.name!r}")
    fill(world, files, names, device=device, dtype=dtype, stored=weights)


def names_in(files: WeightFolder, world: FantasyWorld) -> dict[str, str]:
    """Name in the files of a checkpoint (ours, or the released one) -> name of the parameter."""
    if "released" in looks_like(set(files.shapes)):
        return released_names(world)
    return {name: name for name, _ in world.named_parameters()}


def check_names(world: FantasyWorld, files: WeightFolder, names: Mapping[str, str], purpose: str) -> None:
    """Compare names and shapes of `names` (name in the files -> parameter) with the files, before anything is read.

    Raises ValueError, with the first differing names; `purpose` says what the files should hold.
    """
    parameters = dict(world.named_parameters())
    wanted = {theirs: tuple(parameters[ours].shape) for theirs, ours in names.items()}
    compare_names(files.shapes, wanted, source=str(files.path), purpose=purpose)
    for note in files.notes:
        _LOG.warning("%s: %s", files.path, note)


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
    files, names, layout = find_video_backbone(world, source)
    fill(world, files, names, device=device, dtype=dtype)
    return layout


def find_video_backbone(world: FantasyWorld, source: str | Path) -> tuple[WeightFolder, dict[str, str], Layout]:
    """The files of a Wan transformer, names (in the files -> parameter of the video branch) and layout; reads headers.

    Raises ValueError as `load_video_backbone` does.
    """
    files = WeightFolder(Path(source))
    kind = looks_like(set(files.shapes))
    rename = {"a Wan video transformer in diffusers' layout": to_diffusers}.get(kind, to_wan)
    if "Wan video transformer" not in kind:
        raise ValueError(f"{source} looks like {kind}; a Wan video transformer was expected as the video backbone.")
    video = [n for n, _ in world.named_parameters() if world.parameter_group(n) == "video"]
    names = {rename(name, world.config.pcb_blocks): name for name in video}
    check_names(world, files, names, f"the video backbone of preset {world.config.name!r}")
    return files, names, "diffusers" if rename is to_diffusers else "original"


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
