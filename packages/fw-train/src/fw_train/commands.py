"""The commands of `fw-train`: parse arguments, check them, and call the modules that do the work.

Torch is imported only after the checks that need none, so that mistakes are reported at once.
"""

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from fw_core.help import with_help
from fw_train.config.check import check
from fw_train.config.flags import override
from fw_train.config.load import CONFIG, RESUMABLE, absolute, load
from fw_train.config.preflight import check_inputs, check_unlocked, preflight
from fw_train.config.schema import STAGES, ConfigError, Stage, TrainConfig

if TYPE_CHECKING:
    from fw_train.evaluate.options import ComparisonOptions, EvaluateOptions, EvidenceOptions, WorldScoreOptions
    from fw_train.init_from_wan import InitOptions
    from fw_train.release.release import ReleaseOptions
    from fw_train.tasks.train import Outcome

_HELP = ("-h", "--help")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write the weights of a run's newest checkpoint for generation or the next stage."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder of the run."""
    out: Annotated[Positional[Path | None], arg(metavar="OUT")] = None
    """Folder to write (default: RUN/export)."""


def train_stage(stage: Stage, words: list[str]) -> int:
    """Train one stage; returns the exit code."""
    prog = f"fw-train {stage} CONFIG"
    if words[:1] and words[0] in _HELP:
        override(TrainConfig(stage=stage), ["--help"], prog=prog)
    config = preflight(absolute(check(override(load(_source(words, prog), stage), words[1:], prog=prog))))
    from fw_train.launch import launch

    return _code(launch(config, [stage, *words]))


autoencoder, base, stage1, stage2, distill = (partial(train_stage, stage) for stage in STAGES)


def encode(words: list[str]) -> int:
    """Encode the clips and captions of a run before it starts; returns the exit code."""
    if words[:1] and words[0] in _HELP:
        print("usage: fw-train encode STAGE CONFIG [...]\n")
        print("Run the frozen encoders once over the dataset of a run, and store their results beside it.")
        print("Takes the flags of `fw-train STAGE CONFIG`; the run with the same arguments reads the results.")
        return 0
    stage = _stage_of("encode", words)
    prog = f"fw-train encode {stage} CONFIG"
    config = absolute(check(override(load(_source(words[1:], prog), stage), words[2:], prog=prog)))
    check_inputs(config)
    from fw_train.data.encode import encode as encode_data

    for line in encode_data(config):
        print(line, flush=True)
    return 0


def plan(words: list[str]) -> int:
    """Estimate parameters, FLOPs, memory and time of a run; returns the exit code."""
    import tyro

    from fw_train.plan.options import PlanOptions

    if words[:1] and words[0] in _HELP:
        tyro.cli(with_help(PlanOptions), args=["--help"], prog="fw-train plan STAGE CONFIG")
    stage = _stage_of("plan", words)
    prog = f"fw-train plan {stage} CONFIG"
    recipe = load(_source(words[1:], prog), stage)
    options, rest = tyro.cli(with_help(PlanOptions), args=words[2:], prog=prog, return_unknown_args=True)
    config = absolute(override(recipe, rest, prog=prog))
    from fw_train.plan.report import show

    show(config, options)
    return 0


def resume(words: list[str]) -> int:
    """Continue a run from its newest complete checkpoint; returns the exit code."""
    if not words or words[0].startswith("-"):
        if not words or words[0] not in _HELP:
            raise ConfigError("usage: fw-train resume RUN [--steps N ...]; the run folder RUN comes first")
        print("usage: fw-train resume RUN [--steps N ...]\n")
        print("Continue a run from its newest complete checkpoint, with its original arguments.")
        print("--skip CLIP_ID leaves out a training clip from here on, such as one that diverges.")
        print(f"Keys that may change: {', '.join(key for key in RESUMABLE if key != 'go_on')}")
        return 0
    run = Path(words[0])
    if not (run / CONFIG).is_file():
        raise ConfigError(f"{run} is not a run folder (no {CONFIG} in it)")
    check_unlocked(run)
    from fw_train.launch import launch
    from fw_train.tasks.train import read_run
    from fw_train.tasks.train import resume as resume_run

    before = read_run(run)
    config = override(before, words[1:], prog="fw-train resume RUN")
    config = absolute(check(dataclasses.replace(config, skip=tuple(dict.fromkeys((*before.skip, *config.skip))))))
    check_inputs(config)
    if config.launcher != "local":
        return _code(launch(dataclasses.replace(config, go_on=True), ["resume", *words]))
    return _code(resume_run(run, lambda _before: config))


def export(options: ExportOptions) -> None:
    """Export the newest checkpoint of a run."""
    from fw_train.tasks.train import export_run

    print(f"result: {export_run(options.run, options.out)}")


def init_from_wan(options: "InitOptions") -> None:
    """Write the initial model of stage 1 from pretrained Wan weights."""
    from fw_train.init_from_wan import init

    for line in init(options):
        print(line)


def release(options: "ReleaseOptions") -> None:
    """Write float16 weights and a model card of a run."""
    from fw_train.release.release import release as write_release

    for line in write_release(options):
        print(line)


def evaluate(options: "EvaluateOptions") -> int:
    """Generate worlds for held-out clips and measure them; returns the exit code."""
    from fw_train.evaluate.run import evaluate as measure

    return _resumable("evaluate", lambda: measure(options))


def compare(options: "ComparisonOptions") -> None:
    """Compare evaluations of the same clips."""
    from fw_train.evaluate.run import compare_runs

    compare_runs(options)


def evidence(options: "EvidenceOptions") -> int:
    """Measure weights and ablations against exact truth."""
    from fw_train.evidence.evidence import evidence as measure

    return _resumable("evidence", lambda: measure(options))


def worldscore(options: "WorldScoreOptions") -> int:
    """Generate or check WorldScore's static subset."""
    from fw_train.worldscore.run import run

    return _resumable("worldscore", lambda: run(options))


def _resumable(command: str, work: Callable[[], object]) -> int:
    """Run a command that continues where it was interrupted; returns its exit code, 0 if it gives none."""
    try:
        result = work()
    except KeyboardInterrupt:
        print(f"fw-train {command}: interrupted; run the same command to continue", file=sys.stderr)
        return 130
    return result if isinstance(result, int) else 0


def _stage_of(command: str, words: list[str]) -> Stage:
    # The autoencoder has no world model and no frozen encoder.
    stages: list[Stage] = [stage for stage in STAGES if stage != "autoencoder"]
    for stage in stages:
        if words[:1] == [stage]:
            return stage
    raise ConfigError(f"usage: fw-train {command} STAGE CONFIG ..., where STAGE is one of {', '.join(stages)}")


def _source(words: list[str], prog: str) -> str:
    if not words or words[0].startswith("-"):
        raise ConfigError(f"{prog}: CONFIG comes first: a recipe (tiny) or a TOML file")
    return words[0]


def _code(outcome: "Outcome") -> int:
    return 128 + outcome.result.signal if outcome.result.status == "interrupted" else 0
