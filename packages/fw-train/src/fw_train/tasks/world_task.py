"""The world model as a `Task` of the loop: draws become batches, batches become the loss of a stage.

Everything random about a sample (noise, noise level, dropout) is a function of (seed, step, slot); its window is one of
(seed, epoch, clip).
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fw_data.dataset.clip_order import Draw
from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.schema import ClipRecord
from fw_model.layers.float32 import Float32Module
from fw_model.layers.offload import BlockOffloader
from fw_model.layers.recompute import HostActivations
from fw_model.losses.targets import GeometryTargets, geometry_targets
from fw_model.model.irg import IRGBlock
from fw_model.model.model import FantasyWorld
from fw_model.model.rays import RayMap
from fw_model.sampling.flow import TimestepSampler, counter_generator, counter_noise, counter_uniform
from fw_train.config.schema import JOINT, DropoutConfig, Stage, TrainConfig
from fw_train.data.latent_cache import folder_of, open_cache
from fw_train.data.order import ClipOrder
from fw_train.data.rooms import RoomDataset
from fw_train.data.samples import Sample, SampleSource
from fw_train.data.split import Shape, Split, middle_start, training_start
from fw_train.engine.distributed import Context, half_precision, nodes, shard
from fw_train.engine.health import HealthMonitor
from fw_train.engine.loop import DATASET, SKIPPED
from fw_train.engine.throughput import uncounted
from fw_train.model_bundle import EncodedVideo, ModelBundle
from fw_train.tasks.distillation import WindowSampler
from fw_train.tasks.previews import sample_strip, save_strips
from fw_train.tasks.stages import LOSSES, Batch, frozen_parameters, idle_parts, offloaded_blocks, place

_VALIDATION_SEED = 20_240_229
"""Noise seed of every validation, independent of the run's seed, so that validation losses compare between runs."""
_AHEAD = 2
"""Samples per worker that are loaded before they are needed."""
_TEXTS = 1 << 29
"""Bytes of caption embeddings that stay in memory."""


