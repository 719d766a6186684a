"""`fw-data`: the table of its commands. `fw_core.commands` runs them.

`fw-data --help` imports neither torch nor any of our libraries.
"""

import sys
from collections.abc import Sequence

from fw_core.commands import Command, Program, run

_OPTIONS = "fw_data.options"

PROGRAM = Program(
    name="fw-data",
    description="Annotate raw videos into a training dataset with geometry; inspect, import and export datasets.",
    commands={
        "annotate": Command(
            help="annotate raw videos: clips with depth, confidence and cameras",
            target="fw_data.annotate.command:run",
            options=f"{_OPTIONS}:AnnotateOptions",
            usage="RAW_DIR OUT_DIR",
        ),
        "validate": Command(
            help="check every file and number of a dataset",
            target="fw_data.inspect.validate:run",
            options=f"{_OPTIONS}:ValidateOptions",
            usage="DATASET",
        ),
        "inspect": Command(
            help="write contact sheets and an HTML page with 3D views",
            target="fw_data.inspect.report:run",
            options=f"{_OPTIONS}:InspectOptions",
            usage="DATASET",
        ),
        "compare": Command(
            help="compare an annotated toy dataset with its ground truth",
            target="fw_data.inspect.compare:run",
            options="fw_data.inspect.compare:CompareTruthOptions",
            usage="DATASET TRUTH",
        ),
        "stats": Command(
            help="print counts and score statistics of a dataset",
            target="fw_data.inspect.stats:run",
            options=f"{_OPTIONS}:StatsOptions",
            usage="DATASET",
        ),
        "export": Command(
            help="export clips for nerfstudio, COLMAP, TUM or RealEstate10K tools",
            target="fw_data.exporters.command:run",
            options=f"{_OPTIONS}:DatasetExportOptions",
            usage="DATASET OUT_DIR",
        ),
        "import": Command(
            help="import scenes of such tools, with their cameras, as a dataset",
            target="fw_data.importers.command:run",
            options=f"{_OPTIONS}:ImportOptions",
            usage="SRC OUT_DIR",
        ),
        "card": Command(
            help="write the dataset card: figures, licenses, conventions",
            target="fw_data.inspect.card:run",
            options=f"{_OPTIONS}:CardOptions",
            usage="DATASET",
        ),
        "schema": Command(
            help="print the JSON schema of a dataset",
            target="fw_data.inspect.schema_json:run",
            options=f"{_OPTIONS}:SchemaOptions",
        ),
        "toy": Command(
            help="render synthetic videos with exact depth and cameras",
            target="fw_toy.cli:run",
            options="fw_toy.cli:ToyOptions",
            usage="OUT",
            extra="fw-data[toy]",
        ),
    },
    moved={"encode": "fw-train encode STAGE CONFIG --data DATASET"},
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `argv` defaults to the process arguments."""
    return run(PROGRAM, argv)


if __name__ == "__main__":
    sys.exit(main())
