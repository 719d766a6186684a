"""Previews during a run: worlds generated from the first frames of held-out clips, drawn beside the truth.

All randomness is a function of the clip's index among the held-out ones, so images of different steps compare, and
previews do not change the training.

Axes: F frames, H W pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from fw_core.files import replacing
from fw_data.dataset.schema import ClipRecord
from fw_data.dataset.windows import Window, load_window
from fw_geometry.camera import Trajectory
from fw_model.encoders.clip import ClipImageEncoder
from fw_model.export.depth import colorize
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.result import World
from fw_train.config.schema import JOINT
from fw_train.data.samples import Sample
from fw_train.engine.distributed import unsharded

if TYPE_CHECKING:
    from fw_train.tasks.world_task import WorldTask

COLUMNS = 5
"""Frames of a clip in an image."""


class Strip(NamedTuple):
    """Rows of frames of one clip."""

    pixels: UInt8[np.ndarray, "h w 3"]
    """RGB."""
    notes: tuple[str, ...]
    """Notes of the generated world."""


def sample_strip(task: "WorldTask", record: ClipRecord) -> Strip:
    """Rows of true and generated frames, and of true and generated depth from stage 1 on.

    Each row of depth has its own color scale: near is warm, far is cold.
    """
    shape, start = task.split.shape(record.id), task.held_out_start(record)
    sample = task.samples.load(record.id, start)
    window = Window(record.id, start, *shape, task.config.clip.fps, labels=False)
    video = load_window(task.samples.dataset, window).video
    assert video is not None, "the window asks for images"
    truth = _pixels(torch.from_numpy(video))
    world = _generate(task, record, sample, truth[0])
    rows = [truth, world.video]
    if task.config.stage != "base":
        assert sample.depth is not None, "a stage with geometry keeps its labels"
        rows += [colorize(sample.depth.numpy()), colorize(world.depth)]
    shown = np.unique(np.linspace(0, shape.frames - 1, COLUMNS).round().astype(int))
    pixels = np.concatenate([rearrange(row[shown], "f h w c -> h (f w) c") for row in rows])
    return Strip(pixels, world.notes)


def save_strips(path: Path, strips: Sequence[UInt8[np.ndarray, "h w 3"]]) -> None:
    """Write the clips below each other into one PNG, atomically; narrower ones are padded with black."""
    from PIL import Image

    width = max(strip.shape[1] for strip in strips)
    padded = [np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0))) for strip in strips]
    with replacing(path) as partial:
        Image.fromarray(np.concatenate(padded)).save(partial, format="PNG")


@torch.no_grad()
def _generate(task: "WorldTask", record: ClipRecord, sample: Sample, first: UInt8[np.ndarray, "H W 3"]) -> World:
    """Generate a clip's world along its true camera path, in the unit of training."""
    config, bundle = task.config, task.bundle
    shape = task.split.shape(record.id)
    path = Trajectory(
        pose_c2w=sample.pose_c2w.double().numpy(),
        K=sample.K.double().numpy(),
        width=shape.width,
        height=shape.height,
    )
    pipeline = WorldPipeline(
        task.world,
        bundle.autoencoder,
        _KnownTexts(task),
        image_encoder=None if sample.image_tokens is None else _KnownImage(sample.image_tokens),
        sampling=bundle.sampling,
        device=task.device,
    )
    with task.autocast(), unsharded(task.world):
        *_, last = pipeline.generate(
            first,
            record.caption,
            path,
            seed=task.split.held_out.index(record),
            scene_scale=sample.scale,
            cross_branch=config.stage in JOINT,
        )
    assert last.world is not None, "the last report contains the world"
    return last.world


class _KnownTexts:
    """A text encoder that looks up the embeddings of the run."""

    def __init__(self, task: "WorldTask") -> None:
        video = task.world.config.video
        self.task, self.text_len, self.text_dim = task, video.text_len, video.text_dim

    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "b l d"]:
        return torch.stack([self.task.text(prompt) for prompt in prompts]).to(self.task.device)

    def truncation(self, prompt: str) -> str | None:
        return self.task.bundle.text_encoder.truncation(prompt)

    def spec(self) -> dict[str, Any]:
        return self.task.bundle.text_encoder.spec()

    def to(self, device: torch.device | str) -> "_KnownTexts":
        """Do nothing; embeddings are moved when they are read."""
        del device
        return self

    def free(self) -> None:
        """Do nothing; there are no weights."""


class _KnownImage(ClipImageEncoder):
    """An image encoder that returns the tokens of the one first frame of the clip."""

    def __init__(self, tokens: Float[Tensor, "l d"]) -> None:
        self.tokens = tokens

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b l d"]:
        return self.tokens.expand(image.shape[0], -1, -1)

    def to(self, device: torch.device | str) -> "_KnownImage":
        self.tokens = self.tokens.to(device)
        return self

    def free(self) -> None:
        """Do nothing; there are no weights."""


def _pixels(video: Float[Tensor, "F 3 H W"]) -> UInt8[np.ndarray, "F H W 3"]:
    return rearrange(((video + 1) * 127.5).round().to(torch.uint8), "F c H W -> F H W c").numpy()