class WorldTask:
    """One stage of training a FantasyWorld on a dataset.

    Text and image encoder stay on the CPU; they run only for captions and windows that are not encoded yet.

    Args:
        config: the run.
        bundle: the model and its frozen encoders; `requires_grad` of its parameters is set.
        dataset: source of the clips.
        split: training and held-out clips.
        ctx: this process.
        frozen: hash of the frozen weights, for the identity of the run.
        sharded: shard the network, which is on the meta device, over the ranks; each reads its own rows of the weights.
    """

    def __init__(
        self,
        config: TrainConfig,
        bundle: ModelBundle,
        dataset: ClipDataset | RoomDataset,
        split: Split,
        ctx: Context,
        *,
        frozen: str,
        sharded: bool = False,
    ) -> None:
        self.config, self.bundle, self.split, self.ctx, self.device = config, bundle, split, ctx, ctx.device
        if config.compute.frozen_dtype == "bf16":
            halve_frozen(bundle.world)
        self.world = bundle.world
        if sharded:
            copies = nodes() if config.compute.shard == "hybrid" else 1
            units = shard_units(self.world, config.stage)
            shard(self.world, units, device=ctx.device, also=["forward_geometry"], copies=copies)
            bundle.weights.fill(self.world, ctx.device)
            self.world.to(ctx.device)
        else:  # previews run the whole network
            blocks = offloaded_blocks(self.world, config)
            idle = [] if config.every.sample else idle_parts(self.world, config.stage)
            place(self.world, ctx.device, without=idle, offloaded=frozen_parameters(blocks))
            self.world.stream_blocks(BlockOffloader(ctx.device, frozen_only=True), blocks=blocks)
        needed = config.every.sample or not config.clip.encode_first
        self._autoencoder_device = ctx.device if needed else torch.device("cpu")
        bundle.autoencoder.to(self._autoencoder_device)
        self.world.set_sequence_group(ctx.sequence)
        inputs = HostActivations() if config.compute.offload_activations else None
        self.world.set_checkpointing(config.compute.activation_checkpointing, inputs)
        self._half = half_precision(config.compute.precision, ctx.device)
        self.cache = open_cache(folder_of(dataset), config.clip, bundle.encoders, split=split)
        self.samples = SampleSource(
            dataset,
            config.clip,
            self._encode,
            self.cache.clips if self.cache else None,
            control=self._control if bundle.world.config.video.control_pooled else None,
            labels=config.stage != "base",
            shape_of=split.shape,
        )
        self._texts: OrderedDict[str, Tensor] = OrderedDict()
        noise = config.noise
        self._windows = WindowSampler(config.distill, noise.shift) if config.stage == "distill" else None
        self._times = self._windows or TimestepSampler(
            scheme=noise.scheme, shift=noise.shift, weighting=noise.weighting
        )
        self._levels = self._windows.starts if self._windows else noise.validation
        self._dropout = DropoutConfig(text=0.0) if self._windows else config.dropout
        self._loss = LOSSES[config.stage]
        self._health = HealthMonitor(self.world)
        self.order: ClipOrder = split.order()
        self.prefetch = _AHEAD * config.clip.num_workers
        self.identity: Mapping[str, str] = {
            "configuration": config.digest(),
            "model": hashlib.sha256(self.world.config.to_json().encode()).hexdigest(),
            DATASET: split.digest(),
            "frozen weights": frozen,
            SKIPPED: " ".join(split.skipped),
        }

    @property
    def module(self) -> nn.Module:
        """The network."""
        return self.world

    def dataset_digest(self, train: int, held_out: int) -> str:
        """Hash of the first training and held-out clips."""
        return self.split.digest(train, held_out)

    def announce(self, draws: Sequence[Draw]) -> None:
        """Start to decode the windows of coming draws in the worker processes."""
        records = [(self.split.train[draw.clip], draw.epoch) for draw in draws]
        self.samples.request((record.id, self._start(record, epoch)) for record, epoch in records)

    def tokens(self, draw: Draw) -> int:
        """Video tokens of a draw's sample."""
        if not self.split.assigned:  # a record of a rendered clip takes time
            return self.split.shapes[0].tokens
        return self.split.shape(self.split.train[draw.clip].id).tokens

    def loss(self, step: int, draws: Sequence[Draw]) -> Mapping[str, Tensor]:
        """The loss of the stage and its terms, averaged over the draws."""
        seed, slots, drop = self.config.seed, [draw.slot for draw in draws], self._dropout
        records = [self.split.train[draw.clip] for draw in draws]
        starts = [self._start(record, draw.epoch) for record, draw in zip(records, draws, strict=True)]

        def dropped(chance: float, name: str) -> list[bool]:
            return [counter_uniform(seed, step, slot, name) < chance for slot in slots]

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
            cross_branch=counter_uniform(seed, step, 0, "bicross") >= drop.cross_branch,
            dense_frames=self._dense_frames(step, self.split.shape(records[0].id).frames),
        )
        return self._evaluate(batch)

    def validate(self) -> Mapping[str, float]:
        """Mean loss and terms over held-out clips at the fixed noise levels, and the loss at each level.

        The batches are divided among the ranks; every rank returns the same values.
        """
        config, levels = self.config, self._levels
        count = min(len(self.split.held_out), config.clip.validate_on)
        sums: dict[str, float] = {}
        by_level: dict[str, float] = {}
        batches = [(level, batch) for level in range(len(levels)) for batch in self._validation_batches()]
        for number in range(0, len(batches), self.ctx.data_size):
            mine = number + self.ctx.data_rank
            level, indices = batches[min(mine, len(batches) - 1)]  # sharded ranks run the same number of batches
            terms = self._validation_terms(level, indices)
            if mine >= len(batches) or not self.ctx.counts:
                continue
            for name, value in terms.items():
                total = float(value) * len(indices)
                sums[name] = sums.get(name, 0.0) + total / (count * len(levels))
                if name == "loss":
                    at = f"loss@{levels[level]:g}"
                    by_level[at] = by_level.get(at, 0.0) + total / count
        return _sum(self.ctx.gather(sums)) | _sum(self.ctx.gather(by_level))

    def sample(self, path: Path | None) -> Sequence[str]:
        """Generate the first held-out clips from their first frames and draw them beside the truth.

        The clips are divided among the ranks; rank 0 writes the file. Returns the notes on the worlds.
        """
        records = self.split.held_out[: self.config.sampling.clips]
        strips = {}
        for number in range(0, len(records), self.ctx.data_size):
            mine = number + self.ctx.data_rank
            strip = sample_strip(self, records[min(mine, len(records) - 1)])
            if mine < len(records):
                strips[mine] = strip
        made = {index: strip for part in self.ctx.gather(strips) for index, strip in part.items()}
        if path is not None:
            save_strips(path, [made[index].pixels for index in sorted(made)])
        return [f"{records[index].source}: {note}" for index in sorted(made) for note in made[index].notes]

    def describe(self, draw: Draw) -> str:
        """Id, source and first frame of a draw's window."""
        record = self.split.train[draw.clip]
        return f"{record.id} ({record.source}, frame {record.start_frame + self._start(record, draw.epoch)})"

    def close(self) -> None:
        """Stop the worker processes."""
        self.samples.close()

    def _start(self, record: ClipRecord, epoch: int) -> int:
        return training_start(record, self.split.shape(record.id), self.config, epoch)

    def _validation_batches(self) -> Iterator[list[int]]:
        """Indices of held-out clips that are measured together: of one shape, as many as in a training batch."""
        size = max(1, self.config.batch // self.config.accumulate)
        records = self.split.held_out[: self.config.clip.validate_on]
        by_shape: dict[object, list[int]] = {}
        for index, record in enumerate(records):
            by_shape.setdefault(self.split.shape(record.id), []).append(index)
        for indices in by_shape.values():
            yield from (indices[first : first + size] for first in range(0, len(indices), size))

    def _validation_terms(self, level: int, indices: Sequence[int]) -> Mapping[str, Tensor]:
        records = [self.split.held_out[index] for index in indices]
        batch = self._batch(
            [self.samples.load(record.id, self.held_out_start(record)) for record in records],
            [record.caption for record in records],
            seed=_VALIDATION_SEED,
            step=level,
            slots=indices,
            sigma=torch.full((len(records),), self._levels[level]),
            weight=torch.ones(len(records)),
        )
        return self._evaluate(batch)

    def _evaluate(self, batch: Batch) -> Mapping[str, Tensor]:
        with self.autocast():
            terms = self._loss(self.world, batch, self.config.loss)
        return {**terms, **self._health.values()}

    def autocast(self) -> torch.autocast:
        """The region in which the network runs; loading samples stays outside, in full precision."""
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
        cross_branch: bool = True,
        dense_frames: tuple[int, ...] | None = None,
    ) -> Batch:
        device = self.device
        clean = torch.stack([sample.latents for sample in samples]).to(device)
        noise = torch.stack([counter_noise(seed, step, slot, clean.shape[1:], device=device) for slot in slots])
        conditions = [sample.condition for sample in samples if sample.condition is not None]
        y = torch.stack(conditions).to(device) if conditions else None
        images = [sample.image_tokens for sample in samples if sample.image_tokens is not None]
        tokens = torch.stack(images).to(device) if images else None
        plucker, control = self._camera(samples)
        context = torch.stack([self.text(caption) for caption in captions]).to(device)
        window = None
        if self._windows is not None:
            empty = self.text("").to(device).expand_as(context) if self._windows.guided else None
            window = self._windows.window(sigma.to(device), empty)
        return Batch(
            clean=clean,
            noise=noise,
            sigma=sigma.to(device),
            weight=weight.to(device),
            context=context,
            y=None if y is None else _zero(y, without_image),
            clip_feature=None if tokens is None else _zero(tokens, without_image),
            plucker=None if plucker is None else replace(plucker, rays=_zero(plucker.rays, without_camera)),
            control=None if control is None else _zero(control, without_camera),
            targets=self._targets(samples),
            cross_branch=cross_branch,
            dense_frames=dense_frames,
            window=window,
        )

    def _dense_frames(self, step: int, frames: int) -> tuple[int, ...] | None:
        """The output frames whose depth and points a step trains; a function of seed and step."""
        count = self.config.loss.dense_frames
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

    def _camera(self, samples: Sequence[Sample]) -> tuple[RayMap | None, Tensor | None]:
        """Rays for the pose encoder, for the joint stages, and the control adapter's input, which every stage reads."""
        config = self.world.config
        encoder = config.camera is not None and self.config.stage in JOINT
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
        plucker = self.world.ray_map(K, pose_c2w, height, width)
        return (plucker if encoder else None), (self.world.control_input(plucker) if control else None)

    @torch.no_grad()
    def _control(self, K: Tensor, pose_c2w: Tensor, shape: Shape) -> Tensor:
        """The pooled control adapter's input, which is small enough to cache with a sample."""
        return self.world.control_input(self.world.ray_map(K, pose_c2w, shape.height, shape.width))

    def _encode(self, video: Tensor) -> EncodedVideo:
        """Latents and conditions of a video, on the CPU."""
        with uncounted():
            latents, condition, tokens = self.bundle.encode(video.to(self._autoencoder_device))
        rest = (None if value is None else value.cpu() for value in (condition, tokens))
        return EncodedVideo(latents.cpu(), *rest)

    def held_out_start(self, record: ClipRecord) -> int:
        """First frame of the window that a held-out clip is measured on: its middle."""
        return middle_start(record, self.split.shape(record.id), self.config.clip)

    def text(self, caption: str) -> Tensor:
        """Embedding of a caption, on the CPU; read from the cache where it is encoded."""
        if caption not in self._texts:
            stored = self.cache.texts.read(caption) if self.cache else None
            with uncounted():
                embedding = self.bundle.text_encoder.encode([caption])[0].cpu() if stored is None else stored
            self._texts[caption] = embedding
            while len(self._texts) * embedding.nbytes > _TEXTS:
                self._texts.popitem(last=False)
        self._texts.move_to_end(caption)
        return self._texts[caption]


