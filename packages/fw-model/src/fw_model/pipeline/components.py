"""The components of a model besides its transformer, read from and written to pipeline.json.

pipeline.json names the autoencoder, text encoder and image encoder that the model was trained with, and the default
sampling, so a folder holds everything that generation and training need.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fw_core.files import write_text
from fw_model.autoencoders.base import VideoAutoencoder
from fw_model.autoencoders.registry import autoencoder_from_spec
from fw_model.checkpoints.checkpoint import load_world
from fw_model.checkpoints.opening import read_json
from fw_model.encoders.base import TextEncoder
from fw_model.encoders.clip import ClipImageEncoder
from fw_model.encoders.registry import text_encoder_from_spec
from fw_model.layers.stored_weights import StoredWeights
from fw_model.model.model import FantasyWorld
from fw_model.pipeline.settings import Sampling

SPEC_FILE = "pipeline.json"
HIGH_NOISE = "high_noise"
"""Folder, beside config.json, of the high-noise expert of a two-expert model."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Components:
    """The parts that pipeline.json names."""

    autoencoder: VideoAutoencoder
    """Maps video to the latents that the model was trained on."""
    text_encoder: TextEncoder
    """Computes the embeddings that the model was trained on."""
    image_encoder: ClipImageEncoder | None
    """CLIP, for models with an image branch."""
    sampling: Sampling
    """Defaults of generation."""
    trained_on: str = ""
    """The only kind of image that the model knows, such as "rendered rooms"; empty if nothing is recorded."""


def load_components(folder: Path) -> Components:
    """Read pipeline.json and load the components it names.

    Raises:
        ValueError: there is no pipeline.json, it names something unknown, or a part is missing.
    """
    file = folder / SPEC_FILE
    if not file.is_file():
        raise ValueError(
            f"{folder} has no {SPEC_FILE}, so it does not say which autoencoder and text encoder belong to it. "
            "Build WorldPipeline(FantasyWorld.from_pretrained(...), autoencoder, text_encoder) and save() it once."
        )
    spec = read_json(file)
    missing = sorted({"autoencoder", "text_encoder"} - set(spec))
    if missing:
        raise ValueError(f"{file} does not name {' and '.join(missing)}; write it with WorldPipeline.save.")
    text_encoder = text_encoder_from_spec(spec["text_encoder"], folder)
    image = spec.get("image_encoder")
    try:
        sampling = Sampling.from_dict(spec.get("sampling", {}), base=Sampling.for_text_dim(text_encoder.text_dim))
    except ValueError as error:
        raise ValueError(f"{file}: sampling: {error}") from None
    return Components(
        autoencoder=autoencoder_from_spec(spec["autoencoder"], folder),
        text_encoder=text_encoder,
        image_encoder=None if image is None else ClipImageEncoder.from_spec(image, folder),
        sampling=sampling,
        trained_on=str(spec.get("trained_on", "")),
    )


def load_expert(
    folder: Path,
    device: str | torch.device,
    dtype: torch.dtype | None,
    preset: str | None = None,
    weights: StoredWeights | None = None,
) -> FantasyWorld:
    """Load a transformer; one that is stored in float16 computes in float32, unless `dtype` asks for another type.

    With 8-bit `weights` it computes in bfloat16, unless `dtype` asks for another type.
    """
    dtype = torch.bfloat16 if weights and dtype is None else dtype
    world = load_world(folder, device=device, dtype=dtype, preset=preset, weights=weights)
    stored_half = dtype is None and next(world.parameters()).dtype == torch.float16
    return world.float() if stored_half else world


def save_components(
    folder: Path,
    autoencoder: VideoAutoencoder,
    text_encoder: TextEncoder,
    image_encoder: ClipImageEncoder | None = None,
    sampling: Sampling | None = None,
    trained_on: str = "",
) -> None:
    """Write pipeline.json (and the autoencoder's weights) into a model's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    spec: dict[str, Any] = {"autoencoder": autoencoder.save(folder), "text_encoder": text_encoder.spec()}
    if image_encoder is not None:
        spec["image_encoder"] = image_encoder.spec()
    if sampling is not None:
        spec["sampling"] = dataclasses.asdict(sampling)
    for part in spec.values():  # files inside the folder by their path in it, so that the folder can be moved
        source = Path(str(part.get("source", "")))
        if source.is_absolute() and source.is_relative_to(folder.resolve()):
            part["source"] = source.relative_to(folder.resolve()).as_posix()
    if trained_on:
        spec["trained_on"] = trained_on
    write_text(folder / SPEC_FILE, json.dumps(spec, indent=1) + "\n")
