"""`fw-data toy OUT`: writes procedural clips with exact truth.

Layout: OUT/raw/NAME.mp4, OUT/raw/NAME.txt (caption), OUT/truth/NAME.npz (depth_m (f, h, w) float32 meters with 0 for
sky, K (f, 3, 3), pose_c2w (f, 4, 4) OpenCV camera-to-world in a world with z up), OUT/toy.json (options and a row per
clip).
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fw_core.files import write_text
from fw_geometry.clip_shape import parse_size
from fw_toy.scenes import SCENES
from fw_toy.workers import run_jobs

if TYPE_CHECKING:
    from fw_toy.clips import ToyPlan

_MOST_PIXELS = 4096


@dataclass(frozen=True, kw_only=True)
class ToyOptions:
    """Write procedural videos of textured rooms and places, with exact depth, intrinsics and camera poses."""

    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write; complete clips already in it are kept."""
    clips: int = 12
    """Number of clips."""
    takes: int = 1
    """Clips per world, each along another camera path; building a world takes longer than rendering a clip. Not for
    `--scenes rooms`, where every clip has its own room."""
    frames: int = 33
    """Frames per clip."""
    size: str = "320x240"
    """WIDTHxHEIGHT in pixels, both even."""
    seed: int = 0
    """The same seed gives the same worlds, cameras and captions. With `--scenes rooms`, clip i shows the room of seed
    SEED + i; rooms and paths from 1000000000 on are held out from training."""
    fps: float = 16.0
    """Frames per second of the videos."""
    scenes: Annotated[str, tyro.conf.arg(metavar="{" + ",".join(SCENES) + "}")] = "both"
    """Kinds of world. both: indoor and outdoor in turn. rooms: furnished rooms with analytic geometry, much faster."""
    workers: int = 0
    """Processes; 0 for one per processor."""
    supersample: int = 2
    """Rays per pixel along each axis, for smooth edges."""


def run(options: ToyOptions) -> None:
    """Makes the missing files in `options.out`, shows progress, and ends with a line that names the result.

    Raises:
        ValueError: an option is out of range, the folder holds clips of other options, or it cannot be written.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    plans = plan_clips(options)
    _prepare(options)
    started, console = time.monotonic(), Console(stderr=True)
    rows, todo = _split(plans, options.out)
    kept = len(rows)
    columns = (TextColumn("toy clips"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("clips", total=len(plans), completed=kept)
        for made in _make(todo, options):
            rows += made
            progress.advance(task, len(made))
    rows.sort(key=lambda row: str(row["name"]))
    _write_index(options, rows)
    seconds = max(time.monotonic() - started, 1e-9)
    new = len(rows) - kept
    rate = f", {new / seconds * 3600:.0f} clips/hour" if new else ""
    console.print(f"{options.out}: {len(rows)} clips ({new} made in {seconds:.1f} s{rate}, {kept} kept)")
    console.print(f"videos and captions: {options.out / 'raw'}   truth: {options.out / 'truth'}")


def plan_clips(options: ToyOptions) -> list["ToyPlan"]:
    """Checks the options and turns them into one plan per clip.

    Raises:
        ValueError: an option is out of range.
    """
    from fw_toy.clips import ToyPlan

    width, height = _size(options)
    if options.scenes not in SCENES:
        raise ValueError(f"--scenes is {options.scenes!r}; use {', '.join(SCENES)}")
    if options.scenes == "rooms" and options.takes != 1:
        raise ValueError(f"--takes is {options.takes}; --scenes rooms has one clip per room, leave --takes out")
    limits = {
        "clips": (1, 1_000_000),
        "takes": (1, 1000),
        "frames": (2, 10_000),
        "supersample": (1, 8),
        "workers": (0, 1024),
    }
    for name, (low, high) in limits.items():
        value = getattr(options, name)
        if not low <= value <= high:
            raise ValueError(f"--{name} is {value}; give a number from {low} to {high}")
    if not 1.0 <= options.fps <= 240.0:
        raise ValueError(f"--fps is {options.fps}; give a number from 1 to 240")
    if options.seed < 0:
        raise ValueError(f"--seed is {options.seed}; give 0 or a positive whole number")
    return [
        ToyPlan(
            seed=options.seed,
            index=index,
            takes=options.takes,
            scenes=options.scenes,
            frames=options.frames,
            height=height,
            width=width,
            fps=options.fps,
            supersample=options.supersample,
        )
        for index in range(options.clips)
    ]


def _size(options: ToyOptions) -> tuple[int, int]:
    """Width and height; H.264 needs even sides."""
    return parse_size(options.size, name="--size", multiple=2, largest=_MOST_PIXELS)


def _prepare(options: ToyOptions) -> None:
    """Makes the folders and refuses a folder that holds another data set."""
    index = options.out / "toy.json"
    try:
        for name in ("raw", "truth"):
            (options.out / name).mkdir(parents=True, exist_ok=True)
        probe = options.out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"cannot write to {options.out}: {error.strerror}; choose another OUT") from error
    if index.is_file():
        there = json.loads(index.read_text(encoding="utf-8"))["options"]
        mine = _identity(options)
        differing = [key for key in mine if there.get(key) != mine[key]]
        if differing:
            raise ValueError(
                f"{options.out} holds toy clips made with other options ({', '.join(differing)}); "
                "choose another OUT, or delete it, or give the same options to add clips"
            )
    else:
        _write_index(options, [])


def _split(plans: list["ToyPlan"], out: Path) -> tuple[list[dict[str, object]], list["ToyPlan"]]:
    from fw_toy.clips import finished

    rows, todo = [], []
    for plan in plans:
        row = finished(plan, out)
        if row is None:
            todo.append(plan)
        else:
            rows.append(row)
    return rows, todo


def _make(plans: list["ToyPlan"], options: ToyOptions) -> Iterator[list[dict[str, object]]]:
    worlds = [tuple(takes) for _, takes in groupby(plans, key=lambda plan: plan.world)]
    if not worlds:
        return
    workers = min(options.workers or os.cpu_count() or 1, len(worlds))
    for job, made in run_jobs(_WorldMaker(out=options.out), worlds, workers):
        if isinstance(made, Exception):
            raise ValueError(
                f"clip {job[0].name} could not be made: {type(made).__name__}: {' '.join(str(made).split())}"
            ) from made
        yield made


@dataclass(frozen=True, kw_only=True)
class _WorldMaker:
    """Builds one world, films and writes its clips, and returns their rows for toy.json."""

    out: Path

    def __call__(self, job: tuple["ToyPlan", ...]) -> list[dict[str, object]]:
        from fw_toy.clips import film, write

        return [write(footage, self.out) for footage in film(job)]


def _identity(options: ToyOptions) -> dict[str, object]:
    """The options that decide the content of a clip, as toy.json records them: there `size` is HEIGHTxWIDTH."""
    width, height = _size(options)
    kept: dict[str, object] = {
        key: value for key, value in asdict(options).items() if key not in {"out", "clips", "workers"}
    }
    return kept | {"size": f"{height}x{width}"}


def _write_index(options: ToyOptions, rows: list[dict[str, object]]) -> None:
    content = {
        "format": "fw-toy-1",
        "conventions": "pose_c2w OpenCV camera-to-world, world z up; depth_m z-depth in meters, 0 = sky; "
        "pixel centers at +0.5",
        "options": _identity(options),
        "clips": rows,
    }
    write_text(options.out / "toy.json", json.dumps(content, indent=1) + "\n")
