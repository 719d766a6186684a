"""The clips and worlds of an evaluation, checked before any work is done."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fw_data.dataset.reader import ClipDataset
from fw_geometry.clip_shape import check_clip_shape
from fw_model.export.reader import read_world
from fw_model.pipeline.result import World
from fw_train.config.schema import ClipConfig, ConfigError
from fw_train.evaluate.checkpoint import Checkpoint, Say, chosen_size, open_checkpoint
from fw_train.evaluate.evaluation import Plain
from fw_train.evaluate.generation import is_made
from fw_train.evaluate.options import EvaluateOptions
from fw_train.evaluate.worlds import check_same_path, common_shape, find_worlds, in_scene_units
from fw_train.metrics.truth import TruthClip, choose_clips, load_truth

WORLDS = "worlds"
_CONTENT = ("mp4", "depth.zst", "conf.zst", "cameras.npz")
_OF_GENERATION = ("split", "clips", "held_out", "frames", "size", "steps", "guidance", "seed", "dtype")


@dataclass(frozen=True, kw_only=True)
class EvaluationTask:
    """Clips to measure and their worlds."""

    dataset: ClipDataset
    """Dataset of the clips."""
    clips: Sequence[str]
    """Clip ids in order."""
    worlds: Path
    """Folder with one world per clip."""
    shape: tuple[int, int, int]
    """Frames, height, width of every world."""
    min_confidence: float
    """Minimum confidence of annotated depth."""
    made: dict[str, Plain]
    """Generation settings of the worlds."""
    left_out: dict[str, int]
    """Reason -> number of clips that cannot be measured."""
    checkpoint: Checkpoint | None
    """Checkpoint to generate missing worlds with; None if all exist."""

    def truth(self, clip_id: str) -> TruthClip:
        """Load a clip at the size of the worlds."""
        frames, height, width = self.shape
        return load_truth(
            self.dataset,
            clip_id,
            frames=frames,
            height=height,
            width=width,
            min_confidence=self.min_confidence,
            first_frame_only=self.checkpoint is None or self.checkpoint.first_frame_only,
        )

    def pair(self, clip_id: str) -> tuple[World, TruthClip]:
        """Load a world and its clip, both in scene units."""
        return in_scene_units(_read(self.worlds / clip_id)), self.truth(clip_id)

    def content(self, clip_id: str) -> str:
        """Checksum of the ground truth of a clip."""
        members = self.dataset.record(clip_id).members
        parts = "".join(members[name].sha256 for name in _CONTENT if name in members)
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    def origin(self, clip_id: str) -> dict[str, Plain]:
        """All settings that a generated world depends on."""
        return {**self.made, "clip": clip_id, "content": self.content(clip_id)}

    def missing(self) -> list[str]:
        """Clips without a world; ConfigError if a world with other settings exists."""
        return [clip for clip in self.clips if not is_made(self.worlds / clip, self.origin(clip))]


def existing_worlds(options: EvaluateOptions, dataset: ClipDataset) -> EvaluationTask:
    """The task of measuring existing worlds.

    Raises:
        ConfigError: generation options are set, or worlds are incomplete, differ in size, have another camera path, or
            have no clip in the dataset.
    """
    assert options.worlds is not None
    defaults = EvaluateOptions(data=options.data, out=options.out)
    idle = [name for name in _OF_GENERATION if getattr(options, name) != getattr(defaults, name)]
    if idle:
        flags = ", ".join("--" + name.replace("_", "-") for name in idle)
        raise ConfigError(
            f"{flags} cannot be used with --worlds, which measures all worlds of the folder; omit one of them"
        )
    names = find_worlds(options.worlds)
    known = {record.id for record in dataset.records}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            f"{options.worlds} has worlds without a clip in {dataset.location}: {', '.join(unknown[:3])}"
            f"{', ...' if len(unknown) > 3 else ''}; name each folder by its clip id"
        )
    task = EvaluationTask(
        dataset=dataset,
        clips=names,
        worlds=options.worlds,
        shape=common_shape(options.worlds, names),
        min_confidence=options.min_confidence,
        made={"worlds": str(options.worlds)},
        left_out={},
        checkpoint=None,
    )
    for name in names:
        check_same_path(options.worlds / name, _read(options.worlds / name), task.truth(name))
    return task


def worlds_to_generate(options: EvaluateOptions, dataset: ClipDataset, say: Say) -> EvaluationTask:
    """The task of generating worlds with a checkpoint and measuring them.

    Raises:
        ConfigError: invalid checkpoint, clips or size, or existing worlds with other settings.
    """
    assert options.checkpoint is not None
    checkpoint = open_checkpoint(options.checkpoint)
    sampling = checkpoint.sampling
    height, width = chosen_size(options.size, sampling)
    frames = sampling.num_frames if options.frames is None else options.frames
    try:
        check_clip_shape(frames, height, width)
    except ValueError as error:
        raise ConfigError(f"--frames, --size: {error}") from None
    config = ClipConfig(frames=frames, height=height, width=width)
    if options.held_out is not None and not 0 < options.held_out < 1:
        raise ConfigError(f"--held-out is {options.held_out}; it must be between 0 and 1")
    training = checkpoint.training or replace(config, held_out=options.held_out or config.held_out)
    if checkpoint.training is not None and options.held_out not in (None, training.held_out):
        raise ConfigError(
            f"--held-out is {options.held_out}, but the run of {checkpoint.folder} held out "
            f"{training.held_out}; omit --held-out"
        )
    choice = choose_clips(dataset.records, config, subset=options.split, count=options.clips, training=training)
    for line in choice.describe():
        say(line)
    if options.split == "held-out" and checkpoint.training is None:
        say(f"{checkpoint.folder} is outside a run: holding out a share of {training.held_out}")
    made: dict[str, Plain] = {
        "model": checkpoint.model,
        "stage": checkpoint.stage,
        "weights": checkpoint.fingerprint,
        "frames": frames,
        "height": height,
        "width": width,
        "steps": sampling.num_inference_steps if options.steps is None else options.steps,
        "guidance": sampling.guidance_scale if options.guidance is None else options.guidance,
        "shift": sampling.shift,
        "sampler": sampling.sampler,
        "seed": options.seed,
        "dtype": options.dtype,
    }
    task = EvaluationTask(
        dataset=dataset,
        clips=[record.id for record in choice.records],
        worlds=options.out / WORLDS,
        shape=(frames, height, width),
        min_confidence=options.min_confidence,
        made=made,
        left_out=choice.unusable,
        checkpoint=checkpoint,
    )
    task.missing()
    return task


def _read(folder: Path) -> World:
    try:
        return read_world(folder)
    except ValueError as error:
        raise ConfigError(str(error)) from None
