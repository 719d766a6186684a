"""`fw demo`: every step once at a small size: worlds, toy videos, annotation, training, one HTML report.

The demo trains for a few steps only, so its worlds are generated with the included weights. An installation without
them uses the weights trained in the demo.

Every step is a command as a user would type it. It is printed, then run in its own process. Finished steps are skipped
when the demo runs again in the same folder.
"""

import json
import resource
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fw_app.demo_data import held_out_clip
from fw_app.options import DemoOptions
from fw_core.files import write_text
from fw_model.checkpoints.shipped import EXAMPLE, shipped_weights


@dataclass(frozen=True, kw_only=True)
class DemoStep:
    """One command of the demo."""

    name: str
    """Description of the step."""
    command: tuple[str, ...]
    """Command line."""
    seconds: float = 0.0
    """Wall time in seconds."""
    peak_memory_mb: float = 0.0
    """Peak resident memory of the largest process of the demo up to the end of this step."""


EXAMPLE_PATHS = {"room-1": "orbit", "room-3": "truck", "room-2": "dolly"}
"""Example images that the demo continues with the included weights, and the camera path of each."""


def plan(options: DemoOptions) -> list[DemoStep]:
    """The commands of the demo in order: worlds first if the weights are included, else with those it has trained."""
    out = options.out
    runs = out / "runs"
    seed = ("--seed", str(options.seed))
    worlds = [
        DemoStep(
            name=f"Generate a world from an image: {path}",
            command=(
                *("fw", "generate", EXAMPLE + name, "--trajectory", path),
                *("--out", str(out / "worlds" / name), *seed),
            ),
        )
        for name, path in EXAMPLE_PATHS.items()
    ]
    own = DemoStep(
        name="Generate a world",
        command=(
            *("fw", "generate", str(out / "first_frame.png"), "--trajectory", "orbit"),
            *("--checkpoint", str(runs / "stage2" / "export"), "--out", str(out / "worlds" / "own"), *seed),
        ),
    )
    included = has_shipped_weights()
    return [
        *(worlds if included else ()),
        DemoStep(
            name="Render toy videos with exact ground truth",
            command=(
                *("fw-data", "toy", str(out / "toy"), "--clips", str(options.clips)),
                *("--frames", "17", "--size", "240x160", *seed),
            ),
        ),
        DemoStep(
            name="Annotate the raw videos: cameras, depth, confidence",
            command=("fw-data", "annotate", str(out / "toy" / "raw"), str(out / "dataset")),
        ),
        DemoStep(name="Check the dataset", command=("fw-data", "validate", str(out / "dataset"))),
        DemoStep(
            name="Draw contact sheets",
            command=("fw-data", "inspect", str(out / "dataset"), "--out", str(out / "inspect")),
        ),
        DemoStep(
            name="Train the small video prior",
            command=(
                *("fw-train", "base", "tiny", "--data", str(out / "dataset"), "--out", str(runs / "base")),
                *("--steps", str(options.base_steps), *seed),
            ),
        ),
        DemoStep(
            name="Stage 1: the geometry branch",
            command=(
                *("fw-train", "stage1", "tiny", "--data", str(out / "dataset"), "--out", str(runs / "stage1")),
                *("--init", str(runs / "base" / "export"), "--steps", str(options.stage1_steps), *seed),
            ),
        ),
        DemoStep(
            name="Stage 2: cross-branch attention and camera control",
            command=(
                *("fw-train", "stage2", "tiny", "--data", str(out / "dataset"), "--out", str(runs / "stage2")),
                *("--init", str(runs / "stage1" / "export"), "--steps", str(options.stage2_steps), *seed),
            ),
        ),
        *(() if included else (own,)),
    ]


def has_shipped_weights() -> bool:
    """Whether the weights are installed."""
    try:
        shipped_weights()
    except ValueError:
        return False
    return True


def run(options: DemoOptions) -> int:
    """Run the unfinished steps, then write OUT/demo.json and OUT/report.html. Returns the exit code."""
    options.out.mkdir(parents=True, exist_ok=True)
    record = options.out / "demo.json"
    steps = plan(options)
    done = already_done(record, steps)
    for number, step in enumerate(steps, start=1):
        print(f"\n[{number}/{len(steps)}] {step.name}\n$ {shlex.join(step.command)}", flush=True)
        if number <= len(done):
            print("    already done", flush=True)
            continue
        _prepare(step, options)
        begun = time.monotonic()
        code = subprocess.run(_as_process(step.command), check=False).returncode
        if code != 0:
            print(f"the demo stopped: step {number} failed with exit code {code}", file=sys.stderr)
            return 1
        seconds = time.monotonic() - begun
        memory_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        done.append(replace(step, seconds=seconds, peak_memory_mb=memory_mb))
        write_text(record, json.dumps({"steps": [asdict(finished) for finished in done]}, indent=2) + "\n")
        print(f"    {seconds:.0f} s", flush=True)

    from fw_app.report import write_demo_report

    report = write_demo_report(options.out)
    minutes = sum(step.seconds for step in done) / 60
    print(f"\nDone: {minutes:.1f} minutes of commands. Open {report}")
    return 0


def already_done(record: Path, steps: list[DemoStep]) -> list[DemoStep]:
    """The finished steps of an earlier demo, up to the first whose command differs from that of `steps`."""
    if not record.is_file():
        return []
    finished = [
        DemoStep(**{**row, "command": tuple(row["command"])}) for row in json.loads(record.read_text())["steps"]
    ]
    same = 0
    while same < min(len(finished), len(steps)) and finished[same].command == steps[same].command:
        same += 1
    return finished[:same]


def _prepare(step: DemoStep, options: DemoOptions) -> None:
    """Prepare a step: training needs an empty folder, generation an image."""
    if step.command[0] == "fw-train":
        folder = Path(step.command[step.command.index("--out") + 1])
        if folder.exists():
            shutil.rmtree(folder)
    if str(options.out / "first_frame.png") in step.command:
        _save_first_frame(options)


def _as_process(command: tuple[str, ...]) -> list[str]:
    """The command as a module of this interpreter, so that it works without the scripts on the PATH."""
    module = {"fw": "fw_app.cli", "fw-data": "fw_data.cli", "fw-train": "fw_train.cli"}[command[0]]
    return [sys.executable, "-m", module, *command[1:]]


def _save_first_frame(options: DemoOptions) -> None:
    """Save the input image: the first frame of a held-out clip."""
    from PIL import Image

    Image.fromarray(held_out_clip(options.out).video[0]).save(options.out / "first_frame.png")
