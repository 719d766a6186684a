"""The `fw-train` command. Nothing heavy is imported before a command needs it."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fw_train.config import STAGES, ConfigError, Stage, TrainConfig

USAGE = """\
usage: fw-train COMMAND ...

  fw-train init   PRESET WAN_FOLDER OUT                    make what stage 1 of a large preset starts from
  fw-train base   CONFIG [--data DATASET --out RUN ...]    train the small video prior of the tiny preset
  fw-train stage1 CONFIG [--data DATASET --init BASE ...]  train the geometry branch on the frozen video model
  fw-train stage2 CONFIG [--data DATASET --init STAGE1 ...]  train camera control and the coupling of both branches
  fw-train encode STAGE CONFIG [...]                       run the frozen encoders once, for the run of these words
  fw-train resume RUN [--steps N ...]                      go on with a run that was stopped or killed
  fw-train export RUN [DIR]                                write the newest checkpoint's weights to RUN/export or DIR

CONFIG is a recipe name (tiny) or a TOML file; flags override it: command line > file > recipe > default.
`fw-train stage1 tiny --help` lists every flag with the value it would have. FW_DEBUG=1 shows
tracebacks.

Exit codes: 0 done, 1 failure, 2 wrong usage or input, 3 diverged (loss not finite), 130 or 143 stopped by a signal
after saving.
"""


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
    if command == "encode":
        return _encode(rest)
    if command == "resume":
        return _resume(rest)
    if command == "export":
        return _export(rest)
    if command == "init":
        return _init(rest)
    import difflib

    nearest = difflib.get_close_matches(command, [*STAGES, "encode", "resume", "export", "init"], n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "see `fw-train --help`"
    raise ConfigError(f"there is no command {command!r}; {hint}")


def _stage(stage: Stage, words: list[str]) -> int:
    config = _configured(stage, words, prog=f"fw-train {stage} CONFIG")
    from fw_train.runs import train

    return _report(train(config))


def _encode(words: list[str]) -> int:
    stage: Stage | None = next((name for name in STAGES if words[:1] == [name]), None)
    if stage is None:
        raise ConfigError(f"usage: fw-train encode STAGE CONFIG ..., where STAGE is one of {', '.join(STAGES)}")
    config = _configured(stage, words[1:], prog=f"fw-train encode {stage} CONFIG")
    from fw_train.encode import encode

    for line in encode(config):
        print(line, flush=True)
    return 0


def _configured(stage: Stage, words: list[str], *, prog: str) -> TrainConfig:
    from fw_train.resolve import load, override

    if words and words[0] in ("-h", "--help"):
        override(TrainConfig(stage=stage), ["--help"], prog=prog)
    if not words or words[0].startswith("-"):
        raise ConfigError(f"{prog}: CONFIG comes first, a recipe name (tiny) or a TOML file")
    return override(load(words[0], stage), words[1:], prog=prog).check()


def _resume(words: list[str]) -> int:
    from fw_train.resolve import override

    run = _folder("resume RUN", words)
    from fw_train.runs import resume

    return _report(resume(run, lambda config: override(config, words[1:], prog="fw-train resume RUN")))


def _export(words: list[str]) -> int:
    run = _folder("export RUN", words)
    if len(words) > 2:
        raise ConfigError(f"export takes RUN and at most one folder to write, not {' '.join(words[2:])}")
    from fw_train.runs import export_run

    print(f"result: {export_run(run, Path(words[1]) if len(words) == 2 else None)}")
    return 0


def _init(words: list[str]) -> int:
    import tyro

    from fw_train.start import InitOptions, init

    for line in init(tyro.cli(InitOptions, args=words, prog="fw-train init")):
        print(line)
    return 0


def _folder(usage: str, words: list[str]) -> Path:
    if not words or words[0].startswith("-"):
        raise ConfigError(f"usage: fw-train {usage}")
    return Path(words[0])


def _report(outcome: object) -> int:
    from fw_train.runs import Outcome

    assert isinstance(outcome, Outcome)
    return 128 + outcome.result.signal if outcome.result.status == "interrupted" else os.EX_OK


def _exit_code(error: Exception) -> int:
    if isinstance(error, ConfigError):
        return 2
    from fw_train.loop import TrainingDivergedError

    return 3 if isinstance(error, TrainingDivergedError) else 1


if __name__ == "__main__":
    main()
