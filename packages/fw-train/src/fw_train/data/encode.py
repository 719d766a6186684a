"""`fw-train encode STAGE CONFIG ...`: run the frozen encoders over a dataset once, before `fw-train STAGE CONFIG ...`.

It takes the arguments of the run, and writes everything that the run will read: all windows that training may draw, the
middle windows of the held-out clips, and all captions. Run it again after an interruption, or after the dataset grew:
only missing entries are computed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from einops import rearrange

from fw_core.devices import choose_device
from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.schema import ClipRecord
from fw_data.dataset.windows import Window, WindowLoader
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.pipeline.components import load_components
from fw_train.config.preflight import autoencoder_alone
from fw_train.config.schema import ClipConfig, ConfigError, TrainConfig
from fw_train.data.latent_cache import EncodingCache, LatentCache, folder_of, open_cache
from fw_train.data.rooms import RoomDataset
from fw_train.data.split import Split, middle_start, open_data, training_starts
from fw_train.model_bundle import EncodedVideo, Encoders, check_start, first_of, world_config

AHEAD = 2
"""Clips per worker whose windows are requested before they are encoded."""


@dataclass(frozen=True, kw_only=True)
class Remaining:
    """Missing windows and captions of a run."""

    windows: list[tuple[ClipRecord, set[int]]]
    """Clips and the first frames of their windows."""
    captions: list[str]
    """Captions, with the empty one if it is missing."""

    @property
    def count(self) -> int:
        """Number of windows."""
        return sum(len(starts) for _, starts in self.windows)


def encode(
    config: TrainConfig, *, rank: int = 0, world_size: int = 1, device: torch.device | None = None
) -> Iterator[str]:
    """Encode everything that a run needs and that is missing; yields lines to print.

    Args:
        config: the run.
        rank: this process encodes every `world_size`-th clip and caption, starting at `rank`.
        world_size: number of processes that encode.
        device: device of the encoders; None: that of the configuration.

    Raises:
        ConfigError: the dataset or `init` is invalid.
    """
    if config.stage == "autoencoder":
        raise ConfigError("autoencoder trains the encoder itself; encode for a later stage")
    dataset, split = open_data(config)
    if not isinstance(dataset, ClipDataset):
        raise ConfigError(f"data = {config.data} is rendered while training, so there is nothing to encode")
    yield from split.describe(config)
    encoders = load_encoders(config)
    device = device or choose_device(config.compute.device)
    encoders.to(device)
    found = open_cache(folder_of(dataset), config.clip, encoders, split=split, make=True)
    assert found is not None, "the cache is made"
    todo = remaining(split, config.clip, found, rank=rank, world_size=world_size)
    yield f"to encode on {device}: {todo.count} windows of {len(todo.windows)} clips, {len(todo.captions)} captions"
    written = sum(found.texts.write(caption, encoders.text_encoder.encode([caption])[0]) for caption in todo.captions)
    encoders.text_encoder.free()
    clips, size = todo.windows, config.clip
    with WindowLoader(dataset, workers=size.num_workers) as loader:
        for number, (record, starts) in enumerate(clips, start=1):
            for coming, wanted in clips[number - 1 : number + AHEAD * size.num_workers]:
                loader.request(_windows(coming, wanted, split, size).values())
            kept = {start: _kept(found.clips, record, start) for start in found.clips.has(record)}
            made = {
                start: _encode_window(loader, window, encoders, device)
                for start, window in _windows(record, starts, split, size).items()
            }
            written += found.clips.write(record, kept | made)
            if number % 100 == 0 or number == len(clips):
                yield f"{number} of {len(clips)} clips, {written / 1e6:.1f} MB"
    encoders.free()
    yield f"result: {found.clips.folder}"


def remaining(split: Split, clip: ClipConfig, cache: EncodingCache, *, rank: int = 0, world_size: int = 1) -> Remaining:
    """Windows and captions of a run that are not in the cache, as far as this rank encodes them.

    The ranks divide all windows and captions, not the missing ones, which change while others write.
    """
    mine = slice(rank, None, world_size)
    windows = [(record, starts - cache.clips.has(record)) for record, starts in [*wanted(split, clip)][mine]]
    captions = sorted({"", *(record.caption for record in (*split.train, *split.held_out))})[mine]
    return Remaining(
        windows=[(record, starts) for record, starts in windows if starts],
        captions=[caption for caption in captions if not cache.texts.has(caption)],
    )


def to_encode(
    config: TrainConfig, dataset: ClipDataset | RoomDataset, split: Split, *, rank: int = 0, world_size: int = 1
) -> Remaining:
    """Windows and captions of a run that are not in the cache of its dataset, as far as this rank looks for them.

    Raises:
        ConfigError: `init` is invalid.
    """
    cache = open_cache(folder_of(dataset), config.clip, load_encoders(config), split=split, make=True)
    assert cache is not None, "the cache is made"
    return remaining(split, config.clip, cache, rank=rank, world_size=world_size)


def load_encoders(config: TrainConfig) -> Encoders:
    """The frozen encoders of a run, without its world model.

    Raises:
        ConfigError: see `fw_train.model_bundle.check_start`.
    """
    folder, world = check_start(config), world_config(config.model)
    sizes = {"condition_channels": world.video.y_dim, "tokens": world.video.clip_dim is not None}
    if folder is None or autoencoder_alone(folder):
        text = HashTextEncoder(text_len=world.video.text_len, text_dim=world.video.text_dim)
        learned = BlockDCT() if folder is None else load_components(folder).autoencoder
        return Encoders(autoencoder=learned, text_encoder=text, image_encoder=None, **sizes)
    components = load_components(folder)
    return Encoders(
        autoencoder=components.autoencoder,
        text_encoder=components.text_encoder,
        image_encoder=components.image_encoder,
        **sizes,
    )


def wanted(split: Split, clip: ClipConfig) -> Iterator[tuple[ClipRecord, set[int]]]:
    """First frames of the windows that a run may read, by clip: all that training may draw, one per held-out clip."""
    for record in split.train:
        yield record, set(training_starts(record, split.shape(record.id), clip))
    for record in split.held_out[: clip.validate_on]:
        yield record, {middle_start(record, split.shape(record.id), clip)}


def _windows(record: ClipRecord, starts: set[int], split: Split, clip: ClipConfig) -> Mapping[int, Window]:
    shape = split.shape(record.id)
    return {start: Window(record.id, start, *shape, clip.fps, labels=False) for start in sorted(starts)}


def _encode_window(loader: WindowLoader, window: Window, encoders: Encoders, device: torch.device) -> EncodedVideo:
    video = loader.load(window).video
    assert video is not None, "the window asks for images"
    with torch.no_grad():
        return first_of(encoders.encode(rearrange(torch.from_numpy(video), "F c H W -> 1 c F H W").to(device)))


def _kept(clips: LatentCache, record: ClipRecord, start: int) -> EncodedVideo:
    found = clips.read(record, start)
    assert found is not None, "the window was found before"
    return found
