"""`fw-train autoencoder`: the small video autoencoder of the tiny preset, trained before everything else.

It is a `Task` of the same loop, with the checkpoints, log and launchers of every stage. Its export is a folder for
`fw-train base --init`.

Axes: b batch, F frames, H W pixels, f latent frames, h w latent rows and columns.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fw_core.files import replacing_folder
from fw_data.dataset.clip_order import Draw
from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.schema import ClipRecord
from fw_data.dataset.windows import Window, WindowLoader
from fw_model.autoencoders.base import VideoAutoencoder
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.autoencoders.block_vae import BlockVAE
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.pipeline.components import save_components
from fw_model.sampling.flow import counter_noise, counter_uniform
from fw_train.config.schema import TrainConfig
from fw_train.data.order import ClipOrder
from fw_train.data.rooms import RoomDataset
from fw_train.data.split import Split, middle_start, training_start
from fw_train.engine.distributed import Context, half_precision
from fw_train.engine.loop import DATASET, SKIPPED
from fw_train.model_bundle import HISTORY, world_config
from fw_train.tasks.previews import COLUMNS, save_strips

LATENT_NOISE = 0.05
"""Standard deviation of the noise on latents in training, which makes decoding robust to a generator's errors."""
ABSOLUTE, SCALE = 0.02, 1e-4
"""Weights of the absolute error, and of the penalty on a channel power other than 1, besides the squared error."""
MEASURED = 256
"""Number of training windows for the mean and deviation of the latents."""


