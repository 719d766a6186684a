"""Cache of the frozen encoders' results, stored beside a dataset, so that training need not run the encoders.

    DATASET/encoded/video-KEY/ab/CLIP.safetensors   latents, first-frame condition, CLIP tokens of each window
    DATASET/encoded/text-KEY/ab/CAPTION.safetensors    the embedding of one caption, without its zeros at the end
    DATASET/encoded/KIND-KEY/key.json               the settings that KEY is the hash of

KEY hashes everything that the values depend on: encoder weights, sample size and preprocessing; a clip's file also
names the video it was made from. Entries that no longer match are never used. Files are written atomically. If the
dataset is in object storage, DATASET is a folder of this machine: see `folder_of`.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fw_core.files import replacing, write_text
from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.schema import ClipRecord
from fw_data.dataset.storage import is_address
from fw_train.config.schema import ClipConfig
from fw_train.data.rooms import RoomDataset
from fw_train.data.split import Shape, Split, shapes_of
from fw_train.model_bundle import EncodedVideo, Encoders

FOLDER = "encoded"
PREPROCESSING = 1
"""Version of the preprocessing, raised whenever the same clip gives other values."""
Key = Mapping[str, str | int | float]
_PIECE = 1 << 20
_OUTCOMES = {
    "found": "from the cache",
    "missing": "not in the cache and computed",
    "stale": "made from another video and recomputed",
    "torn": "damaged in the cache and recomputed",
}


class Store:
    """The files of one key, with counts of the reads.

    Args:
        root: the folder `encoded` of a dataset.
        kind: "video" or "text".
        key: settings that the values depend on.
    """

    def __init__(self, root: Path, kind: str, key: Key) -> None:
        self.key, self.kind, self.root = dict(key), kind, root
        self.folder = root / f"{kind}-{key_hash(key)}"
        self.counts: Counter[str] = Counter()
        """Reads by outcome: found, missing, stale (made from another video), torn (unreadable)."""

    def exists(self) -> bool:
        """Whether anything was encoded with this key."""
        return (self.folder / "key.json").is_file()

    def others(self) -> list[list[str]]:
        """For every other key of this kind, the settings that differ."""
        found = []
        for path in sorted(self.root.glob(f"{self.kind}-*/key.json")):
            if path.parent == self.folder:
                continue
            try:
                other: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                other = {}
            names = sorted(n for n in other.keys() | self.key.keys() if other.get(n) != self.key.get(n))
            found.append(names)
        return found

    def read(self, name: str, tensors: Iterable[str], *, made_from: str) -> dict[str, Tensor] | None:
        """Those of the given tensors that a file has; None if the file cannot be used, which is counted."""
        path = self._path(name)
        if not path.is_file():
            self.counts["missing"] += 1
            return None
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("made_from") != made_from:
                    self.counts["stale"] += 1
                    return None
                present = set(file.keys())
                result = {tensor: file.get_tensor(tensor) for tensor in tensors if tensor in present}
        except SafetensorError:
            self.counts["torn"] += 1
            return None
        self.counts["found" if result else "missing"] += 1
        return result or None

    def keys(self, name: str, *, made_from: str) -> set[str]:
        """Names of the tensors of a file, empty if it cannot be used; not counted."""
        path = self._path(name)
        if not path.is_file():
            return set()
        try:
            with safe_open(path, framework="pt") as file:
                return set(file.keys()) if (file.metadata() or {}).get("made_from") == made_from else set()
        except SafetensorError:
            return set()

    def write(self, name: str, tensors: Mapping[str, Tensor], *, made_from: str) -> int:
        """Replace a file; returns its size."""
        path = self._path(name)
        with replacing(path) as partial:
            save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata={"made_from": made_from})
        if not self.exists():
            write_text(self.folder / "key.json", json.dumps(self.key, indent=1, sort_keys=True) + "\n")
        return path.stat().st_size

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.safetensors"


class LatentCache:
    """Encoded windows of clips.

    Args:
        stores: the files of each shape.
        shape_of: shape of the windows of a clip, by its id.
    """

    def __init__(self, stores: Mapping[Shape, Store], shape_of: Callable[[str], Shape]) -> None:
        self.stores, self._shape_of = stores, shape_of

    @property
    def folder(self) -> Path:
        """Folder of the windows in the configuration's own shape."""
        return next(iter(self.stores.values())).folder

    @property
    def counts(self) -> Counter[str]:
        """Reads by outcome, over all shapes."""
        return sum((store.counts for store in self.stores.values()), Counter())

    def read(self, record: ClipRecord, start: int) -> EncodedVideo | None:
        """The window of a clip that begins at `start`, without a batch axis; None if it must be encoded."""
        names = [f"{field}@{start}" for field in EncodedVideo._fields]
        found = self._store(record).read(record.id, names, made_from=video_of(record))
        if found is None or names[0] not in found:
            return None
        return EncodedVideo(*(found.get(name) for name in names))  # type: ignore[arg-type] # latents are there

    def has(self, record: ClipRecord) -> set[int]:
        """The starts of the encoded windows of a clip."""
        names = self._store(record).keys(record.id, made_from=video_of(record))
        return {int(name.split("@")[1]) for name in names if name.startswith("latents@")}

    def write(self, record: ClipRecord, windows: Mapping[int, EncodedVideo]) -> int:
        """Replace the windows of a clip; returns the size of the file."""
        tensors = {
            f"{field}@{start}": value.cpu()
            for start, window in windows.items()
            for field, value in zip(EncodedVideo._fields, window, strict=True)
            if value is not None
        }
        return self._store(record).write(record.id, tensors, made_from=video_of(record))

    def _store(self, record: ClipRecord) -> Store:
        return self.stores[self._shape_of(record.id)]


