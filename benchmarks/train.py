"""The training bench: `python -m benchmarks.train` holds `fw-train plan` against real steps, and stage 1 against the
plain way of doing it. Writes train.json and train.md into an output folder; exits 1 if a target is missed.

Times are processor time, medians; memory is what a process of its own grew by. On a machine whose processor has no
bfloat16 products a step of the 1.3B preset takes minutes at 5 frames of 32x48.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from benchmarks.model_table import Row, machine, markdown, paired
from benchmarks.train_step import build, stepper
from fw_model.config import WorldConfig, preset
from fw_model.planning.meter import Operation
from fw_train.config.load import from_mapping, load
from fw_train.config.schema import Stage, TrainConfig
from fw_train.engine.distributed import half_precision
from fw_train.plan.plan import Plan, make_plan
from fw_train.tasks.train import keep_freed_memory

EXACT_HEAP = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
"""glibc gives freed tensors back at once, for measuring memory; a run keeps them, and is faster."""
STAGES: tuple[Stage, ...] = ("stage1", "stage2")
_CHAIN = 100
SMALL = {"frames": 5, "height": 32, "width": 48}


def against_plan(name: str, config: TrainConfig, steps: int, *, update: bool = True) -> Iterator[Row]:
    """Time and memory of real steps over what the plan says."""
    plan = make_plan(config, device="cpu", optimizer=update)
    expected, untimed = predicted_s(plan)
    times = measure(config, "ours", steps, update=update)["times"]
    cpu = statistics.median(seconds for seconds, _ in times[1:] or times)
    note = f"{steps} steps, the first left out" if steps > 1 else "1 step"
    note += "" if update else ", up to the gradients: the optimizer has no room here"
    timed = note + (f"; {untimed} calls could not be timed alone" if untimed else "")
    yield _within(f"{name}: time of a step, measured over planned", cpu, expected, "s of processor time", timed)
    gib = measure(config, "ours", 1, update=update, exact_heap=True)["memory"] / 2**30
    yield _within(f"{name}: memory of a step, measured over planned", gib, plan.bytes / 2**30, "GiB", note)


def predicted_s(plan: Plan) -> tuple[float, int]:
    """Processor time of a step: every distinct operation that the plan lists, timed alone, times its count.

    Also how many calls could not be timed: torch types some results otherwise on the meta device than on the CPU (the
    statistics of a group norm in mixed precision), and the CPU refuses such arguments.
    """
    total, untimed = 0.0, 0
    for operation in plan.operations:
        try:
            total += operation.count * seconds_alone(operation)
        except RuntimeError:
            untimed += operation.count
    return total + sum(operation.count for operation in plan.operations) * call_overhead_s(), untimed


def seconds_alone(operation: Operation) -> float:
    """Processor time of one call on random numbers. RuntimeError where the CPU does not take these types."""
    arguments, options = tree_map(_real, (operation.arguments, operation.options))
    with torch.no_grad():
        return _seconds(lambda: operation.function(*arguments, **options))


def call_overhead_s() -> float:
    """What an operation costs in a training step beside its own work: Python and the graph of gradients."""
    x = torch.ones(8, requires_grad=True)

    def chain() -> None:
        y = x
        for _ in range(_CHAIN):
            y = y * x
        y.backward(x)

    small = x.detach()
    calls = 4 * _CHAIN  # forward; in the backward pass two products and one sum
    return max(0.0, _seconds(chain) / calls - _seconds(lambda: small * small))


def measure(
    config: TrainConfig, way: str, steps: int, *, update: bool = True, exact_heap: bool = False
) -> dict[str, Any]:
    """Steps in a process of their own: times and the memory it grew by (an exact heap shows memory, and is slow)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config.to_json()), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.train_step", str(path), "--way", way, "--steps", str(steps)]
        command += [] if update else ["--without-update"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        environment |= EXACT_HEAP if exact_heap else {}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def saving(name: str, config: TrainConfig, pairs: int) -> Iterator[Row]:
    """Stage 1 against the plain way: same weights, batch and machine, alternating pairs.

    Video blocks as cheap as those of `tiny` leave little to save, so its rows have no target.
    """
    world = build(config, "plain")
    ours, plain = stepper(world, config, "ours"), stepper(world, config, "plain")
    for step in (ours, plain):
        step()
    times = paired(ours, plain, pairs=pairs)
    yield Row(
        name=f"{name}: step time, plain over ours",
        value=times[1].cpu_s / times[0].cpu_s,
        unit="x",
        target="" if "tiny" in name else ">= 2.5",
        details=f"ours {times[0].cpu_s:.3g} s, plain {times[1].cpu_s:.3g} s of processor time, {pairs} pairs",
    )
    del world, ours, plain
    memory = [measure(config, way, 1, exact_heap=True)["memory"] / 2**30 for way in ("ours", "plain")]
    yield Row(
        name=f"{name}: peak memory, ours over plain",
        value=memory[0] / memory[1],
        unit="of 1",
        target="" if "tiny" in name else "<= 0.6",
        details=f"ours {memory[0]:.3g} GiB, plain {memory[1]:.3g} GiB, processes of their own",
    )


SMALL_WORLD_TARGETS = {"base": (1.6, 1.2), "stage2": (2.2, 1.5)}
"""Least speed-up of a step, with bf16 products of the CPU and without."""


def small_world(stage: Stage, pairs: int) -> Iterator[Row]:
    """A step of the small-world recipe against the general one: fp32, SDPA, the full control adapter, all frames dense.

    Both sides have the same preset and batch, and take turns; one thread.
    """
    ours = from_mapping({"compute": {"device": "cpu"}, "batch": 4}, load("small-world", stage))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "general.json"
        model = preset("small_world")
        video = dataclasses.replace(model.video, control_pooled=False)
        path.write_text(dataclasses.replace(model, video=video).to_json(), encoding="utf-8")
        changes = {"model": str(path), "loss": {"dense_frames": 0}, "compute": {"precision": "fp32"}}
        general = from_mapping(changes, ours)
        sides = build(ours, "ours"), build(general, "ours")
    sides[1].set_attention_backend("sdpa")
    steps = stepper(sides[0], ours, "ours"), stepper(sides[1], general, "ours")
    for step in steps:
        step()
    times = paired(*steps, pairs=pairs)
    half = half_precision(ours.compute.precision, torch.device("cpu"))
    clips = ours.batch
    yield Row(
        name=f"small world {stage}: step time, general over ours",
        value=times[1].cpu_s / times[0].cpu_s,
        unit="x",
        target=f">= {SMALL_WORLD_TARGETS[stage][0 if half else 1]}",
        details=f"ours ({'bf16' if half else 'fp32'}) {1e3 * times[0].cpu_s / clips:.0f} ms, general "
        f"{1e3 * times[1].cpu_s / clips:.0f} ms of processor time a clip, {pairs} pairs",
    )


def cut(pcb: int, irg: int) -> WorldConfig:
    """The 1.3B preset with some of its 12 + 18 blocks, taps in proportion; geometry a quarter as wide."""
    config = preset("wan21_fun_1_3b")
    first, second, third, fourth = (round((tap + 1) * irg / 18) - 1 for tap in config.geometry.dpt_taps)
    geometry = dataclasses.replace(
        config.geometry,
        width=256,
        heads=4,
        camera_heads=4,
        dpt_features=64,
        dpt_channels=(64, 128, 256, 256),
        dpt_taps=(first, second, third, fourth),
    )
    video = dataclasses.replace(config.video, blocks=pcb + irg)
    camera = dataclasses.replace(config.camera, adapter_blocks=pcb) if config.camera else None
    return dataclasses.replace(config, name="cut", video=video, pcb_blocks=pcb, geometry=geometry, camera=camera)


def _within(name: str, measured: float, planned: float, unit: str, note: str) -> Row:
    off = abs(measured / planned - 1)
    details = f"measured {measured:.3g}, planned {planned:.3g} {unit} ({measured / planned:.2f}x); {note}"
    return Row(name=name, value=off, unit="off", target="<= 0.2", details=details)


def _real(value: Any) -> Any:
    """Random numbers for a tensor of the meta device; zeros for whole numbers, which may be places."""
    if isinstance(value, torch.device):
        return torch.device("cpu")
    if not isinstance(value, Tensor):
        return value
    size = value.untyped_storage().nbytes() // value.element_size()
    base = torch.randn(size).to(value.dtype) if value.is_floating_point() else torch.zeros(size, dtype=value.dtype)
    return base.as_strided(value.shape, value.stride())


def _seconds(run: Callable[[], object], budget_s: float = 0.02) -> float:
    """Median processor time of a call, after one that warms up."""
    run()
    seen: list[float] = []
    end = time.process_time() + budget_s
    while not seen or time.process_time() < end:
        start = time.process_time()
        run()
        seen.append(time.process_time() - start)
    return statistics.median(seen)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench"), help="folder for train.json and train.md")
    parser.add_argument("--plan", action="store_true", help="only the plan, tiny and 1.3B")
    parser.add_argument("--saving", action="store_true", help="only stage 1 against the plain way")
    parser.add_argument(
        "--small-world", action="store_true", help="only the small-world recipe against the general one"
    )
    parser.add_argument("--without-large", action="store_true", help="leave the 1.3B preset out (12 GiB of memory)")
    parser.add_argument("--pairs", type=int, default=3, help="steps of each side")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    rows: list[Row] = []
    for row in _rows(options):
        rows.append(row)
        facts = machine()
        print(markdown([row], facts).splitlines()[2], flush=True)
        options.out.mkdir(parents=True, exist_ok=True)
        table = [{**dataclasses.asdict(r), "met": r.met} for r in rows]
        content = json.dumps({"machine": facts, "rows": table}, indent=1)
        (options.out / "train.json").write_text(content + "\n", encoding="utf-8")
        (options.out / "train.md").write_text(markdown(rows, facts), encoding="utf-8")
    missed = [row.name for row in rows if row.met is False]
    print(f"{len(rows)} rows in {options.out / 'train.md'}; missed: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


def _rows(options: argparse.Namespace) -> Iterator[Row]:
    both = not (options.plan or options.saving or options.small_world)
    threads = torch.get_num_threads()
    cpu: dict[str, Any] = {"compute": {"device": "cpu"}}
    if options.small_world or both:
        torch.set_num_threads(1)
        yield from small_world("base", options.pairs)
        yield from small_world("stage2", options.pairs)
        torch.set_num_threads(threads)
    if options.plan or both:
        torch.set_num_threads(1)  # in small operations a second thread mostly waits, and waiting is processor time
        for stage in STAGES:
            yield from against_plan(f"tiny {stage}", from_mapping(cpu, load("tiny", stage)), options.pairs + 1)
        torch.set_num_threads(threads)
        for stage in STAGES if not options.without_large else ():
            small = {**cpu, "clip": SMALL, "batch": 1, "accumulate": 1}
            config = from_mapping(small, load("one-gpu-24gb", stage))
            yield from against_plan(f"1.3B {stage}, bf16, 5 x 32x48", config, 1, update=stage == "stage2")
    torch.set_num_threads(threads)
    if options.saving or both:
        for kind in ("none", "full"):
            changes = {"compute": {"device": "cpu", "activation_checkpointing": kind}}
            tiny = from_mapping(changes, load("tiny", "stage1"))
            yield from saving(f"tiny, checkpointing {kind}", tiny, options.pairs)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "cut.json"
                # two clips: with one, torch runs 3-D convolutions of the heads, which both sides have, in its slow way
                sizes = {"model": str(path), "batch": 2, "clip": {"frames": 9, "height": 96, "width": 160}}
                for pcb, irg in ((2, 3), (4, 6)):
                    path.write_text(cut(pcb, irg).to_json(), encoding="utf-8")
                    name = f"1.3B cut to {pcb} + {irg} blocks, {kind}"
                    yield from saving(name, from_mapping(sizes, tiny), options.pairs)


if __name__ == "__main__":
    sys.exit(main())
