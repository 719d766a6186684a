"""The model's bench: `python -m benchmarks.model` measures against diffusers, side by side in one run, and writes
model.json and model.md into an output folder. Exits 1 if a target is missed.

Ratios are of processor time, medians of alternating pairs, so that other programs on the machine disturb them least.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from benchmarks import model_backbone, model_sampling, model_vae
from benchmarks.model_table import Row, machine, markdown, write
from fw_model.export import PointCloud, write_ply

PARTS = ("backbone", "guided-step", "vae", "sampling", "library")


def library() -> Iterable[Row]:
    """What a user waits for besides the model: the import, and a point cloud on disk."""
    program = "import time; s = time.perf_counter(); import fw_model; fw_model.WorldPipeline; "
    program += "print(time.perf_counter() - s)"
    bare = program.replace("fw_model.WorldPipeline; ", "")
    seconds = [float(_python(text)) for text in (bare, program)]
    cloud = PointCloud(
        points=np.random.default_rng(0).normal(size=(1_000_000, 3)).astype(np.float32),
        colors=np.zeros((1_000_000, 3), dtype=np.uint8),
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_ply(Path(folder) / "a.ply", cloud)
        ply = time.perf_counter() - start
    return [
        Row(name="import fw_model", value=seconds[0], unit="s", target="<= 2.5"),
        Row(name="import fw_model and its pipeline (torch, diffusers' parts)", value=seconds[1], unit="s"),
        Row(name="PLY of 1,000,000 colored points", value=ply, unit="s", target="<= 1.0"),
    ]


def _python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench"), help="folder for model.json and model.md")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--blocks", type=int, default=30, help="blocks of the 1.3B backbone, 4 or more (30 is all)")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side")
    parser.add_argument("--checkpoint", type=Path, help="a trained pipeline folder: measures step reuse with it too")
    options = parser.parse_args(arguments)
    measures: dict[str, Callable[[], Iterable[Row]]] = {
        "backbone": lambda: model_backbone.measure(options.blocks, options.pairs),
        "guided-step": lambda: [model_backbone.guided_step(options.blocks, options.pairs)],
        "vae": lambda: model_vae.measure(options.pairs),
        "sampling": lambda: model_sampling.measure(options.pairs),
        "library": library,
        "step-reuse": lambda: model_sampling.step_reuse(options.checkpoint, options.pairs),
    }
    torch.manual_seed(0)
    rows: list[Row] = []
    for part in (*options.parts, "step-reuse") if options.checkpoint else options.parts:
        for row in measures[part]():
            rows.append(row)
            print(markdown([row], machine()).splitlines()[2], flush=True)
            write(options.out, rows)
    missed = [row.name for row in rows if row.met is False]
    print(f"{len(rows)} rows in {options.out / 'model.md'}; missed: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
