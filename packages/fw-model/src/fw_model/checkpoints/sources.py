"""Where weights lie: a file, a folder or a hub id turned into one local safetensors source, and the reading of it."""

import json
from pathlib import Path

from torch import Tensor

from fw_model.checkpoints.shipped import SMALL_WORLD, shipped_weights

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")


def locate(source: str | Path, *, weights: str) -> Path:
    """The safetensors file (or sharding index) that ``source`` means.

    Args:
        source: a .safetensors file, a folder that holds ``weights`` (or its .index.json, or one single .safetensors
            file), or a hub id ``owner/name``, which is downloaded.
        weights: usual name of the weights inside a folder.

    Raises:
        ValueError: the path does not exist, its folder holds no weights, or it is a pickle, which only ``fw convert``
            opens.
    """
    path = local_folder(source)
    if path.is_file():
        if path.suffix in PICKLES:
            raise ValueError(
                f"{path} is a pickle, which can run code when opened. Turn it into safetensors once with "
                f"`fw convert {path} FOLDER` (it opens the file in a process of its own, weights only)."
            )
        return path
    for name in (weights, weights + ".index.json"):
        if (path / name).is_file():
            return path / name
    single = sorted(path.glob("*.safetensors"))
    if len(single) == 1:
        return single[0]
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
    hint = f" It holds {pickles[0]}: run `fw convert` on it." if pickles else ""
    raise ValueError(f"{path} holds no {weights} (and {len(single)} other .safetensors files).{hint}")


def local_folder(source: str | Path) -> Path:
    """``source`` if it exists, else the snapshot of the hub id it names. ValueError if it is neither.

    The text "small-world" means the weights that come with the package; a folder of that name is "./small-world".
    """
    if source == SMALL_WORLD:
        return shipped_weights()
    path = Path(source)
    if path.exists():
        return path
    name = str(source)
    if isinstance(source, Path) or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ValueError(f"{source} does not exist; give an existing folder or file, or a hub id (owner/name).")
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors file, or of the shards that a .safetensors.index.json lists."""
    from safetensors.torch import load_file

    if path.suffix != ".json":
        return load_file(path)
    shards = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        tensors.update(load_file(path.parent / shard))
    return tensors
