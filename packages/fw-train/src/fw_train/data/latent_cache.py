"""What frozen encoders make of a dataset, kept beside it, so that training need not run them.

    DATASET/encoded/video-KEY/ab/CLIP.safetensors   latents, first-frame condition, CLIP tokens of each window
    DATASET/encoded/text-KEY/ab/CAPTION.safetensors    the embedding of one caption, without its zeros at the end
    DATASET/encoded/KIND-KEY/key.json               what KEY is the hash of

KEY hashes everything that the values depend on: encoder weights, sample size and how frames are prepared; a clip's file
also names the video it was made from. What fits no longer is never used. Files appear at once under their names.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fw_data.dataset.schema import ClipRecord
from fw_train.config.schema import ClipConfig
from fw_train.model_bundle import Encoded, Encoders

FOLDER = "encoded"
PREPROCESSING = 1
"""Goes up whenever fw_data.dataset.transforms, or what is encoded of a window, gives other values for the same clip."""
Key = Mapping[str, str | int]
_PIECE = 1 << 20
_OUTCOMES = {
    "found": "from the cache",
    "missing": "not in the cache and computed",
    "stale": "made from another video and computed anew",
    "torn": "torn in the cache and computed anew",
}


class Store:
    """The files of one key; counts what it was asked for.

    Args:
        root: the folder `encoded` of a dataset.
        kind: "video" or "text".
        key: what the values depend on.
    """

    def __init__(self, root: Path, kind: str, key: Key) -> None:
        self.key, self.kind, self.root = dict(key), kind, root
        self.folder = root / f"{kind}-{key_hash(key)}"
        self.counts: Counter[str] = Counter()
        """Reads by outcome: found, missing, stale (made from another video), torn (does not read)."""

    def exists(self) -> bool:
        """Whether anything was encoded with this key."""
        return (self.folder / "key.json").is_file()

    def others(self) -> list[list[str]]:
        """For every other key of this kind: the settings in which it differs."""
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
        """Some tensors of a file, those of them that it has; None when it cannot be used, which is counted."""
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
        """The names of the tensors of a file; none when it cannot be used. Counts nothing."""
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
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata={"made_from": made_from})
        partial.replace(path)
        if not self.exists():
            note = self.folder / f".key.{os.getpid()}.partial"
            note.write_text(json.dumps(self.key, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            note.replace(self.folder / "key.json")
        return path.stat().st_size

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.safetensors"


class EncodedClips:
    """Windows of clips in the terms of a model."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def read(self, record: ClipRecord, start: int) -> Encoded | None:
        """The window of a clip that begins at `start`, without a batch axis; None when it must be encoded."""
        names = [f"{field}@{start}" for field in Encoded._fields]
        found = self.store.read(record.id, names, made_from=video_of(record))
        if found is None or names[0] not in found:
            return None
        return Encoded(*(found.get(name) for name in names))  # type: ignore[arg-type] # latents are there

    def has(self, record: ClipRecord) -> set[int]:
        """The starts of the windows of a clip that are there."""
        names = self.store.keys(record.id, made_from=video_of(record))
        return {int(name.split("@")[1]) for name in names if name.startswith("latents@")}

    def write(self, record: ClipRecord, windows: Mapping[int, Encoded]) -> int:
        """Keep the windows of a clip, all at once; returns the size of the file."""
        tensors = {
            f"{field}@{start}": value.cpu()
            for start, window in windows.items()
            for field, value in zip(Encoded._fields, window, strict=True)
            if value is not None
        }
        return self.store.write(record.id, tensors, made_from=video_of(record))


class EncodedTexts:
    """Embeddings of captions."""

    def __init__(self, store: Store, text_len: int) -> None:
        self.store, self.text_len = store, text_len

    def read(self, caption: str) -> Tensor | None:
        """[text_len, d] on the CPU; None when it must be encoded."""
        name = _caption_name(caption)
        found = self.store.read(name, ["embedding"], made_from=name)
        if found is None:
            return None
        rows = found["embedding"]
        return torch.cat([rows, rows.new_zeros(self.text_len - len(rows), rows.shape[1])])

    def has(self, caption: str) -> bool:
        """Whether a caption is there."""
        name = _caption_name(caption)
        return bool(self.store.keys(name, made_from=name))

    def write(self, caption: str, embedding: Tensor) -> int:
        """Keep an embedding [text_len, d]; returns the size of the file."""
        words = int((embedding != 0).any(dim=1).nonzero().max()) + 1 if embedding.any() else 0
        name = _caption_name(caption)
        return self.store.write(name, {"embedding": embedding[:words].cpu()}, made_from=name)


@dataclass(frozen=True, kw_only=True)
class Encodings:
    """Both caches of a run."""

    clips: EncodedClips
    """Windows."""
    texts: EncodedTexts
    """Captions."""

    def lines(self) -> list[str]:
        """What to tell before a run: what is used, and what is not and why."""
        told = []
        for what, store in (("latents", self.clips.store), ("captions", self.texts.store)):
            if store.exists():
                told.append(f"{what}: taken from {store.folder.relative_to(store.root.parent)} where they are there")
                continue
            others = (", ".join(names) for names in store.others())
            told += [f"{what}: an encoding for other settings ({names} differ) is not used" for names in others]
        if told and not self.clips.store.exists():
            told.append("latents: computed in the run; `fw-train encode` with the words of this run does it once")
        return told

    def summary(self) -> list[str]:
        """What a run took from the caches, and what it had to compute, for its end."""
        rows = []
        for what, store in (("latents", self.clips.store), ("captions", self.texts.store)):
            if store.exists():
                counts = ", ".join(
                    f"{store.counts[kind]} {words}" for kind, words in _OUTCOMES.items() if store.counts[kind]
                )
                rows.append(f"{what}: {counts or 'none read'}")
        return rows


def encodings(folder: Path, config: ClipConfig, encoders: Encoders, *, make: bool = False) -> Encodings | None:
    """The caches that fit a run; None where nothing was ever encoded, unless they are to be made now."""
    root = folder / FOLDER
    if not root.is_dir() and not make:
        return None
    hashes = {"autoencoder": part_fingerprint(encoders.autoencoder)}
    if encoders.image_encoder is not None and encoders.tokens:
        hashes["image encoder"] = part_fingerprint(encoders.image_encoder)
    text = {"text encoder": part_fingerprint(encoders.text_encoder)}
    return Encodings(
        clips=EncodedClips(Store(root, "video", video_key(config, hashes, encoders.condition_channels))),
        texts=EncodedTexts(Store(root, "text", text), encoders.text_encoder.text_len),
    )


def video_key(config: ClipConfig, encoders: Mapping[str, str], condition_channels: int) -> dict[str, str | int]:
    """What the windows of a run depend on, apart from the clips."""
    size = {"frames": config.frames, "height": config.height, "width": config.width}
    return {"preprocessing": PREPROCESSING, "condition channels": condition_channels, **size, **encoders}


def video_of(record: ClipRecord) -> str:
    """What a clip's frames are, for the check that a file was made from them."""
    return record.members["mp4"].sha256


def key_hash(key: Key) -> str:
    """16 hex digits."""
    return hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:16]


def part_fingerprint(part: Any) -> str:
    """Hash of an encoder: its kind, structure and weights.

    A module's weights and buffers are hashed whole. An encoder that loads its weights when it is first used is known by
    its `spec()` and by name, size, and first and last megabyte of the files it will load, so that nothing is loaded.
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
