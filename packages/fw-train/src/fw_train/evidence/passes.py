"""The passes of an evidence run: which weights, training, noise seed and steps are measured on which clips."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fw_train.config.schema import ConfigError
from fw_train.evaluate.checkpoint import Checkpoint, open_checkpoint
from fw_train.evaluate.options import EvidenceOptions

REFERENCE, MODEL, BASE, SPLATS = "reference", "model", "base", "splats"
"""Names of the measured models besides the arms; `splats` are fits of the worlds of `model`."""
RESERVED = (REFERENCE, MODEL, BASE, SPLATS)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A set of weights to measure."""

    name: str
    """Name in the tables."""
    run: int
    """Number of the training under this name, from 0."""
    checkpoint: Checkpoint
    """The checkpoint with the weights."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One measurement of the first clips."""

    name: str
    """`reference`, `model`, `base`, `splats` or the name of an arm."""
    run: int = 0
    """Number of the training under this name, from 0."""
    seed: int = 0
    """Noise seed of generation."""
    steps: int = 0
    """Denoising steps; 0 for the references."""
    count: int
    """Number of clips."""
    levels: bool = False
    """Whether the passes over real latents are measured too; they do not depend on seed and steps."""
    main: bool = True
    """Whether this is a pass of the main tables; otherwise it is of the table of steps."""

    @property
    def folder(self) -> str:
        """Name of the folder of its worlds."""
        return f"{self.name}-{self.run}-seed-{self.seed}-steps-{self.steps}"


def find_subjects(options: EvidenceOptions) -> list[Subject]:
    """The weights of --checkpoint, --base and --arm, in this order.

    Raises:
        ConfigError: a checkpoint or an arm is invalid.
    """
    found = []
    if options.checkpoint is not None:
        found.append(Subject(name=MODEL, run=0, checkpoint=open_checkpoint(options.checkpoint)))
    if options.base is not None:
        found.append(Subject(name=BASE, run=0, checkpoint=open_checkpoint(options.base, video_alone=True)))
    runs: dict[str, int] = {}
    for arm in options.arm:
        name, equals, path = arm.partition("=")
        if not equals or not name or not path or name in RESERVED:
            raise ConfigError(f"--arm {arm!r} is not NAME=EXPORT; {', '.join(RESERVED)} are reserved names")
        runs[name] = runs.get(name, -1) + 1
        found.append(Subject(name=name, run=runs[name], checkpoint=open_checkpoint(Path(path), video_alone=True)))
    return found


def arm_names(options: EvidenceOptions) -> list[str]:
    """Names of the arms in order, each once."""
    return list(dict.fromkeys(arm.partition("=")[0] for arm in options.arm))


def passes_of(options: EvidenceOptions, subjects: Sequence[Subject], clips: int) -> Iterator[Pass]:
    """All passes, those of one subject together."""
    yield Pass(name=REFERENCE, count=clips)
    for subject in subjects:
        for seed in options.seeds:
            first = seed == options.seeds[0]
            yield Pass(name=subject.name, run=subject.run, seed=seed, steps=options.steps, count=clips, levels=first)
        if subject.name == MODEL and options.few_steps_clips:
            for steps in options.few_steps:
                if steps != options.steps:
                    count = min(clips, options.few_steps_clips)
                    yield Pass(name=MODEL, seed=options.seeds[0], steps=steps, count=count, main=False)
    if options.checkpoint is not None and options.splats:
        yield Pass(name=SPLATS, seed=options.seeds[0], steps=options.steps, count=min(clips, options.splats))


def common_shape(subjects: Sequence[Subject]) -> tuple[int, int, int]:
    """Frames, height and width of all checkpoints.

    Raises:
        ConfigError: they differ.
    """
    shapes: dict[tuple[int, int, int], Path] = {}
    for checkpoint in (subject.checkpoint for subject in subjects):
        sampling = checkpoint.sampling
        shapes.setdefault((sampling.num_frames, sampling.height, sampling.width), checkpoint.folder)
    if len(shapes) > 1:
        text = "; ".join(f"{folder}: {shape}" for shape, folder in shapes.items())
        raise ConfigError(
            f"the checkpoints differ in frames or size ({text}); compare checkpoints with the same clip shape"
        )
    return next(iter(shapes))
