"""Text encoders: prompts to a fixed number of token embeddings, zeros after the last word.

The video model attends to all ``text_len`` tokens without a mask, so what stands after the prompt's end matters: it is
exactly zero, in training and in sampling. ``HashTextEncoder`` needs no files, ``UMT5TextEncoder`` is Wan's own, and
``PrecomputedText`` reads embeddings that were computed before.

Axes: b prompts, l = text_len tokens, d = text_dim.
"""

import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, UMT5EncoderModel


@runtime_checkable
class TextEncoder(Protocol):
    """What the pipeline and the trainer need of a text encoder."""

    text_len: int
    text_dim: int

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """[b, text_len, text_dim] float32; rows after a prompt's last token are zero."""
        ...

    def spec(self) -> dict[str, Any]:
        """What pipeline.json says, so that ``text_encoder_from_spec`` brings it back."""
        ...

    def to(self, device: torch.device | str) -> "TextEncoder":
        """Where to compute; the embeddings come back there."""
        ...

    def free(self) -> None:
        """Drop weights from memory; the next ``encode`` loads them again."""
        ...


def text_encoder_from_spec(spec: Mapping[str, Any], folder: Path) -> TextEncoder:
    """The encoder that ``spec()`` described; relative sources are inside ``folder``."""
    kind = spec.get("kind")
    if kind == "hash":
        return HashTextEncoder(text_len=spec["text_len"], text_dim=spec["text_dim"])
    if kind in ("umt5", "precomputed"):
        source = folder / str(spec["source"])
        if not source.exists():
            source = spec["source"]
        if kind == "precomputed":
            return PrecomputedText(source)
        return UMT5TextEncoder(source, text_len=spec["text_len"])
    raise ValueError(f"Unknown text encoder kind {kind!r} in pipeline.json; known are hash, umt5 and precomputed.")


