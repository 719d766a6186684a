"""Autoencoders by the name that pipeline.json gives them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fw_model.autoencoders.base import VideoAutoencoder
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.autoencoders.block_vae import BlockVAE
from fw_model.autoencoders.wan_vae import WanVAE


def autoencoder_from_spec(spec: Mapping[str, Any], folder: Path) -> VideoAutoencoder:
    """The autoencoder that ``save`` described: ``kind`` is ``block_dct``, ``block_vae`` or ``wan_vae``."""
    kind = spec.get("kind")
    if kind == "block_dct":
        return BlockDCT()
    if kind == "block_vae":
        return BlockVAE.from_pretrained(folder / spec.get("folder", "vae"))
    if kind == "wan_vae":
        return WanVAE.from_pretrained(folder / spec.get("folder", "vae"))
    raise ValueError(
        f"Unknown autoencoder kind {kind!r} in pipeline.json; known are 'block_dct', 'block_vae' and 'wan_vae'."
    )
