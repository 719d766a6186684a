"""What a run will take, before it takes it: parameters, FLOPs per step, memory of each GPU, time.

The step that is planned is the step that runs: the model is built on the meta device, where tensors have no values, and
the stage's own loss, its backward pass and the optimizer are executed there under a meter (`fw_train.plan.meter`).

Axes: b batch, c channels, f latent frames, y x latent rows and columns, F frames, H W pixels.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from fw_model.config import WorldConfig
from fw_model.losses.targets import GeometryTargets
from fw_model.model.model import FantasyWorld
from fw_train.config.check import check
from fw_train.config.schema import ConfigError, TrainConfig
from fw_train.engine.distributed import half_precision
from fw_train.engine.optim import AdamW, Average
from fw_train.lora import add_adapters
from fw_train.model_bundle import world_config
from fw_train.plan.encoders import EncoderWork, encoder_work
from fw_train.plan.meta_model import Stand
from fw_train.plan.meter import Operation, StepMeter
from fw_train.tasks.stages import LOSSES, Batch, choose_parameters, idle_parts, parameter_group
from fw_train.tasks.world_task import halve_frozen, shard_units

MEMORY = ("trained weights", "frozen weights", "gradients", "optimizer", "running average", "batch", "activations")
"""What memory is booked as."""
PARTS = (
    "camera control",
    "video blocks: PCB",
    "video blocks: IRG",
    "geometry layers",
    "cross-branch attention",
    "dense heads",
    "camera head",
    "bridge and tokens",
    "embeddings, video head",
)
"""Parts of the network in the order of the table; modules declare theirs (see FantasyWorld.part_of)."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Parameters of one part."""

    part: str
    """Which."""
    trained: int
    """That the stage trains."""
    frozen: int
    """That it does not."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """FLOPs of one part, in one optimizer step, over all GPUs."""

    part: str
    """Which."""
    forward: int
    """Of the forward pass."""
    recompute: int
    """Of running blocks again in the backward pass (activation checkpointing)."""
    backward: int
    """Of gradients with respect to inputs and weights."""

    @property
    def total(self) -> int:
        """All three."""
        return self.forward + self.recompute + self.backward


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `fw-train plan` tells."""

    config: TrainConfig
    """The run."""
    gpus: int
    """Processes, one on each GPU."""
    micro_batch: int
    """Samples that a GPU works on at a time."""
    tokens: int
    """Video tokens of a sample."""
    parameters: list[Parameters]
    """By part."""
    work: list[Work]
    """By part, largest first."""
    memory: dict[str, int]
    """Bytes on each GPU at the worst moment of a step, by what they are (MEMORY)."""
    encoders: list[EncoderWork]
    """What the frozen encoders add for every window that was not encoded before."""
    operations: list[Operation]
    """Distinct operations of one micro-batch and the update: what can be timed one by one."""

    @property
    def flops(self) -> int:
        """Of one optimizer step over all GPUs."""
        return sum(part.total for part in self.work)

    @property
    def model_flops(self) -> int:
        """The same without recomputation: what MFU counts."""
        return sum(part.forward + part.backward for part in self.work)

    @property
    def bytes(self) -> int:
        """Memory of one GPU at the worst moment of a step."""
        return sum(self.memory.values())


