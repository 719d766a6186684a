"""Find and read weights: a file, a folder or a hub id becomes one local safetensors source."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from fw_model.checkpoints.opening import is_fp8, open_safetensors, read_json, safetensors_files
from fw_model.checkpoints.shipped import SMALL_WORLD, shipped_weights

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_URL = re.compile(rf"hf://(?P<id>{_HUB_ID.pattern})(?:@(?P<revision>[^/]+))?(?:/(?P<path>.+))?")
_LOG = logging.getLogger(__name__)
_DOWNLOADED = ["*.json", "*.safetensors", "*.model", "*.txt"]
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
_FILE_SUFFIXES = (*PICKLES, ".safetensors", ".json", ".gguf")


def locate(source: str | Path, *, weights: str) -> Path:
    """The safetensors file (or sharding index) of ``source``.

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
    single = safetensors_files(path)
    if len(single) == 1:
        return single[0]
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
    hint = f" It holds {pickles[0]}: run `fw convert` on it." if pickles else ""
    raise ValueError(f"{path} holds no {weights} (and {len(single)} other .safetensors files).{hint}")


def local_folder(source: str | Path, *, revision: str | None = None) -> Path:
    """``source`` if it exists, else the snapshot of the hub id (owner/name) that it is.

    The text "small-world" means the weights in the package; a folder of that name is "./small-world". The folder of an
    `fw-train` run means its export.

    Args:
        source: a path, a hub id, or "hf://owner/name[@revision][/path]". A path that does not exist is refused, never
            looked up on the hub: so is every `Path`, every text with a file's extension, and every text whose first
            part is a local folder.
        revision: branch, tag or commit of the hub repository.

    Raises:
        ValueError: no such path, a revision for a local path, or a repository that cannot be downloaded.
    """
    if not isinstance(source, str | Path):
        raise TypeError(f"source is a {type(source).__name__}; give a path or a hub id (owner/name)")
    if source == SMALL_WORLD:
        if revision is not None:
            raise ValueError(f"revision {revision!r} needs a hub id (owner/name), but {source} is part of the package")
        return shipped_weights()
    if isinstance(source, str) and source.startswith("hf://"):
        return _hub_folder(source, revision)
    path = Path(source)
    if path.exists():
        if revision is not None:
            raise ValueError(f"revision {revision!r} needs a hub id (owner/name), but {source} is a local path")
        return _exported(path)
    if isinstance(source, Path) or not _HUB_ID.fullmatch(source) or path.suffix in _FILE_SUFFIXES or _is_local(path):
        raise ValueError(f"{source} does not exist; give an existing folder or file, or a hub id (owner/name).")
    return _snapshot(source, revision)


def _hub_folder(url: str, revision: str | None) -> Path:
    """The folder or file that an hf:// address names."""
    match = _HUB_URL.fullmatch(url)
    if match is None:
        raise ValueError(f"{url} is not an address of the hub; write hf://owner/name, @revision and /path are optional")
    if revision is not None and match["revision"] is not None:
        raise ValueError(f"{url} names a revision, and revision is {revision!r}; give one of them")
    folder = _snapshot(match["id"], revision or match["revision"])
    inside = folder / (match["path"] or "")
    if not inside.exists():
        raise ValueError(f"{url}: the repository has no {match['path']}")
    return inside


def _snapshot(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=_DOWNLOADED))
    except (OSError, ValueError) as error:  # missing repository or revision, no network, offline mode
        raise ValueError(
            f"{repo} does not exist here, and could not be downloaded from the hub: {str(error).splitlines()[0]}"
        ) from None


def upload_folder(
    write: Callable[[Path], object], repo: str, *, private: bool, revision: str | None, message: str
) -> str:
    """Fill a temporary folder and upload it to a repository of the hub, which is created if absent.

    Returns:
        Address of the commit.
    """
    from huggingface_hub import HfApi

    if not _HUB_ID.fullmatch(repo):
        raise ValueError(f"{repo!r} is not a hub id; give owner/name")
    api = HfApi()
    with TemporaryDirectory() as folder:
        write(Path(folder))
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        done = api.upload_folder(repo_id=repo, folder_path=folder, revision=revision, commit_message=message)
    return str(done.commit_url)


def _exported(path: Path) -> Path:
    """The export inside the folder of an `fw-train` run; any other path as it is."""
    if not (path / "checkpoints").is_dir():
        return path
    if not (path / "export").is_dir():
        raise ValueError(f"{path} is a training run without an export; finish it, or run `fw-train export {path}`")
    return path / "export"


def stable_name(source: str | Path) -> str:
    """How a file names ``source``: absolute if it exists, so that it holds in every working directory."""
    path = Path(source)
    return str(path.resolve()) if source != SMALL_WORLD and path.exists() else str(source)


def _is_local(path: Path) -> bool:
    """Whether the first part of a relative path is a folder here, so that it cannot mean a hub id."""
    return Path(path.parts[0]).is_dir()


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors file, or of the shards that a .safetensors.index.json lists.

    Tensors stored in fp8 are loaded as bfloat16, with a warning in the log.
    """
    files = [path]
    if path.suffix == ".json":
        files = [path.parent / shard for shard in sorted(set(read_json(path)["weight_map"].values()))]
    tensors: dict[str, Tensor] = {}
    for file in files:
        with open_safetensors(file) as handle:
            tensors |= {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    compact = {name: value.to(torch.bfloat16) for name, value in tensors.items() if is_fp8(value.dtype)}
    if compact:
        _LOG.warning("%s: %d tensors stored in fp8 were loaded as bfloat16", path, len(compact))
    return tensors | compact
