"""Tables as text: Markdown for documents, aligned columns for the terminal."""

from collections.abc import Sequence
from typing import Literal


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]], *, align: str = "") -> str:
    """A Markdown table, one line per row, without a final newline.

    Args:
        header: column titles.
        rows: cells; a `|` in a cell is escaped.
        align: one letter per column: l, r or c; missing ones are l.
    """
    marks = {"l": "---", "r": "---:", "c": ":---:"}
    rule = [marks[align[i] if i < len(align) else "l"] for i in range(len(header))]
    lines = [header, rule, *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def aligned(rows: Sequence[Sequence[object]], *, align: str = "", indent: int = 2, gap: int = 2) -> list[str]:
    """Rows as lines with aligned columns.

    Args:
        rows: cells; every row has the same number of them.
        align: one letter per column, l or r; missing ones are l.
        indent: spaces before each line.
        gap: spaces between columns.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    if not cells:
        return []
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    sides: list[Literal["<", ">"]] = [">" if align[i : i + 1] == "r" else "<" for i in range(len(widths))]
    lines = [
        (" " * gap).join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True))
        for row in cells
    ]
    return [" " * indent + line.rstrip() for line in lines]
