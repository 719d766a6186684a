"""Encoded once, trained the same: the cache changes no number, and what no longer fits is never used."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fw_data.dataset.clip import pack_clip
from fw_data.dataset.manifest import write_manifest
from fw_data.dataset.reader import ClipDataset
from fw_data.dataset.shards import ShardWriter
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.autoencoders.wan_vae import WanVAE
from fw_model.checkpoints.checkpoint import load_world
from fw_model.encoders.hashing import HashTextEncoder
from fw_train.cli import main
from fw_train.config.load import from_mapping
from fw_train.config.schema import TrainConfig
from fw_train.data.encode import encode, wanted
from fw_train.data.latent_cache import LatentCache, Store, open_cache, part_fingerprint
from fw_train.data.samples import SampleSource
from fw_train.data.split import Shape, split_clips
from fw_train.model_bundle import EncodedVideo, Encoders, load_bundle
from fw_train.tasks.train import train

CLIP = {"frames": 5, "height": 16, "width": 32, "start_step": 1, "validate_on": 2}


@pytest.fixture
def data(dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dataset, tmp_path / "data"))


def configure(data: Path, model: Path, **changes: Any) -> TrainConfig:
    tree = {
        "data": str(data),
        "model": str(model),
        "steps": 4,
        "batch": 2,
        "clip": CLIP,
        "noise": {"validation": [0.5]},
        "compute": {"threads": 1, "device": "cpu"},
    }
    return from_mapping({**tree, **changes}, TrainConfig(stage="base"))


def said(config: TrainConfig) -> str:
    return "\n".join(encode(config))


def refuse(video: Tensor) -> Any:
    raise AssertionError("this window should have come from the cache")


def test_windows_are_the_same_to_the_bit_and_no_encoder_runs(data: Path, mini: Path) -> None:
    config = configure(data, mini)
    bundle = load_bundle(config)
    dataset = ClipDataset(data)
    assert open_cache(dataset.path, config.clip, bundle.encoders) is None
    assert "26 windows of 10 clips, 13 captions" in said(config)
    found = open_cache(dataset.path, config.clip, bundle.encoders)
    assert found is not None
    plain = SampleSource(dataset, config.clip, bundle.encode)
    cached = SampleSource(dataset, config.clip, refuse, found.clips)
    windows = 0
    for record, starts in wanted(split_clips(dataset.records, config.clip), config.clip):
        assert found.clips.has(record) == starts
        for start in starts:
            one, other = plain.load(record.id, start), cached.load(record.id, start)
            windows += 1
            for name in ("latents", "condition", "depth", "confidence", "K", "pose_c2w"):
                assert torch.equal(getattr(one, name), getattr(other, name)), name
            assert other.latents.dtype == one.latents.dtype
    assert windows == 26
    assert found.clips.counts == {"found": windows}
    for caption in ("", dataset.records[3].caption):
        stored = found.texts.read(caption)
        assert stored is not None
        assert torch.equal(stored, bundle.text_encoder.encode([caption])[0])


def test_a_run_gives_the_same_weights_and_says_what_it_used(
    data: Path, mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(configure(data, mini, out=str(tmp_path / "plain")))
    assert "cache" not in capsys.readouterr().out
    said(configure(data, mini))
    train(configure(data, mini, out=str(tmp_path / "cached")))
    told = capsys.readouterr().out
    assert "latents: read from encoded/video-" in told
    assert "latents: 10 from the cache\n" in told  # 4 steps of 2, and 2 held-out clips, once each
    one, other = (
        {name: p.detach() for name, p in load_world(tmp_path / run / "export").named_parameters()}
        for run in ("plain", "cached")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_size_or_encoder_is_another_key_and_is_told(data: Path, mini: Path) -> None:
    config = configure(data, mini)
    said(config)
    dataset, encoders = ClipDataset(data), load_bundle(config).encoders
    other = configure(data, mini, clip={**CLIP, "height": 32})
    found = open_cache(dataset.path, other.clip, encoders)
    assert found is not None
    assert any("other settings (height differ)" in line for line in found.lines())
    assert found.clips.read(dataset.records[0], 0) is None
    assert any(line.startswith("captions: read from") for line in found.lines())
    vae = WanVAE.small(seed=1, base_dim=4)
    changed = Encoders(
        autoencoder=vae, text_encoder=encoders.text_encoder, image_encoder=None, condition_channels=16, tokens=False
    )
    found = open_cache(dataset.path, config.clip, changed)
    assert found is not None
    assert any("autoencoder" in line and "is not used" in line for line in found.lines())


def test_fingerprints_follow_the_weights_and_the_sizes() -> None:
    one, same, other = (
        WanVAE.small(seed=1, base_dim=4),
        WanVAE.small(seed=1, base_dim=4),
        WanVAE.small(seed=2, base_dim=4),
    )
    assert part_fingerprint(one) == part_fingerprint(same) != part_fingerprint(other)
    with torch.no_grad():
        next(same.parameters()).mul_(1.001)
    assert part_fingerprint(one) != part_fingerprint(same)
    dct = BlockDCT()
    before = part_fingerprint(dct)
    dct.rest_scale[3] *= 1.5
    assert part_fingerprint(dct) != before
    short, long = HashTextEncoder(text_len=6, text_dim=12), HashTextEncoder(text_len=7, text_dim=12)
    assert part_fingerprint(short) != part_fingerprint(long)


def test_an_interrupted_encoding_goes_on_and_damage_is_made_good(data: Path, mini: Path) -> None:
    config = configure(data, mini)
    first = said(config)
    assert "0 captions" not in first
    assert "0 windows of 0 clips, 0 captions" in said(config)
    files = sorted(data.glob("encoded/video-*/*/*.safetensors"))
    before = files[0].read_bytes()
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:100])
    again = said(config)
    assert "of 2 clips, 0 captions" in again
    assert files[0].read_bytes() == before
    assert not list(data.rglob("*.partial"))
    assert json.loads(next(data.glob("encoded/video-*/key.json")).read_text())["height"] == 16


def test_a_clip_that_changed_is_recomputed(data: Path, mini: Path) -> None:
    config = configure(data, mini)
    said(config)
    before = ClipDataset(data)
    records, changed = [], before.records[0].id
    clips = [(before.load(i), before.cameras(i), record) for i, record in enumerate(before.records)]
    old = {record.id: before.read(record.id, "mp4") for record in before.records}
    with ShardWriter(data / "shards" / "000000.tar") as writer:
        for clip, cameras, record in clips:
            video = 255 - clip.video if record.id == changed else clip.video
            bare = record.model_copy(update={"shard": "", "members": {}})
            files = pack_clip(
                bare, video=video, depth_m=clip.depth_m, confidence=clip.confidence, cameras=cameras, crf=8
            )
            if record.id != changed:
                files["mp4"] = old[record.id]
            records.append(record.model_copy(update={"members": writer.add(record.id, files)}))
    write_manifest(data / "manifest.parquet", records)
    dataset, bundle = ClipDataset(data), load_bundle(config)
    found = open_cache(dataset.path, config.clip, bundle.encoders)
    assert found is not None
    assert found.clips.read(dataset.record(changed), 0) is None
    assert found.clips.counts == {"stale": 1}
    assert "made from another video and recomputed" in "\n".join(found.summary())
    fresh = SampleSource(dataset, config.clip, bundle.encode, found.clips).load(changed, 0)
    plain = SampleSource(dataset, config.clip, bundle.encode).load(changed, 0)
    assert torch.equal(fresh.latents, plain.latents)


def test_ranks_divide_the_work_whatever_others_have_written(data: Path, mini: Path) -> None:
    config = configure(data, mini)
    for rank in (1, 0):  # the second one sees the files of the first
        list(encode(config, rank=rank, world_size=2))
    assert "0 windows of 0 clips, 0 captions" in said(config)


def test_the_command(data: Path, mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["encode", "base", "tiny", "--data", str(data), "--model", str(mini), "--clip.frames", "5"]
    code = main([*words, "--clip.height", "32", "--clip.width", "48", "--compute.device", "cpu"])
    told = capsys.readouterr().out
    assert code == 0, told
    assert f"result: {data}/encoded/video-" in told
    for wrong, message in (["encode"], "usage: fw-train encode STAGE"), (["encode", "base"], "CONFIG comes first"):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err


def test_a_store_reads_nothing_of_another_origin(tmp_path: Path) -> None:
    store = Store(tmp_path, "video", {"a": 1})
    assert not store.exists()
    store.write("name", {"x@0": torch.arange(3)}, made_from="here")
    assert store.read("name", ["x@4"], made_from="here") is None
    assert store.read("name", ["x@0"], made_from="there") is None
    found = store.read("name", ["x@0", "y@0"], made_from="here")
    assert found is not None
    assert found["x@0"].tolist() == [0, 1, 2]
    assert store.counts == {"missing": 1, "stale": 1, "found": 1}
    assert Store(tmp_path, "video", {"a": 2}).others() == [["a"]]


def test_windows_keep_what_there_is_of_them(dataset: Path, tmp_path: Path) -> None:
    """Models read different things: tokens without a condition here, of two windows in one file."""
    record = ClipDataset(dataset).records[0]
    clips = LatentCache({(shape := Shape(5, 16, 32)): Store(tmp_path, "video", {"a": 1})}, lambda _clip: shape)
    windows = {s: EncodedVideo(torch.randn(4, 2, 3, 5), None, torch.randn(7, 6).bfloat16()) for s in (0, 12)}
    clips.write(record, windows)
    assert clips.has(record) == {0, 12}
    for start, window in windows.items():
        found = clips.read(record, start)
        assert found is not None
        assert found.condition is None
        assert found.image_tokens is not None
        assert window.image_tokens is not None
        assert torch.equal(found.latents, window.latents)
        assert torch.equal(found.image_tokens, window.image_tokens)
        assert found.image_tokens.dtype == torch.bfloat16
    assert clips.read(record, 4) is None


def test_encoders_that_load_late_are_known_by_their_files(tmp_path: Path) -> None:
    class Late:
        source, dtype = tmp_path, torch.float32

        def spec(self) -> dict[str, str]:
            return {"kind": "late", "source": str(tmp_path)}

    (tmp_path / "model.safetensors").write_bytes(b"weights" * 1000)
    first = part_fingerprint(Late())
    assert part_fingerprint(Late()) == first
    (tmp_path / "model.safetensors").write_bytes(b"weights" * 999 + b"weighed")
    assert part_fingerprint(Late()) != first
