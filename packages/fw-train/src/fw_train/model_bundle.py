"""Load the initial model of a run with its encoders; save the trained one.

An export folder holds config.json and model.safetensors (fw_model.checkpoints.checkpoint), pipeline.json (autoencoder,
text and image encoder, default sampling) and training.json (the stages that trained it).
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fw_core.files import replacing_folder
from fw_model.autoencoders.base import VideoAutoencoder, first_frame_condition
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.checkpoints.checkpoint import read_config, save_world
from fw_model.checkpoints.fill import put
from fw_model.config import WorldConfig, preset
from fw_model.encoders.base import TextEncoder
from fw_model.encoders.clip import ClipImageEncoder
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.lora.linear import add_update
from fw_model.model.model import FantasyWorld
from fw_model.pipeline.components import load_components, save_components
from fw_model.pipeline.settings import Sampling
from fw_model.sampling.choices import TRAIN_STEPS
from fw_train.config.load import load
from fw_train.config.preflight import HISTORY, autoencoder_alone, history, init_folder
from fw_train.config.schema import JOINT, ConfigError, Stage, TrainConfig, leaves
from fw_train.initial_weights import InitialWeights, meta_world
from fw_train.lora import add_adapters, is_adapter, merge_adapters, save_adapters, take_adapters

LORA_FOLDER = "lora"
"""Folder, inside an export, with the LoRA adapter as a separate file; the weights have it merged."""


class EncodedVideo(NamedTuple):
    """Inputs that the frozen encoders make of a video."""

    latents: Float[Tensor, "b c f y x"]
    """Normalized latents."""
    condition: Float[Tensor, "b cy f y x"] | None
    """First-frame condition (the model's `y`); None if it takes none."""
    image_tokens: Float[Tensor, "b l d"] | None
    """CLIP tokens of the first frame; None if the model reads none."""


def first_of(batch: EncodedVideo) -> EncodedVideo:
    """The first video of a batch, without the batch axis."""
    return EncodedVideo(batch.latents[0], *(None if value is None else value[0] for value in batch[1:]))


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """The frozen encoders of a model, and the inputs that it reads."""

    autoencoder: VideoAutoencoder
    text_encoder: TextEncoder
    image_encoder: ClipImageEncoder | None
    condition_channels: int
    """Channels of the model's `y`; 0 if it has none."""
    tokens: bool
    """Whether the model reads CLIP tokens."""

    def encode(self, video: Float[Tensor, "b 3 F H W"]) -> EncodedVideo:
        """Latents, first-frame condition and image tokens of a video in [-1, 1]."""
        first = video[:, :, :1]
        condition = first_frame_condition(self.autoencoder, first, video.shape[2], self.condition_channels)
        tokens = None
        if self.tokens and self.image_encoder is not None:
            tokens = self.image_encoder.encode(first[:, :, 0])
        return EncodedVideo(self.autoencoder.encode(video), condition, tokens)

    def to(self, device: torch.device) -> None:
        """Move all encoders to a device."""
        for part in (self.autoencoder, self.text_encoder, self.image_encoder):
            if part is not None:
                part.to(device)

    def free(self) -> None:
        """Drop the weights of the text and the image encoder; they load again on their next use."""
        for part in (self.text_encoder, self.image_encoder):
            if part is not None:
                part.free()


@dataclass(frozen=True, kw_only=True)
class ModelBundle:
    """A model with its frozen encoders and its history."""

    world: FantasyWorld
    autoencoder: VideoAutoencoder
    text_encoder: TextEncoder
    sampling: Sampling
    """Default sampling of the export."""
    image_encoder: ClipImageEncoder | None = None
    """CLIP, for models that read its tokens."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry per training so far: stage, steps, hash of its configuration; empty for weights trained elsewhere."""
    weights: InitialWeights
    """The initial value of every parameter, for a `world` on the meta device."""

    @property
    def encoders(self) -> Encoders:
        """The encoders alone."""
        video = self.world.config.video
        return Encoders(
            autoencoder=self.autoencoder,
            text_encoder=self.text_encoder,
            image_encoder=self.image_encoder,
            condition_channels=video.y_dim,
            tokens=video.clip_dim is not None,
        )

    def encode(self, video: Float[Tensor, "b 3 F H W"]) -> EncodedVideo:
        """Latents, first-frame condition and image tokens of a video in [-1, 1]."""
        return self.encoders.encode(video)


def world_config(model: str) -> WorldConfig:
    """The WorldConfig of a preset name or a JSON file.

    Raises:
        ConfigError: neither, or a file that holds no WorldConfig.
    """
    path = Path(model)
    try:
        if path.suffix == ".json":
            return WorldConfig.from_json(path.read_text(encoding="utf-8"))
        return preset(model)
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(f"model = {model!r} names no preset and no usable WorldConfig file: {error}") from None


def check_start(config: TrainConfig) -> Path | None:
    """The folder to load, or None to start from random weights (`base` only). Reads no weights.

    Raises:
        ConfigError: no `init` where one is needed, a folder of another preset, or of a stage that cannot come before;
            more blocks to offload than the stage runs.
    """
    wanted = world_config(config.model)
    if config.stage == "base" and wanted.video.clip_dim is not None:
        raise ConfigError(f"model {wanted.name!r} has a pretrained video model; run `fw-train stage1`")
    check_offload_blocks(config, wanted)
    for key in unread_by_model(config):
        raise ConfigError(f"{key} has no effect in {config.stage}: model {wanted.name!r} has no such input. Remove it")
    folder = init_folder(config)
    if folder is None or autoencoder_alone(folder):
        return folder
    try:
        stored = read_config(folder)
    except ValueError as error:
        raise ConfigError(f"init: {error}") from None
    free = _free_to_differ(config.stage, history(folder))
    if any(getattr(stored, one.name) != getattr(wanted, one.name) for one in fields(wanted) if one.name not in free):
        raise ConfigError(
            f"init {folder} is a checkpoint of model {stored.name!r}, and this run trains {wanted.name!r}"
            + (" with other sizes" if stored.name == wanted.name else "")
            + "; give the right init, or --model to match it"
            + (f" (only {', '.join(free[1:])} may differ here)" if free else "")
        )
    return folder


def check_offload_blocks(config: TrainConfig, model: WorldConfig) -> None:
    """Raise ConfigError if the stage runs fewer blocks than `compute.offload_blocks`."""
    most = model.pcb_blocks if config.stage == "stage1" else model.video.blocks
    if config.compute.offload_blocks > most:
        which = "the preconditioning blocks" if config.stage == "stage1" else "all blocks"
        raise ConfigError(
            f"compute.offload_blocks = {config.compute.offload_blocks} is too many: {config.stage} of {model.name!r} "
            f"runs {most} blocks with frozen weights ({which}); use {most} or fewer"
        )


def unread_by_model(config: TrainConfig) -> list[str]:
    """Keys that this stage of this model does not read, with values other than those of the recipe."""
    if config.stage == "autoencoder":
        return []
    model = world_config(config.model)
    image = model.video.y_dim > 0 or model.video.clip_dim is not None
    camera = model.video.control_dim is not None or (config.stage in JOINT and model.camera is not None)
    keys = [] if image else ["dropout.image"]
    keys += [] if camera else ["dropout.camera"]
    if config.stage == "base" and not camera:  # depth only gives the unit of length of the camera path
        keys += ["clip.min_confidence", "clip.mask_moving", "clip.scale_by_first_frame"]
    usual = load(config.recipe, config.stage) if config.recipe else TrainConfig()
    values, defaults = leaves(config), leaves(usual)
    return [key for key in keys if values[key] != defaults[key]]


def load_bundle(config: TrainConfig, *, meta: bool = False) -> ModelBundle:
    """The initial model of a run, in float32 on the CPU, with its encoders.

    Args:
        config: the run.
        meta: leave the model on the meta device, without values; `weights` has them.

    Raises:
        ConfigError: see `check_start`.
    """
    folder = check_start(config)
    wanted = world_config(config.model)
    start = None if folder is None or autoencoder_alone(folder) else folder
    try:
        components = None if folder is None else load_components(folder)
        weights = InitialWeights(wanted, start, config.seed)
        world = meta_world(wanted)
        if not meta:
            weights.fill(world, torch.device("cpu"))
    except ValueError as error:
        raise ConfigError(f"init: {error}") from None
    if start is None:
        text = HashTextEncoder(text_len=wanted.video.text_len, text_dim=wanted.video.text_dim)
        return ModelBundle(
            world=world,
            autoencoder=BlockDCT() if components is None else components.autoencoder,
            text_encoder=text,
            sampling=_sampling(config, Sampling()),
            history=[] if folder is None else history(folder),
            weights=weights,
        )
    assert components is not None, "there is a folder"
    if world.config.video.clip_dim is not None and components.image_encoder is None:
        raise ConfigError(
            f"init {folder}: model {world.config.name!r} reads CLIP tokens, and pipeline.json names no image_encoder; "
            "make the folder with `fw-train init`"
        )
    shift = components.sampling.shift
    if config.stage == "distill" and shift != config.noise.shift:
        raise ConfigError(
            f"noise.shift = {config.noise.shift:g}, but init {folder} generates with shift {shift:g}, and the windows "
            f"must be those of its schedule; add --set noise.shift={shift:g}"
        )
    add_adapters(world, config.lora, seed=config.seed)
    return ModelBundle(
        world=world,
        autoencoder=components.autoencoder,
        text_encoder=components.text_encoder,
        image_encoder=components.image_encoder,
        sampling=_sampling(config, components.sampling),
        history=history(start),
        weights=weights,
    )


def export(bundle: ModelBundle, folder: Path, *, trained: Mapping[str, Tensor], entry: Mapping[str, Any]) -> Path:
    """Write a folder that generation and the next stage load; replaces an older one atomically.

    Args:
        bundle: the model and its encoders; trained parameters are set to `trained`, LoRA adapters are merged. A model
            on the meta device is written with its initial weights, of which only some are in memory at a time.
        folder: export folder.
        trained: parameter name -> value to export.
        entry: addition to the history.
    """
    whole = not any(parameter.is_meta for parameter in bundle.world.parameters())
    for name in trained:
        if whole or is_adapter(name):
            put(bundle.world, name, trained[name])
    with replacing_folder(folder) as partial:
        save_adapters(bundle.world, partial / LORA_FOLDER)
        if whole:
            merge_adapters(bundle.world)
            save_world(bundle.world, partial)
        else:
            _save_piecewise(bundle, partial, trained)
        save_components(partial, bundle.autoencoder, bundle.text_encoder, bundle.image_encoder, bundle.sampling)
        stages = {"format": 1, "stages": [*bundle.history, dict(entry)]}
        (partial / HISTORY).write_text(json.dumps(stages, indent=1) + "\n", encoding="utf-8")
    return folder


@torch.no_grad()
def _save_piecewise(bundle: ModelBundle, folder: Path, trained: Mapping[str, Tensor]) -> None:
    """Write a model on the meta device: trained values and initial ones, with the updates of its adapters."""
    updates = take_adapters(bundle.world)

    def read(name: str) -> Tensor:
        value = trained[name] if name in trained else bundle.weights.read(name)
        return add_update(value, *updates[name]) if name in updates else value

    save_world(bundle.world, folder, read=read)


def frozen_fingerprint(bundle: ModelBundle, *, besides: Collection[str] = ()) -> str:
    """Hash of the names and values of the frozen parameters, without those in `besides`."""
    digest = hashlib.sha256()
    for name, parameter in sorted(bundle.world.named_parameters()):
        if not parameter.requires_grad and name not in besides:
            value = bundle.weights.read(name) if parameter.is_meta else parameter.detach().cpu()
            digest.update(name.encode())
            digest.update(value.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _free_to_differ(stage: Stage, stages: list[dict[str, Any]]) -> tuple[str, ...]:
    """Fields of a WorldConfig in which `init` may differ from the run: those of parts that are not trained yet."""
    before = stages[-1]["stage"] if stages else None
    if (stage, before) == ("stage1", "base"):
        return ("name", "geometry", "cross_branch", "pcb_blocks")
    return ("name", "cross_branch") if (stage, before) == ("stage2", "stage1") else ()


def _sampling(config: TrainConfig, before: Sampling) -> Sampling:
    """Generate at the size, length and noise schedule of the training."""
    clip, chosen = config.clip, config.sampling
    size = {"num_frames": clip.frames, "height": clip.height, "width": clip.width}
    sampling = replace(
        before,
        **size,
        shift=config.noise.shift,
        timesteps=None,
        num_inference_steps=chosen.num_inference_steps,
        guidance_scale=chosen.guidance_scale,
    )
    if config.stage != "distill":
        return sampling
    count = config.distill.steps
    timesteps = tuple(TRAIN_STEPS * (count - step) / count for step in range(count))
    return replace(sampling, timesteps=timesteps, num_inference_steps=count, guidance_scale=1.0, sampler="euler")