def make_plan(config: TrainConfig, *, gpus: int = 1, device: str = "cuda", optimizer: bool = True) -> Plan:
    """Plan a run; takes seconds and no memory to speak of, whatever the model.

    Args:
        config: the run; needs neither data nor init.
        gpus: processes, one on each GPU.
        device: "cuda" or "cpu": whose autocast rules hold.
        optimizer: False plans a step that stops at the gradients.

    Raises:
        ConfigError: a batch that cannot be cut for so many GPUs, or a model that does not exist.
    """
    check(config)
    parts = gpus * config.accumulate
    if gpus < 1 or config.batch % parts:
        raise ConfigError(
            f"batch = {config.batch} cannot be cut into {gpus} GPUs x accumulate = {config.accumulate} equal parts"
        )
    model, micro = world_config(config.model), config.batch // parts
    with on_meta():
        world = FantasyWorld(model)
    to_meta(world)
    add_adapters(world, config.lora, seed=config.seed)
    choose_parameters(world, config.stage, unfreeze_geometry=config.unfreeze_geometry)
    if config.compute.frozen_dtype == "bf16":
        halve_frozen(world)
    meter = run_step(config, world, micro, device=device, gpus=gpus, optimizer=optimizer)
    clip = config.clip
    return Plan(
        config=config,
        gpus=gpus,
        micro_batch=micro,
        tokens=(clip.frames // 4 + 1) * (clip.height // 16) * (clip.width // 16),
        parameters=count_parameters(world),
        work=_work(meter, parts),
        memory=_memory(meter, world, config, gpus),
        encoders=encoder_work(model, clip.frames, clip.height, clip.width),
        operations=meter.operations(),
    )


@contextmanager
def on_meta() -> Iterator[None]:
    """Build modules without memory."""
    with torch.device("meta"):
        yield


def to_meta(world: FantasyWorld) -> FantasyWorld:
    """Take the rotary tables, which are made on the host, to the meta device too."""
    for module in world.modules():
        module._buffers.update({name: value.to("meta") for name, value in module.named_buffers(recurse=False)})
    return world


def count_parameters(world: FantasyWorld) -> list[Parameters]:
    """By part of the network, in the order in which they are met."""
    trained: Counter[str] = Counter()
    frozen: Counter[str] = Counter()
    for name, parameter in world.named_parameters():
        part = "LoRA adapters" if parameter_group(world, name) == "adapters" else world.part_of(name) or "rest"
        (trained if parameter.requires_grad else frozen)[part] += parameter.numel()
    order = dict.fromkeys([*PARTS, *trained, *frozen])
    return [Parameters(part=p, trained=trained[p], frozen=frozen[p]) for p in order if trained[p] or frozen[p]]


def run_step(
    config: TrainConfig, world: FantasyWorld, micro: int, *, device: str, gpus: int = 1, optimizer: bool = True
) -> StepMeter:
    """One optimizer step of one process on the meta device, the last micro-batch of it, under a meter.

    Args:
        config: the run.
        world: the network on the meta device, with what trains chosen.
        micro: samples of the micro-batch.
        device: "cuda" or "cpu": whose autocast rules hold.
        gpus: processes.
        optimizer: False leaves out the update and its state, and stops at the gradients.
    """
    meter = StepMeter(world, world.part_of)
    stand = Stand(world, device=device, half=half_precision(config.compute.precision, torch.device(device)))
    trained = {name: p for name, p in world.named_parameters() if p.requires_grad}
    meter.adopt(trained.values(), "trained weights")
    keeps_all = config.every.sample > 0 or is_sharded_plan(config, gpus)
    idle = [] if keeps_all else idle_parts(world, config.stage)
    elsewhere = {id(p) for part in idle for p in part.parameters()}
    meter.adopt((p for p in world.parameters() if not p.requires_grad and id(p) not in elsewhere), "frozen weights")
    meter.adopt(world.buffers(), "frozen weights")
    world.set_checkpointing(config.compute.activation_checkpointing)
    with meter:
        with meter.booking("optimizer"):
            adam = AdamW(trained, config.optim) if optimizer else None
        with meter.booking("running average"):
            average = Average(trained, config.optim.ema) if config.optim.ema and optimizer else None
        with meter.booking("batch"):
            batch = meta_batch(world.config, config, micro)
        if config.accumulate > 1:  # earlier micro-batches have left theirs
            for parameter in trained.values():
                with meter.booking("gradients"):
                    parameter.grad = torch.zeros_like(parameter)
        with stand:
            loss = LOSSES[config.stage](world, batch, config.loss)["loss"]
            stand.leave_autocast()
            meter.phase = "backward"
            end = torch.autograd.graph.get_gradient_edge(loss)
            del loss
            torch.autograd.backward([end])  # from a tensor it would switch `stand` off, which recomputation needs
        del end
        meter.phase = "update"
        if gpus > 1 and not is_sharded_plan(config, gpus):  # what `Context.average_gradients` sends
            flat = torch.cat([p.grad.flatten() for p in trained.values() if p.grad is not None])
            del flat
        if adam:
            nn.utils.clip_grad_norm_(list(trained.values()), config.optim.clip_norm or float("inf"))
            adam.step(config.optim.lr)
        if average:
            average.update(trained, 1)
    return meter


def is_sharded_plan(config: TrainConfig, gpus: int) -> bool:
    """Whether so many processes cut the network over them."""
    return gpus > 1 and config.compute.shard == "full"


def meta_batch(model: WorldConfig, config: TrainConfig, size: int) -> Batch:
    """A batch of `size` samples on the meta device, as `fw_train.tasks.world_task` would make it."""
    clip, video = config.clip, model.video
    frames, height, width = clip.frames, clip.height, clip.width
    grid = (frames // 4 + 1, height // 8, width // 8)
    pixels = 1 if video.control_pooled else 64  # of a latent cell, that a control adapter reads

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(size, *shape, dtype=dtype, device="meta")

    targets = GeometryTargets(
        depth=empty(frames, height, width),
        points=empty(frames, height, width, 3),
        pose_encoding=empty(frames, 9),
        mask=empty(frames, height, width, dtype=torch.bool),
        weight=empty(frames, height, width),
    )
    return Batch(
        clean=empty(video.out_dim, *grid),
        noise=empty(video.out_dim, *grid),
        sigma=empty(),
        weight=empty(),
        context=empty(video.text_len, video.text_dim),
        y=empty(video.y_dim, *grid) if video.y_dim else None,
        clip_feature=None if video.clip_dim is None else empty(video.clip_len, video.clip_dim),
        plucker=empty(frames, height, width, 6) if model.camera is not None and config.stage == "stage2" else None,
        control=None if video.control_dim is None else empty(video.control_dim * pixels, *grid),
        targets=None if config.stage == "base" else targets,
    )


def _memory(meter: StepMeter, world: FantasyWorld, config: TrainConfig, gpus: int) -> dict[str, int]:
    """Of one GPU. Sharded: its pieces, and what is whole for a while: what stands around the blocks, and two blocks."""
    memory = {label: meter.peak[label] for label in MEMORY}
    if not is_sharded_plan(config, gpus):
        return memory
    for label in MEMORY[:5]:
        memory[label] = -(-memory[label] // gpus)
    units = shard_units(world, config.stage)
    inside = {id(p) for unit in units for p in unit.parameters()}
    around = _whole(p for p in world.parameters() if id(p) not in inside)
    return memory | {"gathered": around + 2 * max(_whole(unit.parameters()) for unit in units)}


def _whole(parameters: Iterable[nn.Parameter]) -> int:
    """Bytes of parameters and of the gradients of those that train."""
    return sum(p.numel() * p.element_size() * (2 if p.requires_grad else 1) for p in parameters)


def _work(meter: StepMeter, parts: int) -> list[Work]:
    table: dict[str, Counter[str]] = {}
    for (part, phase), flops in meter.flops.items():
        table.setdefault(part, Counter())[phase] += flops * parts
    rows = [
        Work(part=part, forward=row["forward"], recompute=row["recompute"], backward=row["backward"])
        for part, row in table.items()
    ]
    return sorted(rows, key=lambda row: row.total, reverse=True)


def as_json(plan: Plan) -> dict[str, object]:
    """The plan as JSON values."""
    return {
        "run": {"stage": plan.config.stage, "recipe": plan.config.recipe, "model": plan.config.model},
        "gpus": plan.gpus,
        "micro_batch": plan.micro_batch,
        "tokens_per_sample": plan.tokens,
        "parameters": [dataclasses.asdict(row) for row in plan.parameters],
        "flops_per_step": [dataclasses.asdict(row) for row in plan.work],
        "memory_bytes": plan.memory,
        "encoder_flops_per_window": [dataclasses.asdict(row) for row in plan.encoders],
    }
