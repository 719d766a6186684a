"""Wan's own text encoder, UMT5-XXL; transformers is imported when its weights are loaded.

Axes: b prompts, l = text_len tokens, d = text_dim.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from fw_model.checkpoints.sources import load_tensors, local_folder, locate, stable_name
from fw_model.convert.layouts import umt5_to_transformers
from fw_model.encoders.base import clean_prompt, cut_note, load_strict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, UMT5EncoderModel


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
        self.source = local_folder(source)
        self._named = stable_name(source)
        self.text_len, self.dtype = text_len, dtype
        self.config = self._config()
        self.text_dim = int(self.config["d_model"])
        self._device: torch.device | str = "cpu"
        self._model: UMT5EncoderModel | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "b l d"]:
        """Embeddings of the cleaned prompts, float32 on the encoder's device."""
        model, tokenizer = self._loaded(), self._tokens()
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

    def truncation(self, prompt: str) -> str | None:
        """A note about the tokens after the first `text_len` (the end token counts), which have no effect."""
        tokenizer = self._tokens()
        tokens = tokenizer(clean_prompt(prompt))["input_ids"]
        if len(tokens) <= self.text_len:
            return None
        rest = tokenizer.decode(tokens[self.text_len - 1 :], skip_special_tokens=True)
        return cut_note("tokens", len(tokens), self.text_len, str(rest))

    def spec(self) -> dict[str, Any]:
        """The source as it was given."""
        return {"kind": "umt5", "source": self._named, "text_len": self.text_len}

    def to(self, device: torch.device | str) -> "UMT5TextEncoder":
        """Move to a device."""
        self._device = device
        if self._model is not None:
            torch.nn.Module.to(self._model, device)
        return self

    def free(self) -> None:
        """Drop the weights (11 GB at full size)."""
        self._model = None

    def _tokens(self) -> "PreTrainedTokenizerBase":
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(self.tokenizer_folder())
        assert self._tokenizer is not None
        return self._tokenizer

    def _loaded(self) -> "UMT5EncoderModel":
        if self._model is None:
            path = locate(self.source, weights="model.safetensors")
            self._model = build_umt5(self.config)
            state = umt5_to_transformers(load_tensors(path))
            load_strict(self._model, state, path, dtype=self.dtype, kind="UMT5 encoder")
            self._model.encoder.embed_tokens.weight = self._model.shared.weight
            torch.nn.Module.to(self._model, self._device)
        return self._model

    def _config(self) -> dict[str, Any]:
        folder = self.source if self.source.is_dir() else self.source.parent
        if not (folder / "config.json").is_file():
            return dict(UMT5_XXL)
        return {**UMT5_XXL, **json.loads((folder / "config.json").read_text())}

    def tokenizer_folder(self) -> Path:
        """Folder of the tokenizer: beside the weights, or as in the folders of Wan and diffusers.

        Raises:
            ValueError: there is no tokenizer.
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
"""Sizes of Wan's text encoder, used for a folder without config.json."""


def build_umt5(config: Mapping[str, Any]) -> "UMT5EncoderModel":
    """A UMT5 encoder on the meta device."""
    from transformers import UMT5Config, UMT5EncoderModel

    with torch.device("meta"):
        return UMT5EncoderModel(UMT5Config(**{key: config[key] for key in UMT5_XXL})).eval()
