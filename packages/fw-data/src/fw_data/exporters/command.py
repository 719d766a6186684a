"""The `export` command: clips of a dataset in the format of another program."""

from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

from fw_data.dataset.reader import ClipDataset
from fw_data.exporters import FORMATS
from fw_data.exporters.base import ExportClip, Exporter
from fw_data.options import DatasetExportOptions


def run(options: DatasetExportOptions) -> int:
    """Write the clips and say what was lost; returns the exit code."""
    from rich.progress import track

    from fw_data.console import stdout_console

    console = stdout_console()
    if options.text and options.format != "colmap":
        raise ValueError("--text belongs to --format colmap")
    dataset = ClipDataset(options.dataset)
    wanted = [dataset.record(name) for name in options.clips] if options.clips else dataset.records
    exporter = make_exporter(options.format, options.out, **({"text": True} if options.text else {}))
    written, lost, left_out = 0, Counter[str](), 0
    for record in track(wanted, "exporting", console=console) if console.is_terminal else wanted:
        if exporter.needs_depth and not record.has_depth:
            left_out += 1
            continue
        lost.update(exporter.add(ExportClip(dataset, record)))
        written += 1
    exporter.close()
    for what, clips in lost.items():
        console.print(f"not in the export ({clips} clips): {what}", highlight=False, markup=False)
    if left_out:
        console.print(f"left out: {left_out} clips without depth, which {options.format} needs", highlight=False)
    console.print(
        f"{options.out}: {written} of {len(dataset)} clips as {options.format}", highlight=False, markup=False
    )
    return 0 if written else 1


def make_exporter(name: str, out: Path, **settings: Any) -> Exporter:
    """The exporter of a format, for an empty or new folder; ValueError if there is something in it."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty: give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    module, kind = FORMATS[name]
    return getattr(import_module(module), kind)(out, **settings)
