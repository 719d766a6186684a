"""Work that remains before and during a run: clips to encode, and steps after the newest checkpoint.

The dataset is read if `data` is given; which windows and captions are encoded already is known if `init` is given too.
"""

import dataclasses
from dataclasses import dataclass

from fw_data.dataset.reader import ClipDataset
from fw_train.config.schema import TrainConfig
from fw_train.data.encode import to_encode, wanted
from fw_train.data.split import Split, open_data
from fw_train.plan.encoders import EncoderWork


@dataclass(frozen=True, kw_only=True)
class Remaining:
    """The remaining work of a run."""

    steps: int
    """Optimizer steps."""
    lines: list[str]
    """Lines about the dataset; empty without one."""
    windows: int = 0
    """Windows to encode."""
    captions: int = 0
    """Captions to encode."""
    flops: int = 0
    """FLOPs of encoding them."""

    def to_json(self) -> dict[str, object]:
        """The values as JSON."""
        return dataclasses.asdict(self)


def count_remaining(config: TrainConfig, encoders: list[EncoderWork]) -> Remaining:
    """Count the remaining work of a run.

    Args:
        config: the run; `data`, `init` and `out` may be missing.
        encoders: cost of the frozen encoders per window.

    Raises:
        ConfigError: the dataset or `init` is invalid.
    """
    steps = config.steps - (_steps_done(config) if config.out is not None else 0)
    if config.data is None:
        return Remaining(steps=steps, lines=[])
    dataset, split = open_data(config)
    lines = split.describe(config)
    if not isinstance(dataset, ClipDataset) or config.stage == "autoencoder":
        return Remaining(steps=steps, lines=lines)
    windows, captions = _to_encode(config, dataset, split)
    per_caption = sum(work.flops for work in encoders if work.name.startswith("text"))
    per_window = sum(work.flops for work in encoders) - per_caption
    flops = windows * per_window + captions * per_caption
    return Remaining(steps=steps, lines=lines, windows=windows, captions=captions, flops=flops)


def _to_encode(config: TrainConfig, dataset: ClipDataset, split: Split) -> tuple[int, int]:
    if config.init is None and config.stage != "base":
        windows = sum(len(starts) for _, starts in wanted(split, config.clip))
        return windows, len({"", *(record.caption for record in (*split.train, *split.held_out))})
    todo = to_encode(config, dataset, split)
    return todo.count, len(todo.captions)


def _steps_done(config: TrainConfig) -> int:
    from fw_train.engine.checkpoint import CheckpointStore, step_of

    assert config.out is not None
    folders = CheckpointStore(config.out / "checkpoints").folders()
    return min(config.steps, step_of(folders[-1])) if folders else 0
