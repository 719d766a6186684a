"""`fw-train evaluate`: check all inputs, generate missing worlds, measure, write the report and compare."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from fw_core.devices import choose_device
from fw_model.pipeline.result import World
from fw_train.config.load import is_rooms
from fw_train.config.schema import ConfigError
from fw_train.data.split import open_dataset
from fw_train.evaluate.checkpoint import Checkpoint, Say
from fw_train.evaluate.compare import check_comparable, compare
from fw_train.evaluate.evaluation import (
    FILE,
    Evaluation,
    MeasuredClip,
    Plain,
    SetDistance,
    read_evaluation,
    summarize_clips,
)
from fw_train.evaluate.generation import finish, noise_seed, write_world
from fw_train.evaluate.options import ComparisonOptions, EvaluateOptions, Recover
from fw_train.evaluate.page import write_comparison, write_page
from fw_train.evaluate.tables import comparison_tables, summary_table
from fw_train.evaluate.tasks import EvaluationTask, existing_worlds, worlds_to_generate
from fw_train.metrics.frechet import VideoFeatures, frechet_distance
from fw_train.metrics.measure import measure
from fw_train.metrics.perceptual import LPIPS_PIXELS, Lpips
from fw_train.metrics.st_lpips import ST_LPIPS_PIXELS, StLpips, read_weights
from fw_train.metrics.truth import TruthClip

COMPARISON = "comparison.json"


@dataclass(frozen=True, kw_only=True)
class _Networks:
    """Networks of the perceptual distances; None: not measured."""

    lpips: Lpips | None
    st_lpips: StLpips | None


def evaluate(options: EvaluateOptions, say: Say = print) -> Path:
    """Run an evaluation; returns the path of its page.

    Raises:
        ConfigError: invalid options, checkpoint, dataset, worlds or --against; nothing was generated.
    """
    _check(options)
    if is_rooms(options.data):
        raise ConfigError(
            f"--data {options.data}: rooms are rendered from seeds and are not a dataset; measure on held-out ones "
            f"with `fw-train evidence --checkpoint {options.checkpoint or 'CHECKPOINT'} --data rooms`, or write some "
            "with `fw-data toy --scenes rooms` and `fw-data annotate --geometry oracle`"
        )
    dataset = open_dataset(options.data)
    networks = _Networks(
        lpips=Lpips(options.lpips_weights) if options.lpips_weights else None,
        st_lpips=StLpips(read_weights(options.st_lpips_weights)) if options.st_lpips_weights else None,
    )
    task = existing_worlds(options, dataset) if options.worlds else worlds_to_generate(options, dataset, say)
    _check_shape(task.shape, networks)
    features = _features(options, task)
    measured = _settings(options, task)
    earlier = [read_evaluation(folder) for folder in options.against]
    for run in earlier:
        check_comparable(measured, {clip: task.content(clip) for clip in task.clips}, run)
    if task.checkpoint is not None:
        _generate(options, task, task.checkpoint, say)
    clips, seen = [], []
    for number, clip_id in enumerate(task.clips, start=1):
        world, truth = task.pair(clip_id)
        clips.append(_measure_clip(task, world, truth, networks, options.recover))
        if features is not None:
            seen.append((features(world.video), features(truth.video)))
        say(f"[{number}/{len(task.clips)}] {clip_id}: measured")
    evaluation = Evaluation(
        name=options.out.resolve().name,
        dataset=dataset.location,
        measured=measured,
        made=task.made,
        left_out=task.left_out,
        clips=clips,
        summary=summarize_clips(clips),
        fvd=_fvd(seen) if seen else None,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / FILE).write_text(evaluation.model_dump_json(indent=1) + "\n", encoding="utf-8")
    page = write_page(options.out, evaluation, task.pair, options.show)
    console = Console(highlight=False)
    console.print(summary_table(evaluation))
    if earlier:
        _show_comparison([*earlier, evaluation], None, console)
    say(f"result: {page}")
    return page


def compare_runs(options: ComparisonOptions) -> None:
    """Compare evaluations with the first one; print the tables and write them to `options.out` if set.

    Raises:
        ConfigError: see `fw_train.evaluate.compare.compare`.
    """
    _show_comparison([read_evaluation(folder) for folder in options.runs], options.out, Console(highlight=False))


def _show_comparison(runs: Sequence[Evaluation], out: Path | None, console: Console) -> None:
    comparison = compare(runs)
    for table in comparison_tables(comparison):
        console.print(table)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / COMPARISON).write_text(comparison.model_dump_json(indent=1) + "\n", encoding="utf-8")
        console.print(f"result: {write_comparison(out, comparison, runs)}", soft_wrap=True)


def _check(options: EvaluateOptions) -> None:
    if (options.checkpoint is None) == (options.worlds is None):
        raise ConfigError("give either CHECKPOINT to generate worlds, or --worlds FOLDER to measure existing ones")
    if options.show < 0:
        raise ConfigError(f"--show is {options.show}; it must be 0 or more")
    if not 0 <= options.min_confidence <= 1:
        raise ConfigError(f"--min-confidence is {options.min_confidence}; it must be 0 to 1")


def _check_shape(shape: tuple[int, int, int], networks: _Networks) -> None:
    frames, height, width = shape
    if frames < 2:
        raise ConfigError("worlds of one frame have no motion to measure; give --frames 5 or more")
    for name, network, least in (
        ("lpips", networks.lpips, LPIPS_PIXELS),
        ("st-lpips", networks.st_lpips, ST_LPIPS_PIXELS),
    ):
        if network and min(height, width) < least:
            raise ConfigError(
                f"{name.upper()} needs images of at least {least} pixels a side, the worlds are {height}x{width}; omit "
                f"--{name}-weights, or measure larger worlds"
            )


def _features(options: EvaluateOptions, task: EvaluationTask) -> VideoFeatures | None:
    """The FVD network, checked on a video of the worlds' shape; None without --fvd-network."""
    if options.fvd_network is None:
        return None
    features = VideoFeatures(options.fvd_network, choose_device(options.device))
    if len(task.clips) < 2:
        raise ConfigError("FVD needs two or more clips, and there is one; omit --fvd-network, or raise --clips")
    features.check(*task.shape)
    return features


