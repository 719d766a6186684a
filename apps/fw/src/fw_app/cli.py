"""The `fw` command: the table of its commands. `fw_core.commands` runs them.

`fw --help` imports neither torch nor any of our libraries.
"""

import os
import sys
from collections.abc import Sequence

from fw_core.commands import Command, Program, run

_OPTIONS = "fw_app.options"

PROGRAM = Program(
    name="fw",
    description="Generate worlds (video, depth, points, cameras) and look at them.",
    commands={
        "doctor": Command(
            help="check whether this machine can annotate, train and generate",
            target="fw_app.doctor:doctor",
            options=f"{_OPTIONS}:DoctorOptions",
        ),
        "demo": Command(
            help="run every step once at a small size: generate worlds, annotate toy videos, train, report",
            target="fw_app.demo:run",
            options=f"{_OPTIONS}:DemoOptions",
        ),
        "generate": Command(
            help="generate a world from an image, a prompt and a camera path",
            target="fw_app.generate_command:generate",
            options=f"{_OPTIONS}:GenerateOptions",
            usage="(IMAGE | --batch FILE) --out OUT",
        ),
        "plan generate": Command(
            help="estimate the memory of a generation for 24, 48 and 80 GB cards",
            target="fw_app.plan:generate",
            options=f"{_OPTIONS}:PlanGenerateOptions",
            usage="[MODEL]",
        ),
        "view": Command(
            help="show a clip of a dataset, or a generated world, in the browser",
            target="fw_app.view:view",
            options=f"{_OPTIONS}:ViewOptions",
            usage="FOLDER",
        ),
        "convert": Command(
            help="convert a published .pth (FantasyWorld, Wan VAE, UMT5, CLIP) to safetensors",
            target="fw_app.convert:convert",
            options=f"{_OPTIONS}:ConvertOptions",
            usage="FILE FOLDER",
        ),
    },
    notes="""\
other programs, each with its own --help:
  fw-data   annotate raw videos into a training dataset; inspect, import and export datasets
  fw-train  train, evaluate and release models
  fw-serve  serve worlds over HTTP""",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `argv` defaults to the process arguments."""
    # threads that spin while they wait make a generation ten times slower if another program uses one of the cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return run(PROGRAM, argv)


if __name__ == "__main__":
    sys.exit(main())
