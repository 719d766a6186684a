"""The scaling bench: `python -m benchmarks.scaling` compares two processes with one, beside the machine's limit.

Cases: a world of the included model, its tokens divided over the processes (`fw generate` under torchrun), and steps
of `fw-train stage2` with the gradients averaged. Each runs in one process, in two that share the work, and as two that
share nothing, which is the limit: cores share caches and memory. One thread a process. Writes scaling.json and
scaling.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.model_table import machine
from fw_core.tables import markdown
from fw_train.config.load import from_mapping, load

SIZE = {"frames": 17, "height": 96, "width": 144}
WORLD_STEPS, WORLDS = 8, 3
TRAIN_STEPS, ROW = 24, 4
CASES = {"world": f"one world, {WORLD_STEPS} steps, tokens divided", "train": "stage 2, batches of 8 divided"}


def generation_s(rank: int, size: int, folder: Path) -> float:
    """Median seconds of a world."""
    import torch
    from PIL import Image

    from fw_geometry import make_trajectory
    from fw_model.checkpoints.shipped import example_images
    from fw_model.parallel.group import WorldGroup, join
    from fw_model.pipeline.pipeline import WorldPipeline

    torch.set_num_threads(1)
    group = None
    if size > 1:
        join("cpu", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=size)
        group = WorldGroup(size)
    pipeline = WorldPipeline.from_pretrained("small-world", parallel=group)
    if group is not None and not group.is_leader:
        pipeline.follow()
        return 0.0
    example = example_images()[0]
    image, times = Image.open(example.path), []
    path = make_trajectory("orbit", SIZE["frames"], width=SIZE["width"], height=SIZE["height"])
    for _ in range(WORLDS + 1):
        begin = time.perf_counter()
        for _ in pipeline.generate(image, example.prompt, path, num_inference_steps=WORLD_STEPS, guidance_scale=1.0):
            pass
        times.append(time.perf_counter() - begin)
    if group is not None:
        group.close()
    return statistics.median(times[1:])


def training_s(rank: int, size: int, folder: Path, *, batch: int) -> float:
    """Median seconds of a step of the run."""
    import torch
    import torch.distributed as dist

    from fw_model.checkpoints.shipped import shipped_weights
    from fw_train.engine.run_log import read_log
    from fw_train.tasks.train import train

    torch.set_num_threads(1)
    if size > 1:
        os.environ["WORLD_SIZE"] = str(size)
        store = dist.FileStore(str(folder / "rendezvous"), size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    out = folder / ("run" if size > 1 else f"run-{rank}")
    tree = {
        "init": str(shipped_weights()),
        "out": str(out),
        "steps": TRAIN_STEPS,
        "batch": batch,
        "clip": {"pool": 16, "reuse": 1000, "validate_on": 1},
        "every": {"log": ROW, "sample": 0},
        "compute": {"device": "cpu", "threads": 1},
    }
    train(from_mapping(tree, load("small-world", "stage2")), quiet=True)
    rows = [row["samples_per_s"] for row in read_log(out) if "samples_per_s" in row]
    return batch / statistics.median(rows[len(rows) // 2 :])  # later rows: all windows of the pool are encoded


def child(case: str, rank: int, size: int, folder: Path, batch: int) -> float:
    """The figure of one process."""
    return generation_s(rank, size, folder) if case == "world" else training_s(rank, size, folder, batch=batch)


def together(case: str, processes: int, *, shared: bool, batch: int) -> list[float]:
    """Seconds that each of some processes measures at the same time.

    Args:
        case: see CASES.
        processes: how many.
        shared: whether they work on one world or step, or each on its own.
        batch: samples of a training step.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "benchmarks.scaling", "--child", case, "--folder", folder, "--batch", str(batch)]
        words += ["--processes", str(processes if shared else 1)]
        running = [
            subprocess.Popen([*words, "--rank", str(rank)], env=environment, text=True, stdout=subprocess.PIPE)
            for rank in range(processes)
        ]
        outputs = [process.communicate()[0] for process in running]
        if any(process.returncode for process in running):
            raise RuntimeError(f"{case}: a process failed")
    return [float(text.splitlines()[-1]) for text in outputs]


def measure(case: str) -> dict[str, float]:
    """Seconds of one process, of two that share, and of two that do not."""
    one = together(case, 1, shared=False, batch=8)[0]
    two = max(together(case, 2, shared=True, batch=8))
    apart = statistics.mean(together(case, 2, shared=False, batch=4))
    # apart: two worlds in the time, or two halves of the batch
    return {
        "one": one,
        "two": two,
        "apart": apart,
        "ratio": one / two,
        "limit": (2 if case == "world" else 1) * one / apart,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all cases, or, in a child process, one figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench"))
    parser.add_argument("--child", choices=list(CASES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    for name in ("rank", "processes", "batch"):
        parser.add_argument(f"--{name}", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(child(options.child, options.rank, options.processes, options.folder, options.batch))
        return
    found = {case: measure(case) for case in CASES}
    rows = [
        [CASES[case], f"{f['one']:.2f} s", f"{f['two']:.2f} s", f"{f['ratio']:.2f}x", f"{f['limit']:.2f}x"]
        for case, f in found.items()
    ]
    table = markdown(["work", "one process", "two processes", "speed-up", "limit"], rows, align="lrrrr")
    facts = machine()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "scaling.json").write_text(json.dumps({"machine": facts, "cases": found}, indent=1) + "\n")
    about = ", ".join(f"{key} {value}" for key, value in facts.items())
    (options.out / "scaling.md").write_text(f"{table}\n\nMachine: {about}.\n")
    print(table)


if __name__ == "__main__":
    main()
