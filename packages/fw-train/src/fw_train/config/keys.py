"""Which keys of a configuration each stage reads, and which of them have a flag."""

from fw_train.config.schema import JOINT, STAGES, ConfigError, Stage

_WORLD: tuple[Stage, ...] = ("base", "stage1", "stage2", "distill")
_DRAWN: tuple[Stage, ...] = ("base", "stage1", "stage2")
READ_BY: dict[str, tuple[Stage, ...]] = {
    "init": _WORLD,
    "unfreeze_geometry": ("stage2",),
    "unfreeze_video": ("stage2",),
    "clip.min_confidence": _WORLD,
    "clip.mask_moving": _WORLD,
    "clip.scale_by_first_frame": _WORLD,
    "clip.encode_first": _WORLD,
    "optim.camera_adapter_lr": ("stage2",),
    "lora": JOINT,
    "loss": ("stage1", *JOINT),
    "loss.geometry": JOINT,
    "noise": _DRAWN,
    "noise.shift": _WORLD,
    "noise.weighting": ("base", "stage2"),
    "dropout": _DRAWN,
    "dropout.cross_branch": ("stage2",),
    "distill": ("distill",),
    "sampling.num_inference_steps": _DRAWN,
    "sampling.guidance_scale": _DRAWN,
    "compute.frozen_dtype": ("stage1", *JOINT),
    "compute.sequence": _WORLD,
    "compute.shard": _WORLD,
    "compute.activation_checkpointing": _WORLD,
    "compute.offload_blocks": ("stage1", *JOINT),
    "compute.offload_activations": _WORLD,
}
"""Keys and groups that only some stages read, with these stages; the last match counts."""
WITHOUT_FLAG = (
    *("stage", "recipe", "unfreeze_video", "lora.alpha", "lora.targets", "loss", "sampling"),
    *("clip.random_start", "clip.start_step", "clip.validate_on", "clip.min_confidence", "clip.mask_moving"),
    *("clip.scale_by_first_frame", "clip.cache_gb", "clip.pool", "clip.reuse", "clip.frame_buckets", "clip.max_crop"),
    "clip.encode_first",
    *("compute.offload_optimizer", "compute.offload_blocks", "compute.offload_activations"),
    *("distill.teacher_steps", "distill.guidance_scale"),
    *("optim.betas", "optim.weight_decay", "optim.clip_norm", "optim.camera_adapter_lr"),
    *("noise", "dropout"),
)
"""Keys and groups that are set in a TOML file or by `--set KEY=VALUE`, to keep the number of flags small."""


def readers(key: str) -> tuple[Stage, ...]:
    """The stages that read a key."""
    found = [stages for name, stages in READ_BY.items() if key == name or key.startswith(name + ".")]
    return found[-1] if found else STAGES


def is_flag(key: str) -> bool:
    """Whether a key has a flag; the others are set in a file or by `--set`."""
    return not any(key == name or key.startswith(name + ".") for name in WITHOUT_FLAG)


def unread_error(key: str, stage: Stage) -> ConfigError:
    """The error for a key that a stage does not read."""
    return ConfigError(f"{key} has no effect in {stage}; it is for {', '.join(readers(key))}. Remove it")
