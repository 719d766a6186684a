"""Print a plan and its time as tables or JSON, for `fw-train plan`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from fw_train.config.keys import readers
from fw_train.config.recipes.machines import Machine, machine
from fw_train.config.schema import TrainConfig
from fw_train.plan.options import PlanOptions
from fw_train.plan.plan import Plan, as_json, make_plan
from fw_train.plan.remaining import Remaining, count_remaining

CONTEXT_GIB = 0.6
"""CUDA context with the kernels of torch; measured values are 0.4 to 0.6 GiB."""
WORKSPACES_GIB = 0.3
"""Workspaces of cuBLAS and cuDNN."""
FRAGMENTATION = 0.05
"""Share of gradients, batch and activations that the allocator holds without using it."""


@dataclass(frozen=True, kw_only=True)
class Time:
    """Estimated time of a run."""

    step_s: float
    """Seconds of one optimizer step."""
    run_h: float
    """Hours of the remaining steps."""
    encode_h: float
    """Hours of encoding missing windows and captions."""
    gpu_h: float
    """Hours times the number of GPUs."""
    basis: str
    """Basis of the estimate."""


def show(run: TrainConfig, options: PlanOptions) -> None:
    """Plan and print, as tables or as JSON.

    Raises:
        ConfigError: the run or the machine is invalid.
    """
    chosen = options.machine(machine(run.recipe, run.stage))
    device = run.compute.device
    plan = make_plan(run, gpus=chosen.gpus, device="cpu" if device == "cpu" else "cuda")
    left = count_remaining(run, plan.encoders)
    time = run_time(plan, chosen, mfu=options.mfu, samples_per_s=options.samples_per_s, remaining=left)
    if options.json:
        print(json.dumps(report_json(plan, chosen, time, left), indent=1))
    else:
        Console(highlight=False).print(report(plan, chosen, time, left))


def run_time(
    plan: Plan, machine: Machine, *, mfu: float, samples_per_s: float | None, remaining: Remaining | None = None
) -> Time:
    """Estimate the time of the remaining steps at a share of the machine's peak, or at a measured rate."""
    if samples_per_s is None:
        step = plan.model_flops / (plan.gpus * machine.peak_tflops * 1e12 * mfu)
        basis = f"{mfu:.0%} of {machine.peak_tflops:g} TFLOP/s, assumed"
    else:
        step, basis = plan.config.batch / samples_per_s, f"{samples_per_s:g} samples/s, as given"
    left = remaining or Remaining(steps=plan.config.steps, lines=[])
    hours = step * left.steps / 3600
    encode_h = left.flops / (plan.gpus * machine.peak_tflops * 1e12 * mfu) / 3600
    return Time(step_s=step, run_h=hours, gpu_h=(hours + encode_h) * plan.gpus, encode_h=encode_h, basis=basis)


def fits(plan: Plan, machine: Machine) -> bool:
    """Whether the peak memory of a step, with overhead, fits on one GPU."""
    return total_gib(plan) <= machine.memory_gib


def overhead_gib(plan: Plan) -> dict[str, float]:
    """Memory besides tensors: context, workspaces and fragmentation of the allocator."""
    moving = sum(plan.memory.get(label, 0) for label in ("gradients", "batch", "activations", "gathered"))
    return {"CUDA context": CONTEXT_GIB, "workspaces": WORKSPACES_GIB, "fragmentation": FRAGMENTATION * moving / 2**30}


def total_gib(plan: Plan) -> float:
    """Peak memory of one GPU: tensors and overhead."""
    return plan.bytes / 2**30 + sum(overhead_gib(plan).values())


def report_json(plan: Plan, machine: Machine, time: Time, left: Remaining) -> dict[str, Any]:
    """Everything the tables show, as JSON values."""
    overhead = overhead_gib(plan)
    return {
        **as_json(plan),
        "memory_gib": {"tensors": plan.bytes / 2**30, **overhead, "total": total_gib(plan), "gpu": machine.memory_gib},
        "fits": fits(plan, machine),
        "machine": {"gpu": machine.gpu, "gpus": plan.gpus, "peak_tflops": machine.peak_tflops},
        "remaining": left.to_json(),
        "time": {
            "encode_h": time.encode_h,
            "step_s": time.step_s,
            "run_h": time.run_h,
            "gpu_h": time.gpu_h,
            "basis": time.basis,
        },
    }


