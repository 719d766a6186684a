"""Trackers besides log.jsonl: TensorBoard always, Weights & Biases if a project is given."""

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fw_train.config.schema import ConfigError, TrainConfig


@runtime_checkable
class Tracker(Protocol):
    """A service that shows curves and images."""

    def metrics(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Log measurements after `step` optimizer steps."""
        ...

    def image(self, step: int, path: Path) -> None:
        """Log an image of generated worlds."""
        ...

    def close(self) -> None:
        """Flush and close the tracker."""
        ...


class TensorBoard:
    """Event files in OUT/tensorboard; entries after `step` are dropped."""

    def __init__(self, out: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1 if step else None)

    def metrics(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Log one scalar for each measurement."""
        for name, value in values.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def image(self, step: int, path: Path) -> None:
        """Log the image file."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self._board.add_image("samples", np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the event file."""
        self._board.close()


class WeightsAndBiases:
    """A run of a Weights & Biases project; a resumed run keeps its id.

    WANDB_MODE=offline keeps everything in OUT/wandb. Curves are drawn over `step`, so that steps repeated after a kill
    do not distort them.
    """

    def __init__(self, config: TrainConfig, out: Path) -> None:
        import wandb  # pyright: ignore[reportMissingImports] # an extra

        self._wandb: Any = wandb
        self._run: Any = wandb.init(
            project=config.wandb,
            name=out.name,
            id=hashlib.sha256(f"{out.resolve()} {config.digest()}".encode()).hexdigest()[:16],
            resume="allow",
            dir=str(out),
            config=config.to_json(),
        )
        self._run.define_metric("*", step_metric="step")

    def metrics(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Log all measurements of a step together."""
        self._run.log({"step": step, **{f"{split}/{name}": value for name, value in values.items()}})

    def image(self, step: int, path: Path) -> None:
        """Log the image file."""
        self._run.log({"step": step, "samples": self._wandb.Image(str(path))})

    def close(self) -> None:
        """Finish the run of this process."""
        self._run.finish()


def check_trackers(config: TrainConfig) -> None:
    """Raise ConfigError if a requested tracker is not installed."""
    if config.wandb and find_spec("wandb") is None:
        raise ConfigError(
            f"wandb = {config.wandb!r}: Weights & Biases is not installed; install the extra fw-train[wandb], "
            "or leave wandb out (log.jsonl and TensorBoard are always written)"
        )


def open_trackers(config: TrainConfig, out: Path, step: int) -> list[Tracker]:
    """Open the trackers of a run that continues after `step` steps."""
    trackers: list[Tracker] = [TensorBoard(out, step)]
    return [*trackers, WeightsAndBiases(config, out)] if config.wandb else trackers
