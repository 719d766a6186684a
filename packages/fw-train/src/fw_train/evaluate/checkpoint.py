"""The checkpoint that is evaluated: its folder, what its run held out, its default sampling, and its fingerprint.

Nothing here loads weights: everything that can be refused is refused before a model of many gigabytes is read.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fw_model.checkpoints.checkpoint import read_config
from fw_model.checkpoints.shipped import SMALL_WORLD, shipped_weights
from fw_model.pipeline.components import HIGH_NOISE, SPEC_FILE
from fw_model.pipeline.settings import Sampling
from fw_train.config.load import from_json
from fw_train.config.schema import ClipConfig, ConfigError
from fw_train.model_bundle import HISTORY
from fw_train.tasks.train import CONFIG, EXPORT

if TYPE_CHECKING:
    from fw_model.pipeline.pipeline import WorldPipeline


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder that generation loads."""

    folder: Path
    """The export."""
    model: str
    """Name of its preset."""
    sampling: Sampling
    """Its defaults of generation."""
    stage: str | None
    """The last stage of its training; None for weights from elsewhere."""
    training: ClipConfig | None
    """The clip settings of the run it lies in; None if there is no run around it."""
    fingerprint: str
    """Of its weights."""

    def pipeline(self, device: str, dtype: str | None) -> "WorldPipeline":
        """Load it."""
        from fw_model.pipeline.pipeline import WorldPipeline

        return WorldPipeline.from_pretrained(
            self.folder,
            device=choose_device(device),
            dtype=None if dtype is None else getattr(torch, dtype),
            free_encoders=False,
        )


def open_checkpoint(path: Path, *, video_alone: bool = False) -> Checkpoint:
    """Look into a run folder or an export.

    Args:
        path: the folder; "small-world" means the weights that come with fw-model.
        video_alone: its geometry is not asked for, so a video prior will do.

    Raises:
        ConfigError: no checkpoint there, a run without export, or weights whose geometry branch was never trained.
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
            f"{folder} is a video prior (`fw-train base`): its geometry branch has not been trained, so it gives no "
            "depth and no cameras to measure; evaluate the result of stage 1 or stage 2"
        )
    around = folder.parent
    is_run = (around / CONFIG).is_file() and (around / "checkpoints").is_dir()
    return Checkpoint(
        folder=folder,
        model=config.name,
        sampling=_sampling(folder, config.video.text_dim),
        stage=stage,
        training=_clips_of(around / CONFIG) if is_run else None,
        fingerprint=_fingerprint(folder),
    )


def _shipped() -> Path:
    try:
        return shipped_weights()
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _clips_of(path: Path) -> ClipConfig:
    """The clip settings of a run's configuration; the rest of it may be that of another version."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))["clip"]
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{path} does not read ({error}); give the run's export alone, and --held-out") from None
    return from_json({"clip": tree}, where=str(path)).clip


def _sampling(folder: Path, text_dim: int) -> Sampling:
    path = folder / SPEC_FILE
    try:
        return Sampling.from_dict(json.loads(path.read_text(encoding="utf-8"))["sampling"])
    except KeyError:
        return Sampling.for_text_dim(text_dim)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} does not read ({error}); generation needs it, see WorldPipeline.save") from None


def _fingerprint(folder: Path) -> str:
    """Checksum of all weights: two checkpoints of one run share most bytes, so all of them are read."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *(folder / HIGH_NOISE).glob("*.safetensors")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def choose_device(name: str) -> str:
    """The device a name means: `auto` is the first GPU, else the CPU."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def parse_size(text: str | None, default: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a text like `64x96`; the default for none.

    Raises:
        ConfigError: another text.
    """
    if text is None:
        return default
    height, cross, width = text.lower().partition("x")
    if not cross or not height.isdigit() or not width.isdigit():
        raise ConfigError(f"--size {text!r} is not HEIGHTxWIDTH: write for example --size 64x96")
    return int(height), int(width)


Say = Callable[[str], None]
"""Where progress goes, line by line."""
