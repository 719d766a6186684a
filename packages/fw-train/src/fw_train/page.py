"""Parts of self-contained HTML pages: style, tables, figures and strips of frames.

Axis legend: f frames, h height, w width. Images are uint8 RGB arrays.
"""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_LONGEST_FIGURE = 30
"""Table cells with more characters are text and wrap."""
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #3b6fd4; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { margin-top: 2.4rem; font-size: 1.25rem; }
p.note { opacity: .75; max-width: 75ch; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td.text { text-align: left; white-space: normal; min-width: 24ch; overflow-wrap: anywhere; }
code { background: var(--soft); padding: .1rem .3rem; border-radius: 3px; font-size: .88em; white-space: pre-wrap; }
figure { margin: 1rem 0; } figure img { width: 100%; image-rendering: auto; border-radius: 4px; display: block; }
figcaption { font-size: .88rem; opacity: .8; margin-top: .3rem; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 1.2rem; }
svg { max-width: 100%; height: auto; }
"""


def html_page(title: str, sections: Sequence[str]) -> str:
    """A complete page without scripts and external files, for light and dark screens."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )


def html_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table; all cells are escaped."""
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str) -> str:
    kind = ' class="text"' if len(text) > _LONGEST_FIGURE else ""
    return f"<td{kind}>{html.escape(text)}</td>"


def figure(image: UInt8[np.ndarray, "h w 3"], caption: str) -> str:
    """An image with its caption; the caption is also the alternative text."""
    text = html.escape(caption)
    return f'<figure><img src="{png_data_uri(image)}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def strip(frames: UInt8[np.ndarray, "f h w 3"], count: int, scale: int = 1) -> UInt8[np.ndarray, "h2 w2 3"]:
    """`count` evenly spaced frames side by side, enlarged by the whole number `scale`."""
    chosen = frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)]
    return np.concatenate(list(chosen.repeat(scale, axis=1).repeat(scale, axis=2)), axis=1)


def png_data_uri(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """An image as a data: URI, to embed in an HTML page."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
