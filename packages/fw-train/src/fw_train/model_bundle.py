"""What a run starts from and what it leaves: the model with its autoencoder and text encoder, as one folder.

An export folder holds config.json and model.safetensors (fw_model.checkpoints.checkpoint), pipeline.json (which
autoencoder and text encoder the model was trained with) and training.json (which stages made it).
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fw_model.autoencoders.base import VideoAutoencoder, first_frame_condition
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.checkpoints.checkpoint import load_world, read_config, save_world
from fw_model.config import WorldConfig, preset
from fw_model.encoders.base import TextEncoder
from fw_model.encoders.clip import ClipImageEncoder
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.model.model import FantasyWorld
from fw_model.pipeline.components import load_components, save_components
from fw_model.pipeline.settings import Sampling
from fw_train.config.load import load
from fw_train.config.schema import ConfigError, Stage, TrainConfig, leaves
from fw_train.lora import add_adapters, merge_adapters, save_adapters

HISTORY = "training.json"
LORA_FOLDER = "lora"
"""Folder, inside an export, of the adapter as a file of its own; its layers are merged into the weights too."""
FOLLOWS: dict[Stage, tuple[Stage, ...]] = {
    "autoencoder": (),
    "base": ("autoencoder", "base"),
    "stage1": ("base", "stage1"),
    "stage2": ("stage1", "stage2"),
}
"""What may come right before each stage."""


class Encoded(NamedTuple):
    """A video in the terms of the model."""

    latents: Float[Tensor, "b c f y x"]
    """Normalised latents."""
    condition: Float[Tensor, "b cy f y x"] | None
    """First-frame condition (the model's `y`); None if it takes none."""
    image_tokens: Float[Tensor, "b l d"] | None
    """CLIP tokens of the first frame; None if the model reads none."""


def first_of(batch: Encoded) -> Encoded:
    """The first video of a batch, without the batch axis."""
    return Encoded(batch.latents[0], *(None if value is None else value[0] for value in batch[1:]))


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """The frozen companions of a model, and what it wants of them."""

    autoencoder: VideoAutoencoder
    text_encoder: TextEncoder
    image_encoder: ClipImageEncoder | None
    condition_channels: int
    """Channels of the model's `y`; 0: it takes none."""
    tokens: bool
    """Whether the model reads CLIP tokens."""

    def encode(self, video: Float[Tensor, "b 3 F H W"]) -> Encoded:
        """A video in [-1, 1] as latents, first-frame condition and picture tokens."""
        first = video[:, :, :1]
        condition = first_frame_condition(self.autoencoder, first, video.shape[2], self.condition_channels)
        tokens = None
        if self.tokens and self.image_encoder is not None:
            tokens = self.image_encoder.encode(first[:, :, 0])
        return Encoded(self.autoencoder.encode(video), condition, tokens)

    def to(self, device: torch.device) -> None:
        """Where to compute."""
        for part in (self.autoencoder, self.text_encoder, self.image_encoder):
            if part is not None:
                part.to(device)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A model and its frozen companions."""

    world: FantasyWorld
    autoencoder: VideoAutoencoder
    text_encoder: TextEncoder
    sampling: Sampling
    """Defaults of generation that the export names."""
    image_encoder: ClipImageEncoder | None = None
    """CLIP, for models that read its tokens."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry per training so far: stage, steps, hash of its configuration; empty for weights from elsewhere."""

    @property
    def encoders(self) -> Encoders:
        """The companions alone."""
        video = self.world.config.video
        return Encoders(
            autoencoder=self.autoencoder,
            text_encoder=self.text_encoder,
            image_encoder=self.image_encoder,
            condition_channels=video.y_dim,
            tokens=video.clip_dim is not None,
        )

    def encode(self, video: Float[Tensor, "b 3 F H W"]) -> Encoded:
        """A video in [-1, 1] as latents, first-frame condition and picture tokens."""
        return self.encoders.encode(video)


def world_config(model: str) -> WorldConfig:
    """The WorldConfig of a preset name or a JSON file.

    Raises:
        ConfigError: neither, or a file that does not say a WorldConfig.
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
        ConfigError: no `init` where one is needed, a folder of another preset, or of a stage that cannot come before.
    """
    wanted = world_config(config.model)
    if config.stage == "base" and wanted.video.clip_dim is not None:
        raise ConfigError(f"model {wanted.name!r} has a pretrained video model: go on with `fw-train stage1`")
    for key in unread_by_model(config):
        raise ConfigError(
            f"{key} has no effect in {config.stage}: model {wanted.name!r} has no such input. Leave it out"
        )
    if config.init is None:
        if config.stage == "base":
            return None
        before = " or ".join(f"`fw-train {stage}`" for stage in FOLLOWS[config.stage] if stage != config.stage)
        raise ConfigError(f"{config.stage} needs --init: a run or export folder of {before}, or converted weights")
    folder = _export_folder(config.init)
    if autoencoder_alone(folder):
        if config.stage == "base":
            return folder
        continued = " or ".join(FOLLOWS[config.stage])
        raise ConfigError(f"init {folder} is the result of autoencoder, but {config.stage} continues {continued}")
    try:
        stored = read_config(folder)
    except ValueError as error:
        raise ConfigError(f"init: {error}") from None
    history = _history(folder)
    free = _free_to_differ(config.stage, history)
    if any(getattr(stored, one.name) != getattr(wanted, one.name) for one in fields(wanted) if one.name not in free):
        raise ConfigError(
            f"init {folder} is a checkpoint of model {stored.name!r}, and this run wants {wanted.name!r}"
            + (" with other sizes" if stored.name == wanted.name else "")
            + "; give the right init, or --model to match it"
            + (f" (only {', '.join(free[1:])} may differ here)" if free else "")
        )
    if history and history[-1]["stage"] not in FOLLOWS[config.stage]:
        raise ConfigError(
            f"init {folder} is the result of {history[-1]['stage']}, but {config.stage} continues "
            + " or ".join(FOLLOWS[config.stage])
        )
    return folder


def unread_by_model(config: TrainConfig) -> list[str]:
    """Keys that this stage of this model does not read and whose values are neither the recipe's nor the default."""
    if config.stage == "autoencoder":
        return []
    model = world_config(config.model)
    image = model.video.y_dim > 0 or model.video.clip_dim is not None
    camera = model.video.control_dim is not None or (config.stage == "stage2" and model.camera is not None)
    keys = [] if image else ["dropout.image"]
    keys += [] if camera else ["dropout.camera"]
    if config.stage == "base" and not camera:  # depth only gives the unit of length of the camera path
        keys += ["clip.min_confidence", "clip.mask_moving", "clip.scale_by_first_frame"]
    usual = load(config.recipe, config.stage) if config.recipe else TrainConfig()
    values, defaults = leaves(config), leaves(usual)
    return [key for key in keys if values[key] != defaults[key]]


def load_parts(config: TrainConfig) -> Parts:
    """The model that a run starts from, in float32 on the CPU, with its autoencoder and text encoder.

    Raises:
        ConfigError: see `check_start`.
    """
    folder = check_start(config)
    if folder is None or autoencoder_alone(folder):
        wanted = world_config(config.model)
        text = HashTextEncoder(text_len=wanted.video.text_len, text_dim=wanted.video.text_dim)
        return Parts(
            world=FantasyWorld(wanted, seed=config.seed),
            autoencoder=BlockDCT() if folder is None else load_components(folder).autoencoder,
            text_encoder=text,
            sampling=_sampling(config, Sampling()),
            history=[] if folder is None else _history(folder),
        )
    try:
        with_it = load_components(folder)
        world = _load_world(folder, world_config(config.model), config.seed)
    except ValueError as error:
        raise ConfigError(f"init: {error}") from None
    if world.config.video.clip_dim is not None and with_it.image_encoder is None:
        raise ConfigError(
            f"init {folder}: model {world.config.name!r} reads CLIP tokens, and pipeline.json names no image_encoder; "
            "make the folder with `fw-train init`"
        )
    add_adapters(world, config.lora, seed=config.seed)
    return Parts(
        world=world,
        autoencoder=with_it.autoencoder,
        text_encoder=with_it.text_encoder,
        image_encoder=with_it.image_encoder,
        sampling=_sampling(config, with_it.sampling),
        history=_history(folder),
    )


def export(parts: Parts, folder: Path, *, trained: Mapping[str, Tensor], entry: Mapping[str, Any]) -> Path:
    """Write a folder that generation and the next stage load; replaces an older one whole.

    Args:
        parts: the model (its trained parameters are set to `trained`, LoRA adapters are merged) and its companions.
        folder: where to.
        trained: parameter name -> value to export.
        entry: what to add to the history.
    """
    partial, old = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "old"))
    for left in (partial, old):
        shutil.rmtree(left, ignore_errors=True)
    with torch.no_grad():
        for name, value in trained.items():
            parts.world.get_parameter(name).copy_(value)
    save_adapters(parts.world, partial / LORA_FOLDER)
    merge_adapters(parts.world)
    save_world(parts.world, partial)
    save_components(partial, parts.autoencoder, parts.text_encoder, parts.image_encoder, parts.sampling)
    history = {"format": 1, "stages": [*parts.history, dict(entry)]}
    (partial / HISTORY).write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def fingerprint(world: FantasyWorld, *, trained: bool) -> str:
    """Hash of the names and values of the trained, or of the frozen, parameters."""
    digest = hashlib.sha256()
    for name, parameter in sorted(world.named_parameters()):
        if parameter.requires_grad == trained:
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _free_to_differ(stage: Stage, history: list[dict[str, Any]]) -> tuple[str, ...]:
    """Fields of a WorldConfig in which `init` may differ from the run: those of what nothing has trained yet."""
    before = history[-1]["stage"] if history else None
    if (stage, before) == ("stage1", "base"):
        return ("name", "geometry", "cross_branch", "pcb_blocks")
    return ("name", "cross_branch") if (stage, before) == ("stage2", "stage1") else ()


