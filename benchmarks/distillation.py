"""The distillation bench: `python -m benchmarks.distillation RUN` compares a distilled model with its teacher.

Both generate the same held-out rooms from the same noise: the teacher in 30 steps and in as few as the student, the
student in its own. Every world is compared with the truth, and with the 30 steps of the teacher. Writes
distillation.json and distillation.md, and distillation.jpg with the last frames of the first rooms.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fw_core.images import psnr
from fw_core.tables import markdown
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.result import World
from fw_model.pipeline.settings import GenerationSettings
from fw_train.evidence.clips import choose
from fw_train.metrics.measure import measure
from fw_train.metrics.progress import progress
from fw_train.metrics.truth import TruthClip

MANY = 30
SHOWN = 6
COLUMNS = {
    "truth": "PSNR, dB",
    "last": "frames 13-16",
    "progress": "progress",
    "abs_rel": "AbsRel",
    "rotation": "own head: rotation, deg",
    "same": "PSNR to the 30 steps, dB",
    "detail": "detail, of the 30 steps",
}
"""Figure of a world -> heading."""


def generate(pipeline: WorldPipeline, truth: TruthClip, seed: int, steps: int | None) -> World:
    """The world of a room in a number of steps; None: the model's own."""
    settings = GenerationSettings(num_inference_steps=steps, guidance_scale=1.0, seed=seed)
    *_, last = pipeline.generate(truth.video[0], truth.record.caption, truth.trajectory, settings)
    assert last.world is not None, "generation ends with a world"
    return last.world


def detail(video: np.ndarray) -> float:
    """Mean absolute difference of neighboring pixels of the frames after the first."""
    later = video[1:].astype(np.float64)
    return float(np.abs(np.diff(later, axis=1)).mean() + np.abs(np.diff(later, axis=2)).mean())


def figures(world: World, reference: World, truth: TruthClip) -> dict[str, float | None]:
    """The figures of one world; None where a path has no motion."""
    scores = measure(world, truth).scores
    per_frame = psnr(world.video, truth.video)
    return {
        "truth": float(per_frame[1:].mean()),
        "last": float(per_frame[-4:].mean()),
        "progress": progress(world.video, truth.video[0], truth.depth[0], truth.trajectory),
        "abs_rel": scores["depth/abs_rel"],
        "rotation": scores["follow/rotation"],
        "same": float(psnr(world.video, reference.video)[1:].mean()),
        "detail": detail(world.video) / detail(reference.video),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Generate, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="export of `fw-train distill`")
    parser.add_argument("--teacher", default="small-world", help="the model it started from")
    parser.add_argument("--clips", type=int, default=16, help="held-out rooms")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    options = parser.parse_args(arguments)
    teacher, student = (WorldPipeline.from_pretrained(str(one)) for one in (options.teacher, options.run))
    few = student.sampling.num_inference_steps
    sides = {
        f"{MANY} steps": (teacher, MANY),
        f"{few} steps": (teacher, few),
        f"distilled, {few} steps": (student, None),
    }
    size = student.sampling
    shape = (size.num_frames, size.height, size.width)
    clips = choose("rooms", shape, count=options.clips, takes=1, min_confidence=0.3)
    found: dict[str, list[Mapping[str, float | None]]] = {name: [] for name in sides}
    rows = []
    for number, record in enumerate(clips.records):
        truth = clips.truth(record.id)
        worlds = {name: generate(model, truth, number, steps) for name, (model, steps) in sides.items()}
        reference = worlds[f"{MANY} steps"]
        for name, world in worlds.items():
            found[name].append(figures(world, reference, truth))
        if number < SHOWN:
            rows.append(
                np.concatenate([truth.video[0], *(w.video[-1] for w in worlds.values()), truth.video[-1]], axis=1)
            )
        print(f"[{number + 1}/{len(clips.records)}] {record.id}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "distillation.json").write_text(json.dumps(found, indent=1) + "\n")
    Image.fromarray(np.concatenate(rows)).save(options.out / "distillation.jpg", quality=92)
    cells = [[name, *(_mean(values, column) for column in COLUMNS)] for name, values in found.items()]
    table = markdown(["", *COLUMNS.values()], cells, align="l" + "r" * len(COLUMNS))
    (options.out / "distillation.md").write_text(table + "\n")
    print(table)


def _mean(values: Sequence[Mapping[str, float | None]], column: str) -> str:
    numbers = [value for one in values if (value := one[column]) is not None and np.isfinite(value)]
    return f"{statistics.mean(numbers):.4g}"


if __name__ == "__main__":
    main()
