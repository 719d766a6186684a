"""Inspect a checkpoint to evaluate: folder, held-out clips of its run, default sampling, and fingerprint.

All checks run before any weights are loaded.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fw_core.devices import choose_device
from fw_geometry.clip_shape import parse_size
from fw_model.checkpoints.checkpoint import read_config
from fw_model.checkpoints.opening import safetensors_files
from fw_model.checkpoints.shipped import SMALL_WORLD, shipped_weights
from fw_model.pipeline.components import HIGH_NOISE, SPEC_FILE
from fw_model.pipeline.settings import Sampling
from fw_train.config.load import from_json
from fw_train.config.preflight import ALL_FRAMES, FIRST_FRAME, HISTORY
from fw_train.config.schema import ClipConfig, ConfigError
from fw_train.tasks.train import CONFIG, EXPORT

if TYPE_CHECKING:
    from fw_model.pipeline.pipeline import WorldPipeline


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder with weights to evaluate."""

    folder: Path
    """Export folder."""
    model: str
    """Name of the model preset."""
    sampling: Sampling
    """Default generation settings."""
    stage: str | None
    """Last training stage; None if the weights were not trained here."""
    scene_unit: str
    """Frames whose mean distance is the unit of length of the training, see `fw_train.config.preflight`."""
    training: ClipConfig | None
    """Clip settings of the run that contains the export; None for an export alone."""
    fingerprint: str
    """Checksum of the weights."""

    @property
    def first_frame_only(self) -> bool:
        """Whether the scene unit of the training is that of the first frame."""
        return self.scene_unit == FIRST_FRAME

    def pipeline(self, device: str, dtype: str | None) -> "WorldPipeline":
        """Load the generation pipeline."""
        from fw_model.pipeline.pipeline import WorldPipeline

        return WorldPipeline.from_pretrained(
            self.folder,
            device=choose_device(device),
            dtype=None if dtype is None else getattr(torch, dtype),
            free_encoders=False,
        )


def open_checkpoint(path: Path, *, video_alone: bool = False) -> Checkpoint:
    """Inspect a run folder or an export.

    Args:
        path: the folder, or "small-world" for the weights included in fw-model.
        video_alone: accept a video prior, whose geometry branch is untrained.

    Raises:
        ConfigError: no checkpoint, a run without an export, or an untrained geometry branch.
    """
    if str(path) == SMALL_WORLD:
        path = _shipped()
    folder = path / EXPORT if (path / EXPORT).is_dir() else path
    if not folder.is_dir():
        raise ConfigError(f"{path} does not exist; give a run of fw-train, its export, or a pipeline folder")
    if folder == path and (path / CONFIG).is_file() and (path / "checkpoints").is_dir():
        raise ConfigError(f"{path} is a run without an export: finish it, or run `fw-train export {path}`")
    try:
        config = read_config(folder)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    history = folder / HISTORY
    stages = json.loads(history.read_text(encoding="utf-8"))["stages"] if history.is_file() else []
    stage = stages[-1]["stage"] if stages else None
    if stage == "base" and not video_alone:
        raise ConfigError(
            f"{folder} is a video prior (`fw-train base`) with an untrained geometry branch, so there are no depth "
            "and cameras to measure; evaluate the result of stage 1 or stage 2"
        )
    around = folder.parent
    is_run = (around / CONFIG).is_file() and (around / "checkpoints").is_dir()
    training = _clips_of(around / CONFIG) if is_run else None
    earlier = ALL_FRAMES if training is not None and not training.scale_by_first_frame else FIRST_FRAME
    return Checkpoint(
        folder=folder,
        model=config.name,
        sampling=_sampling(folder, config.video.text_dim),
        stage=stage,
        # earlier versions did not record the unit; it is assumed for an export without its run
        scene_unit=stages[-1].get("scene_unit", earlier) if stages else earlier,
        training=training,
        fingerprint=_fingerprint(folder),
    )


def _shipped() -> Path:
    try:
        return shipped_weights()
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _clips_of(path: Path) -> ClipConfig:
    """The clip settings of a run's configuration; its other keys may be from another version."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))["clip"]
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"{path} is unreadable ({error}); give a copy of the export outside the run, with --held-out"
        ) from None
    return from_json({"clip": tree}, where=str(path)).clip


def _sampling(folder: Path, text_dim: int) -> Sampling:
    path = folder / SPEC_FILE
    try:
        return Sampling.from_dict(json.loads(path.read_text(encoding="utf-8"))["sampling"])
    except KeyError:
        return Sampling.for_text_dim(text_dim)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} is unreadable ({error}); WorldPipeline.save writes it") from None


def _fingerprint(folder: Path) -> str:
    """Checksum of all weight files; reads every byte, since checkpoints of one run share most of them."""
    digest = hashlib.sha256()
    for path in sorted([*safetensors_files(folder), *safetensors_files(folder / HIGH_NOISE)]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def chosen_size(text: str | None, sampling: Sampling) -> tuple[int, int]:
    """Height and width of `--size`, or those of the checkpoint without it.

    Raises:
        ConfigError: not WIDTHxHEIGHT in multiples of 16.
    """
    if text is None:
        return sampling.height, sampling.width
    try:
        width, height = parse_size(text, name="--size")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return height, width


Say = Callable[[str], None]
"""Prints one line of progress."""
