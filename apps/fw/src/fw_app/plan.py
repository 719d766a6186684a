"""`fw plan generate`: the peak memory of a generation and the GPUs that it fits on. Loads no transformer's weights."""

import json
from typing import TYPE_CHECKING, Any

from fw_app.options import PlanGenerateOptions

if TYPE_CHECKING:
    from fw_model.config import WorldConfig
    from fw_model.pipeline.settings import Sampling
    from fw_model.planning.generation import GenerationParts, GenerationPlan

CARDS_GIB = (24, 48, 80)
"""Memory of the GPUs that the plan is compared with."""


def generate(options: PlanGenerateOptions) -> None:
    """Plan and print, as a table or as JSON.

    Raises:
        ValueError: no such model, a shape that it cannot make, or processes that it cannot be divided over.
    """
    import torch

    from fw_model.planning.generation import GenerationChoice, plan_generation

    configs, parts, sampling = _model(options.model)
    choice = GenerationChoice(
        frames=sampling.num_frames if options.num_frames is None else options.num_frames,
        height=sampling.height if options.height is None else options.height,
        width=sampling.width if options.width is None else options.width,
        dtype=getattr(torch, options.dtype),
        weights=options.weights,
        offload=options.offload,
        processes=options.parallel,
        guided=(sampling.guidance_scale if options.guidance_scale is None else options.guidance_scale) != 1,
    )
    plan = plan_generation(configs, parts, choice)
    head = f"{options.model}: {choice.frames} frames of {choice.width}x{choice.height}, {options.dtype}"
    head += "".join(
        f", {text}"
        for text, given in (
            (f"weights in {options.weights}", options.weights is not None),
            (f"offload {options.offload}", options.offload != "none"),
            (f"{options.parallel} processes", options.parallel > 1),
            ("no guidance", not choice.guided),
        )
        if given
    )
    print(json.dumps(_as_json(plan, head), indent=1) if options.json else _table(plan, head))


def _model(name: str) -> "tuple[list[WorldConfig], GenerationParts, Sampling]":
    """Configurations, other parts and default sampling of a preset or a checkpoint."""
    from fw_model.checkpoints.checkpoint import read_config
    from fw_model.checkpoints.sources import local_folder
    from fw_model.config import PRESETS, wan22_fun_a14b
    from fw_model.pipeline.components import HIGH_NOISE, load_components
    from fw_model.pipeline.settings import Sampling
    from fw_model.planning.generation import parts_of, preset_parts

    if name in PRESETS:
        config = PRESETS[name]()
        pair = [config, wan22_fun_a14b("high_noise")] if name == wan22_fun_a14b.__name__ else [config]
        return pair, preset_parts(config), Sampling.for_text_dim(config.video.text_dim)
    folder = local_folder(name)
    configs = [read_config(folder)]
    if (folder / HIGH_NOISE).is_dir():
        configs.append(read_config(folder / HIGH_NOISE))
    components = load_components(folder)
    return configs, parts_of(components), components.sampling


def _total_gib(plan: "GenerationPlan") -> float:
    """Peak memory with what torch and CUDA need besides tensors."""
    from fw_model.planning.generation import PARTS
    from fw_train.plan.report import CONTEXT_GIB, FRAGMENTATION, WORKSPACES_GIB

    peak = max(plan.phases.values(), key=lambda labels: sum(labels.values()))
    moving = sum(size for label, size in peak.items() if label not in PARTS)
    return plan.bytes / 2**30 + CONTEXT_GIB + WORKSPACES_GIB + FRAGMENTATION * moving / 2**30


def _as_json(plan: "GenerationPlan", head: str) -> dict[str, Any]:
    total = _total_gib(plan)
    return {
        "plan": head,
        "phases_bytes": {phase: dict(labels) for phase, labels in plan.phases.items()},
        "tensors_bytes": plan.bytes,
        "total_gib": total,
        "fits": {f"{card} GiB": total <= card for card in CARDS_GIB},
    }


def _table(plan: "GenerationPlan", head: str) -> str:
    labels = list(dict.fromkeys(label for phase in plan.phases.values() for label, size in phase.items() if size))
    rows = [("peak GiB of one process", *plan.phases)]
    rows += [(label, *(f"{phase.get(label, 0) / 2**30:.2f}" for phase in plan.phases.values())) for label in labels]
    rows.append(("all", *(f"{sum(phase.values()) / 2**30:.2f}" for phase in plan.phases.values())))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [head, ""]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  " + "  ".join(cells))
    total = _total_gib(plan)
    lines += ["", f"with CUDA context, workspaces and fragmentation: {total:.1f} GiB"]
    lines += [f"  {'fits' if total <= card else 'does not fit'} on a card of {card} GiB" for card in CARDS_GIB]
    lines.append("All figures are estimates: counted on the meta device, nothing was run.")
    return "\n".join(lines)