def _load_world(folder: Path, wanted: WorldConfig, seed: int) -> FantasyWorld:
    """The stored model; where `wanted` differs from its config, a new one with every weight that both have.

    Video blocks are matched by their number over all blocks, so that they load wherever the branches meet. Another
    geometry branch, which nothing has trained yet, starts as `wanted` has it, also where sizes agree.
    """
    stored = load_world(folder, dtype=torch.float32)
    if stored.config == wanted:
        return stored.train()
    world = FantasyWorld(wanted, seed=seed)
    same_geometry = stored.config.geometry == wanted.geometry
    known = {
        _over_all_blocks(name, stored.config.pcb_blocks): p
        for name, p in stored.named_parameters()
        if same_geometry or stored.parameter_group(name) != "geometry"
    }
    with torch.no_grad():
        for name, parameter in world.named_parameters():
            old = known.get(_over_all_blocks(name, wanted.pcb_blocks))
            if old is not None and old.shape == parameter.shape:
                parameter.copy_(old)
    return world.train()


def _over_all_blocks(name: str, pcb_blocks: int) -> str:
    """A parameter's name with the number of its video block counted over all blocks; others are as they are."""
    part, _, rest = name.partition(".")
    index, _, inner = rest.partition(".")
    if part == "pcb":
        return f"block.{index}.{inner}"
    if part == "irg" and inner.startswith("video."):
        return f"block.{pcb_blocks + int(index)}.{inner.removeprefix('video.')}"
    return name


def _sampling(config: TrainConfig, before: Sampling) -> Sampling:
    """Generate at the size, length and noise schedule of training."""
    clip, chosen = config.clip, config.sampling
    size = {"num_frames": clip.frames, "height": clip.height, "width": clip.width}
    return replace(
        before, **size, shift=config.noise.shift, num_inference_steps=chosen.steps, guidance_scale=chosen.guidance
    )


def autoencoder_alone(folder: Path) -> bool:
    """Whether a folder holds the result of `fw-train autoencoder`: an autoencoder, and no model yet."""
    return (folder / "pipeline.json").is_file() and not (folder / "config.json").exists()


def _export_folder(init: Path) -> Path:
    """An export folder: the one given, or the one inside a run folder."""
    if (init / "checkpoints").is_dir():
        if (init / "export").is_dir():
            return init / "export"
        raise ConfigError(f"init {init} is a run without an export: finish it, or run `fw-train export {init}`")
    if not init.is_dir():
        raise ConfigError(f"init {init} does not exist; give a run or export folder")
    return init


def _history(folder: Path) -> list[dict[str, Any]]:
    path = folder / HISTORY
    return json.loads(path.read_text(encoding="utf-8"))["stages"] if path.is_file() else []
