"""Text embeddings that were computed before, read from a safetensors file.

Axes: b prompts, l = text_len tokens, d = text_dim.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fw_model.encoders.base import TextEncoder, clean_prompt


class PrecomputedText:
    """Embeddings computed before, one tensor ``[l, d]`` per prompt in a safetensors file, keyed by ``prompt_key``."""

    def __init__(self, source: str | Path) -> None:
        from safetensors import safe_open

        self.source = Path(source).resolve()
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
        """Look up the prompts. ValueError names the first one that is not in the file."""
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

    def truncation(self, prompt: str) -> str | None:  # noqa: ARG002  (the protocol's argument)
        """None: the file does not record the length of its prompts."""
        return None

    def spec(self) -> dict[str, Any]:
        """Return the entry for pipeline.json: the path of the file."""
        return {"kind": "precomputed", "source": str(self.source)}

    def to(self, device: torch.device | str) -> "PrecomputedText":
        """Set the device of the embeddings."""
        self._device = device
        return self

    def free(self) -> None:
        """There are no weights to drop."""

    @staticmethod
    def write(path: Path, encoder: TextEncoder, prompts: Sequence[str], *, dtype: torch.dtype = torch.bfloat16) -> None:
        """Encode ``prompts`` with ``encoder`` and write them to ``path``."""
        from safetensors.torch import save_file

        unique = sorted(set(prompts))
        save_file({prompt_key(p): encoder.encode([p])[0].to("cpu", dtype).contiguous() for p in unique}, path)


def prompt_key(prompt: str) -> str:
    """Name of a prompt's tensor: the SHA-256 of its cleaned text."""
    return hashlib.sha256(clean_prompt(prompt).encode()).hexdigest()
