"""The value of every parameter at the start of a run: in the files of `init`, or new.

Values are read when they are asked for, so that a sharded run never has the whole model in memory.
"""

from pathlib import Path

import torch
from torch import Tensor

from fw_model.checkpoints.checkpoint import check_names, names_in, read_config
from fw_model.checkpoints.fill import fill, fill_computed
from fw_model.checkpoints.weights import WeightFolder
from fw_model.config import WorldConfig
from fw_model.layers.declarations import initial_value
from fw_model.model.model import FantasyWorld
from fw_train.lora import initial_adapter, is_adapter


class InitialWeights:
    """Initial values by parameter name.

    Where `config` differs from that of the checkpoint, weights that both have are used. Video blocks are matched by
    their number over all blocks, so that they load with any number of preconditioning blocks. Another geometry branch,
    which is not trained yet, is new, even where sizes agree.

    Args:
        config: the model.
        folder: the checkpoint; None: everything is new.
        seed: new weights are a function of it.

    Raises:
        ValueError: not a FantasyWorld checkpoint, or one whose weights do not fit its own config.
    """

    def __init__(self, config: WorldConfig, folder: Path | None, seed: int) -> None:
        self.seed = seed
        self._model = meta_world(config)
        self._files = None if folder is None else WeightFolder(folder)
        self._stored = {} if folder is None or self._files is None else _stored(self._files, folder, self._model)

    def read(self, name: str) -> Tensor:
        """The initial value of a parameter, except an adapter's, in float32 on the CPU."""
        if name in self._stored:
            assert self._files is not None, "stored values come from files"
            return self._files.read(self._stored[name]).float()
        return initial_value(self._model, name, self.seed)

    def fill(self, world: FantasyWorld, device: torch.device) -> None:
        """Set all parameters of a model on the meta device; of a sharded one, the rows of this process.

        Parameters become float32 on `device`; sharded ones keep their type.
        """
        if self._files is not None:
            names = {theirs: ours for ours, theirs in self._stored.items()}
            fill(world, self._files, names, device=device, dtype=torch.float32)
        new = [name for name, _ in world.named_parameters() if name not in self._stored]
        fill_computed(world, {name: lambda name=name: self._new(world, name) for name in new}, device=device)

    def _new(self, world: FantasyWorld, name: str) -> Tensor:
        if is_adapter(name):
            return initial_adapter(name, world.get_parameter(name).shape, self.seed)
        return initial_value(self._model, name, self.seed)


def meta_world(config: WorldConfig) -> FantasyWorld:
    """A model without values, on the meta device."""
    with torch.device("meta"):
        return FantasyWorld(config)


def _stored(files: WeightFolder, folder: Path, model: FantasyWorld) -> dict[str, str]:
    """Parameter -> name in the files, of all parameters that get their initial value from there."""
    config = read_config(folder)
    source = model if config == model.config else meta_world(config)
    names = names_in(files, source)
    check_names(source, files, names, f"preset {config.name!r}")
    if source is model:
        return {ours: theirs for theirs, ours in names.items()}
    same_geometry = config.geometry == model.config.geometry
    known = {
        _over_all_blocks(ours, config.pcb_blocks): theirs
        for theirs, ours in names.items()
        if same_geometry or source.parameter_group(ours) != "geometry"
    }
    found: dict[str, str] = {}
    for name, parameter in model.named_parameters():
        theirs = known.get(_over_all_blocks(name, model.config.pcb_blocks))
        if theirs is not None and files.shapes[theirs] == tuple(parameter.shape):
            found[name] = theirs
    return found


def _over_all_blocks(name: str, pcb_blocks: int) -> str:
    """Name of a parameter with its video block counted over all blocks; other names as they are."""
    part, _, rest = name.partition(".")
    index, _, inner = rest.partition(".")
    if part == "pcb":
        return f"block.{index}.{inner}"
    if part == "irg" and inner.startswith("video."):
        return f"block.{pcb_blocks + int(index)}.{inner.removeprefix('video.')}"
    return name
