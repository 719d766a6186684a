"""`fw-train encode STAGE CONFIG ...`: run the frozen encoders over a dataset once, before `fw-train STAGE CONFIG ...`.

It takes the words of the run it is for, and writes what that run will look for: every window it may draw, the middle
windows of the held-out clips, and all captions. Run it again to go on after an interruption, or after the dataset grew.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange

from fw_data.dataset import ClipDataset
from fw_data.fit import fit_video
from fw_data.schema import ClipRecord
from fw_model.autoencoder import BlockDCT
from fw_model.companions import load_companions
from fw_model.text import HashTextEncoder
from fw_train.clips import Split, open_dataset, split_clips
from fw_train.config import ClipConfig, TrainConfig
from fw_train.encoded import FOLDER, EncodedClips, EncodedTexts, Store, part_fingerprint, video_key
from fw_train.parts import Encoded, Encoders, check_start, world_config


@dataclass(frozen=True, kw_only=True)
class Encodings:
    """Both caches of a run."""

    clips: EncodedClips
    """Windows."""
    texts: EncodedTexts
    """Captions."""

    def lines(self) -> list[str]:
        """What to tell before a run: what is used, and what is not and why."""
        told = []
        for what, store in (("latents", self.clips.store), ("captions", self.texts.store)):
            if store.exists():
                told.append(f"{what}: taken from {store.folder.relative_to(store.root.parent)} where they are there")
                continue
            for names in store.others():
                told.append(f"{what}: an encoding for other settings ({', '.join(names)} differ) is not used")
        if told and not self.clips.store.exists():
            told.append("latents: computed in the run; `fw-train encode` with the words of this run does it once")
        return told


def encodings(dataset: ClipDataset, config: ClipConfig, encoders: Encoders) -> Encodings:
    """The caches that fit a run; they may not exist."""
    root = dataset.path / FOLDER
    hashes = {"autoencoder": part_fingerprint(encoders.autoencoder)}
    if encoders.image_encoder is not None and encoders.tokens:
        hashes["image encoder"] = part_fingerprint(encoders.image_encoder)
    text = {"text encoder": part_fingerprint(encoders.text_encoder)}
    return Encodings(
        clips=EncodedClips(Store(root, "video", video_key(config, hashes, encoders.condition_channels))),
        texts=EncodedTexts(Store(root, "text", text), encoders.text_encoder.text_len),
    )


def encode(config: TrainConfig) -> Iterator[str]:
    """Encode what a run needs and is not there yet; gives lines to show.

    Raises:
        ConfigError: the dataset or `init` will not do.
    """
    dataset = open_dataset(config.data)
    split = split_clips(dataset.records, config.clip)
    yield from split.describe()
    encoders = load_encoders(config)
    device = torch.device(config.compute.device if config.compute.device != "auto" else _best_device())
    encoders.to(device)
    found = encodings(dataset, config.clip, encoders)
    todo = [(record, starts - found.clips.has(record)) for record, starts in wanted(split, config.clip)]
    todo = [(record, starts) for record, starts in todo if starts]
    captions = sorted({"", *(record.caption for record in (*split.train, *split.held_out))})
    captions = [caption for caption in captions if not found.texts.has(caption)]
    windows = sum(len(starts) for _, starts in todo)
    yield f"to encode on {device}: {windows} windows of {len(todo)} clips, {len(captions)} captions"
    written = sum(found.texts.write(caption, encoders.text_encoder.encode([caption])[0]) for caption in captions)
    for number, (record, starts) in enumerate(todo, start=1):
        kept = {start: _kept(found.clips, record, start) for start in found.clips.has(record)}
        made = {start: _encode_window(dataset, record, start, config.clip, encoders, device) for start in sorted(starts)}
        written += found.clips.write(record, kept | made)
        if number % 100 == 0 or number == len(todo):
            yield f"{number} of {len(todo)} clips, {written / 1e6:.1f} MB"
    yield f"result: {found.clips.store.folder}"


def load_encoders(config: TrainConfig) -> Encoders:
    """The frozen encoders of a run, without its world model.

    Raises:
        ConfigError: see `fw_train.parts.check_start`.
    """
    folder, world = check_start(config), world_config(config.model)
    sizes = {"condition_channels": world.video.y_dim, "tokens": world.video.clip_dim is not None}
    if folder is None:
        text = HashTextEncoder(text_len=world.video.text_len, text_dim=world.video.text_dim)
        return Encoders(autoencoder=BlockDCT(), text_encoder=text, image_encoder=None, **sizes)
    parts = load_companions(folder)
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


def describe_use(found: Encodings) -> Sequence[str]:
    """What was taken from the caches so far, for the end of a run."""
    rows = []
    for what, store in (("latents", found.clips.store), ("captions", found.texts.store)):
        if store.exists():
            rows.append(f"{what} from the cache: " + ", ".join(f"{n} {kind}" for kind, n in sorted(store.counts.items())))
    return rows


def _encode_window(
    dataset: ClipDataset, record: ClipRecord, start: int, config: ClipConfig, encoders: Encoders, device: torch.device
) -> Encoded:
    video = fit_video(dataset.video(record.id, slice(start, start + config.frames)), config.height, config.width)
    with torch.no_grad():
        encoded = encoders.encode(rearrange(video, "F c H W -> 1 c F H W").to(device))
    return Encoded(*(None if value is None else value[0].cpu() for value in encoded))


def _kept(clips: EncodedClips, record: ClipRecord, start: int) -> Encoded:
    found = clips.read(record, start)
    assert found is not None
    return found


def _best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def cache_folder(config: TrainConfig) -> Path | None:
    """Where the encodings of a run's dataset lie."""
    return None if config.data is None else config.data / FOLDER