@torch.no_grad()
def halve_frozen(world: nn.Module) -> None:
    """Store frozen matrices and kernels in bfloat16; those of the heads, vectors and tokens keep their dtype."""
    heads = {id(p) for module in world.modules() if isinstance(module, Float32Module) for p in module.parameters()}
    for name, parameter in world.named_parameters():
        if (
            not parameter.requires_grad
            and parameter.ndim >= 2
            and name.endswith("weight")
            and id(parameter) not in heads
        ):
            parameter.data = parameter.data.to(torch.bfloat16)


def shard_units(world: FantasyWorld, stage: Stage) -> list[nn.Module]:
    """The submodules that are gathered together when the network is sharded: the blocks.

    Stage 1 never runs the video half of the later blocks, so these halves are separate units, never gathered.
    """
    idle = [layer.video for layer in world.irg if isinstance(layer, IRGBlock)] if stage == "stage1" else []
    return [*idle, *world.pcb, *world.irg]


def _sum(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Entry-wise sum over the ranks, in the order of their names in rank 0."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


def _zero(values: Tensor, which: Sequence[bool]) -> Tensor:
    """The values with some samples of the batch set to zero."""
    if not any(which):
        return values
    keep = torch.tensor([not gone for gone in which], dtype=values.dtype, device=values.device)
    return values * keep.view(-1, *([1] * (values.ndim - 1)))
