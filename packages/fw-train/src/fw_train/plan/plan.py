"""Estimate parameters, FLOPs per step, memory per GPU and time of a run before it starts.

The plan executes the code of the training step: the model is built on the meta device, where tensors have no values,
and the loss of the stage, its backward pass and the optimizer run there under a meter (`fw_model.planning.meter`).

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
from fw_model.layers.offload import BlockOffloader
from fw_model.layers.recompute import HostActivations
from fw_model.losses.targets import GeometryTargets
from fw_model.model.model import FantasyWorld
from fw_model.model.rays import RayMap
from fw_model.parallel.sequence import SequenceGroup
from fw_model.planning.meta_model import MetaDeviceMode
from fw_model.planning.meter import HOST, Operation, StepMeter
from fw_train.config.check import check
from fw_train.config.schema import JOINT, ConfigError, TrainConfig
from fw_train.data.split import Shape, shapes_of
from fw_train.engine.distributed import half_precision
from fw_train.engine.optim import EMA, AdamW
from fw_train.lora import add_adapters
from fw_train.model_bundle import check_offload_blocks, world_config
from fw_train.plan.encoders import VAE_BYTES, EncoderWork, encoder_work
from fw_train.tasks.distillation import NoiseWindow
from fw_train.tasks.stages import (
    LOSSES,
    Batch,
    choose_parameters,
    frozen_parameters,
    idle_parts,
    offloaded_blocks,
    parameter_group,
)
from fw_train.tasks.world_task import halve_frozen, shard_units

MEMORY = ("trained weights", "frozen weights", "gradients", "optimizer", "moving average", "batch", "activations")
"""Labels of memory."""
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
_NODE = 8
"""GPUs of a node."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Number of parameters of one part of the network."""

    part: str
    """Name of the part."""
    trained: int
    """Trained parameters."""
    frozen: int
    """Frozen parameters."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """FLOPs of one part, in one optimizer step, over all GPUs."""

    part: str
    """Name of the part."""
    forward: int
    """FLOPs of the forward pass."""
    recompute: int
    """FLOPs of recomputation in the backward pass (activation checkpointing)."""
    backward: int
    """FLOPs of gradients with respect to inputs and weights."""

    @property
    def total(self) -> int:
        """Sum of forward, recompute and backward."""
        return self.forward + self.recompute + self.backward


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The result of `fw-train plan`."""

    config: TrainConfig
    """Configuration of the run."""
    gpus: int
    """Number of GPUs, with one process each."""
    micro_batch: int
    """Samples per GPU and forward pass."""
    tokens: int
    """Video tokens per sample."""
    parameters: list[Parameters]
    """Parameters by part."""
    work: list[Work]
    """FLOPs by part, largest first."""
    memory: dict[str, int]
    """Peak bytes per GPU in a step, by label (MEMORY)."""
    host_memory: int
    """Peak bytes per GPU that are offloaded to host memory: weights, activations, state of the optimizer."""
    encoders: list[EncoderWork]
    """Additional cost of the frozen encoders for each window without cached latents."""
    shape: Shape
    """Shape of the samples: of the buckets, the one with the most tokens."""
    operations: list[Operation]
    """Distinct operations of one micro-batch and the update, which can be timed separately."""

    @property
    def flops(self) -> int:
        """FLOPs of one optimizer step over all GPUs."""
        return sum(part.total for part in self.work)

    @property
    def model_flops(self) -> int:
        """FLOPs without recomputation, as counted for MFU."""
        return sum(part.forward + part.backward for part in self.work)

    @property
    def bytes(self) -> int:
        """Peak memory per GPU in a step."""
        return sum(self.memory.values())


