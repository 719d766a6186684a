"""One training step on random weights and random data: what the training bench times, and what it measures alone.

`python -m benchmarks.train_step FILE --way WAY` runs a step of the configuration in a JSON file in a process of its
own and prints its processor time and memory as JSON. Ways: `ours` is the stage's own loss; `plain` is stage 1 in the
plain way (`benchmarks.train_plain`).
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from benchmarks.train_plain import choose_plain, plain_loss
from fw_model.layers.rope import PlaneRope, VideoRope
from fw_model.losses.targets import GeometryTargets
from fw_model.model.model import FantasyWorld
from fw_train.config.load import from_json
from fw_train.config.schema import TrainConfig
from fw_train.engine.distributed import half_precision
from fw_train.engine.optim import AdamW
from fw_train.lora import add_adapters
from fw_train.model_bundle import world_config
from fw_train.plan.plan import meta_batch
from fw_train.tasks.stages import LOSSES, Batch, choose_parameters, idle_parts
from fw_train.tasks.train import keep_freed_memory
from fw_train.tasks.world_task import halve_frozen

Way = Literal["ours", "plain"]
_POOL = 1 << 20


def build(config: TrainConfig, way: Way) -> FantasyWorld:
    """The network of a run with cheap random weights, in the types it trains with; idle parts stay on meta."""
    with torch.device("meta"):
        world = FantasyWorld(world_config(config.model))
    add_adapters(world, config.lora, seed=0)
    choose(world, config, way)
    if config.compute.frozen_dtype == "bf16":
        halve_frozen(world)
    idle = idle_parts(world, config.stage) if way == "ours" else []
    skipped = {id(p) for part in idle for p in part.parameters()}
    pool = torch.randn(_POOL, generator=torch.Generator().manual_seed(0))
    for place, (name, parameter) in enumerate(list(world.named_parameters())):
        if id(parameter) in skipped:
            continue
        size = parameter.numel()
        value = torch.empty(size, dtype=parameter.dtype)
        shifted = pool.roll(7919 * place) * (parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.02)
        for first in range(0, size, _POOL):
            value[first : first + _POOL] = shifted[: min(_POOL, size - first)]
        if "norm" in name and name.endswith("weight"):
            value += 1
        owner, _, leaf = name.rpartition(".")
        kept = torch.nn.Parameter(value.view(parameter.shape), requires_grad=parameter.requires_grad)
        world.get_submodule(owner)._parameters[leaf] = kept
    for module in world.modules():
        if isinstance(module, VideoRope | PlaneRope):
            module.to_empty(device="cpu")  # writes its tables
    return world.train()


def choose(world: FantasyWorld, config: TrainConfig, way: Way) -> None:
    """Freeze what a way does not train, and set its checkpointing."""
    choose_parameters(world, config.stage, unfreeze=config.unfrozen)
    world.set_checkpointing(config.compute.activation_checkpointing)
    if way == "plain":
        choose_plain(world)


def random_batch(world: FantasyWorld, config: TrainConfig, size: int) -> Batch:
    """Samples of the right shapes; depth 1 to 2, everything valid."""
    g = torch.Generator().manual_seed(1)
    shapes = meta_batch(world.config, config, size)
    frames, dense = config.clip.frames, config.loss.dense_frames

    def like(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=g)

    targets = None
    if shapes.targets is not None:
        targets = GeometryTargets(
            depth=1 + torch.rand(shapes.targets.depth.shape, generator=g),
            points=like(shapes.targets.points),
            pose_encoding=like(shapes.targets.pose_encoding),
            mask=torch.ones(shapes.targets.mask.shape, dtype=torch.bool),
            weight=torch.ones(shapes.targets.depth.shape),
        )

    return Batch(
        clean=like(shapes.clean),
        noise=like(shapes.noise),
        sigma=torch.linspace(0.2, 0.8, size),
        weight=torch.ones(size),
        context=like(shapes.context),
        y=None if shapes.y is None else like(shapes.y),
        clip_feature=None if shapes.clip_feature is None else like(shapes.clip_feature),
        plucker=None if shapes.plucker is None else replace(shapes.plucker, rays=like(shapes.plucker.rays)),
        control=None if shapes.control is None else like(shapes.control),
        targets=targets,
        dense_frames=tuple(range(0, frames, -(-frames // dense)))[:dense] if dense else None,
    )


def stepper(world: FantasyWorld, config: TrainConfig, way: Way, *, update: bool = True) -> Callable[[], None]:
    """A function that does one whole step: micro-batches of one batch, clipping, AdamW."""
    batch = random_batch(world, config, config.batch // config.accumulate)
    choose(world, config, way)
    trained = {name: p for name, p in world.named_parameters() if p.requires_grad}
    adam = AdamW(trained, config.optim) if update else None

    def step() -> None:
        choose(world, config, way)
        half = half_precision(config.compute.precision, torch.device("cpu"))
        for parameter in world.parameters():
            parameter.grad = None
        for _ in range(config.accumulate):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                if way == "plain":
                    loss = plain_loss(world, batch, config.loss)
                else:
                    loss = LOSSES[config.stage](world, batch, config.loss)["loss"]
            (loss / config.accumulate).backward()
        if adam:
            torch.nn.utils.clip_grad_norm_(list(trained.values()), config.optim.clip_norm)
            adam.step(config.optim.lr)

    return step


def main(arguments: list[str] | None = None) -> None:
    """One process: build, step, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="JSON file of a TrainConfig")
    parser.add_argument("--way", choices=("ours", "plain"), default="ours")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--without-update", action="store_true", help="stop at the gradients")
    options = parser.parse_args(arguments)
    config = from_json(json.loads(options.config.read_text()))
    dtype = torch.bfloat16 if config.compute.precision == "bf16" else torch.float32
    warm = torch.ones(64, 64, dtype=dtype, requires_grad=True)
    (torch.nn.functional.conv2d(warm[None, None], warm[None, None, :3, :3]).sum() + (warm @ warm).sum()).backward()
    keep_freed_memory()
    before = _memory("VmRSS")
    world = build(config, options.way)
    step = stepper(world, config, options.way, update=not options.without_update)
    times = []
    for _ in range(options.steps):
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    print(json.dumps({"times": times, "memory": _memory("VmHWM") - before, "before": before}))


def _memory(line: Literal["VmRSS", "VmHWM"]) -> int:
    """Bytes of this process, now or at most. (`getrusage` would count the process that started this one along.)"""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(entry.split()[1] for entry in lines if entry.startswith(line)))


if __name__ == "__main__":
    main()