class TextCache:
    """Embeddings of captions, each [text_len, d]."""

    def __init__(self, store: Store, text_len: int) -> None:
        self.store, self.text_len = store, text_len

    def read(self, caption: str) -> Tensor | None:
        """Embedding of a caption on the CPU, padded with zeros; None if it must be encoded."""
        name = _caption_name(caption)
        found = self.store.read(name, ["embedding"], made_from=name)
        if found is None:
            return None
        rows = found["embedding"]
        return torch.cat([rows, rows.new_zeros(self.text_len - len(rows), rows.shape[1])])

    def has(self, caption: str) -> bool:
        """Whether a caption is encoded."""
        name = _caption_name(caption)
        return bool(self.store.keys(name, made_from=name))

    def write(self, caption: str, embedding: Tensor) -> int:
        """Store an embedding without its zeros at the end; returns the size of the file."""
        words = int((embedding != 0).any(dim=1).nonzero().max()) + 1 if embedding.any() else 0
        name = _caption_name(caption)
        return self.store.write(name, {"embedding": embedding[:words].cpu()}, made_from=name)


@dataclass(frozen=True, kw_only=True)
class EncodingCache:
    """Both caches of a run."""

    clips: LatentCache
    """Encoded windows."""
    texts: TextCache
    """Encoded captions."""

    def lines(self) -> list[str]:
        """Lines to print before a run: which caches are used, and which are not and why."""
        lines: list[str] = []
        stores = [("latents", store) for store in self.clips.stores.values()]
        for kind, store in (*stores, ("captions", self.texts.store)):
            if store.exists():
                lines.append(f"{kind}: read from {store.folder.relative_to(store.root.parent)}, where available")
        if not any(store.exists() for _, store in stores):
            found = [", ".join(names) for store in [stores[0][1]] for names in store.others()]
            lines += [f"latents: an encoding with other settings ({names} differ) is not used" for names in found]
            if lines:
                lines.append("latents: computed while training; `fw-train encode` with the same arguments does it once")
        return lines

    def summary(self) -> list[str]:
        """Lines to print after a run: the numbers of cached and of computed windows and captions."""
        rows = []
        for kind, counts, used in (
            ("latents", self.clips.counts, any(store.exists() for store in self.clips.stores.values())),
            ("captions", self.texts.store.counts, self.texts.store.exists()),
        ):
            if used:
                listed = ", ".join(f"{counts[key]} {words}" for key, words in _OUTCOMES.items() if counts[key])
                rows.append(f"{kind}: {listed or 'none read'}")
        return rows


