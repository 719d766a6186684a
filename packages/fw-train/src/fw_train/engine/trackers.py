"""Where the numbers of a run go beside log.jsonl: TensorBoard always, Weights & Biases when a project is named."""

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fw_train.config.schema import ConfigError, TrainConfig


@runtime_checkable
class Tracker(Protocol):
    """A place that shows curves."""

    def numbers(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Measurements after `step` optimizer steps."""
        ...

    def picture(self, step: int, path: Path) -> None:
        """A picture of generated worlds."""
        ...

    def close(self) -> None:
        """Write what is still held back."""
        ...


class TensorBoard:
    """Event files in OUT/tensorboard; those of steps after `step` are dropped."""

    def __init__(self, out: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1 if step else None)

    def numbers(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """One scalar for each."""
        for name, value in values.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def picture(self, step: int, path: Path) -> None:
        """The picture as it is."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self._board.add_image("samples", np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Write what is still held back."""
        self._board.close()


class WeightsAndBiases:
    """A run of a Weights & Biases project; a resumed run goes on under the same id.

    WANDB_MODE=offline keeps everything in OUT/wandb. The curves are drawn over `step`, so that steps which a killed run
    had taken after its last checkpoint, and takes again, do no harm.
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

    def numbers(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """All at once."""
        self._run.log({"step": step, **{f"{split}/{name}": value for name, value in values.items()}})

    def picture(self, step: int, path: Path) -> None:
        """The picture as it is."""
        self._run.log({"step": step, "samples": self._wandb.Image(str(path))})

    def close(self) -> None:
        """Say that the process is done."""
        self._run.finish()


def check_trackers(config: TrainConfig) -> None:
    """Raise ConfigError when a tracker is asked for that is not installed."""
    if config.wandb and find_spec("wandb") is None:
        raise ConfigError(
            f"wandb = {config.wandb!r}: Weights & Biases is not installed; install the extra fw-train[wandb], "
            "or leave wandb out (log.jsonl and TensorBoard are always written)"
        )


def open_trackers(config: TrainConfig, out: Path, step: int) -> list[Tracker]:
    """The trackers of a run that continues after `step` steps."""
    trackers: list[Tracker] = [TensorBoard(out, step)]
    return [*trackers, WeightsAndBiases(config, out)] if config.wandb else trackers
