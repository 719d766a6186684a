"""The `fw-train` command. Nothing heavy is imported before a command needs it."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fw_train.config.schema import STAGES, ConfigError, Stage, TrainConfig

USAGE = """\
usage: fw-train COMMAND ...

  fw-train init   PRESET WAN_FOLDER OUT                    make what stage 1 of a large preset starts from
  fw-train autoencoder CONFIG [--data DATASET ...]         train the small video autoencoder of the tiny preset
  fw-train base   CONFIG [--data DATASET --out RUN ...]    train the small video prior of the tiny preset
  fw-train stage1 CONFIG [--data DATASET --init BASE ...]  train the geometry branch on the frozen video model
  fw-train stage2 CONFIG [--data DATASET --init STAGE1 ...]  train camera control and the coupling of both branches
  fw-train plan STAGE CONFIG [...]                         tell parameters, FLOPs, memory and time of a run beforehand
  fw-train encode STAGE CONFIG [...]                       run the frozen encoders once, for the run of these words
  fw-train resume RUN [--steps N ...]                      go on with a run that was stopped or killed
  fw-train export RUN [DIR]                                write the newest checkpoint's weights to RUN/export or DIR
  fw-train ship RUN OUT --videos TOY                       float16 weights and a model card, to hand out
  fw-train evaluate CHECKPOINT --data DATASET --out OUT    generate worlds for held-out clips and measure them
  fw-train compare OUT OUT ...                             put evaluations of the same clips side by side
  fw-train evidence --data DATASET --out OUT [...]         measure weights and ablations against exact truth
  fw-train worldscore WORLDSCORE_DATASET --out OUT [...]   generate WorldScore's static subset in its own layout

CONFIG is a recipe name (tiny, small-world, paper, one-gpu-24gb, one-gpu-80gb, 8-gpu) or a TOML file; flags override it:
command line > file > recipe > default. `fw-train stage1 tiny --help` lists every flag with the value it would have.
FW_DEBUG=1 shows tracebacks.

