"""Captions of raw videos: NAME.txt beside NAME.mp4, or a table of the folder.

Tables are metadata.csv, metadata.jsonl and metadata.json, as DiffSynth, diffusers, Hugging Face datasets and VideoX-Fun
write them: a column that names the video and one with the caption. A table counts for its folder and those below.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from fw_core.files import decode_text, read_text
from fw_geometry.formats.names import portable_path

TABLES = ("metadata.csv", "metadata.jsonl", "metadata.json")
"""In the order in which they count."""
VIDEO_COLUMNS = ("video", "file_name", "filename", "file_path", "video_path", "path", "file", "name", "media_path")
CAPTION_COLUMNS = ("prompt", "caption", "text", "captions", "description")


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Captions of the videos of a folder."""

    texts: dict[str, str] = field(default_factory=dict)
    """Path relative to the folder -> caption in one line; videos without one are missing."""
    messages: list[str] = field(default_factory=list)
    """Tables that could not be used, rows without a video, and contradictions."""


def read_captions(raw: Path, videos: Sequence[str]) -> Captions:
    """The caption of every video of a raw folder: its text file, else the nearest table, in the order of TABLES."""
    texts: dict[str, str] = {}
    messages: list[str] = []
    tables: dict[PurePosixPath, list[tuple[str, dict[str, str]]]] = {}
    used: set[tuple[str, str]] = set()
    several: list[str] = []
    for source in videos:
        text, problem = read_sidecar(raw / source)
        if problem:
            messages.append(f"{source}: {problem}")
        found = [text] if text else []
        for folder in PurePosixPath(source).parents:
            if folder not in tables:
                tables[folder] = list(_read_tables(raw, folder, messages))
            name = PurePosixPath(source).relative_to(folder)
            for table, rows in tables[folder]:
                key = next((key for key in (name.as_posix(), name.with_suffix("").as_posix()) if key in rows), None)
                if key is not None:
                    used.add((table, key))
                    found.append(rows[key])
        if found and found[0]:
            texts[source] = found[0]
            if any(other != found[0] for other in found[1:]):
                several.append(source)
    if several:
        order = ", ".join(TABLES)
        messages.append(
            f"{len(several)} videos with several captions, first {several[0]}: text files count, then {order}"
        )
    for table, rows in (pair for found in tables.values() for pair in found):
        unknown = [name for name in rows if (table, name) not in used]
        if unknown:
            messages.append(f"{table}: {len(unknown)} of {len(rows)} rows name no video here; first {unknown[0]}")
    return Captions(texts=texts, messages=messages)


def read_sidecar(path: Path) -> tuple[str, str]:
    """The caption in the .txt file beside a video or a folder of images, as one line, and a problem with it."""
    beside = path.with_name(f"{path.name if path.is_dir() else path.stem}.txt")
    if not beside.is_file():
        return "", ""
    text = _line(decode_text(beside.read_bytes(), errors="replace"))
    return text, "the caption is not UTF-8; unreadable characters were replaced" if "\ufffd" in text else ""


def _read_tables(raw: Path, folder: PurePosixPath, messages: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    for name in TABLES:
        path = raw / folder / name
        if path.is_file():
            table = (folder / name).as_posix()
            try:
                rows = _read_table(path)
            except (ValueError, csv.Error) as error:
                messages.append(f"{table} is not used for captions: {' '.join(str(error).split())}")
                continue
            yield table, rows


def _read_table(path: Path) -> dict[str, str]:
    """Path relative to the table -> caption. ValueError for a file of another kind."""
    text = read_text(path)
    if path.suffix == ".csv":
        rows: Any = list(csv.DictReader(io.StringIO(text)))
    elif path.suffix == ".jsonl":
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    else:
        rows = json.loads(text)
        if isinstance(rows, dict):  # name -> caption, or name -> row
            rows = [{"video": name} | (row if isinstance(row, dict) else {"text": row}) for name, row in rows.items()]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("expected one object per video")
    rows = [{str(key).strip().lower(): value for key, value in row.items()} for row in rows]
    columns = {key for row in rows for key in row}
    video = next((name for name in VIDEO_COLUMNS if name in columns), None)
    caption = next((name for name in CAPTION_COLUMNS if name in columns), None)
    if video is None or caption is None:
        wanted = VIDEO_COLUMNS if video is None else CAPTION_COLUMNS
        raise ValueError(f"it has no column {', '.join(wanted)}")
    return {_name(row[video], path.parent): _first(row.get(caption)) for row in rows if row.get(video)}


def _name(value: object, folder: Path) -> str:
    """A video as the table names it, relative to the folder; of other absolute paths the file name."""
    name = portable_path(str(value))
    if name.startswith("/") or name[1:2] == ":":
        path = PurePosixPath(name)
        return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
    return name


def _first(value: object) -> str:
    """A caption, or the first one of a list, as one line."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        value = next(iter(value), "")
    return "" if value is None else _line(str(value))


def _line(text: str) -> str:
    return " ".join(text.split())
