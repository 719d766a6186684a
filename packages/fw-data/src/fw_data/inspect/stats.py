"""The `stats` command: what a dataset holds, in numbers."""

import json

import numpy as np

from fw_data.dataset.manifest import MANIFEST_NAME, read_manifest
from fw_data.dataset.schema import ClipRecord
from fw_data.options import StatsOptions


def run(options: StatsOptions) -> int:
    """Print the figures; returns the exit code."""
    from rich.table import Table

    from fw_data.console import stdout_console

    figures = dataset_stats(read_manifest(options.dataset / MANIFEST_NAME))
    console = stdout_console()
    if options.json:
        print(json.dumps(figures, indent=1))
        return 0
    table = Table(title=str(options.dataset))
    for heading in ("what", "min", "median", "mean", "max"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for name, value in figures.items():
        if isinstance(value, dict) and "median" in value:
            table.add_row(name, *(f"{value[key]:.4g}" for key in ("min", "median", "mean", "max")))
    console.print(table)
    for name, value in figures.items():
        if not isinstance(value, dict):
            console.print(f"{name}: {value}", highlight=False)
        elif "median" not in value:
            console.print(f"{name}: " + ", ".join(f"{count} {key}" for key, count in value.items()), highlight=False)
    return 0


def dataset_stats(records: list[ClipRecord]) -> dict[str, int | float | dict[str, float] | dict[str, int]]:
    """Totals, counts by kind, and the spread of every score."""
    figures: dict[str, int | float | dict[str, float] | dict[str, int]] = {
        "clips": len(records),
        "frames": sum(record.num_frames for record in records),
        "seconds": round(sum(record.num_frames / record.fps for record in records), 3),
        "megabytes": round(sum(m.size for record in records for m in record.members.values()) / 1e6, 3),
        "sources": len({record.source for record in records}),
        "grades": _count([record.grade for record in records]),
        "motion_tags": _count([tag for record in records for tag in record.motion_tags]),
        "sizes": _count([f"{record.height}x{record.width}" for record in records]),
        "backends": _count([f"{record.backend} {record.backend_version}" for record in records]),
        "units": _count([record.units for record in records]),
        "with_caption": sum(bool(record.caption) for record in records),
        "with_masks": sum(record.has_masks for record in records),
        "with_notes": sum(bool(record.notes) for record in records),
    }
    spread = {"num_frames": [record.num_frames for record in records], "fps": [record.fps for record in records]}
    for name in sorted({name for record in records for name in record.scores}):
        spread[name] = [record.scores[name] for record in records if name in record.scores]
    for name, values in spread.items():
        if values:
            figures[name] = {
                "min": float(np.min(values)),
                "median": float(np.median(values)),
                "mean": float(np.mean(values)),
                "max": float(np.max(values)),
            }
    return figures


def _count(values: list[str]) -> dict[str, int]:
    return {value: values.count(value) for value in sorted(set(values))}