Exit codes: 0 done, 1 failure, 2 wrong usage or input, 3 diverged (loss not finite), 130 or 143 stopped by a signal
after saving.
"""

EVALUATION = ("evaluate", "compare", "evidence", "worldscore")
"""Commands of fw_train.evaluate."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `fw-train`; exits with the code that USAGE explains."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(words)
    except (ValueError, RuntimeError, OSError) as error:
        if os.environ.get("FW_DEBUG") == "1":
            raise
        print(f"fw-train: {error}", file=sys.stderr)
        code = _exit_code(error)
    sys.stdout.flush()
    raise SystemExit(code)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if words else 2
    command, rest = words[0], words[1:]
    if command in ("encode", "resume", "export") and rest[:1] and rest[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    for stage in STAGES:
        if command == stage:
            return _stage(stage, rest)
    if command == "plan":
        return _plan(rest)
    if command == "encode":
        return _encode(rest)
    if command == "resume":
        return _resume(rest)
    if command == "export":
        return _export(rest)
    if command == "init":
        return _init(rest)
    if command == "ship":
        return _ship(rest)
    if command in EVALUATION:
        return _evaluation(command, rest)
    import difflib

    nearest = difflib.get_close_matches(
        command, [*STAGES, "plan", "encode", "resume", "export", "init", "ship", *EVALUATION], n=1
    )
    hint = f"did you mean {nearest[0]!r}?" if nearest else "see `fw-train --help`"
    raise ConfigError(f"there is no command {command!r}; {hint}")


def _stage(stage: Stage, words: list[str]) -> int:
    config = _configured(stage, words, prog=f"fw-train {stage} CONFIG")
    from fw_train.launch import launch

    return _report(launch(config, [stage, *words]))


def _encode(words: list[str]) -> int:
    stage = _stage_of("encode", words)
    config = _configured(stage, words[1:], prog=f"fw-train encode {stage} CONFIG")
    from fw_train.data.encode import encode

    for line in encode(config):
        print(line, flush=True)
    return 0


def _plan(words: list[str]) -> int:
    import tyro

    from fw_train.config.load import load
    from fw_train.plan.options import PlanOptions

    if words[:1] in (["-h"], ["--help"]):
        tyro.cli(
            PlanOptions, default=PlanOptions(run=TrainConfig()), args=["--help"], prog="fw-train plan STAGE CONFIG"
        )
    stage = _stage_of("plan", words)
    prog = f"fw-train plan {stage} CONFIG"
    run = load(_source(words[1:], prog), stage)
    options = tyro.cli(PlanOptions, default=PlanOptions(run=run), args=words[2:], prog=prog, description=None)
    from fw_train.plan.report import show

    show(options)
    return 0


def _configured(stage: Stage, words: list[str], *, prog: str) -> TrainConfig:
    from fw_train.config.load import load, override

    if words and words[0] in ("-h", "--help"):
        override(TrainConfig(stage=stage), ["--help"], prog=prog)
    return override(load(_source(words, prog), stage), words[1:], prog=prog).check()


def _stage_of(command: str, words: list[str]) -> Stage:
    # The autoencoder runs no world model, and no frozen encoder.
    stages: list[Stage] = [stage for stage in STAGES if stage != "autoencoder"]
    for stage in stages:
        if words[:1] == [stage]:
            return stage
    raise ConfigError(f"usage: fw-train {command} STAGE CONFIG ..., where STAGE is one of {', '.join(stages)}")


def _source(words: list[str], prog: str) -> str:
    if not words or words[0].startswith("-"):
        raise ConfigError(f"{prog}: CONFIG comes first, a recipe name (tiny) or a TOML file")
    return words[0]


def _resume(words: list[str]) -> int:
    from fw_train.config.load import override

    run = _folder("resume RUN", words)
    from fw_train.launch import launch
    from fw_train.tasks.train import read_config, resume

    config = override(read_config(run), words[1:], prog="fw-train resume RUN").check()
    if config.launcher != "local":
        return _report(launch(dataclasses.replace(config, go_on=True), ["resume", *words]))
    return _report(resume(run, lambda _before: config))


def _export(words: list[str]) -> int:
    run = _folder("export RUN", words)
    if len(words) > 2:
        raise ConfigError(f"export takes RUN and at most one folder to write, not {' '.join(words[2:])}")
    from fw_train.tasks.train import export_run

    print(f"result: {export_run(run, Path(words[1]) if len(words) == 2 else None)}")
    return 0


def _init(words: list[str]) -> int:
    import tyro

    from fw_train.init_from_wan import InitOptions, init

    for line in init(tyro.cli(InitOptions, args=words, prog="fw-train init")):
        print(line)
    return 0


def _ship(words: list[str]) -> int:
    import tyro

    from fw_train.release.release import ShipOptions, ship

    for line in ship(tyro.cli(ShipOptions, args=words, prog="fw-train ship")):
        print(line)
    return 0


def _evaluation(command: str, words: list[str]) -> int:
    try:
        return _evaluate(command, words)
    except KeyboardInterrupt:
        print(f"fw-train {command}: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _evaluate(command: str, words: list[str]) -> int:
    import tyro

    from fw_train.evaluate import options

    prog = f"fw-train {command}"
    if command == "worldscore":
        pictures = tyro.cli(options.WorldScoreOptions, args=words, prog=prog)
        from fw_train.worldscore.run import run

        return run(pictures)
    if command == "compare":
        runs = tyro.cli(options.CompareOptions, args=words, prog=prog)
        from fw_train.evaluate.run import compare_runs

        compare_runs(runs)
        return 0
    if command == "evidence":
        wanted = tyro.cli(options.EvidenceOptions, args=words, prog=prog)
        from fw_train.evidence.evidence import evidence

        evidence(wanted)
        return 0
    chosen = tyro.cli(options.EvaluateOptions, args=words, prog=prog)
    from fw_train.evaluate.run import evaluate

    evaluate(chosen)
    return 0


def _folder(usage: str, words: list[str]) -> Path:
    if not words or words[0].startswith("-"):
        raise ConfigError(f"usage: fw-train {usage}")
    return Path(words[0])


def _report(outcome: object) -> int:
    from fw_train.tasks.train import Outcome

    assert isinstance(outcome, Outcome)
    return 128 + outcome.result.signal if outcome.result.status == "interrupted" else os.EX_OK


def _exit_code(error: Exception) -> int:
    if isinstance(error, ConfigError):
        return 2
    from fw_train.engine.loop import TrainingDivergedError

    return 3 if isinstance(error, TrainingDivergedError) else 1


if __name__ == "__main__":
    main()
