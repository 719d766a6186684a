"""`fw-train evidence`: measure trained weights and ablations on a dataset with exact ground truth.

Each clip is measured once per model, training and noise seed, with the noise schedule of the first checkpoint. Each
result is a line of clips.jsonl; later runs reuse existing lines. The tables and the strip are made from all lines.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.schema import ClipRecord
from fw_model.checkpoints.opening import safetensors_files
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.result import World
from fw_train.config.schema import ClipConfig, ConfigError
from fw_train.data.split import open_dataset, why_unusable
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
"""Names of the measured models besides the arms."""


class Line(BaseModel):
    """The measured scores of one clip of one model: a line of clips.jsonl."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """`reference`, `model`, `base` or the name of an arm."""
    run: int
    """Number of the training under this name, from 0."""
    seed: int
    """Noise seed."""
    clip: str
    """Clip id."""
    group: str
    """World that the clip shows."""
    settings: dict[str, Plain]
    """Settings that determine the scores."""
    scores: Scores
    """Scores by name (see `fw_train.evidence.scores`); null = not defined for this clip."""

    @property
    def key(self) -> tuple[str, int, int, str]:
        """Model, run, seed and clip; unique among the lines."""
        return self.model, self.run, self.seed, self.clip


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A set of weights to measure."""

    name: str
    """Name in the tables."""
    run: int
    """Number of the training under this name, from 0."""
    checkpoint: Checkpoint
    """The checkpoint with the weights."""


def evidence(options: EvidenceOptions, say: Say = print) -> Path:
    """Measure all clips without a line and write the tables; returns the path of evidence.md.

    Raises:
        ConfigError: invalid options, checkpoints or dataset, or existing lines with other settings.
    """
    _check(options)
    subjects = _subjects(options)
    shape = _common_shape(subjects)
    dataset = open_dataset(options.data)
    records = _choose(dataset.records, shape, options)
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
    """The world that a clip shows: its source video, or the number of the source divided by `takes`.

    Raises:
        ConfigError: `takes` is above 1 and the source name has no number.
    """
    if takes == 1:
        return record.source_sha256
    number = re.search(r"(\d+)$", Path(record.source).stem)
    if number is None:
        raise ConfigError(
            f"--takes {takes}: the name of source {record.source!r} does not end in a number; omit --takes"
        )
    return f"world-{int(number[1]) // takes:06d}"


def read_lines(path: Path) -> list[Line]:
    """The lines of an earlier run, without an incomplete last line of a killed run.

    Raises:
        ConfigError: another line is invalid.
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
        raise ConfigError(f"{path} has a line that this version cannot read ({error}); use another --out") from None


def _check(options: EvidenceOptions) -> None:
    for name, value, least in (("clips", options.clips, 1), ("takes", options.takes, 1), ("steps", options.steps, 1)):
        if value < least:
            raise ConfigError(f"--{name} is {value}; it must be {least} or more")
    if options.checkpoint is None and not options.arm:
        raise ConfigError("--checkpoint EXPORT or --arm NAME=EXPORT is missing; give at least one of them")
    if not options.seeds or len(set(options.seeds)) < len(options.seeds):
        raise ConfigError("--seeds must be one or more different numbers")
    if options.strip < 0:
        raise ConfigError(f"--strip is {options.strip}; it must be 0 or more")


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
            raise ConfigError(f"--arm {arm!r} is not NAME=EXPORT; {REFERENCE}, {MODEL} and {BASE} are reserved names")
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
        raise ConfigError(
            f"the checkpoints differ in frames or size ({text}); compare checkpoints with the same clip shape"
        )
    return next(iter(shapes))


def _choose(records: Sequence[ClipRecord], shape: tuple[int, int, int], options: EvidenceOptions) -> list[ClipRecord]:
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
                    _check_settings(before, settings, options.out)
                    continue
                if loaded is None or loaded[0] is not subject:
                    loaded = subject, subject.checkpoint.pipeline(options.device, None)
                    if name == BASE:
                        _remove_camera_adapters(loaded[1])
                truth = load_truth(
                    dataset,
                    record.id,
                    frames=shape[0],
                    height=shape[1],
                    width=shape[2],
                    min_confidence=options.min_confidence,
                )
                in_strip = name == MODEL and seed == options.seeds[0] and number <= options.strip
                scores = _scores(options, name, seed, loaded[1], truth, shift=shift, draw=in_strip)
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
    world = _generated(options, pipeline, truth, seed=noise_seed(seed, clip), shift=shift, cross_branch=name != BASE)
    if draw:
        save_row(options.out, clip, world, truth)
    scores = video_scores(world.video, truth)
    if name != BASE:
        scores |= world_scores(world, truth)
    if name == MODEL:
        scores |= level_scores(pipeline, truth, seed=noise_seed(seed, clip))
    return scores


def _generated(
    options: EvidenceOptions, pipeline: WorldPipeline, truth: TruthClip, *, seed: int, shift: float, cross_branch: bool
) -> World:
    *_, last = pipeline.generate(
        truth.video[0],
        truth.record.caption,
        truth.trajectory,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        seed=seed,
        shift=shift,
        cross_branch=cross_branch,
    )
    assert last.world is not None, "generation ends with a world"
    return last.world


def _remove_camera_adapters(pipeline: WorldPipeline) -> None:
    """Remove the camera adapters: frozen video blocks without adapters and cross-branch attention are the prior."""
    for world in [pipeline.world] if pipeline.high_noise is None else [pipeline.world, pipeline.high_noise]:
        for block in world.video_blocks():
            block.camera_adapter = None


def _settings(
    options: EvidenceOptions, subject: Subject, shape: tuple[int, int, int], *, shift: float | None
) -> dict[str, Plain]:
    folder = subject.checkpoint.folder
    digest = hashlib.sha256()
    folders = sorted(part for part in folder.iterdir() if part.is_dir())
    for path in [folder / "pipeline.json", *(file for part in folders for file in safetensors_files(part))]:
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


def _check_settings(before: Line, settings: dict[str, Plain], out: Path) -> None:
    names = sorted(k for k in before.settings.keys() | settings.keys() if before.settings.get(k) != settings.get(k))
    if names:
        changes = "; ".join(f"{name}: {before.settings.get(name)} before, {settings.get(name)} now" for name in names)
        raise ConfigError(
            f"{out / LINES} has clips of {before.model} with other settings ({changes}); use another --out"
        )