def _fvd(seen: Sequence[tuple[np.ndarray, np.ndarray]]) -> SetDistance:
    generated, real = (np.stack(side) for side in zip(*seen, strict=True))
    return SetDistance(value=frechet_distance(generated, real), clips=len(seen), features=generated.shape[1])


def _settings(options: EvaluateOptions, task: EvaluationTask) -> dict[str, Plain]:
    """The measurement settings, which the scores depend on besides worlds and clips."""
    files = (options.lpips_weights, options.st_lpips_weights, options.fvd_network)
    lpips, st_lpips, fvd = (path and hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files)
    frames, height, width = task.shape
    return {
        "frames": frames,
        "height": height,
        "width": width,
        "min_confidence": options.min_confidence,
        "recover": None if options.recover == "model" else options.recover,
        "lpips_weights": lpips,
        "st_lpips_weights": st_lpips,
        "fvd_network": fvd,
    }


def _generate(options: EvaluateOptions, task: EvaluationTask, checkpoint: Checkpoint, say: Say) -> None:
    missing = task.missing()
    if len(missing) < len(task.clips):
        say(f"worlds: {len(task.clips) - len(missing)} exist, {len(missing)} to generate")
    for clip in missing:
        task.truth(clip)  # find invalid clips before any generation
    pipeline = checkpoint.pipeline(options.device, options.dtype) if missing else None
    for number, clip in enumerate(missing, start=1):
        assert pipeline is not None
        truth = task.truth(clip)
        reports = pipeline.generate(
            truth.video[0],
            truth.record.caption,
            truth.trajectory,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            seed=noise_seed(options.seed, clip),
        )
        world = finish(reports, f"[{number}/{len(missing)}] {clip}", say)
        write_world(world, task.worlds / clip, task.origin(clip))


def _measure_clip(
    task: EvaluationTask, world: World, truth: TruthClip, networks: _Networks, recover: Recover
) -> MeasuredClip:
    record = truth.record
    try:
        result = measure(world, truth, lpips=networks.lpips, st_lpips=networks.st_lpips, recover=recover)
    except ValueError as error:
        raise ConfigError(f"{task.worlds / record.id}: {error}") from None
    return MeasuredClip(
        id=record.id,
        source=record.source,
        group=record.source_sha256,
        content=task.content(record.id),
        caption=record.caption,
        **asdict(result),
    )
