"""Table rows of evaluations and comparisons, for the terminal and the HTML pages."""

from rich import box
from rich.table import Table

from fw_train.evaluate.compare import Comparison, Difference
from fw_train.evaluate.evaluation import Evaluation
from fw_train.metrics.measures import MEASURES

HEADINGS = ("measure", "", "mean", "95 % interval", "median", "95 % interval", "clips")
DIFFERENCE_HEADINGS = ("measure", "", "first", "other", "difference", "95 % interval", "clips", "")
_ARROWS = {"lower": "↓", "higher": "↑", "neither": ""}
"""The better direction of a measure."""
ENOUGH_VIDEOS = 10
"""Number of source videos from which percentile bootstrap intervals are about right."""


def summary_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """One row of `HEADINGS` per measure; FVD has no median and no interval."""
    fvd = evaluation.fvd
    return [
        (
            label(name),
            _ARROWS[MEASURES[name].better],
            number(one.mean),
            interval(one.mean_interval),
            number(one.median),
            interval(one.median_interval),
            str(one.count),
        )
        for name, one in evaluation.summary.items()
    ] + ([("FVD, all clips together", "↓", number(fvd.value), "-", "-", "-", str(fvd.clips))] if fvd else [])


def difference_rows(differences: list[Difference]) -> list[tuple[str, ...]]:
    """One row of `DIFFERENCE_HEADINGS` per measure."""
    return [
        (
            label(row.measure),
            _ARROWS[MEASURES[row.measure].better],
            number(row.first.mean),
            number(row.other.mean),
            f"{row.difference.mean:+.4g}",
            interval(row.difference.mean_interval),
            str(row.difference.count),
            row.verdict,
        )
        for row in differences
    ]


def caution(videos: int) -> str:
    """A warning about intervals over few videos; empty if there are enough."""
    if videos >= ENOUGH_VIDEOS:
        return ""
    return f"Intervals over {videos} source videos are narrower than they should be; measure {ENOUGH_VIDEOS} or more."


def summary_table(evaluation: Evaluation) -> Table:
    """The summary as a terminal table."""
    title = f"{evaluation.name}: {len(evaluation.clips)} clips"
    videos = len({clip.group for clip in evaluation.clips})
    notes = (caution(videos), evaluation.fvd.caution if evaluation.fvd else "")
    return _table(title, HEADINGS, summary_rows(evaluation), "\n".join(filter(None, notes)))


def comparison_tables(comparison: Comparison) -> list[Table]:
    """A comparison as terminal tables, one per evaluation after the first."""
    first, *others = comparison.names
    notes = [caution(comparison.videos), fvd_note(comparison)]
    note = "\n".join(filter(None, notes))
    return [
        _table(f"{name} against {first}: {comparison.clips} clips", DIFFERENCE_HEADINGS, difference_rows(rows), note)
        for name, rows in zip(others, comparison.others, strict=True)
    ]


def fvd_note(comparison: Comparison) -> str:
    """FVD of the evaluations that have it, in one sentence; empty if none has."""
    known = [f"{name} {fvd.value:.4g}" for name, fvd in zip(comparison.names, comparison.fvd, strict=True) if fvd]
    cautions = {fvd.caution for fvd in comparison.fvd if fvd}
    return " ".join(filter(None, [f"FVD, all clips together: {', '.join(known)}." if known else "", *cautions]))


def label(name: str) -> str:
    """Label of a measure with its unit."""
    measure = MEASURES[name]
    return f"{measure.label} ({measure.unit})" if measure.unit else measure.label


def number(value: float | None) -> str:
    """Format with four significant digits; a dash for None."""
    return "-" if value is None else f"{value:.4g}"


def interval(bounds: tuple[float, float] | None) -> str:
    """Format as `low to high`; a dash for None."""
    return "-" if bounds is None else f"{bounds[0]:.4g} to {bounds[1]:.4g}"


def _table(title: str, headings: tuple[str, ...], rows: list[tuple[str, ...]], note: str) -> Table:
    legend = "↓ lower is better, ↑ higher is better"
    table = Table(title=title, box=box.SIMPLE, caption=f"{legend}\n{note}" if note else legend)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table
