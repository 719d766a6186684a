"""The `inspect` command: contact sheets as PNG files and one page, index.html, that holds everything it shows.

The page needs nothing from elsewhere: images, points and scripts are inside it.
"""

import base64
import html
import io
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from fw_data.annotate.workdir import CARD_NAME, REFUSALS_NAME
from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.schema import ClipRecord, DatasetCard, Refusal
from fw_data.inspect.stats import dataset_stats
from fw_data.options import InspectOptions

_FIGURES = ("clips", "frames", "seconds", "megabytes", "sources")
_LISTED_SCORES = ("reprojection_error", "coverage", "motion_px", "sharpness", "dynamic_fraction")


@dataclass(frozen=True, kw_only=True)
class ShownClip:
    """A clip that the page shows."""

    record: ClipRecord
    """Its row."""
    sheet: bytes
    """Contact sheet, PNG."""
    view: dict[str, Any]
    """Points and cameras, see point_view."""


def run(options: InspectOptions) -> int:
    """Write the sheets and the page; returns the exit code."""
    from fw_data.console import stdout_console
    from fw_data.inspect.contact_sheet import contact_sheet
    from fw_data.inspect.point_view import point_view

    if options.clips < 1:
        raise ValueError("--clips must be 1 or more")
    console = stdout_console()
    dataset = ClipDataset(options.dataset)
    out = options.out or options.dataset / "inspect"
    out.mkdir(parents=True, exist_ok=True)
    last = max(len(dataset) - 1, 0)
    chosen = np.unique(np.linspace(0, last, min(options.clips, len(dataset))).round().astype(int))
    shown: list[ShownClip] = []
    for index in chosen:
        record, clip = dataset.records[index], dataset.load(int(index))
        image = io.BytesIO()
        contact_sheet(clip, record).save(image, "PNG")
        (out / f"{record.id}.png").write_bytes(image.getvalue())
        shown.append(ShownClip(record=record, sheet=image.getvalue(), view=point_view(clip)))
    (out / "index.html").write_text(page(dataset, shown), encoding="utf-8")
    console.print(f"{len(shown)} of {len(dataset)} clips shown in {out / 'index.html'}", highlight=False)
    return 0


def page(dataset: ClipDataset, shown: list[ShownClip]) -> str:
    """The page as text."""
    card = DatasetCard.model_validate_json((dataset.path / CARD_NAME).read_bytes())
    refusals = _refusals(dataset.path / REFUSALS_NAME)
    figures = dataset_stats(dataset.records)
    tiles = "".join(
        f"<div><b>{_number(figures[name])}</b><span>{name}</span></div>"
        for name in _FIGURES
        if isinstance(figures[name], int | float)
    )
    scores = "".join(
        f"<tr><td>{_text(name)}</td>"
        + "".join(f"<td class=number>{value[key]:.4g}</td>" for key in ("min", "median", "max"))
        + f"<td class=soft>{_text(card.scores.get(name, ''))}</td></tr>"
        for name, value in figures.items()
        if isinstance(value, dict) and "median" in value
    )
    codes = Counter(f"{refusal.status}: {refusal.code}" for refusal in refusals)
    left_out = ", ".join(f"{count} {name}" for name, count in sorted(codes.items()))
    data = {"rows": rows(dataset.records, refusals), "clouds": {clip.record.id: clip.view for clip in shown}}
    return Template(_asset("page.html")).substitute(
        title=_text(dataset.path.resolve().name),
        style=_asset("page.css"),
        script=_asset("page.js"),
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        tiles=tiles,
        grades=_text(", ".join(f"{count} {letter}" for letter, count in card.grades.items()) or "none"),
        backend=_text(f"{card.config.get('backend')} {card.config.get('backend_version')}"),
        shown=len(shown),
        total=len(dataset),
        codes=_text(f"Left out: {left_out}." if left_out else "Nothing was left out."),
        clips="".join(_clip(clip) for clip in shown) or "<p>The dataset holds no clips.</p>",
        scores=scores,
        limits=_grades(card),
        conventions="".join(f"<dt>{_text(name)}</dt><dd>{_text(text)}</dd>" for name, text in card.conventions.items()),
    )