def make_plan(config: TrainConfig, *, gpus: int = 1, device: str = "cuda", optimizer: bool = True) -> Plan:
    """Plan a run, in seconds and with little memory for any model.

    Args:
        config: the run; data and init are not needed.
        gpus: number of GPUs, with one process each.
        device: "cuda" or "cpu", for its autocast rules.
        optimizer: False plans a step that stops at the gradients.

    Raises:
        ConfigError: the batch cannot be cut for this number of GPUs, or the model does not exist or has too few blocks.
    """
    check(config)
    shape = max(shapes_of(config.clip), key=lambda shape: shape.tokens)
    clip = dataclasses.replace(config.clip, frames=shape.frames, height=shape.height, width=shape.width)
    planned = dataclasses.replace(config, clip=clip)
    sequence = config.compute.sequence
    if gpus % sequence:
        raise ConfigError(f"compute.sequence = {sequence} does not divide the number of GPUs, {gpus}; use a divisor")
    parts = gpus // sequence * config.accumulate
    if gpus < 1 or config.batch % parts:
        among = "GPUs" if sequence == 1 else f"groups of {sequence} GPUs"
        raise ConfigError(
            f"batch = {config.batch} cannot be cut into {gpus // sequence} {among} x accumulate = {config.accumulate} "
            "equal parts"
        )
    model, micro = world_config(config.model), config.batch // parts
    check_offload_blocks(config, model)
    with on_meta():
        world = FantasyWorld(model)
    to_meta(world)
    add_adapters(world, config.lora, seed=config.seed)
    choose_parameters(world, config.stage, unfreeze=config.unfrozen)
    if config.compute.frozen_dtype == "bf16":
        halve_frozen(world)
    meter = run_step(planned, world, micro, device=device, gpus=gpus, optimizer=optimizer)
    return Plan(
        config=config,
        gpus=gpus,
        micro_batch=micro,
        tokens=shape.tokens,
        parameters=count_parameters(world),
        work=_work(meter, parts * sequence),
        memory=_memory(meter, world, config, gpus) | _encoder_memory(config, model),
        host_memory=meter.host_peak,
        shape=shape,
        encoders=encoder_work(model, clip.frames, clip.height, clip.width),
        operations=meter.operations(),
    )


@contextmanager
def on_meta() -> Iterator[None]:
    """Build modules on the meta device, without memory."""
    with torch.device("meta"):
        yield


def to_meta(world: FantasyWorld) -> FantasyWorld:
    """Move the rotary tables, which are built on the CPU, to the meta device."""
    for module in world.modules():
        module._buffers.update({name: value.to("meta") for name, value in module.named_buffers(recurse=False)})
    return world


def count_parameters(world: FantasyWorld) -> list[Parameters]:
    """Count parameters by part of the network, in the order of PARTS."""
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
    """Run the last micro-batch and the update of an optimizer step of one process on the meta device, under a meter.

    Args:
        config: the run.
        world: the network on the meta device, with `requires_grad` set.
        micro: samples per micro-batch.
        device: "cuda" or "cpu", for its autocast rules.
        gpus: number of processes.
        optimizer: False omits the update and its state.
    """
    meter = StepMeter(world, world.part_of)
    mode = MetaDeviceMode(world, device=device, half=half_precision(config.compute.precision, torch.device(device)))
    trained = {name: p for name, p in world.named_parameters() if p.requires_grad}
    meter.adopt(trained.values(), "trained weights")
    keeps_all = config.every.sample > 0 or is_sharded_plan(config, gpus)
    idle = [] if keeps_all else idle_parts(world, config.stage)
    elsewhere = {id(p) for part in idle for p in part.parameters()}
    blocks = offloaded_blocks(world, config)
    meter.adopt(frozen_parameters(blocks), HOST)
    elsewhere |= {id(p) for p in frozen_parameters(blocks)}
    meter.adopt((p for p in world.parameters() if not p.requires_grad and id(p) not in elsewhere), "frozen weights")
    meter.adopt(world.buffers(), "frozen weights")
    world.stream_blocks(MeteredOffloader(meter, "meta"), blocks=blocks)
    inputs = MeteredActivations(meter) if config.compute.offload_activations else None
    world.set_checkpointing(config.compute.activation_checkpointing, inputs)
    world.set_sequence_group(SequenceGroup(size=config.compute.sequence, rank=0))  # rank 0 has the largest parts
    with meter:
        with meter.booking(HOST if config.compute.offload_optimizer else "optimizer"):
            adam = AdamW(trained, config.optim) if optimizer else None
        with meter.booking("moving average"):
            ema = EMA(trained, config.optim.ema) if config.optim.ema and optimizer else None
        with meter.booking("batch"):
            batch = meta_batch(world.config, config, micro)
        if config.accumulate > 1:  # gradients of earlier micro-batches
            for parameter in trained.values():
                with meter.booking("gradients"):
                    parameter.grad = torch.zeros_like(parameter)
        with mode:
            loss = LOSSES[config.stage](world, batch, config.loss)["loss"]
            mode.leave_autocast()
            meter.phase = "backward"
            end = torch.autograd.graph.get_gradient_edge(loss)
            del loss
            torch.autograd.backward([end])  # from a tensor it would disable `mode`, which recomputation needs
        del end
        meter.phase = "update"
        if gpus > 1 and not is_sharded_plan(config, gpus):  # the buffer of `Context.average_gradients`
            flat = torch.cat([p.grad.flatten() for p in trained.values() if p.grad is not None])
            del flat
        if adam:
            nn.utils.clip_grad_norm_(list(trained.values()), config.optim.clip_norm or float("inf"))
            adam.step(config.optim.lr)
        if ema:
            ema.update(trained, 1)
    return meter


