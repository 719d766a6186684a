"""Worlds generated while a run goes on: held-out clips made anew from their first frames, drawn beside the truth.

Everything random in them is a function of the clip's place among the held-out ones, so pictures of different steps
compare, and the training that follows is the same with and without them.

Axes: F frames, H W pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from fw_data.dataset.schema import ClipRecord
from fw_data.dataset.transforms import fit_video
from fw_geometry.camera import Trajectory
from fw_model.encoders.clip import ClipImageEncoder
from fw_model.export.depth import colorize
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.result import World
from fw_train.data.samples import Sample
from fw_train.engine.distributed import unsharded

if TYPE_CHECKING:
    from fw_train.tasks.world_task import WorldTask

COLUMNS = 5
"""Frames of a clip that a picture shows."""


def sample_strip(task: "WorldTask", record: ClipRecord) -> UInt8[np.ndarray, "h w 3"]:
    """Rows of a clip's true frames and generated ones, and of both depths where the stage trains geometry or after it.

    Each depth row has colours of its own: near is warm, far is cold.
    """
    clip, start = task.config.clip, task.held_out_start(record)
    sample = task.samples.load(record.id, start)
    frames = task.samples.dataset.video(record.id, slice(start, start + clip.frames))
    truth = _pixels(fit_video(frames, clip.height, clip.width))
    world = _generate(task, record, sample, truth[0])
    rows = [truth, world.video]
    if task.config.stage != "base":
        assert sample.depth is not None, "a stage with geometry keeps its labels"
        rows += [colorize(sample.depth.numpy()), colorize(world.depth)]
    shown = np.unique(np.linspace(0, clip.frames - 1, COLUMNS).round().astype(int))
    return np.concatenate([rearrange(row[shown], "f h w c -> h (f w) c") for row in rows])


def save_strips(path: Path, strips: Sequence[UInt8[np.ndarray, "h w 3"]]) -> None:
    """Write the clips below each other as one PNG, which appears whole."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    Image.fromarray(np.concatenate(strips)).save(partial, format="PNG")
    partial.replace(path)


@torch.no_grad()
def _generate(task: "WorldTask", record: ClipRecord, sample: Sample, first: UInt8[np.ndarray, "H W 3"]) -> World:
    """The clip's world along its true camera path, in the unit that training gives it."""
    config, parts = task.config, task.parts
    path = Trajectory(
        pose_c2w=sample.pose_c2w.double().numpy(),
        K=sample.K.double().numpy(),
        width=config.clip.width,
        height=config.clip.height,
    )
    pipeline = WorldPipeline(
        task.world,
        parts.autoencoder,
        _KnownTexts(task),
        image_encoder=None if sample.image_tokens is None else _KnownPicture(sample.image_tokens),
        sampling=parts.sampling,
        device=task.device,
    )
    with unsharded(task.world):
        *_, last = pipeline.generate(
            first,
            record.caption,
            path,
            seed=task.split.held_out.index(record),
            scene_scale=sample.scale,
            cross_branch=config.stage == "stage2",
        )
    assert last.world is not None, "the last report has the world"
    return last.world


class _KnownTexts:
    """A text encoder of embeddings that the run has at hand."""

    def __init__(self, task: "WorldTask") -> None:
        video = task.world.config.video
        self.task, self.text_len, self.text_dim = task, video.text_len, video.text_dim

    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "b l d"]:
        return torch.stack([self.task.text(prompt) for prompt in prompts])

    def truncation(self, prompt: str) -> str | None:
        return self.task.parts.text_encoder.truncation(prompt)

    def spec(self) -> dict[str, Any]:
        return self.task.parts.text_encoder.spec()

    def to(self, device: torch.device | str) -> "_KnownTexts":
        """The embeddings are where the run computes already."""
        del device
        return self

    def free(self) -> None:
        """There is nothing to drop."""


class _KnownPicture(ClipImageEncoder):
    """A picture encoder of the one first frame whose tokens the run has at hand."""

    def __init__(self, tokens: Float[Tensor, "l d"]) -> None:
        self.tokens = tokens

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b l d"]:
        return self.tokens.expand(image.shape[0], -1, -1)

    def to(self, device: torch.device | str) -> "_KnownPicture":
        self.tokens = self.tokens.to(device)
        return self

    def free(self) -> None:
        """There is nothing to drop."""


def _pixels(video: Float[Tensor, "F 3 H W"]) -> UInt8[np.ndarray, "F H W 3"]:
    return rearrange(((video + 1) * 127.5).round().to(torch.uint8), "F c H W -> F H W c").numpy()
