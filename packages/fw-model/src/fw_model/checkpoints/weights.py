"""Weight files: reading safetensors folders tensor by tensor, writing them in shards, and identifying files
of other projects.

Nothing here knows the model; `fw_model.checkpoints.checkpoint` puts names and modules together.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from fw_core.files import replacing, write_text
from fw_model.checkpoints.opening import check_quantization, read_header, read_json, safetensors_files
from fw_model.checkpoints.prefixes import plain_names
from fw_model.checkpoints.slices import SliceReader
from fw_model.parallel.shards import Rows

MODEL_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
_READABLE = 0o644

_LOOKS = (
    ("a FantasyWorld checkpoint of this package", r"^irg\.\d+\.coupling\."),
    ("a released FantasyWorld checkpoint", r"^IRGBlock\.\d+\."),
    ("a LoRA", r"lora_(A|B|up|down)\b|lora_(A|B|up|down)\."),
    ("a Wan video transformer in diffusers' layout", r"^blocks\.\d+\.attn1\.to_q\."),
    ("a Wan video transformer in the original layout", r"^blocks\.\d+\.self_attn\.q\."),
    ("a Wan video autoencoder in the original layout", r"^(model\.)?decoder\.upsamples\.\d+\."),
    ("a Wan video autoencoder in diffusers' layout", r"^decoder\.up_blocks\.\d+\."),
    ("a UMT5 text encoder in the original layout", r"^blocks\.\d+\.pos_embedding\.embedding\."),
    ("a T5 or UMT5 text encoder in transformers' layout", r"^encoder\.block\.\d+\.layer\."),
    ("a CLIP vision encoder", r"^(visual\.transformer\.|vision_model\.encoder\.|visual\.trunk\.)"),
    ("a VGGT checkpoint", r"^aggregator\.(frame|global)_blocks\.\d+\."),
)


def looks_like(names: Iterator[str] | set[str] | list[str]) -> str:
    """Describe the most probable format of a set of parameter names."""
    names = list(names)
    for words, pattern in _LOOKS:
        if any(re.search(pattern, name) for name in names):
            return words
    return "nothing this package knows (first names: " + ", ".join(sorted(names)[:3]) + ")"


class WeightFolder:
    """The safetensors files of a folder (or one file), read lazily, under plain names (see `plain_names`).

    `notes` lists the prefixes that were removed and the copies that were left out.

    Raises:
        ValueError: there are no safetensors files, an index names a missing one, or two files hold the same name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        owner: dict[str, Path] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for file in _weight_files(path):
            header = read_header(file)
            check_quantization(file, {name: entry["dtype"] for name, entry in header.items()})
            for name, entry in header.items():
                if name in owner:
                    raise ValueError(f"{path}: {name!r} is both in {owner[name].name} and in {file.name}.")
                owner[name], shapes[name] = file, tuple(entry["shape"])
        names, self.notes = plain_names(owner)
        self._stored = {plain: stored for stored, plain in names.items()}
        self._file = {plain: owner[stored] for plain, stored in self._stored.items()}
        self.shapes = {plain: shapes[stored] for plain, stored in self._stored.items()}
        self._slices = SliceReader()

    def tensors(self, rows: Mapping[str, Rows | None] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors, one file after the other; a tensor is read when it is asked for.

        Copy a tensor to keep it: its memory belongs to the file and is not aligned as torch aligns it.

        Args:
            rows: the names to read, each with the rows to read of it, or None for the whole; None: all, whole.
        """
        with self._slices:
            for name, file in self._file.items():
                if rows is None or name in rows:
                    wanted = None if rows is None else rows[name]
                    yield name, self._slices.read(file, self._stored[name], wanted)

    def read(self, name: str, rows: Rows | None = None) -> Tensor:
        """One tensor, or some rows of it, in memory of its own."""
        with self._slices:
            return self._slices.read(self._file[name], self._stored[name], rows).clone()


def save_weights(
    folder: Path,
    state: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None,
    shard_bytes: int,
    read: Callable[[str], Tensor] | None = None,
) -> None:
    """Write tensors in the mapping's order to one file, or to shards with an index.

    `read` gives the tensors when their shard is written; those of `state` then tell shape and type only. Each file
    appears whole or not at all. Files of an earlier save in the same folder are removed last.
    """
    shards = _shards(state, dtype, shard_bytes)
    files = [MODEL_FILE] if len(shards) == 1 else [_shard_name(i, len(shards)) for i in range(len(shards))]
    total = 0
    for file, names in zip(files, shards, strict=True):
        tensors = {name: _ready(read(name) if read else state[name], _target(state[name], dtype)) for name in names}
        total += sum(t.numel() * t.element_size() for t in tensors.values())
        with replacing(folder / file) as partial:
            save_file(tensors, partial, metadata={"format": "pt"})
            partial.chmod(_READABLE)  # safetensors makes files readable by their owner only
    if len(shards) > 1:
        owner = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": owner}
        write_text(folder / INDEX_FILE, json.dumps(index, indent=2) + "\n")
        files.append(INDEX_FILE)
    for old in [folder / MODEL_FILE, folder / INDEX_FILE, *folder.glob("model-*-of-*.safetensors")]:
        if old.name not in files:
            old.unlink(missing_ok=True)


def compare_names(
    have: Mapping[str, tuple[int, ...]], want: Mapping[str, tuple[int, ...]], *, source: str, purpose: str
) -> None:
    """Raise ValueError, with the first differing names, unless names and shapes are the same."""
    missing, unknown = sorted(set(want) - set(have)), sorted(set(have) - set(want))
    wrong = [
        f"{name} {have[name]} instead of {want[name]}"
        for name in sorted(set(have) & set(want))
        if have[name] != want[name]
    ]
    if not (missing or unknown or wrong):
        return
    parts = [
        f"{len(items)} {kind} (first: {'; '.join(items[:3])})"
        for kind, items in (("missing", missing), ("not expected", unknown), ("of another shape", wrong))
        if items
    ]
    raise ValueError(f"{source} looks like {looks_like(set(have))}, but {purpose} differs from it: {', '.join(parts)}.")


def _weight_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    indexes = sorted(path.glob("*.safetensors.index.json"))
    if indexes:
        mapped = set(read_json(indexes[0])["weight_map"].values())
        files = [path / name for name in sorted(mapped)]
    else:
        files = safetensors_files(path)
    absent = [file.name for file in files if not file.exists()]
    if absent:
        raise ValueError(f"{indexes[0]} names files that are not there: {', '.join(absent[:3])}. Download them again.")
    if not files:
        others = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
        hint = " Turn .pth and .pt files into safetensors with `fw convert`." if _has_pickles(others) else ""
        if any(name.endswith(".gguf") for name in others):
            hint = " GGUF files are not supported; get the safetensors of the model."
        raise ValueError(f"{path} holds no safetensors file (it has: {', '.join(others[:5]) or 'nothing'}).{hint}")
    return files


def _has_pickles(names: list[str]) -> bool:
    return any(name.endswith((".pth", ".pt", ".bin", ".ckpt")) for name in names)


def _shards(state: Mapping[str, Tensor], dtype: torch.dtype | None, limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in state.items():
        width = _target(tensor, dtype).itemsize
        if shards[-1] and size + tensor.numel() * width > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.numel() * width
    return shards


def _shard_name(index: int, count: int) -> str:
    return f"model-{index + 1:05d}-of-{count:05d}.safetensors"


def _target(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype


def _ready(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(device="cpu", dtype=dtype).contiguous()
