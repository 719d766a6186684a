"""The self-contained HTML pages of an evaluation and of a comparison.

Axis legend: F frames, H W pixels.
"""

import html
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from fw_geometry import Trajectory, ate
from fw_model.export import colorize
from fw_model.pipeline.result import World
from fw_train.evaluate.compare import Comparison
from fw_train.evaluate.evaluation import Evaluation, MeasuredClip, Plain, mean_curve, order_of_clips
from fw_train.evaluate.tables import (
    DIFFERENCE_HEADINGS,
    HEADINGS,
    caution,
    difference_rows,
    fvd_note,
    label,
    number,
    summary_rows,
)
from fw_train.metrics.measures import MEASURES
from fw_train.metrics.truth import TruthClip
from fw_train.page import figure, html_page, html_table, strip
from fw_train.report import COLORS, Series, svg_chart

PAGE = "index.html"
COMPARISON_PAGE = "comparison.html"
_CURVES = (
    ("video/psnr", "PSNR (dB) by frame", "frame"),
    ("video/ssim", "SSIM by frame", "frame"),
    ("video/lpips", "LPIPS by frame", "frame"),
    ("depth/abs_rel", "AbsRel (one scale per clip) by frame", "frame"),
    ("pose/position", "camera position error (scene units) by frame", "frame"),
    ("consistency/depth", "reprojection: depth disagreement by distance", "frames apart"),
    ("consistency/photometric_ratio", "reprojection: color / no motion by distance", "frames apart"),
)
_LISTED = ("video/psnr", "video/ssim", "depth/abs_rel", "pose/ate", "points/chamfer", "follow/rotation")
_SHOWN_FRAMES = 6

Pair = Callable[[str], tuple[World, TruthClip]]
"""Loads a world and its clip by clip id, both in scene units."""


def write_page(out: Path, evaluation: Evaluation, pair: Pair, show: int) -> Path:
    """Write OUT/index.html and return its path.

    Args:
        out: output folder.
        evaluation: the evaluation to show.
        pair: loads the worlds and clips on the page.
        show: number of best and of worst clips.
    """
    ordered = order_of_clips(evaluation.clips)
    best = ordered[:show]
    worst = ordered[show:][::-1][:show]
    sections = [
        _head(evaluation),
        "<h2>Summary</h2>",
        html_table(HEADINGS, summary_rows(evaluation)),
        '<p class="note">Intervals are 95 % bootstrap intervals over source videos (clips of one video are not '
        f"independent). {caution(len({clip.group for clip in evaluation.clips}))} Lengths are in scene units: 1 is the "
        f"mean distance of the points in a clip's first frame. {evaluation.fvd.caution if evaluation.fvd else ''}</p>",
        "<h2>By frame and by distance</h2>",
        '<div class="row">' + "".join(_charts({evaluation.name: evaluation.clips})) + "</div>",
        *(_shown("Best", clip, *pair(clip.id)) for clip in best),
        *(_shown("Worst", clip, *pair(clip.id)) for clip in worst),
        _all_clips(ordered),
        _meanings(evaluation),
    ]
    path = out / PAGE
    path.write_text(html_page(f"evaluation: {evaluation.name}", sections), encoding="utf-8")
    return path


def write_comparison(out: Path, comparison: Comparison, runs: Sequence[Evaluation]) -> Path:
    """Write OUT/comparison.html and return its path."""
    keys = list(dict.fromkeys(key for made in comparison.made for key in made))
    made = [(key, *(_plain(made.get(key)) for made in comparison.made)) for key in keys]
    sections = [
        f"<h1>{html.escape(' / '.join(comparison.names))}</h1>",
        f'<p class="note">{comparison.clips} clips, the same in all. Differences are taken clip by clip, with '
        "95 % bootstrap intervals over source videos. An interval that contains 0 shows no difference.</p>",
        html_table(("generation settings", *comparison.names), made),
        f"<p>{html.escape(fvd_note(comparison))}</p>",
    ]
    for name, rows in zip(comparison.names[1:], comparison.others, strict=True):
        sections.append(f"<h2>{html.escape(name)} against {html.escape(comparison.names[0])}</h2>")
        sections.append(html_table(DIFFERENCE_HEADINGS, difference_rows(rows)))
    charts = _charts({run.name: run.clips for run in runs})
    sections.append('<h2>By frame and by distance</h2><div class="row">' + "".join(charts) + "</div>")
    path = out / COMPARISON_PAGE
    path.write_text(html_page("comparison: " + " / ".join(comparison.names), sections), encoding="utf-8")
    return path