def folder_of(dataset: ClipDataset | RoomDataset) -> Path:
    """The folder that holds `encoded` of a dataset: its own, or one below FW_ENCODED_CACHE if it is an address."""
    if not (isinstance(dataset, ClipDataset) and is_address(dataset.location)):
        return dataset.path
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fantasy-world" / "encoded"
    name = hashlib.sha256(dataset.location.rstrip("/").encode()).hexdigest()[:16]
    return Path(os.environ.get("FW_ENCODED_CACHE") or usual) / name


def open_cache(
    folder: Path, config: ClipConfig, encoders: Encoders, *, split: Split | None = None, make: bool = False
) -> EncodingCache | None:
    """The caches that match a run; None if nothing was ever encoded, unless `make` is set.

    Args:
        folder: see `folder_of`.
        config: size and frame rate of the windows.
        encoders: the frozen encoders of the run.
        split: assigns clips to shapes; None: all clips have the shape of `config`.
        make: return caches that do not exist yet, to write to them.
    """
    root = folder / FOLDER
    if not root.is_dir() and not make:
        return None
    hashes = {"autoencoder": part_fingerprint(encoders.autoencoder)}
    if encoders.image_encoder is not None and encoders.tokens:
        hashes["image encoder"] = part_fingerprint(encoders.image_encoder)
    text = {"text encoder": part_fingerprint(encoders.text_encoder)}
    first = shapes_of(config)[0]
    shapes = dict.fromkeys((first, *(() if split is None else map(split.shape, split.assigned))))
    stores = {
        shape: Store(root, "video", video_key(shape, config.fps, hashes, encoders.condition_channels))
        for shape in shapes
    }
    return EncodingCache(
        clips=LatentCache(stores, split.shape if split else lambda _clip: first),
        texts=TextCache(Store(root, "text", text), encoders.text_encoder.text_len),
    )


def video_key(
    shape: Shape, fps: float, encoders: Mapping[str, str], condition_channels: int
) -> dict[str, str | int | float]:
    """Everything that encoded windows depend on, apart from the clips."""
    rate = {"fps": fps} if fps else {}
    size = {"frames": shape.frames, "height": shape.height, "width": shape.width}
    return {"preprocessing": PREPROCESSING, "condition channels": condition_channels, **size, **rate, **encoders}


def video_of(record: ClipRecord) -> str:
    """Checksum of a clip's video, to check that a file was made from it."""
    return record.members["mp4"].sha256


def key_hash(key: Key) -> str:
    """Hash of a key, 16 hex digits."""
    return hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:16]


def part_fingerprint(part: Any) -> str:
    """Hash of an encoder: its kind, structure and weights.

    All weights and buffers of a module are hashed. An encoder that loads its weights on first use is identified by its
    `spec()` and by name, size, first and last megabyte of its files, so that nothing is loaded.
    """
    digest = hashlib.sha256(type(part).__qualname__.encode())
    if isinstance(part, nn.Module):
        digest.update(repr(part).encode() + repr(getattr(part, "tiling", None)).encode())
        for name, tensor in sorted([*part.named_parameters(), *part.named_buffers()]):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
    source = getattr(part, "source", None)
    spec = {key: value for key, value in part.spec().items() if key != "source"}
    digest.update(json.dumps(spec, sort_keys=True).encode() + repr(getattr(part, "dtype", None)).encode())
    for path in _files(source) if isinstance(source, Path) else []:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(_PIECE))
            file.seek(max(0, size - _PIECE))
            digest.update(file.read(_PIECE))
    return digest.hexdigest()


def _files(source: Path) -> list[Path]:
    return [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())


def _caption_name(caption: str) -> str:
    return hashlib.sha256(caption.encode()).hexdigest()
