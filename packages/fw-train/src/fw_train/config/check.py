"""Checks of a configuration before anything runs: ranges, contradictions, and keys without effect."""

import math
import sys
from collections.abc import Mapping
from typing import Any

from fw_geometry.clip_shape import check_num_frames, check_side
from fw_train.config.keys import readers, unread_error
from fw_train.config.schema import ConfigError, TrainConfig, leaves


def check(config: TrainConfig) -> TrainConfig:
    """Return the configuration if a run could use it.

    Raises:
        ConfigError: a value out of range, values that contradict each other, or a key that the stage does not read.
    """
    values, usual = leaves(config), leaves(TrainConfig())
    for key, value in values.items():
        if config.stage not in readers(key) and value != usual[key]:
            raise unread_error(key, config.stage)
    try:
        for frames in (config.clip.frames, *config.clip.frame_buckets):
            check_num_frames(
                frames, name="clip.frames" if frames == config.clip.frames else "clip.frame_buckets", least=5
            )
        check_side(config.clip.height, name="clip.height")
        check_side(config.clip.width, name="clip.width")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if config.batch < 1 or config.accumulate < 1 or config.batch % config.accumulate:
        raise ConfigError(
            f"batch = {config.batch} is not a multiple of accumulate = {config.accumulate}, "
            "the number of micro-batches it is split into"
        )
    for key, (least, most) in _ranges(values).items():
        numbers = values[key] if isinstance(values[key], tuple) else (values[key],)
        if not all(least <= number <= most for number in numbers):
            limits = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
            raise ConfigError(f"{key} = {values[key]} is out of range; it must be {limits}")
    for key, holds, reason in _requirements(config):
        if not holds:
            raise ConfigError(f"{key} = {values[key]} {reason}")
    return config


