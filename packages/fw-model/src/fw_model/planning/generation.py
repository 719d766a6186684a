"""Estimate the peak memory of a generation before it runs, for `fw plan generate` and the service.

The last denoising step and the autoencoder run on the meta device, where tensors have no values, under a meter. Text
and image encoder count with their weights alone.

Axes: b batch, c channels, f latent frames, y x latent rows and columns, F frames, H W pixels.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fw_model.autoencoders.base import VideoAutoencoder, first_frame_condition, latent_shape
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.autoencoders.wan_vae import WanVAE, build_vae
from fw_model.config import WorldConfig
from fw_model.encoders.base import TextEncoder
from fw_model.encoders.clip import VIT_H_14, build_clip
from fw_model.encoders.umt5 import UMT5_XXL, UMT5TextEncoder, build_umt5
from fw_model.layers.float32 import Float32Module
from fw_model.layers.offload import Offload
from fw_model.layers.stored_weights import StoredWeights, store_weight
from fw_model.model.model import FantasyWorld
from fw_model.model.rays import RayMap
from fw_model.parallel.sequence import SequenceGroup
from fw_model.pipeline.components import Components
from fw_model.planning.meta_model import MetaDeviceMode
from fw_model.planning.meter import StepMeter
from fw_model.sampling.flow import guide

_WEIGHTS = "weights"
PARTS = ("transformer", "autoencoder", "text encoder", "image encoder")
"""Labels of weights in a plan."""
PHASES = ("encode", "denoise", "decode")
"""Phases of a generation; the largest one decides whether it fits."""


@dataclass(frozen=True, kw_only=True)
class GenerationChoice:
    """The options of a generation that decide its memory."""

    frames: int
    """Frames of the clip, 4 n + 1."""
    height: int
    """Height in pixels, a multiple of 16."""
    width: int
    """Width in pixels, a multiple of 16."""
    dtype: torch.dtype = torch.bfloat16
    """Type in which the transformer computes."""
    weights: StoredWeights | None = None
    """Type in which the matrices of the blocks are stored; None: `dtype`."""
    offload: Offload = "none"
    """Parts that are on the device only while they are used."""
    processes: int = 1
    """Processes that make one world together."""
    guided: bool = True
    """Whether there is a pass with the negative prompt."""


@dataclass(frozen=True, kw_only=True)
class GenerationParts:
    """What runs besides the transformers."""

    autoencoder: VideoAutoencoder
    """On the meta device."""
    text_encoder: int
    """Bytes of the text encoder's weights."""
    image_encoder: int = 0
    """Bytes of the image encoder's weights."""
    decode_dtype: torch.dtype | None = None
    """Type in which a Wan VAE decodes; None leaves its own."""


@dataclass(frozen=True, kw_only=True)
class GenerationPlan:
    """Peak memory of one process, on its device."""

    phases: Mapping[str, Mapping[str, int]]
    """Phase -> label -> bytes at the peak of the phase."""

    @property
    def weights(self) -> int:
        """Bytes of the weights at the peak of the largest phase."""
        peak = max(self.phases.values(), key=lambda labels: sum(labels.values()))
        return sum(size for label, size in peak.items() if label in PARTS)

    @property
    def bytes(self) -> int:
        """Bytes at the peak of the largest phase."""
        return max(sum(labels.values()) for labels in self.phases.values())


def preset_parts(config: WorldConfig) -> GenerationParts:
    """The parts of a preset without a checkpoint: Wan's for its text width, the small ones otherwise."""
    if config.video.text_dim != UMT5_XXL["d_model"]:
        return GenerationParts(autoencoder=BlockDCT(), text_encoder=0)
    image = 0 if config.video.clip_dim is None else 4 * _count(build_clip(VIT_H_14))
    return GenerationParts(
        autoencoder=WanVAE(build_vae(), decode_dtype=torch.bfloat16),
        text_encoder=2 * _count(build_umt5(UMT5_XXL)),
        image_encoder=image,
    )


def parts_of(components: Components) -> GenerationParts:
    """The parts that a checkpoint names."""
    image = components.image_encoder
    return GenerationParts(
        autoencoder=components.autoencoder,
        decode_dtype=torch.bfloat16,  # as on a GPU
        text_encoder=text_encoder_bytes(components.text_encoder),
        image_encoder=0 if image is None else image.dtype.itemsize * _count(build_clip(image.config)),
    )


