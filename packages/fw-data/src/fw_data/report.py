"""The `inspect` command: contact sheets as PNG files and one page, index.html, that holds everything it shows."""

import base64
import html
import io
from collections import Counter
from pathlib import Path

import numpy as np

from fw_data.dataset import ClipDataset
from fw_data.options import InspectOptions
from fw_data.schema import ClipRecord, DatasetCard, Refusal
from fw_data.stats import dataset_stats
from fw_data.workdir import CARD_NAME, REFUSALS_NAME

_FIGURES = ("clips", "frames", "seconds", "megabytes", "sources")


def run(options: InspectOptions) -> int:
    """Write the sheets and the page; returns the exit code."""
    from fw_data.contact_sheet import contact_sheet
    from fw_data.progress import stdout_console

    if options.clips < 1:
        raise ValueError("--clips must be 1 or more")
    console = stdout_console()
    dataset = ClipDataset(options.dataset)
    out = options.out or options.dataset / "inspect"
    out.mkdir(parents=True, exist_ok=True)
    last = max(len(dataset) - 1, 0)
    chosen = np.unique(np.linspace(0, last, min(options.clips, len(dataset))).round().astype(int))
    sheets: list[tuple[ClipRecord, bytes]] = []
    for index in chosen:
        record = dataset.records[index]
        picture = io.BytesIO()
        contact_sheet(dataset.load(int(index)), record).save(picture, "PNG")
        (out / f"{record.id}.png").write_bytes(picture.getvalue())
        sheets.append((record, picture.getvalue()))
    (out / "index.html").write_text(page(dataset, sheets), encoding="utf-8")
    console.print(f"{len(sheets)} of {len(dataset)} clips shown in {out / 'index.html'}", highlight=False)
    return 0


def page(dataset: ClipDataset, sheets: list[tuple[ClipRecord, bytes]]) -> str:
    """The page as text; pictures are inside it, nothing is loaded from elsewhere."""
    card = DatasetCard.model_validate_json((dataset.path / CARD_NAME).read_bytes())
    figures = dataset_stats(dataset.records)
    tiles = "".join(
        f"<div><b>{_number(figures[name])}</b><span>{name}</span></div>"
        for name in _FIGURES
        if isinstance(figures[name], int | float)
    )
    grades = ", ".join(f"{count} {letter}" for letter, count in card.grades.items()) or "none"
    clips = "".join(_clip(record, picture) for record, picture in sheets)
    conventions = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in card.conventions.items())
    scores = "".join(
        f"<tr><td>{_text(name)}</td>"
        + "".join(f"<td>{value[key]:.4g}</td>" for key in ("min", "median", "max"))
        + f"<td class=note>{_text(card.scores.get(name, ''))}</td></tr>"
        for name, value in figures.items()
        if isinstance(value, dict) and "median" in value
    )
    return _PAGE.format(
        title=_text(dataset.path.name),
        tiles=tiles,
        grades=_text(grades),
        backend=_text(f"{card.config.get('backend')} {card.config.get('backend_version')}"),
        shown=len(sheets),
        total=len(dataset),
        clips=clips or "<p>The dataset holds no clips.</p>",
        scores=scores,
        refusals=_refusals(dataset.path / REFUSALS_NAME),
        conventions=conventions,
    )


def _clip(record: ClipRecord, picture: bytes) -> str:
    data = base64.b64encode(picture).decode()
    notes = "".join(f"<p class=note>{_text(note)}</p>" for note in record.notes)
    caption = f"<p>{_text(record.caption)}</p>" if record.caption else ""
    alt = _text(f"Contact sheet of {record.source}, frames {record.start_frame} and following")
    return (
        f"<figure id='{record.id}'><img src='data:image/png;base64,{data}' alt='{alt}' loading='lazy'>"
        f"<figcaption>{caption}{notes}<code>{record.id}</code></figcaption></figure>"
    )


def _refusals(path: Path) -> str:
    lines = path.read_text().splitlines() if path.is_file() else []
    refusals = [Refusal.model_validate_json(line) for line in lines]
    if not refusals:
        return "<p>Nothing was left out.</p>"
    counts = Counter(f"{refusal.status}: {refusal.code}" for refusal in refusals)
    summary = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    rows = "".join(
        f"<tr><td>{refusal.status}</td><td>{_text(refusal.source)}</td><td>{_span(refusal)}</td>"
        f"<td>{_text(refusal.code)}</td><td class=note>{_text(refusal.reason)}</td></tr>"
        for refusal in refusals[:200]
    )
    more = f"<p>{len(refusals) - 200} more are in {REFUSALS_NAME}.</p>" if len(refusals) > 200 else ""
    head = "<tr><th>outcome</th><th>video</th><th>frames</th><th>code</th><th>reason</th></tr>"
    return f"<p>{_text(summary)}</p><table>{head}{rows}</table>{more}"


def _span(refusal: Refusal) -> str:
    if refusal.start_frame is None or refusal.num_frames is None:
        return "all"
    return f"{refusal.start_frame}:{refusal.start_frame + refusal.num_frames}"


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _text(value: str) -> str:
    return html.escape(value, quote=True)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: a look at the dataset</title>
<style>
:root {{ color-scheme: light dark; --ink: #1c1c1e; --soft: #62626a; --paper: #fff; --line: #dcdce0; --tile: #f5f5f7; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #ececf0; --soft: #a4a4ae; --paper: #161618; --line: #38383e; --tile: #222226; }}
}}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 1720px; padding: 1.5rem; }}
h1 {{ font-size: 1.6rem; margin: 0 0 .5rem; }} h2 {{ font-size: 1.2rem; margin: 2rem 0 .5rem; }}
.tiles {{ display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0; }}
.tiles div {{ background: var(--tile); border: 1px solid var(--line); border-radius: 8px; padding: .5rem 1rem; }}
.tiles b {{ display: block; font-size: 1.3rem; }} .tiles span, .note, code {{ color: var(--soft); }}
figure {{ margin: 0 0 1.5rem; }} img {{ max-width: 100%; height: auto; border: 1px solid var(--line); }}
figcaption p {{ margin: .2rem 0; }} code {{ font-size: .8rem; }}
.wide {{ overflow-x: auto; }} table {{ border-collapse: collapse; font-size: .9rem; }}
th, td {{ text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }}
dt {{ font-weight: 600; }} dd {{ margin: 0 0 .5rem; color: var(--soft); }}
</style></head><body>
<h1>{title}</h1>
<p>Geometry: {backend}. Grades: {grades}. {shown} of {total} clips are shown.</p>
<div class="tiles">{tiles}</div>
<h2>Clips</h2>{clips}
<h2>Scores</h2><div class="wide"><table><tr><th>score</th><th>min</th><th>median</th><th>max</th><th>meaning</th></tr>
{scores}</table></div>
<h2>Left out</h2><div class="wide">{refusals}</div>
<h2>Conventions</h2><dl>{conventions}</dl>
</body></html>
"""
