"""Where weights lie: a file, a folder or a hub id turned into one local safetensors source, and the reading of it."""

import re
from pathlib import Path

from torch import Tensor

from fw_model.checkpoints.opening import open_safetensors, read_json
from fw_model.checkpoints.shipped import SMALL_WORLD, shipped_weights

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DOWNLOADED = ["*.json", "*.safetensors", "*.model", "*.txt"]
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
_FILE_SUFFIXES = (*PICKLES, ".safetensors", ".json", ".gguf")


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
                f"`fw convert {path} FOLDER` (it opens the file in a separate process, weights only)."
            )
        return path
    for name in (weights, weights + ".index.json"):
        if (path / name).is_file():
            return path / name
    single = sorted(path.glob("[!.]*.safetensors"))
    if len(single) == 1:
        return single[0]
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
    hint = f" It holds {pickles[0]}: run `fw convert` on it." if pickles else ""
    raise ValueError(f"{path} holds no {weights} (and {len(single)} other .safetensors files).{hint}")


def local_folder(source: str | Path, *, revision: str | None = None) -> Path:
    """``source`` if it exists, else the snapshot of the hub id (owner/name) that it is.

    The text "small-world" means the weights in the package; a folder of that name is "./small-world".

    Args:
        source: a path or a hub id. A path that does not exist is refused, never looked up on the hub: so is every
            `Path`, every text with a file's extension, and every text whose first part is a local folder.
        revision: branch, tag or commit of the hub repository.

    Raises:
        ValueError: no such path, a revision for a local path, or a repository that cannot be downloaded.
    """
    if not isinstance(source, str | Path):
        raise TypeError(f"source is a {type(source).__name__}; give a path or a hub id (owner/name)")
    if source == SMALL_WORLD:
        return shipped_weights()
    path = Path(source)
    if path.exists():
        if revision is not None:
            raise ValueError(f"revision {revision!r} needs a hub id (owner/name), but {source} is a local path")
        return path
    if isinstance(source, Path) or not _HUB_ID.fullmatch(source) or path.suffix in _FILE_SUFFIXES or _is_local(path):
        raise ValueError(f"{source} does not exist; give an existing folder or file, or a hub id (owner/name).")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=_DOWNLOADED))
    except (OSError, ValueError) as error:  # missing repository or revision, no network, offline mode
        raise ValueError(
            f"{source} does not exist here, and could not be downloaded from the hub: {str(error).splitlines()[0]}"
        ) from None


def stable_name(source: str | Path) -> str:
    """How a file names ``source``: absolute if it exists, so that it holds in every working directory."""
    path = Path(source)
    return str(path.resolve()) if source != SMALL_WORLD and path.exists() else str(source)


def _is_local(path: Path) -> bool:
    """Whether the first part of a relative path is a folder here, so that it cannot mean a hub id."""
    return Path(path.parts[0]).is_dir()


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors file, or of the shards that a .safetensors.index.json lists."""
    files = [path]
    if path.suffix == ".json":
        files = [path.parent / shard for shard in sorted(set(read_json(path)["weight_map"].values()))]
    tensors: dict[str, Tensor] = {}
    for file in files:
        with open_safetensors(file) as handle:
            tensors |= {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    return tensors
