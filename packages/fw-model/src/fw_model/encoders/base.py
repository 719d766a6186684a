"""The text encoder protocol, Wan's prompt cleaning, and strict loading of an encoder's weights.

The video model attends to all ``text_len`` tokens without a mask, so the values after the prompt's end matter: they are
exactly zero, in training and in sampling. ``HashTextEncoder`` needs no files, ``UMT5TextEncoder`` is Wan's own, and
``PrecomputedText`` reads embeddings that were computed before.

Axes: b prompts, l = text_len tokens, d = text_dim.
"""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class TextEncoder(Protocol):
    """Interface of a text encoder for the pipeline and the trainer."""

    text_len: int
    text_dim: int

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """[b, text_len, text_dim] float32; rows after a prompt's last token are zero."""
        ...

    def truncation(self, prompt: str) -> str | None:
        """A note about the part of a prompt beyond `text_len`, which has no effect; None if all of it is read."""
        ...

    def spec(self) -> dict[str, Any]:
        """Return the entry for pipeline.json that ``text_encoder_from_spec`` reads."""
        ...

    def to(self, device: torch.device | str) -> "TextEncoder":
        """Move to a device; the embeddings are on it."""
        ...

    def free(self) -> None:
        """Drop weights from memory; the next ``encode`` loads them again."""
        ...


def cut_note(unit: str, count: int, limit: int, rest: str) -> str:
    """A note about a prompt of `count` words or tokens, of which the encoder reads `limit`; `rest` has no effect."""
    return f"the prompt has {count} {unit}, and the text encoder reads {limit}; ignored: {rest!r}"


def clean_prompt(text: str) -> str:
    """Wan's prompt cleaning: repair broken unicode, unescape HTML twice, collapse white space."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip()


def load_strict(
    model: torch.nn.Module, state: Mapping[str, Tensor], path: Path, *, dtype: torch.dtype, kind: str
) -> None:
    """Fill a meta-device model; ValueError names the first tensor that is missing, foreign or of another shape."""
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    wrong = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if wrong:
        raise ValueError(
            f"{path} does not hold this {kind}: {len(wrong)} of {len(wanted)} tensors differ, first {wrong[0]!r}: "
            f"expected {wanted.get(wrong[0])}, found {found.get(wrong[0])}. Is its config.json beside it?"
        )
    cast = {id(value): value.to(dtype) for value in state.values()}  # a tensor under two names stays one
    model.load_state_dict({key: cast[id(value)] for key, value in state.items()}, strict=True, assign=True)
