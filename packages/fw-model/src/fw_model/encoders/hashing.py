"""A text encoder without weights or vocabulary: every word is a fixed random vector.

Axes: b prompts, l = text_len tokens, d = text_dim.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fw_model.encoders.base import clean_prompt, cut_note


class HashTextEncoder:
    """Every word is a fixed random vector, derived from the SHA-256 of its letters; no weights, no vocabulary.

    Lower-case words and numbers of the cleaned prompt, in order, each a standard normal vector plus a small vector of
    its position. Words share nothing with their relatives ("tree", "trees"): the video model learns the meaning.
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

    def truncation(self, prompt: str) -> str | None:
        """A note about the words after the first `text_len`, which have no effect."""
        found = [match.start() for match in re.finditer(r"\w+", clean_prompt(prompt))]
        if len(found) <= self.text_len:
            return None
        return cut_note("words", len(found), self.text_len, clean_prompt(prompt)[found[self.text_len] :])

    def spec(self) -> dict[str, Any]:
        """Return the entry for pipeline.json: the sizes."""
        return {"kind": "hash", "text_len": self.text_len, "text_dim": self.text_dim}

    def to(self, device: torch.device | str) -> "HashTextEncoder":
        """Set the device of the embeddings."""
        self._device = device
        return self

    def free(self) -> None:
        """There are no weights to drop."""

    def _vector(self, word: str) -> Tensor:
        """Standard normals from the bits of SHA-256 (Box-Muller), the same on every machine."""
        count = (self.text_dim + 1) // 2
        blocks = [hashlib.sha256(f"{word}\0{i}".encode()).digest() for i in range((count + 3) // 4)]
        words = np.frombuffer(b"".join(blocks), dtype="<u4")[: 2 * count].astype(np.float64)
        uniform = (words + 0.5) / 2**32
        radius, angle = np.sqrt(-2 * np.log(uniform[:count])), 2 * np.pi * uniform[count:]
        normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[: self.text_dim]
        return torch.from_numpy(normal).float()
