"""The data of a finished demo that both the demo and its report read."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fw_data.dataset.reader import Clip


def held_out_clip(folder: Path) -> "Clip":
    """The first clip of the demo's dataset that no training step has seen."""
    from fw_data.dataset.reader import ClipDataset
    from fw_train.config.load import load
    from fw_train.data.split import split_clips

    dataset = ClipDataset(folder / "dataset")
    return dataset.load(split_clips(dataset.records, load("tiny", "stage2").clip).held_out[0].id)
