"""The CLIP image encoder of Wan's image-to-video models: 257 tokens of width 1280 from the first frame.

It is open-clip's XLM-RoBERTa-large ViT-H/14, image side only, read one layer before the last. The image is
stretched to 224 x 224 by bicubic interpolation without anti-aliasing, as in the release; other tools crop it.

Axes: b batch, l = 257 tokens (class, then 16 x 16 patches), d = 1280.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fw_model.checkpoints.sources import load_tensors, local_folder, locate, stable_name
from fw_model.convert.layouts import clip_to_transformers
from fw_model.encoders.base import load_strict

if TYPE_CHECKING:
    from transformers import CLIPVisionModel

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

VIT_H_14: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
"""Sizes of Wan's image encoder, for a folder without config.json."""


class ClipImageEncoder:
    """First frame to CLIP tokens. Weights are loaded at the first ``encode`` and dropped by ``free``.

    Args:
        source: a folder with safetensors (transformers' ``CLIPVisionModel``, or Wan's
            ``models_clip_open-clip-xlm-roberta-large-vit-huge-14`` converted to safetensors), a file, or a hub id.
        dtype: precision of the weights.
    """

    def __init__(self, source: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        self.source, self._named, self.dtype = local_folder(source), stable_name(source), dtype
        folder = self.source if self.source.is_dir() else self.source.parent
        file = folder / "config.json"
        self.config = {**VIT_H_14, **(json.loads(file.read_text()) if file.is_file() else {})}
        self._device: torch.device | str = "cpu"
        self._model: CLIPVisionModel | None = None

    @torch.no_grad()
    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b l d"]:
        """Images in [-1, 1] to the penultimate layer's tokens, float32 on the encoder's device."""
        model = self._loaded()
        pixels = clip_pixels(image.to(self._device), int(self.config["image_size"]))
        states = model(pixels.to(self.dtype), output_hidden_states=True).hidden_states
        assert states is not None, "hidden states were asked for"
        return states[-2].float()

    def spec(self) -> dict[str, Any]:
        """Return the entry for pipeline.json."""
        return {"kind": "clip", "source": self._named}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], folder: Path) -> "ClipImageEncoder":
        """The encoder that ``spec()`` described; a relative source is inside ``folder``."""
        if spec.get("kind") != "clip":
            raise ValueError(f"Unknown image encoder kind {spec.get('kind')!r} in pipeline.json; known is 'clip'.")
        inside = folder / str(spec["source"])
        return cls(inside if inside.exists() else str(spec["source"]))

    def to(self, device: torch.device | str) -> "ClipImageEncoder":
        """Move to a device."""
        self._device = device
        if self._model is not None:
            torch.nn.Module.to(self._model, device)
        return self

    def free(self) -> None:
        """Drop the weights (2.5 GB at full size)."""
        self._model = None

    def _loaded(self) -> "CLIPVisionModel":
        if self._model is None:
            path = locate(self.source, weights="model.safetensors")
            self._model = build_clip(self.config)
            state = clip_to_transformers(load_tensors(path))
            if not any(key.startswith("vision_model.") for key in self._model.state_dict()):
                state = {key.removeprefix("vision_model."): value for key, value in state.items()}
            load_strict(self._model, state, path, dtype=self.dtype, kind="CLIP image encoder")
            _fill_position_ids(self._model)
            torch.nn.Module.to(self._model, self._device)
        return self._model


def clip_pixels(image: Float[Tensor, "b 3 h w"], size: int = 224) -> Float[Tensor, "b 3 s s"]:
    """Images in [-1, 1] squashed to a square and normalized as CLIP wants them."""
    small = functional.interpolate(
        image.float(), size=(size, size), mode="bicubic", align_corners=False, antialias=False
    )
    mean, std = (rearrange(torch.tensor(values, device=image.device), "c -> c 1 1") for values in (MEAN, STD))
    return (small * 0.5 + 0.5 - mean) / std


def build_clip(config: dict[str, Any]) -> "CLIPVisionModel":
    """A CLIP image encoder on the meta device."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    with torch.device("meta"):
        return CLIPVisionModel(CLIPVisionConfig(**{key: config[key] for key in VIT_H_14})).eval()


def _fill_position_ids(model: torch.nn.Module) -> None:
    """Fill the only buffer that the files do not contain."""
    for module in model.modules():
        if "position_ids" in dict(module.named_buffers(recurse=False)):
            count = module.get_buffer("position_ids").shape[-1]
            module.register_buffer("position_ids", torch.arange(count)[None], persistent=False)