class MeteredOffloader(BlockOffloader):
    """Books the copies of blocks as frozen weights."""

    def __init__(self, meter: StepMeter, device: str) -> None:
        super().__init__(device, frozen_only=True)
        self.meter = meter

    def fetch(self, name: str, module: nn.Module) -> None:
        """Fetch a block; see `BlockOffloader.fetch`."""
        with self.meter.booking("frozen weights"):
            super().fetch(name, module)


class MeteredActivations(HostActivations):
    """Books what is kept for the backward pass as host memory, on whatever device the step runs."""

    def __init__(self, meter: StepMeter) -> None:
        super().__init__()
        self.meter = meter

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy on the same device."""
        with self.meter.booking(HOST):
            return torch.empty_like(tensor).copy_(tensor)


def is_sharded_plan(config: TrainConfig, gpus: int) -> bool:
    """Whether the network is sharded over the processes."""
    return gpus > 1 and config.compute.shard != "none"


def meta_batch(model: WorldConfig, config: TrainConfig, size: int) -> Batch:
    """A batch of `size` samples on the meta device, as in `fw_train.tasks.world_task`."""
    clip, video = config.clip, model.video
    frames, height, width = clip.frames, clip.height, clip.width
    grid = (frames // 4 + 1, height // 8, width // 8)
    pixels = 1 if video.control_pooled else 64  # per latent cell, read by a control adapter

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
        plucker=RayMap(rays=empty(frames, height, width, 6), convention=model.compat.plucker)
        if model.camera is not None and config.stage in JOINT
        else None,
        control=None if video.control_dim is None else empty(video.control_dim * pixels, *grid),
        targets=None if config.stage == "base" else targets,
        window=None
        if config.stage != "distill"
        else NoiseWindow(
            sigmas=empty(config.distill.teacher_steps + 1),
            empty=empty(video.text_len, video.text_dim) if config.distill.guidance_scale != 1 else None,
            guidance_scale=config.distill.guidance_scale,
        ),
    )


def _memory(meter: StepMeter, world: FantasyWorld, config: TrainConfig, gpus: int) -> dict[str, int]:
    """Peak memory per GPU. Sharded: its shards, plus gathered weights: all outside of the blocks, and two blocks.

    Hybrid shards are planned for nodes of eight GPUs.
    """
    memory = {label: meter.peak[label] for label in MEMORY}
    if not is_sharded_plan(config, gpus):
        return memory
    shards = min(gpus, _NODE) if config.compute.shard == "hybrid" else gpus
    for label in MEMORY[:5]:
        memory[label] = -(-memory[label] // shards)
    units = shard_units(world, config.stage)
    inside = {id(p) for unit in units for p in unit.parameters()}
    around = _whole(p for p in world.parameters() if id(p) not in inside)
    return memory | {"gathered": around + 2 * max(_whole(unit.parameters()) for unit in units)}


def _encoder_memory(config: TrainConfig, model: WorldConfig) -> dict[str, int]:
    """Weights of the video autoencoder, if it shares the GPU with the training. Text and image encoder never do."""
    beside = config.every.sample > 0 or not config.clip.encode_first
    wan = bool(encoder_work(model, config.clip.frames, config.clip.height, config.clip.width))
    return {"video autoencoder": VAE_BYTES} if wan and beside else {}


def _whole(parameters: Iterable[nn.Parameter]) -> int:
    """Bytes of unsharded parameters and of the gradients of trained ones."""
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
        "host_memory_bytes": plan.host_memory,
        "encoder_flops_per_window": [dataclasses.asdict(row) for row in plan.encoders],
    }
