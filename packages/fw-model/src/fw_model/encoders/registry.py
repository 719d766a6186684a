"""Text encoders by the name that pipeline.json gives them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fw_model.encoders.base import TextEncoder
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.encoders.precomputed import PrecomputedText
from fw_model.encoders.umt5 import UMT5TextEncoder


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