class AutoencoderTask:
    """Reconstruction of windows of clips: squared error, a little absolute error, latents near unit power.

    Args:
        config: the run.
        dataset: where clips come from.
        split: training and held-out clips.
        ctx: this process.
    """

    cache = None

    def __init__(self, config: TrainConfig, dataset: ClipDataset | RoomDataset, split: Split, ctx: Context) -> None:
        self.config, self.dataset, self.split, self.ctx, self.device = config, dataset, split, ctx, ctx.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.vae = BlockVAE().to(ctx.device)
        self.fixed = BlockDCT().to(ctx.device)
        self._kept: OrderedDict[tuple[str, int], Tensor] = OrderedDict()
        self._half = half_precision(config.compute.precision, ctx.device)
        self._loader = WindowLoader(dataset, workers=config.clip.num_workers)
        self.order: ClipOrder = split.order()
        self.prefetch = 2 * config.clip.num_workers
        self.identity: Mapping[str, str] = {
            "configuration": config.digest(),
            DATASET: split.digest(),
            SKIPPED: " ".join(split.skipped),
        }

    @property
    def module(self) -> nn.Module:
        """The network."""
        return self.vae

    def dataset_digest(self, train: int, held_out: int) -> str:
        """Hash of the first training and held-out clips."""
        return self.split.digest(train, held_out)

    def announce(self, draws: Sequence[Draw]) -> None:
        """Start to decode the windows of coming draws in the worker processes."""
        for draw in draws:
            record = self.split.train[draw.clip]
            start = training_start(record, self.split.shape(record.id), self.config, draw.epoch)
            if (record.id, start) not in self._kept:
                self._loader.request([self._window_of(record, start)])

    def tokens(self, draw: Draw) -> int:
        """Video tokens of a draw's sample."""
        if not self.split.assigned:  # a record of a rendered clip takes time
            return self.split.shapes[0].tokens
        return self.split.shape(self.split.train[draw.clip].id).tokens

    def close(self) -> None:
        """Stop the worker processes."""
        self._loader.close()

    def loss(self, step: int, draws: Sequence[Draw]) -> Mapping[str, Tensor]:
        """Loss over windows that are mirrored at random; `psnr` in dB is for the log."""
        videos = [self._mirrored(self._window(draw), step, draw.slot) for draw in draws]
        video = torch.stack(videos).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            raw = self.vae.analyze(video)
            noise = [counter_noise(self.config.seed, step, d.slot, raw.shape[1:], device=self.device) for d in draws]
            error = self.vae.synthesize(raw + LATENT_NOISE * torch.stack(noise)).float() - video
        raw = raw.float()
        squared, power = error.square().mean(), raw.square().mean((0, 1, 2, 3))
        loss = squared + ABSOLUTE * error.abs().mean() + SCALE * (power - 1).square().mean()
        return {"loss": loss, "psnr": -10 * torch.log10(squared.detach() / 4)}

    def validate(self) -> Mapping[str, float]:
        """Mean squared error and PSNR (dB, mean over clips) of held-out clips, and the PSNR of the fixed transform.

        The clips are divided among the ranks; every rank returns the same values.
        """
        rows = {}
        for index, record in self._mine(self.config.clip.validate_on):
            video = self._held_out(record)
            rows[index] = (self._error(self.vae, video), self._error(self.fixed, video))
        learned, fixed = np.array(self._gathered(rows)).T
        return {
            "loss": float(learned.mean()),
            "psnr": float(np.mean(-10 * np.log10(learned / 4))),
            "psnr/block_dct": float(np.mean(-10 * np.log10(fixed / 4))),
        }

    def sample(self, path: Path | None) -> Sequence[str]:
        """Draw held-out clips above their reconstructions by the autoencoder and by the fixed transform.

        The clips are divided among the ranks; rank 0 writes the file.
        """
        strips = {}
        for index, record in self._mine(self.config.sampling.clips):
            video = self._held_out(record)
            shown = np.unique(np.linspace(0, video.shape[2] - 1, COLUMNS).round().astype(int))
            rows = [video] + [model.decode(model.encode(video)) for model in (self.vae, self.fixed)]
            strips[index] = np.concatenate([_pixels(row[0, :, shown]) for row in rows])
        made = self._gathered(strips)
        if path is not None:
            save_strips(path, made)
        return ()

    def _mine(self, count: int) -> list[tuple[int, ClipRecord]]:
        """Index and record of the first `count` held-out clips, as far as they are those of this rank."""
        return list(enumerate(self.split.held_out[:count]))[self.ctx.rank :: self.ctx.world_size]

    def _gathered(self, values: Mapping[int, Any]) -> list[Any]:
        """The values of all ranks in the order of their indices."""
        found = {index: value for part in self.ctx.gather(dict(values)) for index, value in part.items()}
        return [found[index] for index in sorted(found)]

    def describe(self, draw: Draw) -> str:
        """Id and source of the clip of a draw."""
        record = self.split.train[draw.clip]
        return f"{record.id} ({record.source})"

    @torch.no_grad()
    def export(self, folder: Path, *, trained: Mapping[str, Tensor], entry: Mapping[str, Any]) -> Path:
        """Write the folder for `fw-train base --init`, with mean and deviation of the latents; replaces an older one.

        Args:
            folder: export folder.
            trained: parameter name -> value to export.
            entry: entry of this run in training.json.
        """
        for name, value in trained.items():
            self.vae.get_parameter(name).copy_(value)
        self._measure()
        text = world_config(self.config.model).video
        with replacing_folder(folder) as partial:
            save_components(partial, self.vae, HashTextEncoder(text_len=text.text_len, text_dim=text.text_dim))
            history = {"format": 1, "stages": [dict(entry)]}
            (partial / HISTORY).write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
        return folder

    def _measure(self) -> None:
        """Set mean and deviation of the latents from the first training clips, so that the model sees unit variance."""
        self.vae.mean.zero_()
        self.vae.std.fill_(1.0)
        count, total, squares = 0, torch.zeros(16, dtype=torch.float64), torch.zeros(16, dtype=torch.float64)
        for record in self.split.train[:MEASURED]:
            latents = self.vae.encode(self._load(record, 0)[None].to(self.device)).double().cpu()
            count += latents[:, 0].numel()
            total += latents.sum((0, 2, 3, 4))
            squares += latents.square().sum((0, 2, 3, 4))
        mean = total / count
        self.vae.mean.copy_(mean)
        self.vae.std.copy_((squares / count - mean.square()).sqrt())

    def _window(self, draw: Draw) -> Float[Tensor, "3 F H W"]:
        record = self.split.train[draw.clip]
        return self._load(record, training_start(record, self.split.shape(record.id), self.config, draw.epoch))

    def _window_of(self, record: ClipRecord, start: int) -> Window:
        return Window(record.id, start, *self.split.shape(record.id), self.config.clip.fps, labels=False)

    def _mirrored(self, video: Float[Tensor, "3 F H W"], step: int, slot: int) -> Float[Tensor, "3 F H W"]:
        """Mirrored left to right and top to bottom at random, because reconstruction has no preferred orientation."""
        chosen = [axis for axis in (2, 3) if counter_uniform(self.config.seed, step, slot, f"mirror {axis}") < 0.5]
        return video.flip(chosen) if chosen else video

    def _held_out(self, record: ClipRecord) -> Float[Tensor, "1 3 F H W"]:
        start = middle_start(record, self.split.shape(record.id), self.config.clip)
        return self._load(record, start)[None].to(self.device)

    def _load(self, record: ClipRecord, start: int) -> Float[Tensor, "3 F H W"]:
        """A window, cached as bytes in up to `clip.cache_gb` of memory."""
        key, clip = (record.id, start), self.config.clip
        if key not in self._kept:
            video = self._loader.load(self._window_of(record, start)).video
            assert video is not None, "the window asks for images"
            pixels = ((rearrange(torch.from_numpy(video), "F c H W -> c F H W") + 1) * 127.5).round().to(torch.uint8)
            if pixels.numel() > clip.cache_gb * 2**30:
                return _signed(pixels)
            self._kept[key] = pixels
            while len(self._kept) * pixels.numel() > clip.cache_gb * 2**30:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return _signed(self._kept[key])

    @staticmethod
    def _error(model: VideoAutoencoder, video: Float[Tensor, "1 3 F H W"]) -> float:
        return float((model.decode(model.encode(video)).clamp(-1, 1) - video).square().mean())


def describe(task: AutoencoderTask) -> list[str]:
    """Lines to print before the first step."""
    count = sum(p.numel() for p in task.vae.parameters())
    shape = ", ".join(f"{name} {value}" for name, value in task.vae.shape.items())
    return [
        f"BlockVAE: {count / 1e6:.2f} M parameters, all of them trained ({shape})",
        *task.split.describe(task.config),
    ]


def _signed(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


def _pixels(video: Float[Tensor, "3 F H W"]) -> np.ndarray:
    """Frames side by side, as an image."""
    shown = ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return rearrange(shown, "c F H W -> H (F W) c").cpu().numpy()
