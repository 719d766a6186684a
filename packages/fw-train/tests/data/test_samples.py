"""Clips become samples: windows, crops with cameras that follow, splits that hold, caches that change nothing."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fw_data.dataset.reader import ClipDataset, StoredMasks
from fw_data.dataset.schema import ClipRecord
from fw_data.dataset.transforms import fit_window
from fw_geometry import Trajectory
from fw_train.config.schema import ClipConfig, ConfigError, TrainConfig
from fw_train.data.samples import Sample, SampleSource
from fw_train.data.split import open_dataset, split_clips, why_unusable
from fw_train.model_bundle import EncodedVideo

SMALL = ClipConfig(frames=5, height=32, width=48)


def encode(video: Tensor) -> EncodedVideo:
    return EncodedVideo(video[:, :, :2, ::8, ::8], None, None)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (48, 48), (64, 64), (32, 80)])
def test_cameras_follow_resize_and_crop(height: int, width: int) -> None:
    """An image that paints every pixel with its own ray direction still does so after fitting."""
    tall, wide, frames = 96, 128, 2
    K = np.array([[70.0, 0, 60], [0, 80, 50], [0, 0, 1]])
    column, row = np.meshgrid(np.arange(wide) + 0.5, np.arange(tall) + 0.5)
    ray = np.stack([(column - 60) / 70, (row - 50) / 80, np.ones_like(column)])
    cameras = Trajectory(
        pose_c2w=np.tile(np.eye(4), (frames, 1, 1)), K=np.tile(K, (frames, 1, 1)), width=wide, height=tall
    )
    video = np.tile(np.round((ray.transpose(1, 2, 0) + 1) * 127.5 / 2).astype(np.uint8), (frames, 1, 1, 1))
    depth = np.tile((ray[0] + 2).astype(np.float32), (frames, 1, 1))
    color, labels, confidence, fitted = fit_window(video, depth, np.ones_like(depth), cameras, height, width)
    assert color.shape == (frames, 3, height, width)
    assert labels.shape == confidence.shape == (frames, height, width)
    assert (fitted.width, fitted.height) == (width, height)
    column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    after = (column - fitted.K[0, 0, 2]) / fitted.K[0, 0, 0], (row - fitted.K[0, 1, 2]) / fitted.K[0, 1, 1]
    seen = (color.numpy() + 1) * 2 - 1
    inner = (slice(2, -2), slice(2, -2))  # antialiasing mixes the border with nothing
    np.testing.assert_allclose(seen[0, 0][inner], after[0][inner], atol=0.02)
    np.testing.assert_allclose(seen[0, 1][inner], after[1][inner], atol=0.02)
    # nearest labels sit up to half a source pixel off
    np.testing.assert_allclose(labels[0].numpy() - 2, after[0], atol=0.6 / 70 + 1e-6)


def depth_of(sample: Sample) -> torch.Tensor:
    assert sample.depth is not None
    return sample.depth


def test_a_window_of_the_same_size_is_left_alone(dataset: Path) -> None:
    clip = ClipDataset(dataset).load(0, frames=slice(0, 5))
    cameras = Trajectory(pose_c2w=clip.pose_c2w, K=clip.K, width=48, height=32)
    color, depth, _, fitted = fit_window(clip.video, clip.depth_m, clip.confidence, cameras, 32, 48)
    assert np.array_equal(((color + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy(), clip.video)
    assert np.array_equal(depth.numpy(), clip.depth_m)
    np.testing.assert_array_equal(fitted.K, clip.K)


def test_the_window_starts_where_asked_and_its_first_camera_is_the_identity(dataset: Path) -> None:
    source = SampleSource(ClipDataset(dataset), SMALL, encode)
    whole = ClipDataset(dataset).load("clip-03")
    sample = source.load("clip-03", 2)
    np.testing.assert_array_equal(depth_of(sample).numpy(), whole.depth_m[2:7])
    relative = np.linalg.inv(whole.pose_c2w[2]) @ whole.pose_c2w[2:7]
    np.testing.assert_allclose(sample.pose_c2w.numpy(), relative, atol=1e-6)


def test_untrusted_depth_is_masked(dataset: Path) -> None:
    strict = SampleSource(ClipDataset(dataset), dataclasses.replace(SMALL, min_confidence=2.0), encode)
    assert not depth_of(strict.load("clip-00", 0)).any()


def test_what_moves_and_the_sky_are_masked_where_asked(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def masks(_self: ClipDataset, _clip: str, frames: slice) -> StoredMasks:
        moving, sky = np.zeros((2, 13, 32, 48), bool)
        moving[3, 8:12] = True
        sky[:, :, :5] = True
        return StoredMasks(moving[frames], sky[frames])

    plain = SampleSource(ClipDataset(dataset), SMALL, encode).load("clip-00", 2)
    config = dataclasses.replace(SMALL, mask_moving=True)
    monkeypatch.setattr(ClipDataset, "masks", masks)
    masked = SampleSource(ClipDataset(dataset), config, encode).load("clip-00", 2)
    gone = (depth_of(masked) == 0) & (depth_of(plain) > 0)
    assert gone[:, :, :5].all()
    assert gone[1, 8:12].all()
    assert int(gone.sum()) == 5 * 32 * 5 + 4 * (48 - 5)
    assert torch.equal(depth_of(SampleSource(ClipDataset(dataset), SMALL, encode).load("clip-00", 2)), depth_of(plain))


def test_clips_without_masks_are_left_out_where_they_are_asked_for(dataset: Path) -> None:
    records = ClipDataset(dataset).records
    assert "no masks" in why_unusable(records[0], dataclasses.replace(SMALL, mask_moving=True))
    assert not why_unusable(records[0], SMALL)
    have = [record.model_copy(update={"has_masks": True}) for record in records[:3]]
    split = split_clips([*have, *records[3:]], dataclasses.replace(SMALL, mask_moving=True))
    assert len(split.train) + len(split.held_out) == 3
    assert TrainConfig().digest() != TrainConfig(clip=ClipConfig(mask_moving=True)).digest()


def test_the_cache_changes_nothing_and_stays_in_its_bounds(dataset: Path) -> None:
    small = 3 * SampleSource(ClipDataset(dataset), SMALL, encode).load("clip-00", 0).nbytes() / 2**30
    free, bounded, none = (
        SampleSource(ClipDataset(dataset), dataclasses.replace(SMALL, cache_gb=gb), encode) for gb in (1.0, small, 0.0)
    )
    for index in (0, 1, 2, 3, 4, 0, 1, 4, 4):
        loaded = [source.load(f"clip-{index:02d}", index % 3) for source in (free, bounded, none)]
        assert all(torch.equal(loaded[0].latents, other.latents) for other in loaded)
        assert all(torch.equal(depth_of(loaded[0]), depth_of(other)) for other in loaded)
    assert free.load("clip-00", 0) is free.load("clip-00", 0)
    assert (len(free._kept), len(bounded._kept), len(none._kept)) == (5, 3, 0)


def test_the_split_is_a_hash_and_survives_growth(dataset: Path) -> None:
    records = ClipDataset(dataset).records
    config = dataclasses.replace(SMALL, held_out=0.3)
    split = split_clips(records, config)
    assert {r.id for r in split.train} | {r.id for r in split.held_out} == {r.id for r in records}
    assert not {r.id for r in split.train} & {r.id for r in split.held_out}
    assert len(split.held_out) >= 1
    part = split_clips(records[:9], config)
    assert {r.id for r in part.held_out} == {r.id for r in split.held_out} & {r.id for r in records[:9]}
    assert split.digest() == split_clips(records, config).digest() != part.digest()


def test_the_clips_of_one_video_stay_together(dataset: Path) -> None:
    records = ClipDataset(dataset).records
    paired = [r.model_copy(update={"source_sha256": records[i // 2].source_sha256}) for i, r in enumerate(records)]
    split = split_clips(paired, dataclasses.replace(SMALL, held_out=0.3))
    assert split.by == "source video"
    assert not {r.source_sha256 for r in split.train} & {r.source_sha256 for r in split.held_out}
    one = [r.model_copy(update={"source_sha256": records[0].source_sha256}) for r in records]
    assert split_clips(one, SMALL).by == "clip"
    assert split_clips(one, SMALL).held_out


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_frames": 4}, "shorter than clip.frames = 5"),
        ({"height": 16}, "stored at 48x16, smaller than clip 48x32"),
        ({"members": {}}, "no depth"),
    ],
)
def test_unusable_clips_are_counted_with_their_reason(dataset: Path, change: dict[str, object], reason: str) -> None:
    records = ClipDataset(dataset).records
    bad: list[ClipRecord] = [r.model_copy(update=change) for r in records]
    split = split_clips([*records[:8], *bad[8:]], SMALL)
    assert len(split.train) + len(split.held_out) == 8
    assert any(reason in line and "4" in line for line in split.describe(TrainConfig(clip=SMALL)))
    with pytest.raises(ConfigError, match=f"12 clips: .*{reason}"):
        split_clips(bad, SMALL)


def test_missing_datasets_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--data"):
        open_dataset(None)
    with pytest.raises(ConfigError, match=r"manifest\.parquet.*fw-data annotate"):
        open_dataset(tmp_path)