def rows(records: Iterable[ClipRecord], refusals: Iterable[Refusal]) -> list[dict[str, Any]]:
    """The lines of the table: every clip of the dataset and everything that was left out."""
    lines = []
    for record in records:
        end = record.start_frame + (record.source_frames or record.num_frames)
        lines.append(
            {
                **{name: record.scores[name] for name in _LISTED_SCORES if name in record.scores},
                "id": record.id,
                "status": "kept",
                "grade": record.grade,
                "source": record.source,
                "start": record.start_frame,
                "span": f"{record.start_frame}:{end}",
                "tags": record.motion_tags,
                "caption": record.caption,
                "code": "",
                "why": "; ".join([*record.grade_reasons, *record.notes]),
            }
        )
    for refusal in refusals:
        whole = refusal.start_frame is None or refusal.num_frames is None
        start, length = refusal.start_frame or 0, refusal.num_frames or 0
        lines.append(
            {
                **{name: refusal.scores[name] for name in _LISTED_SCORES if name in refusal.scores},
                "id": refusal.clip_id or "",
                "status": refusal.status,
                "grade": "",
                "source": refusal.source,
                "start": start,
                "span": "all" if whole else f"{start}:{start + length}",
                "tags": [],
                "caption": "",
                "code": refusal.code,
                "why": f"{refusal.code}: {refusal.reason}",
            }
        )
    return lines


def _clip(clip: ShownClip) -> str:
    record = clip.record
    end = record.start_frame + (record.source_frames or record.num_frames)
    image = base64.b64encode(clip.sheet).decode()
    alt = _text(f"Contact sheet of {record.source}, frames {record.start_frame} and following")
    chips = "".join(f"<span class=chip>{_text(tag)}</span>" for tag in record.motion_tags)
    texts = [f"<p>{_text(record.caption)}</p>"] if record.caption else []
    texts += [f"<p class=soft>{_text(note)}</p>" for note in (*record.grade_reasons, *record.notes)]
    figures = "".join(
        f"<tr><td>{_text(name)}</td><td class=number>{value:.4g}</td></tr>" for name, value in record.scores.items()
    )
    return (
        f"<article id='{record.id}'><h3><span class='grade {record.grade}'>{record.grade}</span>"
        f"{_text(record.source)} [{record.start_frame}:{end}]<span>{chips}</span></h3>"
        f"<img src='data:image/png;base64,{image}' alt='{alt}' loading='lazy'>"
        f"<div class=below><div class=stage data-clip='{record.id}'><canvas role='img' "
        f"aria-label='Points and camera path in 3D'></canvas><div><span></span>"
        f"<input type='range' min='0' value='0' aria-label='frame'></div></div>"
        f"<div class=figures>{''.join(texts)}<table>{figures}</table><code>{record.id}</code></div></div></article>"
    )


def _grades(card: DatasetCard) -> str:
    lines = []
    for letter, meaning in card.grade_meanings.items():
        limits = card.grade_limits.get(letter, {})
        texts = [
            f"{name} {'' if least is None else f'from {least:g}'}{'' if most is None else f' to {most:g}'}"
            for name, (least, most) in limits.items()
        ]
        asks = ", ".join(" ".join(text.split()) for text in texts) or "nothing"
        lines.append(
            f"<tr><td><span class='grade {_text(letter)}'>{_text(letter)}</span></td><td>{_text(meaning)}</td>"
            f"<td class=soft>{_text(asks)}</td></tr>"
        )
    return "".join(lines)


def _refusals(path: Path) -> list[Refusal]:
    lines = path.read_text().splitlines() if path.is_file() else []
    return [Refusal.model_validate_json(line) for line in lines]


def _asset(name: str) -> str:
    return (files("fw_data.inspect") / "page" / name).read_text(encoding="utf-8")


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _text(value: str) -> str:
    return html.escape(value, quote=True)
