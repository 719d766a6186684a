"""Draws the diagrams of the guides: `python docs/images/draw.py` writes model.svg, packages.svg, frames.svg and
curves.svg.

Boxes, arrows and curves; colors follow the reader's light or dark setting. Lengths are SVG units, the origin is the
top left corner.
"""

import json
from pathlib import Path

from fw_train.report import Series, svg_chart

HERE = Path(__file__).parent
STYLE = """
text { font: 14px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1b2430; text-anchor: middle }
text.left { text-anchor: start } text.title { font-weight: 600; text-anchor: start } text.small { font-size: 12.5px }
rect { stroke: #5b6675; stroke-width: 1.2 }
.page { fill: #fbfcfd; stroke: none } .group { fill: none; stroke-dasharray: 5 4 }
.plain { fill: #ffffff } .frozen { fill: #dbe4ee } .one { fill: #d3edd5 } .two { fill: #fde2c0 }
.line { fill: none; stroke: #46505e; stroke-width: 1.6 } .head { fill: #46505e }
@media (prefers-color-scheme: dark) {
text { fill: #e8edf3 } rect { stroke: #8b96a5 } .page { fill: #10151c; stroke: none }
.plain { fill: #1b222c } .frozen { fill: #2c3b4d } .one { fill: #234a2b } .two { fill: #5a3d14 }
.line { stroke: #a9b4c2 } .head { fill: #a9b4c2 }
}
"""


