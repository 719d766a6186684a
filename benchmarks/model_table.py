"""What the model's bench measures with and writes: paired runs, rows with a target, a table as JSON and as markdown."""

import dataclasses
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    name: str
    """What was measured, with its sizes."""
    value: float
    """The figure."""
    unit: str
    """Of the figure; x is a ratio, above 1 is better."""
    target: str = ""
    """What it is held to, such as ">= 1.05"; empty: for information."""
    details: str = ""
    """How it came about."""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if not self.target:
            return None
        relation, number = self.target.split()
        return self.value >= float(number) if relation == ">=" else self.value <= float(number)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
    """Medians of one side of a paired measurement."""

    wall_s: float
    """Seconds on the clock."""
    cpu_s: float
    """Seconds of processor time of this process; on a busy machine the steadier figure."""


def paired(ours: Callable[[], Any], theirs: Callable[[], Any], *, pairs: int) -> tuple[Times, Times]:
    """Medians of alternating runs. Run each once before, so that nothing is built in the first one."""
    sides = (ours, theirs)
    seen: tuple[list[Times], list[Times]] = ([], [])
    for pair in range(pairs):
        for i in (0, 1) if pair % 2 == 0 else (1, 0):
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            sides[i]()
            seen[i].append(Times(wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu))
    ours_median, theirs_median = (
        Times(wall_s=statistics.median(t.wall_s for t in ts), cpu_s=statistics.median(t.cpu_s for t in ts))
        for ts in seen
    )
    return ours_median, theirs_median


def ratio_row(name: str, times: tuple[Times, Times], *, target: str = "", note: str = "") -> Row:
    """How many times faster ours is, in processor time, which other programs on the machine disturb least."""
    ours, theirs = times
    details = (
        f"ours {ours.cpu_s:.3g} s, other {theirs.cpu_s:.3g} s of processor time; on the clock {ours.wall_s:.3g} s and "
        f"{theirs.wall_s:.3g} s ({theirs.wall_s / ours.wall_s:.2f}x)"
    )
    return Row(
        name=name,
        value=theirs.cpu_s / ours.cpu_s,
        unit="x",
        target=target,
        details=details + (f"; {note}" if note else ""),
    )


def matmul_peak(dtype: torch.dtype, *, size: int = 1024, runs: int = 5) -> float:
    """Best GFLOP per second of processor time of a square product, over all threads together."""
    a = torch.randn(size, size).to(dtype)
    torch.mm(a, a)
    best = float("inf")
    for _ in range(runs):
        start = time.process_time()
        torch.mm(a, a)
        best = min(best, time.process_time() - start)
    return 2 * size**3 / best / 1e9


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself; if not, a product takes a hundred times as long."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": has_fast_bfloat16(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_1_min": round(os.getloadavg()[0], 2),
    }


def write(folder: Path, rows: list[Row]) -> None:
    """model.json and model.md."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = machine()
    content = {"machine": facts, "rows": [{**dataclasses.asdict(row), "met": row.met} for row in rows]}
    (folder / "model.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "model.md").write_text(markdown(rows, facts), encoding="utf-8")


def markdown(rows: list[Row], facts: dict[str, Any]) -> str:
    """The table with a line about the machine."""
    lines = ["| what | figure | target | met | details |", "|---|---|---|---|---|"]
    for row in rows:
        met = {None: "", True: "yes", False: "NO"}[row.met]
        lines.append(f"| {row.name} | {row.value:.3g} {row.unit} | {row.target} | {met} | {row.details} |")
    about = ", ".join(f"{key} {value}" for key, value in facts.items())
    return "\n".join(lines) + f"\n\nMachine: {about}.\n"
