"""The world model as a `Task` of the loop: draws become batches, batches become a stage's loss.

Everything random about a sample (noise, noise level, what is dropped) is a function of (seed, step, slot); its window
is one of (seed, epoch, clip).
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fw_data.dataset.clip_order import Draw, window_start
from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.schema import ClipRecord
from fw_model.losses.targets import GeometryTargets, geometry_targets, ray_map
from fw_model.model.irg import IRGBlock
from fw_model.model.model import FantasyWorld
from fw_model.sampling.flow import TimestepSampler, counter_generator, counter_noise, counter_uniform
from fw_train.config.schema import Stage, TrainConfig
from fw_train.data.latent_cache import encodings
from fw_train.data.rooms import RoomDataset
from fw_train.data.samples import Sample, SampleSource, Split
from fw_train.engine.distributed import half_precision, shard
from fw_train.engine.health import HealthMonitor
from fw_train.engine.throughput import uncounted
from fw_train.model_bundle import Encoded, Parts, fingerprint
from fw_train.tasks.previews import sample_strip, save_strips
from fw_train.tasks.stages import LOSSES, Batch, idle_parts, place

_VALIDATION_SEED = 20_240_229
"""Held-out noise never depends on the run's seed, so validation losses compare between runs."""


class WorldTask:
    """One stage of training a FantasyWorld on a dataset.

    Args:
        config: the run.
        parts: the model and its frozen companions; which parameters train is decided already.
        dataset: where clips come from.
        split: which of its clips train and which are held out.
        device: where to compute.
        sharded: cut the network over the ranks.
    """

    def __init__(
        self,
        config: TrainConfig,
        parts: Parts,
        dataset: ClipDataset | RoomDataset,
        split: Split,
        device: torch.device,
        *,
        sharded: bool = False,
    ) -> None:
        self.config, self.parts, self.split, self.device = config, parts, split, device
        frozen = fingerprint(parts.world, trained=False)
        if config.compute.frozen_dtype == "bf16":
            halve_frozen(parts.world)
        self.world = parts.world
        if sharded:
            shard(self.world, shard_units(self.world, config.stage), device=device, also=["forward_geometry"])
            self.world.to(device)
        else:  # generating a sample runs everything
            place(self.world, device, without=[] if config.every.sample else idle_parts(self.world, config.stage))
        parts.encoders.to(device)
        self.world.set_checkpointing(config.compute.activation_checkpointing)
        self._half = half_precision(config.compute.precision, device)
        self.encodings = encodings(dataset.path, config.clip, parts.encoders)
        self.samples = SampleSource(
            dataset,
            config.clip,
            self._encode,
            self.encodings.clips if self.encodings else None,
            control=self._control if parts.world.config.video.control_pooled else None,
            labels=config.stage != "base",
        )
        self._texts: dict[str, Tensor] = {}
        noise = config.noise
        self._times = TimestepSampler(scheme=noise.scheme, shift=noise.shift, weighting=noise.weighting)
        self._loss = LOSSES[config.stage]
        self._health = HealthMonitor(self.world)
        self.identity: Mapping[str, str] = {
            "configuration": config.digest(),
            "model": hashlib.sha256(self.world.config.to_json().encode()).hexdigest(),
            "dataset": split.digest(),
            "frozen weights": frozen,
        }

    @property
    def module(self) -> nn.Module:
        """The network."""
        return self.world

    @property
    def clips(self) -> int:
        """Training clips."""
        return len(self.split.train)

    def loss(self, step: int, draws: Sequence[Draw]) -> Mapping[str, Tensor]:
        """The stage's loss and its terms, averaged over the draws."""
        seed, slots, drop = self.config.seed, [draw.slot for draw in draws], self.config.dropout
        records = [self.split.train[draw.clip] for draw in draws]
        starts = [self._start(record, draw.epoch) for record, draw in zip(records, draws, strict=True)]

        def dropped(chance: float, what: str) -> list[bool]:
            return [counter_uniform(seed, step, slot, what) < chance for slot in slots]

        silent = dropped(drop.text, "text")
        captions = ["" if quiet else record.caption for record, quiet in zip(records, silent, strict=True)]
        times = self._times.draw(seed, step, slots)
        batch = self._batch(
            [self.samples.load(record.id, start) for record, start in zip(records, starts, strict=True)],
            captions,
            seed=seed,
            step=step,
            slots=slots,
            sigma=times.sigma,
            weight=times.weight,
            without_image=dropped(drop.image, "image"),
            without_camera=dropped(drop.camera, "camera"),
            couple=counter_uniform(seed, step, 0, "bicross") >= drop.bicross,
            dense_frames=self._dense_frames(step),
        )
        return self._evaluate(batch)

    def validate(self) -> Mapping[str, float]:
        """Mean loss and terms over held-out clips at the fixed noise levels, and the loss at each level."""
        config = self.config
        records = self.split.held_out[: config.clip.validate_on]
        size = max(1, config.batch // config.accumulate)
        sums: dict[str, float] = {}
        levels = config.noise.validation
        for level, sigma in enumerate(levels):
            for first in range(0, len(records), size):
                part = records[first : first + size]
                batch = self._batch(
                    [self.samples.load(r.id, self.held_out_start(r)) for r in part],
                    [r.caption for r in part],
                    seed=_VALIDATION_SEED,
                    step=level,
                    slots=range(first, first + len(part)),
                    sigma=torch.full((len(part),), sigma),
                    weight=torch.ones(len(part)),
                )
                terms = {name: float(value) * len(part) for name, value in self._evaluate(batch).items()}
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0.0) + value / (len(records) * len(levels))
                sums[f"loss@{sigma:g}"] = sums.get(f"loss@{sigma:g}", 0.0) + terms["loss"] / len(records)
        return sums

    def sample(self, path: Path | None) -> None:
        """Generate the first held-out clips anew from their first frames and draw them beside the truth."""
        records = self.split.held_out[: self.config.sampling.clips]
        with self._autocast():
            strips = [sample_strip(self, record) for record in records]
        if path is not None:
            save_strips(path, strips)

    def describe(self, draw: Draw) -> str:
        """Id, source and first frame of a draw's window."""
        record = self.split.train[draw.clip]
        return f"{record.id} ({record.source}, frame {record.start_frame + self._start(record, draw.epoch)})"

    def _start(self, record: ClipRecord, epoch: int) -> int:
        clip = self.config.clip
        if not clip.random_start:
            return 0
        choices = (record.num_frames - clip.frames) // clip.start_step
        return clip.start_step * window_start(self.config.seed, epoch, record.id, choices)

    def _evaluate(self, batch: Batch) -> Mapping[str, Tensor]:
        with self._autocast():
            terms = self._loss(self.world, batch, self.config.loss)
        return {**terms, **self._health.values()}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half)

    def _batch(
        self,
        samples: Sequence[Sample],
        captions: Sequence[str],
        *,
        seed: int,
        step: int,
        slots: Sequence[int],
        sigma: Tensor,
        weight: Tensor,
        without_image: Sequence[bool] = (),
        without_camera: Sequence[bool] = (),
        couple: bool = True,
        dense_frames: tuple[int, ...] | None = None,
    ) -> Batch:
        device = self.device
        clean = torch.stack([sample.latents for sample in samples]).to(device)
        noise = torch.stack([counter_noise(seed, step, slot, clean.shape[1:], device=device) for slot in slots])
        conditions = [sample.condition for sample in samples if sample.condition is not None]
        y = torch.stack(conditions).to(device) if conditions else None
        pictures = [sample.image_tokens for sample in samples if sample.image_tokens is not None]
        tokens = torch.stack(pictures).to(device) if pictures else None
        plucker, control = self._camera(samples)
        return Batch(
            clean=clean,
            noise=noise,
            sigma=sigma.to(device),
            weight=weight.to(device),
            context=torch.stack([self.text(caption) for caption in captions]),
            y=None if y is None else _zero(y, without_image),
            clip_feature=None if tokens is None else _zero(tokens, without_image),
            plucker=None if plucker is None else _zero(plucker, without_camera),
            control=None if control is None else _zero(control, without_camera),
            targets=self._targets(samples),
            couple=couple,
            dense_frames=dense_frames,
        )

    def _dense_frames(self, step: int) -> tuple[int, ...] | None:
        """The output frames whose depth and points a step trains; a function of seed and step."""
        frames, count = self.config.clip.frames, self.config.loss.dense_frames
        if not count or count >= frames:
            return None
        random = counter_generator(self.config.seed, step, 0, "dense frames")
        return tuple(sorted(torch.randperm(frames, generator=random)[:count].tolist()))

    def _targets(self, samples: Sequence[Sample]) -> GeometryTargets | None:
        if not self.samples.labels:
            return None
        depth, confidence, K, pose_c2w = (
            torch.stack([getattr(sample, name) for sample in samples]).to(self.device)
            for name in ("depth", "confidence", "K", "pose_c2w")
        )
        only_first = self.config.clip.scale_by_first_frame
        return geometry_targets(depth, K, pose_c2w, weight=confidence, first_frame_only=only_first)[0]

    def _camera(self, samples: Sequence[Sample]) -> tuple[Tensor | None, Tensor | None]:
        """Rays for the pose encoder, which stage 2 trains, and the control adapter's input, which every stage reads."""
        config = self.world.config
        encoder = config.camera is not None and self.config.stage == "stage2"
        control = config.video.control_dim is not None
        made = [sample.control for sample in samples if sample.control is not None]
        if made and not encoder:
            return None, torch.stack(made).to(self.device)
        if not encoder and not control:
            return None, None
        K, pose_c2w = (
            torch.stack([getattr(sample, name) for sample in samples]).to(self.device) for name in ("K", "pose_c2w")
        )
        pose_c2w[..., :3, 3] /= torch.tensor([sample.scale for sample in samples], device=self.device)[:, None, None]
        height, width = (8 * side for side in samples[0].latents.shape[-2:])
        plucker = ray_map(config)(K, pose_c2w, height, width)
        return (plucker if encoder else None), (self.world.control_input(plucker) if control else None)

    @torch.no_grad()
    def _control(self, K: Tensor, pose_c2w: Tensor) -> Tensor:
        """The pooled control adapter's input, which is small enough to keep with a sample."""
        clip = self.config.clip
        return self.world.control_input(ray_map(self.world.config)(K, pose_c2w, clip.height, clip.width))

    def _encode(self, video: Tensor) -> Encoded:
        """The video in the model's terms, on the CPU."""
        with uncounted():
            latents, condition, tokens = self.parts.encode(video.to(self.device))
        return Encoded(
            latents.cpu(), None if condition is None else condition.cpu(), None if tokens is None else tokens.cpu()
        )

    def held_out_start(self, record: ClipRecord) -> int:
        """First frame of the window that a held-out clip is measured on: its middle."""
        return (record.num_frames - self.config.clip.frames) // 2

    def text(self, caption: str) -> Tensor:
        """Embedding of a caption, from what was encoded before if it is there."""
        if caption not in self._texts:
            stored = self.encodings.texts.read(caption) if self.encodings else None
            with uncounted():
                embedding = self.parts.text_encoder.encode([caption])[0] if stored is None else stored
            self._texts[caption] = embedding.to(self.device)
        return self._texts[caption]


@torch.no_grad()
def halve_frozen(world: nn.Module) -> None:
    """Hold the matrices and kernels that do not train in bfloat16; vectors, tokens and modulations stay as they are."""
    for name, parameter in world.named_parameters():
        if not parameter.requires_grad and parameter.ndim >= 2 and name.endswith("weight"):
            parameter.data = parameter.data.to(torch.bfloat16)


def shard_units(world: FantasyWorld, stage: Stage) -> list[nn.Module]:
    """What is gathered together when the network is sharded: a block at a time.

    Stage 1 never runs the video half of the later blocks, so these halves are units of their own, never gathered.
    """
    idle = [layer.video for layer in world.irg if isinstance(layer, IRGBlock)] if stage == "stage1" else []
    return [*idle, *world.pcb, *world.irg]


def _zero(values: Tensor, which: Sequence[bool]) -> Tensor:
    """The same with some samples of the batch set to zero."""
    if not any(which):
        return values
    keep = torch.tensor([not gone for gone in which], dtype=values.dtype, device=values.device)
    return values * keep.view(-1, *([1] * (values.ndim - 1)))
