"""LoRA on a model of two experts: on both, on the named one, or on the one in the file's name."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from fw_model.lora.apply import LoadedLora, load_lora, loaded_loras, unload_lora
from fw_model.lora.layouts import lora_path
from fw_model.model.model import FantasyWorld

Expert = Literal["high_noise", "low_noise"]


def load_on_experts(
    experts: Mapping[str, FantasyWorld],
    source: str | Path,
    scale: float,
    *,
    name: str | None,
    merge: bool,
    expert: Expert | None,
) -> list[LoadedLora]:
    """Load a LoRA file on one or all of the experts.

    Args:
        experts: by name; a model without experts has the name ''.
        source, scale, name, merge: see `load_lora`.
        expert: the one to change; None: see `expert_in_name`.

    Raises:
        ValueError: an expert that the model does not have, or see `load_lora`.
    """
    if expert is not None and expert not in experts:
        have = "has no experts" if "" in experts else f"has the experts {', '.join(experts)}"
        raise ValueError(f"expert is {expert!r}, but the model {have}; leave expert out, or name one of these")
    chosen = expert or (None if "" in experts else expert_in_name(lora_path(source)))
    return [
        load_lora(world, source, scale, name=name, merge=merge)
        for key, world in experts.items()
        if chosen in (None, key)
    ]


def unload_from_experts(experts: Mapping[str, FantasyWorld], name: str | None) -> list[str]:
    """Remove one LoRA, or all, from every expert that has it. ValueError as in `unload_lora`."""
    holders = [world for world in experts.values() if name is None or name in [one.name for one in loaded_loras(world)]]
    removed = [one for world in holders or list(experts.values())[:1] for one in unload_lora(world, name)]
    return list(dict.fromkeys(removed))


def expert_in_name(path: Path) -> Expert | None:
    """The expert named in a file's name (or its folder's), such as `Wan22_high_noise.safetensors`."""
    for text in (path.stem, path.parent.name):
        found = [one for one in get_args(Expert) if re.search(one.replace("_", "[-_ ]?"), text, re.IGNORECASE)]
        if len(found) == 1:
            return found[0]
    return None


def lora_settings(experts: Mapping[str, FantasyWorld]) -> dict[str, Any]:
    """Name, scale and expert of every LoRA, for a world's settings; nothing without one."""
    used = [
        {"name": one.name, "scale": one.scale, **({"expert": expert} if expert else {})}
        for expert, world in experts.items()
        for one in loaded_loras(world)
    ]
    return {"loras": used} if used else {}
