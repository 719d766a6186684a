"""Which keys of a configuration each stage reads, and which of them have a flag."""

from fw_train.config.schema import STAGES, ConfigError, Stage

READ_BY: dict[str, tuple[Stage, ...]] = {
    "init": ("base", "stage1", "stage2"),
    "unfreeze_geometry": ("stage2",),
    "clip.min_confidence": ("base", "stage1", "stage2"),
    "clip.mask_moving": ("base", "stage1", "stage2"),
    "clip.scale_by_first_frame": ("base", "stage1", "stage2"),
    "optim.camera_adapter_lr": ("stage2",),
    "lora": ("stage2",),
    "loss": ("stage1", "stage2"),
    "loss.geometry": ("stage2",),
    "noise": ("base", "stage1", "stage2"),
    "noise.weighting": ("base", "stage2"),
    "dropout": ("base", "stage1", "stage2"),
    "dropout.bicross": ("stage2",),
    "sampling.steps": ("base", "stage1", "stage2"),
    "sampling.guidance": ("base", "stage1", "stage2"),
    "compute.frozen_dtype": ("stage1", "stage2"),
    "compute.shard": ("base", "stage1", "stage2"),
    "compute.activation_checkpointing": ("base", "stage1", "stage2"),
}
"""Keys and groups that not every stage reads, and the stages that do; the last match counts."""
WITHOUT_FLAG = (
    *("stage", "recipe", "lora.targets", "loss.depth", "loss.points", "loss.camera", "sampling"),
    *("clip.random_start", "clip.start_step", "clip.validate_on", "clip.min_confidence", "clip.mask_moving"),
    *("clip.scale_by_first_frame", "clip.cache_gb", "clip.pool", "clip.reuse"),
    *("optim.betas", "optim.weight_decay", "optim.clip_norm", "optim.camera_adapter_lr"),
    *("noise.scheme", "noise.weighting", "noise.validation"),
    *("dropout.image", "dropout.camera", "dropout.bicross"),
)
"""Keys and groups that are set in a TOML file or by `--set KEY=VALUE`, so that every command has few flags."""


def readers(key: str) -> tuple[Stage, ...]:
    """The stages that read a key."""
    found = [stages for name, stages in READ_BY.items() if key == name or key.startswith(name + ".")]
    return found[-1] if found else STAGES


def is_flag(key: str) -> bool:
    """Whether a key has a flag; the others are set in a file or by `--set`."""
    return not any(key == name or key.startswith(name + ".") for name in WITHOUT_FLAG)


def unread_error(key: str, stage: Stage) -> ConfigError:
    """The refusal of a key that a stage does not read."""
    return ConfigError(f"{key} has no effect in {stage}; it is for {', '.join(readers(key))}. Leave it out")
