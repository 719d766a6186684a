"""`fw-train encode STAGE CONFIG ...`: run the frozen encoders over a dataset once, before `fw-train STAGE CONFIG ...`.

It takes the words of the run it is for, and writes what that run will look for: every window it may draw, the middle
windows of the held-out clips, and all captions. Run it again to go on after an interruption, or after the dataset grew.
"""

from collections.abc import Iterator

import torch
from einops import rearrange

from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.schema import ClipRecord
from fw_data.dataset.transforms import fit_video
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.pipeline.components import load_components
from fw_train.config.schema import ClipConfig, ConfigError, TrainConfig
from fw_train.data.latent_cache import EncodedClips, encodings
from fw_train.data.samples import Split, open_dataset, split_clips
from fw_train.engine.distributed import pick_device
from fw_train.model_bundle import Encoded, Encoders, autoencoder_alone, check_start, first_of, world_config


def encode(config: TrainConfig) -> Iterator[str]:
    """Encode what a run needs and is not there yet; gives lines to show.

    Raises:
        ConfigError: the dataset or `init` will not do.
    """
    if config.stage == "autoencoder":
        raise ConfigError("autoencoder trains the encoder itself; encode for base, stage1 or stage2")
    dataset = open_dataset(config.data)
    split = split_clips(dataset.records, config.clip)
    yield from split.describe()
    encoders = load_encoders(config)
    device = pick_device(config.compute.device)
    encoders.to(device)
    found = encodings(dataset.path, config.clip, encoders, make=True)
    assert found is not None
    todo = [(record, starts - found.clips.has(record)) for record, starts in wanted(split, config.clip)]
    todo = [(record, starts) for record, starts in todo if starts]
    captions = sorted({"", *(record.caption for record in (*split.train, *split.held_out))})
    captions = [caption for caption in captions if not found.texts.has(caption)]
    windows = sum(len(starts) for _, starts in todo)
    yield f"to encode on {device}: {windows} windows of {len(todo)} clips, {len(captions)} captions"
    written = sum(found.texts.write(caption, encoders.text_encoder.encode([caption])[0]) for caption in captions)
    for number, (record, starts) in enumerate(todo, start=1):
        kept = {start: _kept(found.clips, record, start) for start in found.clips.has(record)}
        made = {
            start: _encode_window(dataset, record, start, config.clip, encoders, device) for start in sorted(starts)
        }
        written += found.clips.write(record, kept | made)
        if number % 100 == 0 or number == len(todo):
            yield f"{number} of {len(todo)} clips, {written / 1e6:.1f} MB"
    yield f"result: {found.clips.store.folder}"


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
    parts = load_components(folder)
    return Encoders(
        autoencoder=parts.autoencoder, text_encoder=parts.text_encoder, image_encoder=parts.image_encoder, **sizes
    )


def wanted(split: Split, config: ClipConfig) -> Iterator[tuple[ClipRecord, set[int]]]:
    """The windows that a run may ask for, by clip: all that training may draw, the middle one of held-out clips."""
    for record in split.train:
        spare = record.num_frames - config.frames
        last = spare // config.start_step * config.start_step if config.random_start else 0
        yield record, set(range(0, last + 1, config.start_step))
    for record in split.held_out[: config.validate_on]:
        yield record, {(record.num_frames - config.frames) // 2}


def _encode_window(
    dataset: ClipDataset, record: ClipRecord, start: int, config: ClipConfig, encoders: Encoders, device: torch.device
) -> Encoded:
    video = fit_video(dataset.video(record.id, slice(start, start + config.frames)), config.height, config.width)
    with torch.no_grad():
        encoded = encoders.encode(rearrange(video, "F c H W -> 1 c F H W").to(device))
    return first_of(encoded)


def _kept(clips: EncodedClips, record: ClipRecord, start: int) -> Encoded:
    found = clips.read(record, start)
    assert found is not None
    return found
