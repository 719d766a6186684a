"""The `fw-train` command: the table of its commands, which `fw_core.commands` runs. Imports no torch."""

from collections.abc import Sequence

from fw_core.commands import Command, Program, exit_code, run
from fw_train.config.recipes import RECIPES

_HERE = "fw_train.commands"
_EVALUATE = "fw_train.evaluate.options"


def _exit_code(error: Exception) -> int:
    """Exit code of an error: 3 for a diverged run, 1 for an unusable checkpoint, else as in every program."""
    return getattr(error, "exit_code", exit_code(error))


PROGRAM = Program(
    name="fw-train",
    description="Train, evaluate and release models.",
    commands={
        "init": Command(
            help="combine pretrained Wan weights with a new geometry branch, for stage 1 of a large preset",
            target=f"{_HERE}:init_from_wan",
            options="fw_train.init_from_wan:InitOptions",
            usage="PRESET WAN OUT",
        ),
        "autoencoder": Command(
            help="train the small video autoencoder of the small presets",
            target=f"{_HERE}:autoencoder",
            usage="CONFIG [--data DATASET --out RUN ...]",
        ),
        "base": Command(
            help="train the video branch of the small presets from random weights",
            target=f"{_HERE}:base",
            usage="CONFIG [--data DATASET --out RUN ...]",
        ),
        "stage1": Command(
            help="train the geometry branch on the frozen video model",
            target=f"{_HERE}:stage1",
            usage="CONFIG [--data DATASET --init BASE ...]",
        ),
        "stage2": Command(
            help="train camera control and the cross-branch attention",
            target=f"{_HERE}:stage2",
            usage="CONFIG [--data DATASET --init STAGE1 ...]",
        ),
        "distill": Command(
            help="train LoRA adapters with which the model generates in a few steps",
            target=f"{_HERE}:distill",
            usage="CONFIG [--data DATASET --init STAGE2 ...]",
        ),
        "plan": Command(
            help="estimate parameters, FLOPs, memory and time of a run",
            target=f"{_HERE}:plan",
            usage="STAGE CONFIG [...]",
        ),
        "encode": Command(
            help="run the frozen encoders once, for the run with the same arguments",
            target=f"{_HERE}:encode",
            usage="STAGE CONFIG [...]",
        ),
        "resume": Command(
            help="continue a run that was stopped or killed", target=f"{_HERE}:resume", usage="RUN [--steps N ...]"
        ),
        "export": Command(
            help="write the newest checkpoint's weights to RUN/export or OUT",
            target=f"{_HERE}:export",
            options=f"{_HERE}:ExportOptions",
            usage="RUN [OUT]",
        ),
        "release": Command(
            help="write float16 weights and a model card",
            target=f"{_HERE}:release",
            options="fw_train.release.release:ReleaseOptions",
            usage="RUN OUT",
        ),
        "evaluate": Command(
            help="generate worlds for held-out clips and measure them",
            target=f"{_HERE}:evaluate",
            options=f"{_EVALUATE}:EvaluateOptions",
            usage="CHECKPOINT --data DATASET --out OUT",
        ),
        "compare": Command(
            help="compare evaluations of the same clips",
            target=f"{_HERE}:compare",
            options=f"{_EVALUATE}:ComparisonOptions",
            usage="OUT OUT ...",
        ),
        "evidence": Command(
            help="measure weights and ablations against exact truth",
            target=f"{_HERE}:evidence",
            options=f"{_EVALUATE}:EvidenceOptions",
            usage="--data DATASET --out OUT [...]",
        ),
        "worldscore": Command(
            help="generate WorldScore's static subset in its own layout",
            target=f"{_HERE}:worldscore",
            options=f"{_EVALUATE}:WorldScoreOptions",
            usage="WORLDSCORE_DATASET --out OUT [...]",
        ),
    },
    notes=f"""\
CONFIG is a recipe ({", ".join(RECIPES)})
or a TOML file. Flags override it: command line > file > recipe > default.
`fw-train stage1 tiny --help` shows every flag with its resolved value.

exit codes: 0 success, 1 failure, 2 wrong usage or bad input, 3 diverged (loss not finite), 130 or 143 stopped by a
signal after saving a checkpoint.""",
    exit_code=_exit_code,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `argv` defaults to the process arguments."""
    return run(PROGRAM, argv)


if __name__ == "__main__":
    raise SystemExit(main())