class Drawing:
    """An SVG image of boxes, lines and words."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
            f"<title>{title}</title><style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto-start-reverse"><path class="head" d="M0 0 8 4 0 8z"/></marker></defs>',
            f'<rect class="page" width="{width}" height="{height}" rx="8"/>',
        ]

    def box(self, x: int, y: int, w: int, h: int, words: str, kind: str = "plain", size: str = "") -> None:
        """A box with centered text."""
        self.parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{w}" height="{h}" rx="6"/>')
        lines = words.split("\n")
        for i, line in enumerate(lines):
            self.words(x + w // 2, y + h // 2 + 5 + round(17 * (i - (len(lines) - 1) / 2)), line, size)

    def words(self, x: int, y: int, words: str, kind: str = "") -> None:
        """One line of words; `kind` is a class of the style."""
        escaped = words.replace("&", "&amp;").replace("<", "&lt;")
        self.parts.append(f'<text class="{kind}" x="{x}" y="{y}">{escaped}</text>')

    def group(self, x: int, y: int, w: int, h: int) -> None:
        """A dashed frame."""
        self.parts.append(f'<rect class="group" x="{x}" y="{y}" width="{w}" height="{h}" rx="8"/>')

    def line(self, *points: tuple[int, int], tip: bool = True, both: bool = False) -> None:
        """A line through points, with an arrow tip at its end (or at both)."""
        path = "M" + " L".join(f"{x} {y}" for x, y in points)
        tips = ' marker-end="url(#tip)"' * tip + ' marker-start="url(#tip)"' * both
        self.parts.append(f'<path class="line" d="{path}"{tips}/>')

    def svg(self) -> str:
        """The whole file."""
        return "\n".join([*self.parts, "</svg>"]) + "\n"


def model() -> str:
    """Preconditioning blocks, bridge, IRG pairs, adapters and heads; below, one pair in detail."""
    d = Drawing(1000, 806, "The two branches of FantasyWorld, and one IRG pair in detail")
    d.box(16, 16, 128, 50, "noisy latents,\nfirst-frame latent")
    d.box(172, 16, 118, 50, "prompt:\ntext tokens")
    d.box(306, 16, 118, 50, "image:\nCLIP tokens")
    d.box(440, 16, 160, 50, "camera path:\nPlücker rays")
    d.box(632, 16, 150, 50, "pose encoder", "two")
    d.line((600, 41), (630, 41))
    d.line((80, 66), (80, 128))
    for x in (231, 365):
        d.line((x, 66), (x, 84), tip=False)
    d.line((707, 66), (707, 84), tip=False)
    d.line((231, 84), (727, 84), tip=False)
    d.words(794, 80, "cross-attention in every block,", "left small")
    d.words(794, 96, "camera shift in the first A blocks", "left small")
    for x, kind in ((232, "P"), (399, "1"), (553, "2"), (727, "G")):
        d.line((x, 84), (x, 128))
        if kind != "P":
            d.group(x - 72, 104, 144, 312)
            d.words(x, 408, f"IRG {kind}")
    d.box(16, 130, 128, 60, "patch\nembedding", "frozen")
    d.box(168, 130, 128, 60, "preconditioning\nblocks 1 … P", "frozen")
    d.box(168, 316, 128, 66, "latent bridge;\ncamera and\nregister tokens", "one")
    d.line((144, 160), (166, 160))
    d.line((232, 190), (232, 314))
    for x, name in ((399, "1"), (553, "2"), (727, "G")):
        block = {"1": "P + 1", "2": "P + 2", "G": "N"}[name]
        d.box(x - 60, 130, 120, 60, f"video block\n{block}", "frozen")
        d.box(x - 60, 222, 120, 62, "bidirectional\ncross-attention", "two")
        d.box(x - 60, 316, 120, 66, f"geometry layer {name}:\nframe, then\nglobal attention", "one", "small")
        d.line((x, 192), (x, 220), both=True)
        d.line((x, 286), (x, 314), both=True)
    for y in (160, 349):
        d.line((296, y), (337, y))
        d.line((459, y), (491, y))
        d.line((613, y), (631, y), tip=False)
        d.words(641, y + 3, "…")
        d.line((650, y), (665, y))
    d.box(834, 130, 150, 60, "output head:\nvelocity", "frozen")
    d.line((787, 160), (832, 160))
    d.box(834, 262, 150, 44, "DPT head: depth", "one", "small")
    d.box(834, 320, 150, 44, "DPT head: points", "one", "small")
    d.box(834, 378, 150, 44, "camera head: poses", "one", "small")
    for x in (399, 553, 727):
        d.line((x, 382), (x, 392), tip=False)
    d.line((399, 392), (816, 392), tip=False)
    d.line((816, 400), (816, 284), tip=False)
    for y in (284, 342, 400):
        d.line((816, y), (832, y))
    d.words(470, 438, "depth and points: four tapped layers; poses: the camera tokens of the last layer", "left small")
    _legend(d, 16, 452)

    d.words(16, 512, "One IRG pair", "title")
    d.line((16, 570), (46, 570))
    d.box(48, 536, 150, 68, "self-attention\n(3-D RoPE)", "frozen")
    d.line((198, 570), (226, 570))
    d.box(228, 536, 190, 68, "cross-attention to prompt\nand image, + camera shift", "frozen", "small")
    d.line((418, 570), (454, 570))
    d.line((16, 690), (46, 690))
    d.box(48, 656, 150, 68, "frame block:\nattention and MLP\nwithin a latent frame", "one", "small")
    d.line((198, 690), (226, 690))
    d.box(228, 656, 190, 68, "global attention over\nthe tokens of all frames", "one", "small")
    d.line((418, 690), (454, 690))
    d.box(456, 536, 326, 188, "", "two")
    d.words(619, 566, "bidirectional cross-attention")
    d.words(619, 598, "queries from video, keys from geometry,", "small")
    d.words(619, 616, "both rotated by 3-D RoPE", "small")
    d.words(619, 648, "video += γ softmax(q kᵀ) values(geometry)", "small")
    d.words(619, 674, "geometry += γ′ softmax(k qᵀ) values(video)", "small")
    d.words(619, 706, "γ, γ′: one number per channel, zero at the start", "small")
    for y, name, kind in ((570, "feed-forward", "frozen"), (690, "MLP", "one")):
        d.line((782, y), (814, y))
        d.box(816, y - 34, 138, 68, name, kind)
        d.line((954, y), (984, y))
    d.words(16, 766, "The timestep modulates every block of both branches (AdaLN).", "left small")
    note = (
        "In the Fun and Wan2.2 presets the rays also enter the patch embedding, through the backbone's control adapter."
    )
    d.words(16, 786, note, "left small")
    return d.svg()


def packages() -> str:
    """The way of the data through the packages: commands are filled, files are not."""
    d = Drawing(1000, 370, "The data path through the packages")
    d.box(16, 20, 150, 46, "your videos", size="small")
    d.box(16, 150, 150, 46, "fw-toy, fw-data toy:\nrendered scenes", "frozen", "small")
    d.line((91, 66), (91, 150), tip=False)
    d.line((91, 105), (204, 105))
    d.box(206, 74, 150, 62, "fw-data annotate:\ncameras, depth,\nconfidence", "frozen", "small")
    d.line((356, 105), (394, 105))
    d.box(396, 74, 120, 62, "dataset:\nmanifest, shards", size="small")
    d.line((516, 105), (554, 105))
    d.box(556, 74, 130, 62, "fw-train:\n(base), stage 1,\nstage 2", "frozen", "small")
    d.line((686, 105), (724, 105))
    d.box(726, 74, 110, 62, "export:\nweights and\npipeline.json", size="small")
    d.line((836, 105), (862, 105))
    d.box(864, 74, 120, 62, "fw generate,\nWorldPipeline", "frozen", "small")
    d.line((850, 105), (850, 39), (862, 39))
    d.box(864, 14, 120, 50, "fw-serve:\nAPI, the studio", "frozen", "small")
    d.line((924, 136), (924, 160))
    d.box(864, 162, 120, 46, "world: video,\ndepth, cameras", size="small")
    d.box(536, 162, 310, 46, "a Wan model after fw-train init, or\na released .pth after fw convert", size="small")
    d.line((621, 162), (621, 138))
    d.box(206, 162, 310, 46, "fw-data validate, inspect, stats, compare", "frozen", "small")
    d.line((456, 162), (456, 138))
    library = "fw-model: network, losses, schedules, pipeline, export (used by fw-train, fw-serve and fw)"
    d.box(16, 246, 968, 30, library, "frozen", "small")
    base = "fw-geometry: cameras, poses, rays, alignment, metrics, file formats (used by all above)"
    d.box(16, 286, 968, 30, base, "frozen", "small")
    core = "fw-core: commands, image reading, atomic files, devices, tables (used by all above)"
    d.box(16, 326, 968, 30, core, "frozen", "small")
    return d.svg()


def frames() -> str:
    """How output frames, latent frames and camera tokens stand to each other, for a clip of nine frames."""
    d = Drawing(1000, 330, "Frames of a clip of nine frames, and which latent frame each comes from")
    left, cell = 258, 80
    rows = (
        (20, "frames of the clip", [(1, str(i), "plain") for i in range(9)]),
        (84, "latent frames", [(1, "0", "frozen"), (4, "1", "frozen"), (4, "2", "frozen")]),
        (
            148,
            "dense heads: frames made from",
            [(1, "0", "one"), *[(1, "0, 1", "one")] * 4, *[(1, "0, 1, 2", "one")] * 4],
        ),
        (212, "poses made from camera token", [(1, str(n), "one") for n in (0, 1, 1, 1, 1, 2, 2, 2, 2)]),
        (276, "the same as released (block)", [(1, str(n), "two") for n in (0, 1, 2, 1, 2, 1, 2, 1, 2)]),
    )
    for y, name, cells in rows:
        d.words(16, y + 22, name, "left")
        x = left
        for span, words, kind in cells:
            d.box(x, y, span * cell - 6, 34, words, kind)
            x += span * cell
    for start, span in ((0, 1), (1, 4), (5, 4)):
        middle = left + start * cell + (span * cell - 6) // 2
        d.line((middle, 56), (middle, 82))
        d.line((middle, 120), (middle, 146))
    return d.svg()


def _legend(d: Drawing, x: int, y: int) -> None:
    kinds = (
        ("frozen", "Wan backbone, always frozen (tiny: trained first as `base`)", 440),
        ("one", "trained in stage 1", 172),
        ("two", "trained in stage 2", 172),
    )
    for kind, words, width in kinds:
        d.parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="18" height="18" rx="3"/>')
        d.words(x + 26, y + 14, words, "left small")
        x += width


def curves() -> str:
    """Curves of real runs, from curves.json: four charts of the series that their log.jsonl holds."""
    charts = json.loads((HERE / "curves.json").read_text(encoding="utf-8"))
    width, height, gap = 430, 250, 12
    total = 2 * width + 3 * gap, 2 * height + 3 * gap
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total[0]} {total[1]}" role="img">',
        "<title>Curves of training runs</title><style>svg { color: #1b2430 } .page { fill: #fbfcfd } "
        "@media (prefers-color-scheme: dark) { svg { color: #e8edf3 } .page { fill: #10151c } }</style>",
        f'<rect class="page" width="{total[0]}" height="{total[1]}" rx="8"/>',
    ]
    for index, chart in enumerate(charts):
        series = [
            Series(name=name, steps=tuple(points["steps"]), values=tuple(points["values"]))
            for name, points in chart["series"].items()
        ]
        drawn = svg_chart(series, title=chart["title"], width=width, height=height)
        x, y = gap + index % 2 * (width + gap), gap + index // 2 * (height + gap)
        parts.append(drawn.replace("<svg ", f'<svg x="{x}" y="{y}" ', 1))
    return "".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Write the SVG files."""
    (HERE / "curves.svg").write_text(curves(), encoding="utf-8")
    (HERE / "model.svg").write_text(model(), encoding="utf-8")
    (HERE / "packages.svg").write_text(packages(), encoding="utf-8")
    (HERE / "frames.svg").write_text(frames(), encoding="utf-8")


if __name__ == "__main__":
    main()
