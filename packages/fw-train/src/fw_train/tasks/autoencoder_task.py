"""`fw-train autoencoder`: the small video autoencoder of the tiny preset, trained before everything else.

It is a `Task` of the same loop, so its checkpoints, resume, log and launchers are those of every stage. What it leaves
is a folder that `fw-train base --init` takes.

Axes: b batch, F frames, H W pixels, f latent frames, h w latent rows and columns.
"""

import json
import shutil
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fw_data.dataset.clip_order import Draw, window_start
from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.schema import ClipRecord
from fw_data.dataset.transforms import fit_video
from fw_model.autoencoders.base import VideoAutoencoder
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.autoencoders.block_vae import BlockVAE
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.pipeline.components import save_components
from fw_model.sampling.flow import counter_noise, counter_uniform
from fw_train.config.schema import TrainConfig
from fw_train.data.rooms import RoomDataset
from fw_train.data.samples import Split
from fw_train.engine.distributed import half_precision
from fw_train.model_bundle import HISTORY, world_config
from fw_train.tasks.previews import COLUMNS, save_strips

LATENT_NOISE = 0.05
"""Standard deviation of what is added to latents in training, so that decoding forgives a generator's small errors."""
ABSOLUTE, SCALE = 0.02, 1e-4
"""Weights of the absolute error beside the squared one, and of the pull of every channel's power towards 1."""
MEASURED = 256
"""Training windows that the latents' mean and deviation are measured on."""


class AutoencoderTask:
    """Reconstruction of windows of clips: squared error, a little absolute error, latents near unit power.

    Args:
        config: the run.
        dataset: where clips come from.
        split: which of its clips train and which are held out.
        device: where to compute.
    """

    encodings = None

    def __init__(
        self, config: TrainConfig, dataset: ClipDataset | RoomDataset, split: Split, device: torch.device
    ) -> None:
        self.config, self.dataset, self.split, self.device = config, dataset, split, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.vae = BlockVAE().to(device)
        self.fixed = BlockDCT().to(device)
        self._kept: OrderedDict[tuple[str, int], Tensor] = OrderedDict()
        self._half = half_precision(config.compute.precision, device)
        self.identity: Mapping[str, str] = {"configuration": config.digest(), "dataset": split.digest()}

    @property
    def module(self) -> nn.Module:
        """The network."""
        return self.vae

    @property
    def clips(self) -> int:
        """Training clips."""
        return len(self.split.train)

    def loss(self, step: int, draws: Sequence[Draw]) -> Mapping[str, Tensor]:
        """Of windows mirrored at random; `psnr` in dB is for the log."""
        videos = [self._mirrored(self._window(draw), step, draw.slot) for draw in draws]
        video = torch.stack(videos).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            raw = self.vae.analyze(video)
            noise = [counter_noise(self.config.seed, step, d.slot, raw.shape[1:], device=self.device) for d in draws]
            error = self.vae.synthesise(raw + LATENT_NOISE * torch.stack(noise)).float() - video
        raw = raw.float()
        squared, power = error.square().mean(), raw.square().mean((0, 1, 2, 3))
        loss = squared + ABSOLUTE * error.abs().mean() + SCALE * (power - 1).square().mean()
        return {"loss": loss, "psnr": -10 * torch.log10(squared.detach() / 4)}

    def validate(self) -> Mapping[str, float]:
        """Mean squared error and PSNR (dB, mean over clips) of held-out clips, and the PSNR of the fixed transform."""
        records = self.split.held_out[: self.config.clip.validate_on]
        rows = [
            (self._error(self.vae, video), self._error(self.fixed, video))
            for video in (self._held_out(record) for record in records)
        ]
        learned, fixed = np.array(rows).T
        return {
            "loss": float(learned.mean()),
            "psnr": float(np.mean(-10 * np.log10(learned / 4))),
            "psnr/block_dct": float(np.mean(-10 * np.log10(fixed / 4))),
        }

    def sample(self, path: Path | None) -> None:
        """Held-out clips, what the autoencoder makes of them, and what the fixed transform does, below each other."""
        strips = []
        for record in self.split.held_out[: self.config.sampling.clips]:
            video = self._held_out(record)
            shown = np.unique(np.linspace(0, video.shape[2] - 1, COLUMNS).round().astype(int))
            rows = [video] + [model.decode(model.encode(video)) for model in (self.vae, self.fixed)]
            strips += [_pixels(row[0, :, shown]) for row in rows]
        if path is not None:
            save_strips(path, strips)

    def describe(self, draw: Draw) -> str:
        """Id and source of a draw's clip."""
        record = self.split.train[draw.clip]
        return f"{record.id} ({record.source})"

    @torch.no_grad()
    def export(self, folder: Path, *, trained: Mapping[str, Tensor], entry: Mapping[str, Any]) -> Path:
        """Write the folder that `fw-train base --init` takes, with the latents' mean and deviation; replaces an older.

        Args:
            folder: where to.
            trained: parameter name -> value to export.
            entry: what training.json says of this run.
        """
        for name, value in trained.items():
            self.vae.get_parameter(name).copy_(value)
        self._measure()
        text = world_config(self.config.model).video
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        save_components(partial, self.vae, HashTextEncoder(text_len=text.text_len, text_dim=text.text_dim))
        history = {"format": 1, "stages": [dict(entry)]}
        (partial / HISTORY).write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        return folder

    def _measure(self) -> None:
        """Set the latents' mean and deviation from the first training clips, so that the model sees unit variance."""
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
        record, clip = self.split.train[draw.clip], self.config.clip
        choices = (record.num_frames - clip.frames) // clip.start_step
        start = window_start(self.config.seed, draw.epoch, record.id, choices) if clip.random_start else 0
        return self._load(record, clip.start_step * start)

    def _mirrored(self, video: Float[Tensor, "3 F H W"], step: int, slot: int) -> Float[Tensor, "3 F H W"]:
        """Sides and top swapped at random: reconstruction has no up."""
        chosen = [axis for axis in (2, 3) if counter_uniform(self.config.seed, step, slot, f"mirror {axis}") < 0.5]
        return video.flip(chosen) if chosen else video

    def _held_out(self, record: ClipRecord) -> Float[Tensor, "1 3 F H W"]:
        return self._load(record, (record.num_frames - self.config.clip.frames) // 2)[None].to(self.device)

    def _load(self, record: ClipRecord, start: int) -> Float[Tensor, "3 F H W"]:
        """A window, kept in memory as bytes while `clip.cache_gb` has room."""
        key, clip = (record.id, start), self.config.clip
        if key not in self._kept:
            video = fit_video(self.dataset.video(record.id, slice(start, start + clip.frames)), clip.height, clip.width)
            pixels = ((rearrange(video, "F c H W -> c F H W") + 1) * 127.5).round().to(torch.uint8)
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
    """What to tell before the first step."""
    count = sum(p.numel() for p in task.vae.parameters())
    shape = ", ".join(f"{name} {value}" for name, value in task.vae.shape.items())
    return [f"BlockVAE: {count / 1e6:.2f} M parameters, all of them train ({shape})", *task.split.describe()]


def _signed(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


def _pixels(video: Float[Tensor, "3 F H W"]) -> np.ndarray:
    """Frames side by side, as a picture."""
    shown = ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return rearrange(shown, "c F H W -> H (F W) c").cpu().numpy()