def clean_prompt(text: str) -> str:
    """Wan's prompt cleaning: repair broken unicode, unescape HTML twice, collapse white space."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip()


class HashTextEncoder:
    """Every word is a fixed random vector, derived from the SHA-256 of its letters; no weights, no vocabulary.

    Lower-case words and numbers of the cleaned prompt, in order, each a standard normal vector plus a small vector of
    its position. Words share nothing with their relatives ("tree", "trees"): meaning is what the video model learns.
    """

    def __init__(self, *, text_len: int = 16, text_dim: int = 64) -> None:
        if text_len < 1 or text_dim < 1:
            raise ValueError(f"HashTextEncoder needs positive sizes, got text_len={text_len}, text_dim={text_dim}.")
        self.text_len, self.text_dim = text_len, text_dim
        self._device: torch.device | str = "cpu"

    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "b l d"]:
        """Embeddings of the first ``text_len`` words of each prompt."""
        out = torch.zeros(len(prompts), self.text_len, self.text_dim)
        for row, prompt in zip(out, prompts, strict=True):
            words = re.findall(r"\w+", clean_prompt(prompt).lower())[: self.text_len]
            for i, word in enumerate(words):
                row[i] = self._vector(word) + 0.25 * self._vector(f"\0position {i}")
        return out.to(self._device)

    def spec(self) -> dict[str, Any]:
        """Sizes are all there is."""
        return {"kind": "hash", "text_len": self.text_len, "text_dim": self.text_dim}

    def to(self, device: torch.device | str) -> "HashTextEncoder":
        """Where the embeddings are put."""
        self._device = device
        return self

    def free(self) -> None:
        """Nothing is held."""

    def _vector(self, word: str) -> Tensor:
        """Standard normals from the bits of SHA-256 (Box-Muller), the same on every machine."""
        count = (self.text_dim + 1) // 2
        blocks = [hashlib.sha256(f"{word}\0{i}".encode()).digest() for i in range((count + 3) // 4)]
        words = np.frombuffer(b"".join(blocks), dtype="<u4")[: 2 * count].astype(np.float64)
        uniform = (words + 0.5) / 2**32
        radius, angle = np.sqrt(-2 * np.log(uniform[:count])), 2 * np.pi * uniform[count:]
        normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[: self.text_dim]
        return torch.from_numpy(normal).float()


class UMT5TextEncoder:
    """Wan's text encoder: UMT5, 512 tokens, embeddings after the prompt's end set to zero.

    Weights are loaded at the first ``encode`` and dropped by ``free``. transformers is imported then, not before.

    Args:
        source: a folder with tokenizer, config.json and safetensors (transformers' layout, or Wan's
            ``models_t5_umt5-xxl-enc-bf16`` converted to safetensors, which needs no config.json), or a hub id.
        text_len: tokens per prompt.
        dtype: precision of the weights; bfloat16 as released.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        text_len: int = 512,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        from fw_model.convert.sources import local_folder

        self.source = local_folder(source)
        self._named = str(source)
        self.text_len, self.dtype = text_len, dtype
        self.config = self._config()
        self.text_dim = int(self.config["d_model"])
        self._device: torch.device | str = "cpu"
        self._model: UMT5EncoderModel | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "b l d"]:
        """Embeddings of the cleaned prompts, float32 on the encoder's device."""
        model, tokenizer = self._loaded()
        tokens = tokenizer(
            [clean_prompt(prompt) for prompt in prompts],
            padding="max_length",
            truncation=True,
            max_length=self.text_len,
            return_tensors="pt",
        ).to(self._device)
        mask = tokens["attention_mask"]
        hidden = model(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state.float()
        return torch.where(mask[..., None].bool(), hidden, 0.0)

    def spec(self) -> dict[str, Any]:
        """The source as it was given."""
        return {"kind": "umt5", "source": self._named, "text_len": self.text_len}

    def to(self, device: torch.device | str) -> "UMT5TextEncoder":
        """Where to compute."""
        self._device = device
        if self._model is not None:
            torch.nn.Module.to(self._model, device)
        return self

    def free(self) -> None:
        """Drop the weights (11 GB at full size)."""
        self._model = None

    def _loaded(self) -> "tuple[UMT5EncoderModel, PreTrainedTokenizerBase]":
        tokenizer = self._tokenizer
        if tokenizer is None:
            from transformers import AutoTokenizer

            tokenizer = self._tokenizer = AutoTokenizer.from_pretrained(self.tokenizer_folder())
        if self._model is None:
            from fw_model.convert.layouts import umt5_to_transformers
            from fw_model.convert.sources import load_tensors, locate

            path = locate(self.source, weights="model.safetensors")
            self._model = build_umt5(self.config)
            state = umt5_to_transformers(load_tensors(path))
            load_strict(self._model, state, path, dtype=self.dtype, what="UMT5 encoder")
            self._model.encoder.embed_tokens.weight = self._model.shared.weight
            torch.nn.Module.to(self._model, self._device)
        return self._model, tokenizer

    def _config(self) -> dict[str, Any]:
        folder = self.source if self.source.is_dir() else self.source.parent
        if not (folder / "config.json").is_file():
            return dict(UMT5_XXL)
        return {**UMT5_XXL, **json.loads((folder / "config.json").read_text())}

    def tokenizer_folder(self) -> Path:
        """Where the tokenizer's files lie: beside the weights, or where Wan's and diffusers' folders have them.

        Raises:
            ValueError: nowhere.
        """
        folder = self.source if self.source.is_dir() else self.source.parent
        for candidate in (folder, folder / "tokenizer", folder / "google" / "umt5-xxl", folder.parent / "tokenizer"):
            if any(
                (candidate / name).is_file() for name in ("tokenizer.json", "spiece.model", "tokenizer_config.json")
            ):
                return candidate
        raise ValueError(
            f"{folder} holds no tokenizer (tokenizer.json or spiece.model, there or in tokenizer/). "
            "Copy the files of google/umt5-xxl there, or use precomputed embeddings."
        )


class PrecomputedText:
    """Embeddings computed before, one tensor ``[l, d]`` per prompt in a safetensors file, keyed by ``prompt_key``."""

    def __init__(self, source: str | Path) -> None:
        from safetensors import safe_open

        self.source = Path(source)
        if not self.source.is_file():
            raise ValueError(f"{self.source} does not exist; write it with PrecomputedText.write.")
        with safe_open(self.source, framework="pt") as file:
            self._keys = set(file.keys())
            first = next(iter(self._keys), None)
            if first is None:
                raise ValueError(f"{self.source} holds no embeddings.")
            self.text_len, self.text_dim = file.get_slice(first).get_shape()
        self._device: torch.device | str = "cpu"

    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "b l d"]:
        """Look the prompts up. ValueError names the first one that is not in the file."""
        from safetensors import safe_open

        for prompt in prompts:
            if prompt_key(prompt) not in self._keys:
                raise ValueError(
                    f"The prompt {prompt!r} is not among the {len(self._keys)} in {self.source}; "
                    "add it with PrecomputedText.write, or use a text encoder."
                )
        with safe_open(self.source, framework="pt") as file:
            rows = [file.get_tensor(prompt_key(prompt)).float() for prompt in prompts]
        return torch.stack(rows).to(self._device)

    def spec(self) -> dict[str, Any]:
        """Where the file lies."""
        return {"kind": "precomputed", "source": str(self.source)}

    def to(self, device: torch.device | str) -> "PrecomputedText":
        """Where the embeddings are put."""
        self._device = device
        return self

    def free(self) -> None:
        """Nothing is held."""

    @staticmethod
    def write(path: Path, encoder: TextEncoder, prompts: Sequence[str], *, dtype: torch.dtype = torch.bfloat16) -> None:
        """Encode ``prompts`` with ``encoder`` and write them to ``path``."""
        from safetensors.torch import save_file

        unique = sorted(set(prompts))
        save_file({prompt_key(p): encoder.encode([p])[0].to("cpu", dtype).contiguous() for p in unique}, path)


def prompt_key(prompt: str) -> str:
    """Name of a prompt's tensor: the SHA-256 of its cleaned text."""
    return hashlib.sha256(clean_prompt(prompt).encode()).hexdigest()


UMT5_XXL: dict[str, Any] = {
    "vocab_size": 256384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "feed_forward_proj": "gated-gelu",
    "layer_norm_epsilon": 1e-6,
}
"""Sizes of Wan's text encoder, for a folder without config.json."""


def build_umt5(config: Mapping[str, Any]) -> "UMT5EncoderModel":
    """A UMT5 encoder on the meta device."""
    from transformers import UMT5Config, UMT5EncoderModel

    with torch.device("meta"):
        return UMT5EncoderModel(UMT5Config(**{key: config[key] for key in UMT5_XXL})).eval()


def load_strict(
    model: torch.nn.Module, state: Mapping[str, Tensor], path: Path, *, dtype: torch.dtype, what: str
) -> None:
    """Fill a meta-device model; ValueError names the first tensor that is missing, foreign or of another shape."""
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    wrong = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if wrong:
        raise ValueError(
            f"{path} does not hold this {what}: {len(wrong)} of {len(wanted)} tensors differ, first {wrong[0]!r}: "
            f"expected {wanted.get(wrong[0])}, found {found.get(wrong[0])}. Is its config.json beside it?"
        )
    cast = {id(value): value.to(dtype) for value in state.values()}  # a tensor under two names stays one
    model.load_state_dict({key: cast[id(value)] for key, value in state.items()}, strict=True, assign=True)