def report(plan: Plan, machine: Machine, time: Time, left: Remaining) -> Group:
    """The plan as tables for the terminal."""
    run = plan.config
    compute = run.compute
    head = (
        f"{run.stage} of {run.model}, {plan.shape} ({plan.tokens:,} tokens), "
        f"batch {run.batch} = {plan.gpus} GPU x {run.accumulate} x {plan.micro_batch}, {compute.precision}, frozen "
        f"weights {compute.frozen_dtype}, activation checkpointing {compute.activation_checkpointing}"
    )
    verdict = f"{total_gib(plan):.1f} GiB of {machine.memory_gib:g} GiB ({machine.gpu}): " + (
        "fits" if fits(plan, machine) else f"DOES NOT FIT; use {_less(plan)}fewer frames, a smaller size or more GPUs"
    )
    done = f" of {run.steps:,}" if left.steps < run.steps else ""
    took = f"{_seconds(time.step_s)} per step, {time.run_h:,.1f} h for {left.steps:,}{done} steps, "
    took += f"{time.gpu_h:,.1f} GPU-hours"
    return Group(
        Text(head),
        _parameters(plan),
        _work(plan),
        _memory(plan),
        *([_encoders(plan)] if plan.encoders else []),
        *(Text(line) for line in _data_lines(plan, time, left)),
        Text(f"memory: {verdict}"),
        *([Text(f"host memory: {plan.host_memory / 2**30:.1f} GiB offloaded")] if plan.host_memory else []),
        Text(f"time: {took} ({time.basis})"),
        Text("All figures are estimates: counted on the meta device, nothing was run."),
    )


def _less(plan: Plan) -> str:
    """The keys that would save memory of a GPU and that the run does not use, for a sentence."""
    run, compute = plan.config, plan.config.compute
    recomputes = compute.activation_checkpointing != "none"
    unused = {
        "activation_checkpointing": not recomputes,
        "offload_activations": recomputes and not compute.offload_activations,
        "offload_optimizer": compute.shard == "none" and not compute.offload_optimizer,
        "offload_blocks": compute.shard == "none"
        and not compute.offload_blocks
        and run.stage in readers("compute.offload_blocks")
        and not run.unfreeze_video,
    }
    return "".join(f"compute.{key}, " for key, helps in unused.items() if helps)


def _data_lines(plan: Plan, time: Time, left: Remaining) -> list[str]:
    lines = list(left.lines)
    if left.windows or left.captions:
        cost = f", {time.encode_h:,.1f} h" if left.flops else ""
        lines.append(f"to encode: {left.windows:,} windows, {left.captions:,} captions{cost}")
    if plan.encoders and not plan.config.clip.encode_first:
        lines.append("encoding while training needs memory that is not counted here; set clip.encode_first")
    return lines


def _parameters(plan: Plan) -> Table:
    rows = [(row.part, f"{row.trained:,}", f"{row.frozen:,}") for row in plan.parameters]
    sums = (sum(row.trained for row in plan.parameters), sum(row.frozen for row in plan.parameters))
    return _table("parameters", ("trained", "frozen"), [*rows, ("all", *(f"{value:,}" for value in sums))])


def _work(plan: Plan) -> Table:
    rows = [(w.part, *(_tera(v) for v in (w.forward, w.recompute, w.backward, w.total))) for w in plan.work]
    columns = [sum(getattr(w, name) for w in plan.work) for name in ("forward", "recompute", "backward", "total")]
    rows.append(("all", *(_tera(value) for value in columns)))
    return _table("TFLOP per optimizer step, all GPUs", ("forward", "recompute", "backward", "all"), rows)


def _memory(plan: Plan) -> Table:
    rows = [(label, f"{size / 2**30:.2f}") for label, size in plan.memory.items() if size]
    rows += [(label, f"{size:.2f}") for label, size in overhead_gib(plan).items()]
    rows.append(("all", f"{total_gib(plan):.2f}"))
    return _table("peak GiB per GPU", ("estimated",), rows)


def _encoders(plan: Plan) -> Table:
    rows = [(row.name, _tera(row.flops), f"{row.parameters:,}") for row in plan.encoders]
    return _table("frozen encoders, run once per window and caption", ("TFLOP per window", "parameters"), rows)


def _table(title: str, columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table("", title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, justify="right")
    for number, row in enumerate(rows):
        table.add_row(*row, end_section=number == len(rows) - 2)
    return table


def _tera(flops: int) -> str:
    value = flops / 1e12
    return f"{value:,.1f}" if value >= 100 else f"{value:.3g}"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"
