"""`fw-train evidence`: weights, and ablations of them, measured against a dataset with exact truth.

Every clip is measured once per model, training and noise seed, all by the noise schedule of the first weights; each
result is a line of clips.jsonl, and lines that are there are not computed again. Tables and the strip are made of all
lines at the end.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.schema import ClipRecord
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.result import World
from fw_train.config.schema import ClipConfig, ConfigError
from fw_train.data.samples import open_dataset, why_unusable
from fw_train.evaluate.checkpoint import Checkpoint, Say, open_checkpoint
from fw_train.evaluate.evaluation import Plain
from fw_train.evaluate.generation import noise_seed
from fw_train.evaluate.options import EvidenceOptions
from fw_train.evidence.scores import Scores, level_scores, reference_scores, video_scores, world_scores
from fw_train.evidence.strip import save_row, write_strip
from fw_train.evidence.tables import Result, write_tables
from fw_train.metrics.truth import TruthClip, load_truth

LINES = "clips.jsonl"
REFERENCE, MODEL, BASE = "reference", "model", "base"
"""Names of what is measured besides the arms."""


class Line(BaseModel):
    """One clip of one model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """`reference`, `model`, `base` or an arm's name."""
    run: int
    """Which of the trainings of this name, from 0."""
    seed: int
    """Of the noise."""
    clip: str
    """The clip's id."""
    group: str
    """The world it shows."""
    settings: dict[str, Plain]
    """What the numbers depend on."""
    scores: Scores
    """By name (see `scores`); null = not defined for this clip."""

    @property
    def key(self) -> tuple[str, int, int, str]:
        """What there is one line of."""
        return self.model, self.run, self.seed, self.clip


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A set of weights to measure."""

    name: str
    """As tables call it."""
    run: int
    """Which of the trainings of this name."""
    checkpoint: Checkpoint
    """Where they are."""


def evidence(options: EvidenceOptions, say: Say = print) -> Path:
    """Measure what is missing and write the tables; returns evidence.md.

    Raises:
        ConfigError: options, checkpoints, dataset or lines of other settings that cannot be used.
    """
    _check(options)
    subjects = _subjects(options)
    shape = _common_shape(subjects)
    dataset = open_dataset(options.data)
    records = _chosen(dataset.records, shape, options)
    groups = {record.id: world_of(record, options.takes) for record in records}
    say(f"clips: {len(records)} of {len(set(groups.values()))} worlds")
    options.out.mkdir(parents=True, exist_ok=True)
    lines = {line.key: line for line in read_lines(options.out / LINES)}
    _measure_missing(options, subjects, dataset, records, shape, groups, lines, say)
    wanted = {(name, run, seed, record.id) for name, run, seed in _passes(options, subjects) for record in records}
    results = [
        Result(model=line.model, run=line.run, clip=line.clip, group=line.group, scores=line.scores)
        for key, line in lines.items()
        if key in wanted
    ]
    about: dict[str, Plain] = {
        "clips": len(records),
        "worlds": len(set(groups.values())),
        "noise_seeds": len(options.seeds),
        "steps": options.steps,
        "guidance": options.guidance,
        "shift": subjects[0].checkpoint.sampling.shift,
        "frames": shape[0],
        "height": shape[1],
        "width": shape[2],
    }
    for subject in subjects:
        about[f"weights of {subject.name} {subject.run}"] = subject.checkpoint.fingerprint
    page = write_tables(options.out, results, about, arms=_arm_names(options), frames=shape[0])
    if options.strip and options.checkpoint is not None:
        say(f"strip: {write_strip(options.out, [record.id for record in records[: options.strip]])}")
    say(f"result: {page}")
    return page


def world_of(record: ClipRecord, takes: int) -> str:
    """The world that a clip shows: its source video, or the number of its source over `takes`.

    Raises:
        ConfigError: takes above 1, and a source without a number.
    """
    if takes == 1:
        return record.source_sha256
    number = re.search(r"(\d+)$", Path(record.source).stem)
    if number is None:
        raise ConfigError(f"--takes {takes}: source {record.source!r} has no number at its end; leave --takes out")
    return f"world-{int(number[1]) // takes:06d}"


def read_lines(path: Path) -> list[Line]:
    """The lines of an earlier run; a torn last one, of a run that was killed, is left out.

    Raises:
        ConfigError: another line that does not read.
    """
    if not path.is_file():
        return []
    texts = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if texts and not texts[-1].endswith("\n"):
        texts.pop()
        path.write_text("".join(texts), encoding="utf-8")
    try:
        return [Line.model_validate_json(text) for text in texts]
    except ValidationError as error:
        raise ConfigError(f"{path} holds a line that is not of this version ({error}); give another --out") from None


def _check(options: EvidenceOptions) -> None:
    for name, value, least in (("clips", options.clips, 1), ("takes", options.takes, 1), ("steps", options.steps, 1)):
        if value < least:
            raise ConfigError(f"--{name} is {value}; give {least} or more")
    if options.checkpoint is None and not options.arm:
        raise ConfigError("give --checkpoint EXPORT, or --arm NAME=EXPORT for a table of ablations")
    if not options.seeds or len(set(options.seeds)) < len(options.seeds):
        raise ConfigError("--seeds takes one or more different numbers")
    if options.strip < 0:
        raise ConfigError(f"--strip is {options.strip}; give 0 or more")


def _subjects(options: EvidenceOptions) -> list[Subject]:
    found = []
    if options.checkpoint is not None:
        found.append(Subject(name=MODEL, run=0, checkpoint=open_checkpoint(options.checkpoint)))
    if options.base is not None:
        found.append(Subject(name=BASE, run=0, checkpoint=open_checkpoint(options.base, video_alone=True)))
    runs: dict[str, int] = {}
    for arm in options.arm:
        name, equals, path = arm.partition("=")
        if not equals or not name or not path or name in (REFERENCE, MODEL, BASE):
            raise ConfigError(f"--arm {arm!r} is not NAME=EXPORT with a name of its own (not {MODEL}, {BASE})")
        runs[name] = runs.get(name, -1) + 1
        found.append(Subject(name=name, run=runs[name], checkpoint=open_checkpoint(Path(path))))
    return found


def _arm_names(options: EvidenceOptions) -> list[str]:
    return list(dict.fromkeys(arm.partition("=")[0] for arm in options.arm))


def _common_shape(subjects: Sequence[Subject]) -> tuple[int, int, int]:
    shapes: dict[tuple[int, int, int], Path] = {}
    for checkpoint in (subject.checkpoint for subject in subjects):
        sampling = checkpoint.sampling
        shapes.setdefault((sampling.num_frames, sampling.height, sampling.width), checkpoint.folder)
    if len(shapes) > 1:
        text = "; ".join(f"{folder}: {shape}" for shape, folder in shapes.items())
        raise ConfigError(f"the checkpoints generate clips of different frames or size ({text}); compare equal ones")
    return next(iter(shapes))


def _chosen(records: Sequence[ClipRecord], shape: tuple[int, int, int], options: EvidenceOptions) -> list[ClipRecord]:
    frames, height, width = shape
    config = ClipConfig(frames=frames, height=height, width=width)
    usable = [record for record in records if not why_unusable(record, config)]
    if not usable:
        reason = why_unusable(records[0], config) if records else "the dataset is empty"
        raise ConfigError(f"none of {len(records)} clips of {options.data} can be measured ({reason})")
    return sorted(usable, key=lambda record: (record.source, record.start_frame))[: options.clips]


def _passes(options: EvidenceOptions, subjects: Sequence[Subject]) -> Iterator[tuple[str, int, int]]:
    yield REFERENCE, 0, 0
    for subject in subjects:
        for seed in options.seeds:
            yield subject.name, subject.run, seed


def _measure_missing(
    options: EvidenceOptions,
    subjects: Sequence[Subject],
    dataset: ClipDataset,
    records: Sequence[ClipRecord],
    shape: tuple[int, int, int],
    groups: dict[str, str],
    lines: dict[tuple[str, int, int, str], Line],
    say: Say,
) -> None:
    by_name = {(s.name, s.run): s for s in subjects}
    shift = subjects[0].checkpoint.sampling.shift
    loaded: tuple[Subject, WorldPipeline] | None = None
    with (options.out / LINES).open("a", encoding="utf-8") as file:
        for name, run, seed in _passes(options, subjects):
            subject = by_name.get((name, run), subjects[0])
            settings = _settings(options, subject, shape, shift=None if name == REFERENCE else shift)
            for number, record in enumerate(records, start=1):
                before = lines.get((name, run, seed, record.id))
                if before is not None:
                    _same(before, settings, options.out)
                    continue
                if loaded is None or loaded[0] is not subject:
                    loaded = subject, subject.checkpoint.pipeline(options.device, None)
                    if name == BASE:
                        _forget_cameras(loaded[1])
                truth = load_truth(
                    dataset,
                    record.id,
                    frames=shape[0],
                    height=shape[1],
                    width=shape[2],
                    min_confidence=options.min_confidence,
                )
                drawn = name == MODEL and seed == options.seeds[0] and number <= options.strip
                scores = _scores(options, name, seed, loaded[1], truth, shift=shift, draw=drawn)
                line = Line(
                    model=name,
                    run=run,
                    seed=seed,
                    clip=record.id,
                    group=groups[record.id],
                    settings=settings,
                    scores=scores,
                )
                file.write(line.model_dump_json() + "\n")
                file.flush()
                lines[line.key] = line
                say(f"{name} {run}, seed {seed} [{number}/{len(records)}] {record.id}: measured")


def _scores(
    options: EvidenceOptions,
    name: str,
    seed: int,
    pipeline: WorldPipeline,
    truth: TruthClip,
    *,
    shift: float,
    draw: bool,
) -> Scores:
    if name == REFERENCE:
        return reference_scores(truth, pipeline.autoencoder)
    clip = truth.record.id
    world = _generated(options, pipeline, truth, seed=noise_seed(seed, clip), shift=shift, couple=name != BASE)
    if draw:
        save_row(options.out, clip, world, truth)
    scores = video_scores(world.video, truth)
    if name != BASE:
        scores |= world_scores(world, truth)
    if name == MODEL:
        scores |= level_scores(pipeline, truth, seed=noise_seed(seed, clip))
    return scores


def _generated(
    options: EvidenceOptions, pipeline: WorldPipeline, truth: TruthClip, *, seed: int, shift: float, couple: bool
) -> World:
    *_, last = pipeline.generate(
        truth.video[0],
        truth.record.caption,
        truth.trajectory,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        seed=seed,
        shift=shift,
        cross_branch=couple,
    )
    assert last.world is not None, "a generation ends with a world"
    return last.world


def _forget_cameras(pipeline: WorldPipeline) -> None:
    """Take the camera adapters out: with frozen video blocks, what is left beside no coupling is the prior itself."""
    for world in [pipeline.world] if pipeline.high_noise is None else [pipeline.world, pipeline.high_noise]:
        for block in world.video_blocks():
            block.camera_adapter = None


def _settings(
    options: EvidenceOptions, subject: Subject, shape: tuple[int, int, int], *, shift: float | None
) -> dict[str, Plain]:
    folder = subject.checkpoint.folder
    digest = hashlib.sha256()
    for path in [folder / "pipeline.json", *sorted(folder.glob("*/*.safetensors"))]:
        digest.update(path.read_bytes())
    settings: dict[str, Plain] = {
        "frames": shape[0],
        "height": shape[1],
        "width": shape[2],
        "min_confidence": options.min_confidence,
        "companions": digest.hexdigest()[:16],
    }
    if shift is not None:
        settings |= {
            "weights": subject.checkpoint.fingerprint,
            "steps": options.steps,
            "guidance": options.guidance,
            "shift": shift,
        }
    return settings


def _same(before: Line, settings: dict[str, Plain], out: Path) -> None:
    names = sorted(k for k in before.settings.keys() | settings.keys() if before.settings.get(k) != settings.get(k))
    if names:
        changes = "; ".join(f"{name}: {before.settings.get(name)} then, {settings.get(name)} now" for name in names)
        raise ConfigError(
            f"{out / LINES} holds clips of {before.model} with other settings ({changes}); give another --out"
        )
