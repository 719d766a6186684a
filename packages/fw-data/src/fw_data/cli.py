"""`fw-data COMMAND ...`: finds the command, imports only that one, and turns its errors into one line.

Exit codes: 0 done, 1 done but with problems (each command says which), 2 wrong use, 130 interrupted.
FW_DEBUG=1 in the environment shows the traceback of an error.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

_OPTIONS = "fw_data.options"
_COMPARE = "fw_data.inspect.compare"
_EXPORT = "fw_data.exporters.command"
_COMMANDS = {
    "annotate": (_OPTIONS, "AnnotateOptions", "fw_data.annotate.command", "raw videos in, dataset out"),
    "validate": (_OPTIONS, "ValidateOptions", "fw_data.inspect.validate", "check every file and number of a dataset"),
    "inspect": (_OPTIONS, "InspectOptions", "fw_data.inspect.report", "contact sheets and a page to look at"),
    "compare": (_COMPARE, "CompareOptions", _COMPARE, "an annotated toy dataset against its truth"),
    "stats": (_OPTIONS, "StatsOptions", "fw_data.inspect.stats", "counts and figures of a dataset"),
    "export": (_OPTIONS, "ExportOptions", _EXPORT, "clips for nerfstudio, COLMAP, TUM, RealEstate10K tools"),
    "import": (_OPTIONS, "ImportOptions", "fw_data.importers.command", "such scenes, with their cameras, as a dataset"),
    "card": (_OPTIONS, "CardOptions", "fw_data.inspect.card", "a page about a dataset, with licences and figures"),
    "schema": (_OPTIONS, "SchemaOptions", "fw_data.inspect.schema_json", "the JSON schema of a dataset"),
    "toy": ("fw_toy.cli", "ToyOptions", "fw_toy.cli", "synthetic videos with exact depth and cameras"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    lines = "\n".join(f"  {name:10} {text}" for name, (*_, text) in _COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="fw-data",
        usage="fw-data COMMAND ...",
        description=f"From raw videos to a training dataset with geometry.\n\ncommands:\n{lines}",
        epilog="`fw-data COMMAND --help` tells all about one command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if arguments[:1] == ["encode"]:  # it needs the model, which this package does not know
        parser.error("precomputing latents and embeddings is `fw-train encode STAGE CONFIG --data DATASET ...`")
    parser.add_argument("command", choices=list(_COMMANDS), metavar="COMMAND", help=argparse.SUPPRESS)
    command = parser.parse_args(arguments[:1]).command

    import tyro

    options_module, class_name, run_module, _ = _COMMANDS[command]
    try:
        options_class = getattr(import_module(options_module), class_name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "fw_toy":
            raise
        print("error: `fw-data toy` needs the package fw-toy: pip install 'fw-data[toy]'", file=sys.stderr)
        return 2
    options = tyro.cli(options_class, args=arguments[1:], prog=f"fw-data {command}")
    try:
        return import_module(run_module).run(options) or 0
    except (ValueError, FileNotFoundError) as error:
        if os.environ.get("FW_DEBUG") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