def text_encoder_bytes(encoder: TextEncoder) -> int:
    """Bytes of the weights of a text encoder, loaded or not; 0 for one without a network."""
    return encoder.dtype.itemsize * _count(build_umt5(encoder.config)) if isinstance(encoder, UMT5TextEncoder) else 0


@torch.no_grad()
def plan_generation(configs: Sequence[WorldConfig], parts: GenerationParts, choice: GenerationChoice) -> GenerationPlan:
    """Plan one generation.

    Args:
        configs: the transformer, or the two experts of a two-expert model.
        parts: what runs besides.
        choice: size, types and placement.

    Raises:
        ValueError: a shape that the model cannot make, or more processes than it can be divided over.
    """
    if choice.processes < 1:
        raise ValueError(f"{choice.processes} processes cannot make a world; use 1 or more")
    worlds = [_stored_world(config, choice) for config in configs]
    sizes = [_bytes(world.parameters()) + _bytes(world.buffers()) for world in worlds]
    autoencoder = _meta_autoencoder(parts)
    vae = _bytes(autoencoder.parameters()) + _bytes(autoencoder.buffers())
    peak = _last_step(worlds[0], choice)
    kept = peak.pop("outputs")
    if choice.offload == "none":
        resident = {"transformer": sum(sizes), "autoencoder": vae}
        during = dict.fromkeys(PHASES, resident)
    else:
        during = {
            "encode": {"autoencoder": vae},
            "denoise": {"transformer": max(_on_device(world, choice.offload) for world in worlds)},
            "decode": {"autoencoder": vae},
        }
    encoders = {"text encoder": parts.text_encoder, "image encoder": parts.image_encoder}
    condition, frames = _first_frame(autoencoder, configs[0], choice), _frames(autoencoder, configs[0], choice)
    if choice.offload == "none":
        both = {**during["encode"], **encoders}
    else:
        largest = max(encoders, key=lambda name: encoders[name])
        both = {largest: encoders[largest]}
    # the encoders leave before the autoencoder runs
    encode = max(both, {**during["encode"], "activations": condition}, key=lambda labels: sum(labels.values()))
    return GenerationPlan(
        phases={
            "encode": encode,
            "denoise": {**during["denoise"], **peak},
            "decode": {**during["decode"], "geometry": kept, "activations": frames},
        }
    )


def _stored_world(config: WorldConfig, choice: GenerationChoice) -> FantasyWorld:
    """The transformer on the meta device, in the types in which loading puts its weights."""
    with torch.device("meta"):
        world = FantasyWorld(config).eval()
    for module in world.modules():
        module._buffers.update({name: value.to("meta") for name, value in module.named_buffers(recurse=False)})
    exact = tuple(f"{name}." for name, module in world.named_modules() if isinstance(module, Float32Module))
    for name, parameter in world.named_parameters():
        if not name.startswith(exact):
            parameter.data = parameter.data.to(choice.dtype)
    if choice.weights is not None:
        for part in (world.pcb, world.irg):
            for layer in [module for module in part.modules() if isinstance(module, nn.Linear)]:
                store_weight(layer, choice.weights)
    return world


