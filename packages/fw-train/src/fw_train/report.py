"""Curves of a run for a report: read series from its log, and draw them as a self-contained SVG chart."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from fw_train.engine.run_log import read_log

COLORS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")


@dataclass(frozen=True, kw_only=True)
class Series:
    """One measured quantity over a run."""

    name: str
    """Split and quantity, such as "train loss" or "val loss/depth"."""
    steps: tuple[int, ...]
    """Optimizer step of each measurement."""
    values: tuple[float, ...]
    """Measured values."""

    @property
    def drop(self) -> float:
        """Relative decrease from the first to the last value; negative for an increase."""
        return 1 - self.values[-1] / self.values[0] if self.values[0] else 0.0


def loss_curves(run: Path, *, detail: bool = False) -> list[Series]:
    """The losses of a run over its steps, by split: `loss`, its terms, and `loss@sigma` for held-out noise levels.

    Args:
        run: folder of the run.
        detail: with the parts of the terms, such as `loss/depth/temporal`.

    Raises:
        ValueError: the run has no log, or a damaged one.
    """
    points: dict[str, list[tuple[int, float]]] = {}
    for row in read_log(run):
        for key, value in row.items():
            if key.startswith("loss") and "split" in row and (detail or key.count("/") < 2):
                points.setdefault(f"{row['split']} {key}", []).append((row["step"], value))
    if not points:
        raise ValueError(f"{run} has no measurements in its log; is it the folder of a run?")
    return [
        Series(name=name, steps=tuple(s for s, _ in pairs), values=tuple(v for _, v in pairs))
        for name, pairs in points.items()
    ]


def svg_chart(
    series: Sequence[Series], *, title: str, width: int = 420, height: int = 240, x_label: str = "step"
) -> str:
    """A line chart as an inline <svg>: no script, no external files, readable on light and dark pages.

    `x_label` is the label of `Series.steps`. Values that are not finite are skipped.
    """
    lines = {
        one.name: [(float(x), y) for x, y in zip(one.steps, one.values, strict=True) if isfinite(y)] for one in series
    }
    lines = {name: points for name, points in lines.items() if points}
    xs = [x for points in lines.values() for x, _ in points] or [0.0]
    ys = [y for points in lines.values() for _, y in points] or [0.0]
    frame = _Frame(
        left=48.0,
        right=width - 12.0,
        top=28.0,
        bottom=height - 24.0 - 14 * math.ceil(len(lines) / 2),
        x_range=(min(xs), max(xs)),
        y_range=(min(ys), max(ys)),
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" font-family="system-ui, sans-serif" font-size="11" fill="currentColor">',
        f"<title>{html.escape(title)}</title>",
        f'<text x="{frame.left}" y="16" font-size="13" font-weight="600">{html.escape(title)}</text>',
        *(_grid_line(frame, y) for y in _ticks(min(ys), max(ys))),
        f'<text x="{frame.left}" y="{frame.bottom + 14}">{min(xs):g}</text>',
        f'<text x="{frame.right}" y="{frame.bottom + 14}" text-anchor="end">{html.escape(x_label)} {max(xs):g}</text>',
    ]
    for index, (name, points) in enumerate(lines.items()):
        color = COLORS[index % len(COLORS)]
        path = " ".join(f"{frame.across(x):.1f},{frame.down(y):.1f}" for x, y in points)
        label_x = frame.left + (index % 2) * (width - frame.left) / 2
        label_y = frame.bottom + 27 + 14 * (index // 2)
        parts += [
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8"/>',
            f'<rect x="{label_x:.0f}" y="{label_y - 5:.0f}" width="10" height="3" fill="{color}"/>',
            f'<text x="{label_x + 15:.0f}" y="{label_y:.0f}">'
            f"{html.escape(name)} {points[0][1]:.3g} → {points[-1][1]:.3g}</text>",
        ]
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """The plotting area, in pixels of the image, and the values at its edges."""

    left: float
    right: float
    top: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def across(self, x: float) -> float:
        low, high = self.x_range
        return self.left + (x - low) / ((high - low) or 1) * (self.right - self.left)

    def down(self, y: float) -> float:
        low, high = self.y_range
        return self.bottom - (y - low) / ((high - low) or 1) * (self.bottom - self.top)


def _grid_line(frame: _Frame, y: float) -> str:
    at = frame.down(y)
    return (
        f'<line x1="{frame.left}" x2="{frame.right}" y1="{at:.1f}" y2="{at:.1f}" stroke="currentColor" '
        f'stroke-opacity="0.18"/><text x="{frame.left - 6}" y="{at + 4:.1f}" text-anchor="end">{y:.4g}</text>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round values that cover most of low..high."""
    if high <= low:
        return [low]
    rough = (high - low) / 4
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough)
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