def svg_paths(paths: dict[str, Float[np.ndarray, "F 3"]], *, title: str, side: int = 300) -> str:
    """Top view of camera centers as an inline <svg>: x to the right, z (the view of the first camera) up, one scale."""
    ground = np.concatenate([centers[:, [0, 2]] for centers in paths.values()])
    middle = (ground.max(axis=0) + ground.min(axis=0)) / 2
    extent = max(float(np.ptp(ground, axis=0).max()), 1e-6) * 1.15
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side + 40}" width="{side}" '
        f'height="{side + 40}" role="img" font-family="system-ui, sans-serif" font-size="11" fill="currentColor">',
        f'<title>{html.escape(title)}</title><text x="6" y="14" font-weight="600">{html.escape(title)}</text>',
    ]
    for index, (name, centers) in enumerate(paths.items()):
        flat = (centers[:, [0, 2]] - middle) / extent * (side - 30)
        at = [(side / 2 + x, 20 + side / 2 - z) for x, z in flat]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        color = COLORS[index % len(COLORS)]
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{color}"/>' for x, y in at)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.8"/>{dots}')
        left = 6 + index * side / max(1, len(paths))
        parts.append(f'<rect x="{left:.0f}" y="{side + 28}" width="10" height="3" fill="{color}"/>')
        parts.append(f'<text x="{left + 14:.0f}" y="{side + 33}">{html.escape(name)}</text>')
    return "".join([*parts, "</svg>"])


def _head(evaluation: Evaluation) -> str:
    made = [(key, _plain(value)) for key, value in evaluation.made.items()]
    measured = [(key, _plain(value)) for key, value in evaluation.measured.items() if value is not None]
    left = "".join(f"<li>{count} clips: {html.escape(why)}</li>" for why, count in evaluation.left_out.items())
    return (
        f"<h1>Evaluation: {html.escape(evaluation.name)}</h1>"
        f'<p class="note">{len(evaluation.clips)} clips of <code>{html.escape(evaluation.dataset)}</code>, '
        f"{len({clip.group for clip in evaluation.clips})} source videos.</p>"
        + (f"<p>Omitted:</p><ul>{left}</ul>" if left else "")
        + '<div class="row">'
        + html_table(("generation settings", ""), made)
        + html_table(("measurement settings", ""), measured)
        + "</div>"
    )


def _charts(runs: dict[str, list[MeasuredClip]]) -> list[str]:
    """One chart per curve, with one line per run that has it."""
    charts = []
    for name, title, x_label in _CURVES:
        lines = {run: mean_curve(clips, name) for run, clips in runs.items()}
        series = [
            Series(name=run, steps=tuple(x for x, _ in line), values=tuple(y for _, y in line))
            for run, line in lines.items()
            if line
        ]
        if series:
            charts.append(svg_chart(series, title=title, x_label=x_label))
    return charts


def _shown(kind: str, clip: MeasuredClip, world: World, truth: TruthClip) -> str:
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in clip.notes)
    rows = [(label(name), number(value)) for name, value in clip.scores.items()]
    drawn = svg_paths(_aligned(world, truth), title="cameras from above")
    return (
        f"<h2>{kind}: {html.escape(clip.source)}</h2><p><code>{html.escape(clip.id)}</code> "
        f"{html.escape(clip.caption)}</p>{notes}"
        + figure(strip(truth.video, _SHOWN_FRAMES), "Real frames; the first one is the input")
        + figure(strip(world.video, _SHOWN_FRAMES), "Generated frames")
        + figure(strip(colorize(truth.depth), _SHOWN_FRAMES), "Annotated depth (black: unknown)")
        + figure(strip(colorize(world.depth), _SHOWN_FRAMES), "Generated depth")
        + f'<div class="row">{drawn}{html_table(("measure", "value"), rows)}</div>'
    )


def _aligned(world: World, truth: TruthClip) -> dict[str, np.ndarray]:
    """The requested path, and the recovered path after the Sim(3) alignment of ATE."""
    requested: Trajectory = truth.trajectory
    fit = ate(world.trajectory.pose_c2w, requested.pose_c2w).alignment
    return {
        "requested": requested.centers_world,
        "recovered (aligned)": fit.apply(world.trajectory.centers_world),
    }


def _all_clips(clips: Sequence[MeasuredClip]) -> str:
    rows = [(clip.source, *(number(clip.scores.get(name)) for name in _LISTED), clip.id) for clip in clips]
    headings = ("video", *(label(name) for name in _LISTED), "clip")
    return "<h2>All clips, best first</h2>" + html_table(headings, rows)


def _meanings(evaluation: Evaluation) -> str:
    items = "".join(
        f"<dt><b>{html.escape(label(name))}</b></dt><dd>{html.escape(MEASURES[name].meaning)}</dd>"
        for name in evaluation.summary
    )
    if evaluation.fvd:
        items += (
            "<dt><b>FVD</b></dt><dd>squared Frechet distance between the I3D features of all generated and all "
            "real clips</dd>"
        )
    ranked = ", ".join(measure.label for measure in MEASURES.values() if measure.ranked)
    return f"<h2>What the measures mean</h2><dl>{items}</dl><p>Clips are ordered by their mean rank in {ranked}.</p>"


def _plain(value: Plain) -> str:
    return "-" if value is None else str(value)
