"""Layouts of LoRA files: diffusers, PEFT, kohya (musubi-tuner), ComfyUI, DiffSynth and VideoX-Fun.

Every layout names a layer of the Wan transformer, by its original or by its diffusers name, and stores the two factors
of the update. The scale is alpha / rank where the file has an alpha (a tensor of the layer, diffusers' metadata, or
PEFT's adapter_config.json, there with alpha / sqrt(rank) for rank-stabilized LoRA) and 1 elsewhere.

Axes: r rank, i input width, o output width.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fw_model.checkpoints.opening import open_safetensors, safetensors_files

Layout = Literal["diffusers", "PEFT", "kohya", "ComfyUI", "DiffSynth", "VideoX-Fun"]

_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "pipe.dit.", "transformer.", "module.")
_UNDERSCORED = re.compile(r"^lora_(?:unet|transformer)_+")
_METADATA = "lora_adapter_metadata"
_PARTS = (
    ("down", re.compile(r"\.lora(?:_A|_down|\.down)(?:\.\w+)?\.weight$")),
    ("up", re.compile(r"\.lora(?:_B|_up|\.up)(?:\.\w+)?\.weight$")),
    ("up_bias", re.compile(r"\.lora(?:_B|_up|\.up)(?:\.\w+)?\.bias$")),
    ("alpha", re.compile(r"\.alpha$")),
    ("weight", re.compile(r"\.diff$")),
    ("bias", re.compile(r"\.diff_b$")),
    ("modulation", re.compile(r"\.diff_m$")),
)
_OTHER_KINDS = (
    ("LoHa", re.compile(r"\.hada_")),
    ("LoKr", re.compile(r"\.lokr_")),
    ("DoRA", re.compile(r"\.(dora_scale|lora_magnitude_vector)")),
    ("OFT", re.compile(r"\.(oft_|boft_)")),
    ("Tucker LoRA", re.compile(r"\.lora_mid\.")),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRank:
    """weight += scale * up @ down, and bias += scale * up_bias, of one layer."""

    down: Float[Tensor, "r i"]
    up: Float[Tensor, "o r"]
    up_bias: Float[Tensor, " o"] | None
    scale: float
    """alpha / rank."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraFile:
    """A LoRA file under the names of a Wan transformer, as the file spells them without its prefix."""

    path: Path
    layout: Layout
    layers: Mapping[str, LowRank]
    """Layer -> update of its weight."""
    dense: Mapping[str, Tensor] = field(default_factory=dict)
    """Parameter -> full difference to add; some distilled LoRAs have them for biases, norms and modulations."""


def lora_path(source: str | Path) -> Path:
    """The LoRA file of `source`: a file, or the folder that diffusers or PEFT wrote. ValueError if there is none."""
    path = Path(source)
    if path.is_dir():
        inside = [path / name for name in _FILES if (path / name).is_file()] or safetensors_files(path)
        if len(inside) != 1:
            raise ValueError(f"{path} has {len(inside)} safetensors files; give the LoRA file itself")
        return inside[0]
    if not path.is_file():
        raise ValueError(f"LoRA file not found: {path}; give a local safetensors file, downloaded beforehand")
    return path


def read_lora(source: str | Path) -> LoraFile:
    """Read a LoRA file of any known layout.

    Raises:
        ValueError: no such file, another kind of adapter (LoHa, LoKr, DoRA, ...), half of a pair, values that are not
            finite, or keys of no known layout, which are listed.
    """
    path = lora_path(source)
    with open_safetensors(path) as handle:
        metadata = handle.metadata() or {}
        state = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    _refuse_other_kinds(path, state)
    found, unknown = _split(state)
    if unknown:
        raise ValueError(f"{path}: {listed(unknown)} of no known LoRA layout")
    layout = _layout(list(state))
    options = _options(path, metadata)
    layers: dict[str, LowRank] = {}
    dense: dict[str, Tensor] = {}
    for name, parts in found.items():
        for part in ("weight", "bias", "modulation"):
            if part in parts:
                dense[f"{name}.{part}"] = parts[part]
        if not {"down", "up", "alpha", "up_bias"} & set(parts):
            continue
        if not {"down", "up"} <= set(parts):
            raise ValueError(f"{path}: layer {name} has only {', '.join(sorted(parts))}; the file is incomplete")
        down, up = parts["down"].flatten(1), parts["up"].flatten(1)
        if down.shape[0] != up.shape[1]:
            raise ValueError(f"{path}: layer {name} has rank {down.shape[0]} below and rank {up.shape[1]} above")
        alpha = float(parts["alpha"]) if "alpha" in parts else None
        layers[name] = LowRank(
            down=down, up=up, up_bias=parts.get("up_bias"), scale=_scale(name, down.shape[0], alpha, options)
        )
    return LoraFile(path=path, layout=layout, layers=layers, dense=dense)


def is_underscored(name: str) -> bool:
    """Whether a layer's name still has underscores where the network has dots (kohya, VideoX-Fun)."""
    return "." not in name


def listed(names: Iterable[str], most: int = 5) -> str:
    """A count and the first few names."""
    names = sorted(names)
    more = ", ..." if len(names) > most else ""
    return f"{len(names)} key{'s' if len(names) != 1 else ''} ({', '.join(names[:most])}{more})"


def _split(state: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Layer -> part -> tensor, and the keys that are of no known form."""
    found: dict[str, dict[str, Tensor]] = {}
    unknown: list[str] = []
    for key, value in state.items():
        for part, pattern in _PARTS:
            match = pattern.search(key)
            if match:
                found.setdefault(_plain(key[: match.start()]), {})[part] = value
                break
        else:
            unknown.append(key)
    return found, unknown


def _plain(name: str) -> str:
    """A layer's name without the prefixes of its layout."""
    if _UNDERSCORED.match(name):
        return _UNDERSCORED.sub("", name)
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                name, stripped = name.removeprefix(prefix), True
    return name


def _layout(keys: list[str]) -> Layout:
    first = keys[0] if keys else ""
    if first.startswith("lora_unet__"):
        return "VideoX-Fun"
    if _UNDERSCORED.match(first):
        return "kohya"
    if first.startswith("base_model."):
        return "PEFT"
    if first.startswith(("diffusion_model.", "model.diffusion_model.")):
        return "ComfyUI"
    return "diffusers" if first.startswith("transformer.") or ".attn1." in first else "DiffSynth"


def _refuse_other_kinds(path: Path, state: Mapping[str, Tensor]) -> None:
    for kind, pattern in _OTHER_KINDS:
        found = [key for key in state if pattern.search(key)]
        if found:
            raise ValueError(
                f"{path} is a {kind} adapter (key {found[0]}), which is not supported; "
                "merge it into the base weights with the program that made it"
            )
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(
                f"{path}: {key} has values that are not finite; the training diverged, use an earlier file"
            )


def _options(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """PEFT's configuration of the adapter, from diffusers' metadata or from adapter_config.json; empty without one."""
    config = path.with_name("adapter_config.json")
    if _METADATA in metadata:
        values = json.loads(metadata[_METADATA])
        return {key.removeprefix("transformer."): value for key, value in values.items()}
    if path.name == "adapter_model.safetensors" and config.is_file():
        return json.loads(config.read_text(encoding="utf-8"))
    return {}


def _scale(name: str, rank: int, alpha: float | None, options: Mapping[str, Any]) -> float:
    if alpha is None:
        alpha = options.get("lora_alpha")
        for pattern, value in (options.get("alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", name):
                alpha = value
    if alpha is None:
        return 1.0
    return alpha / math.sqrt(rank) if options.get("use_rslora") else alpha / rank