def _last_step(world: FantasyWorld, choice: GenerationChoice) -> dict[str, int]:
    """Bytes besides the weights at the peak of the last denoising step, by label; `outputs` outlive it."""
    halves = 2 if choice.guided and choice.processes % 2 == 0 else 1
    world.set_sequence_group(SequenceGroup(size=choice.processes // halves, rank=0))
    config, shape = world.config, latent_shape(world.config.video.out_dim, *_size(choice))
    meter = _meter(world)
    mode = MetaDeviceMode(world, device="cuda", half=False)
    with meter:
        with meter.booking("inputs"):
            noise, inputs = _empty(1, *shape), _inputs(config, choice)
            latents, time = _empty(1, *shape), _empty(1)
        with mode:
            with meter.booking("conditions"):
                rows = 2 if choice.guided else 1
                context = _empty(rows, config.video.text_len, config.video.text_dim)
                conditions = [world.encode_condition(context=row[None], **inputs) for row in context]
            passes = conditions[: 1 if halves == 2 else rows]
            made: list[Tensor] = []
            geometry = None
            for index, condition in enumerate(passes):
                out = world(latents, time, condition=condition, predict_geometry=index == 0)
                made.append(out.velocity)
                geometry = out.geometry or geometry
                del out
            velocity = guide(made[0], made[-1], 2.0) if choice.guided else made[0]
            after = latents + velocity
    values = [value for value in vars(geometry).values() if isinstance(value, Tensor)]
    outputs = _bytes([*values, after, noise])
    return {label: size for label, size in meter.peak.items() if label != _WEIGHTS} | {"outputs": outputs}


def _meter(network: nn.Module) -> StepMeter:
    """A meter that knows the weights of a network, which views would make appear as new tensors."""
    meter = StepMeter(network, lambda _name: None)
    meter.adopt(network.parameters(), _WEIGHTS)
    meter.adopt(network.buffers(), _WEIGHTS)
    return meter


def _inputs(config: WorldConfig, choice: GenerationChoice) -> dict[str, Any]:
    """The encoded inputs but for the text."""
    video, (frames, height, width) = config.video, _size(choice)
    grid = latent_shape(video.out_dim, frames, height, width)[1:]
    follows = config.camera is not None or video.control_dim is not None
    rays = RayMap(rays=_empty(1, frames, height, width, 6), convention=config.compat.plucker) if follows else None
    return {
        "y": _empty(1, video.y_dim, *grid) if video.y_dim else None,
        "clip_feature": None if video.clip_dim is None else _empty(1, video.clip_len, video.clip_dim),
        "plucker": rays,
    }


def _first_frame(autoencoder: nn.Module, config: WorldConfig, choice: GenerationChoice) -> int:
    """Bytes besides the weights at the peak of encoding the first frame."""
    meter = _meter(autoencoder)
    frames, height, width = _size(choice)
    with meter, MetaDeviceMode(autoencoder, device="cuda", half=False):
        first = _empty(1, 3, 1, height, width)
        assert isinstance(autoencoder, VideoAutoencoder)
        first_frame_condition(autoencoder, first, frames, config.video.y_dim)
    return meter.peak.total() - meter.peak[_WEIGHTS]


def _frames(autoencoder: nn.Module, config: WorldConfig, choice: GenerationChoice) -> int:
    """Bytes besides the weights at the peak of decoding the video."""
    meter = _meter(autoencoder)
    with meter, MetaDeviceMode(autoencoder, device="cuda", half=False):
        latents = _empty(1, *latent_shape(config.video.out_dim, *_size(choice)))
        assert isinstance(autoencoder, VideoAutoencoder)
        video = autoencoder.decode(latents)[0].float().clamp(-1, 1)
        ((video + 1) * 127.5).round().to(torch.uint8)
    return meter.peak.total() - meter.peak[_WEIGHTS]


def _on_device(world: FantasyWorld, offload: Offload) -> int:
    """Bytes of a transformer's weights on the device: all, or all but the blocks and two of these."""
    if offload == "model":
        return _bytes(world.parameters()) + _bytes(world.buffers())
    around = sum(_bytes(part.parameters()) + _bytes(part.buffers()) for part in world.non_block_modules())
    blocks = [_bytes(block.parameters()) + _bytes(block.buffers()) for block in (*world.pcb, *world.irg)]
    return around + max(one + other for one, other in zip(blocks, [*blocks[1:], blocks[0]], strict=True))


def _meta_autoencoder(parts: GenerationParts) -> nn.Module:
    """A copy on the meta device, of an autoencoder that may be in use."""
    autoencoder = parts.autoencoder
    assert isinstance(autoencoder, nn.Module), "every autoencoder is a module"
    known: dict[int, Any] = {}
    for value in autoencoder.parameters():
        known[id(value)] = nn.Parameter(value.detach().to("meta"), requires_grad=False)
    known.update({id(value): value.to("meta") for value in autoencoder.buffers()})
    copy = deepcopy(autoencoder, known)
    if isinstance(copy, WanVAE) and copy.decode_dtype is None:
        copy.decode_dtype = parts.decode_dtype
    return copy


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _size(choice: GenerationChoice) -> tuple[int, int, int]:
    return choice.frames, choice.height, choice.width


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")
