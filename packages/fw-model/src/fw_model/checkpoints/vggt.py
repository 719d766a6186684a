"""Start the geometry branch from VGGT's weights: an option for models whose geometry has VGGT-1B's width (1024).

Blocks, special tokens, the camera head and the dense heads have VGGT's shapes. The timestep's modulation, the bridge
and the temporal up-samplers have no counterpart; the modulation is set so that every block starts as VGGT's.
"""

import re
from pathlib import Path
from typing import NamedTuple

import torch

from fw_model.checkpoints.keys import to_released
from fw_model.checkpoints.weights import WeightFolder, compare_names, looks_like
from fw_model.model.model import FantasyWorld

LICENSE = (
    "These weights come from VGGT, (c) Meta. VGGT-1B is licensed for non-commercial use only; VGGT-1B-Commercial has "
    "its own license. A model initialized from them is bound by the license of the file you gave: read it before you "
    "train, share or serve."
)

_KEPT = r"geometry\.(bridge|time|tokens\.from_poses|camera_head\.expand|\w+_head\.streams\.\d\.upsample)"
_ATTENTION_GATE, _OUT_GATE = 2, 5


class VGGTStart(NamedTuple):
    """Result of loading a VGGT checkpoint."""

    license: str
    """Notice to show before training."""
    layers: tuple[int, ...]
    """The VGGT layer that each geometry layer started from."""
    loaded: int
    """Number of loaded tensors."""


@torch.no_grad()
def start_from_vggt(world: FantasyWorld, source: str | Path) -> VGGTStart:
    """Load a VGGT checkpoint (safetensors, folder or file) into the geometry branch; show the returned license.

    With fewer geometry layers than VGGT has, they are taken at equal distances, the first and the last included.
    Raises ValueError if the file is not VGGT's or its shapes differ from the model's.
    """
    weights = WeightFolder(Path(source))
    kind = looks_like(set(weights.shapes))
    if kind != "a VGGT checkpoint":
        raise ValueError(f"{source} looks like {kind}; a VGGT checkpoint was expected to start the geometry branch.")
    depth = 1 + max(int(m[1]) for m in (re.match(r"aggregator\.frame_blocks\.(\d+)\.", n) for n in weights.shapes) if m)
    count = world.config.irg_blocks
    layers = tuple(round(i * (depth - 1) / max(count - 1, 1)) for i in range(count))
    wanted: dict[str, list[str]] = {}  # a VGGT tensor may start several of ours
    for name, _ in world.named_parameters():
        theirs = _vggt_name(world, name, layers)
        if theirs is not None:
            wanted.setdefault(theirs, []).append(name)
    parameters = dict(world.named_parameters())
    compare_names(
        {name: shape for name, shape in weights.shapes.items() if name in wanted},
        {theirs: tuple(parameters[ours[0]].shape) for theirs, ours in wanted.items()},
        source=str(source),
        purpose=f"the geometry branch of preset {world.config.name!r}",
    )
    for theirs, tensor in weights.tensors():
        for ours in wanted.get(theirs, []):
            parameters[ours].copy_(tensor)
    _neutral_modulation(world)
    return VGGTStart(LICENSE, layers, sum(len(ours) for ours in wanted.values()))


def _vggt_name(world: FantasyWorld, name: str, layers: tuple[int, ...]) -> str | None:
    """VGGT's name of one of our parameters, or None if it has no such thing."""
    if world.parameter_group(name) != "geometry" or name.endswith(".modulation") or re.match(_KEPT, name):
        return None
    block = re.match(r"irg\.(\d+)\.(frame|all_frames)\.(.+)", name)
    if block:
        kind = "frame_blocks" if block[2] == "frame" else "global_blocks"
        return f"aggregator.{kind}.{layers[int(block[1])]}.{block[3]}"
    return to_released(name).removeprefix("vggt.")


def _neutral_modulation(world: FantasyWorld) -> None:
    """Shifts and scales 0, output gate 1, and no part of the timestep yet: each block computes the same as VGGT's."""
    for block in world.geometry_blocks():
        block.modulation.zero_()
        block.modulation[:, _OUT_GATE] = 1.0
        if block.gate_attention:
            block.modulation[:, _ATTENTION_GATE] = 1.0
    for parameter in world.geometry.time.project.parameters():
        parameter.zero_()