def _ranges(values: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of the keys that have limits."""
    positive = sys.float_info.min
    ranges: dict[str, tuple[float, float]] = {
        **dict.fromkeys(
            ("steps", "workers", "compute.sequence", "clip.start_step", "clip.validate_on", "clip.reuse"),
            (1.0, math.inf),
        ),
        **dict.fromkeys(("sampling.num_inference_steps", "sampling.clips"), (1.0, math.inf)),
        **dict.fromkeys(("distill.steps", "distill.teacher_steps"), (1.0, 50.0)),
        **dict.fromkeys(("optim.lr", "optim.camera_adapter_lr", "lora.alpha", "noise.shift"), (positive, math.inf)),
        **dict.fromkeys(
            ("restarts", "optim.clip_norm", "optim.warmup", "lora.rank", "loss.dense_frames", "clip.pool", "clip.fps"),
            (0.0, math.inf),
        ),
        "compute.offload_blocks": (0.0, math.inf),
        **dict.fromkeys(("clip.num_workers", "clip.cache_gb"), (0.0, math.inf)),
        "distill.guidance_scale": (0.0, math.inf),
        "clip.max_crop": (0.0, 1 - 1e-9),
        "clip.held_out": (positive, 1 - 1e-9),
        "optim.ema": (0.0, 1 - 1e-9),
        "noise.validation": (positive, 1.0),
    }
    for key, value in values.items():
        if key.startswith("dropout."):
            ranges[key] = (0.0, 1.0)
        elif key.startswith("every."):
            ranges[key] = (float(key != "every.sample"), math.inf)
        elif key.startswith("loss.") and not isinstance(value, str):
            ranges[key] = (1.0, math.inf) if key.endswith(".scales") else (0.0, math.inf)
    return ranges | dict.fromkeys(("loss.depth.trim", "loss.points.trim"), (positive, 1.0))


def _requirements(config: TrainConfig) -> list[tuple[str, bool, str]]:
    """Key, whether its value agrees with the other keys, and the end of the error if not."""
    usual, clip, local = TrainConfig(), config.clip, config.launcher == "local"
    return [
        ("noise.validation", len(config.noise.validation) > 0, "is empty; give at least one noise level"),
        ("lora.targets", len(config.lora.targets) > 0, "is empty; give at least one of self_attn, cross_attn, ffn"),
        (
            "lora.rank",
            config.lora.rank > 0 or config.stage != "distill",
            "must be above 0: distill trains the adapters",
        ),
        ("lora.alpha", config.lora.rank > 0 or config.lora.alpha == usual.lora.alpha, "needs lora.rank above 0"),
        ("lora.targets", config.lora.rank > 0 or config.lora.targets == usual.lora.targets, "needs lora.rank above 0"),
        (
            "clip.frame_buckets",
            all(frames < clip.frames for frames in clip.frame_buckets),
            f"must be shorter than clip.frames = {clip.frames}",
        ),
        ("clip.max_crop", clip.aspect_buckets or clip.max_crop == usual.clip.max_crop, "needs clip.aspect_buckets"),
        ("unfreeze_video", not config.unfreeze_video or config.lora.rank == 0, "needs lora.rank = 0"),
        (
            "clip.pool",
            clip.pool == 0 or not (clip.aspect_buckets or clip.frame_buckets),
            "cannot be combined with clip.aspect_buckets or clip.frame_buckets",
        ),
        (
            "loss.geometry",
            config.loss.geometry > 0 or not config.unfreeze_geometry,
            "trains nothing of the geometry heads; leave unfreeze_geometry out, or set a weight above 0",
        ),
        ("clip.pool", clip.pool == 0 or clip.pool >= config.batch, f"must be 0, or at least batch = {config.batch}"),
        ("clip.reuse", clip.pool > 0 or clip.reuse == usual.clip.reuse, "needs clip.pool above 0"),
        (
            "clip.start_step",
            clip.random_start or clip.start_step == usual.clip.start_step,
            "needs clip.random_start = true",
        ),
        (
            "loss.dense_frames",
            config.loss.dense_frames == 0 or config.loss.depth.temporal == 0,
            "needs loss.depth.temporal = 0: single frames have no neighbors in time",
        ),
        (
            "loss.dense_frames",
            config.loss.dense_frames == 0 or config.loss.dense_frames >= config.compute.sequence,
            f"must be 0, or at least compute.sequence = {config.compute.sequence}: each process predicts some of them",
        ),
        (
            "compute.frozen_dtype",
            config.compute.frozen_dtype == "fp32" or config.compute.precision == "bf16",
            "needs compute.precision = bf16, which runs the network in it",
        ),
        *_offload_requirements(config),
        ("workers", config.workers == 1 or not local, "needs a launcher that starts processes: torchrun or ray"),
        ("restarts", config.restarts == usual.restarts or not local, "needs a launcher: torchrun or ray"),
    ]


def _offload_requirements(config: TrainConfig) -> list[tuple[str, bool, str]]:
    """The same for what is kept in host memory."""
    compute = config.compute
    recomputes, streams = compute.activation_checkpointing != "none", compute.offload_blocks > 0
    return [
        (
            "compute.offload_optimizer",
            not compute.offload_optimizer or compute.shard == "none",
            f"cannot be combined with compute.shard = {compute.shard}, which shards the optimizer",
        ),
        (
            "compute.offload_blocks",
            not streams or compute.shard == "none",
            f"cannot be combined with compute.shard = {compute.shard}, which shards the blocks",
        ),
        (
            "compute.offload_blocks",
            not streams or not config.unfreeze_video,
            "keeps frozen weights in host memory, but unfreeze_video trains those of the blocks; use 0",
        ),
        (
            "compute.offload_blocks",
            not streams or config.stage == "stage1" or recomputes,
            "needs compute.activation_checkpointing = full or selective: otherwise the backward pass keeps every copy",
        ),
        (
            "compute.offload_blocks",
            not streams or config.every.sample == 0,
            f"cannot be combined with every.sample = {config.every.sample}: previews need all weights on the device",
        ),
        (
            "compute.offload_activations",
            not compute.offload_activations or recomputes,
            "needs compute.activation_checkpointing = full or selective: it moves the inputs of recomputed blocks",
        ),
    ]
