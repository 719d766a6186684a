"""Reading back what annotate wrote: against the truth it was made from, by window, by other tools."""

import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fw_data import ClipDataset, ClipRecord, DataError, DatasetCard, Refusal


def test_a_clip_is_the_truth_it_was_made_from(shared_dataset, scene):
    out, _ = shared_dataset
    dataset = ClipDataset(out)
    assert len(dataset) == 2
    clip, truth = dataset.load(0), scene(13, seed=0)
    assert clip.video.shape == (13, 48, 64, 3)
    assert clip.video.dtype == np.uint8
    np.testing.assert_allclose(clip.depth_m, truth["depth_m"], rtol=2**-11)
    np.testing.assert_allclose(clip.K, truth["K"])
    expected = np.linalg.inv(truth["pose_c2w"][0]) @ truth["pose_c2w"]
    np.testing.assert_allclose(clip.pose_c2w, expected, atol=1e-12)
    assert (clip.confidence == 1).all()
    assert (clip.caption, clip.fps, clip.units) == ("a slanted plane", 24.0, "metric")
    np.testing.assert_array_equal(clip.frame_index, np.arange(13))
    assert dataset.records[0].grade == "A"


def test_points_lie_on_the_plane(shared_dataset):
    """The plane of the scene in the frame of the first camera, which is the world of the made-up scene."""
    clip = ClipDataset(shared_dataset[0]).load(1)
    points = clip.points_world
    assert points.shape == (13, 48, 64, 3)
    np.testing.assert_allclose(points @ np.array([0.3, 0.2, -1.0], np.float32), -4.0, atol=0.01)


@pytest.mark.parametrize("window", [slice(3, 8), slice(0, 1), slice(2, 13, 4), slice(-3, None)])
def test_a_window_is_that_part_of_the_clip(shared_dataset, window, monkeypatch):
    dataset = ClipDataset(shared_dataset[0])
    whole = dataset.load(0)
    for whole_blobs in (1 << 18, 0):  # read whole, and read in part
        monkeypatch.setattr("fw_data.dataset.reader._WHOLE", whole_blobs)
        part = dataset.load(whole.id, window)
        for name in ("video", "depth_m", "confidence", "K", "pose_c2w", "pose_confidence", "frame_index"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[window], err_msg=name)
        assert part.fps == 24.0 / (window.step or 1)


@pytest.mark.parametrize("window", [slice(5, 5), slice(40, 50), slice(None, None, -1)])
def test_windows_without_frames_are_refused(shared_dataset, window):
    with pytest.raises(DataError, match="frames"):
        ClipDataset(shared_dataset[0]).load(0, window)


def test_it_pickles_small_and_keeps_no_file_open(shared_dataset):
    dataset = ClipDataset(shared_dataset[0])
    for _ in range(3):
        dataset.load(0)
    opened = [os.path.realpath(handle) for handle in Path("/proc/self/fd").iterdir()]
    assert opened
    assert not [name for name in opened if name.startswith(str(dataset.path.resolve()))]
    data = pickle.dumps(dataset)
    assert len(data) < 1000
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.load(1).depth_m, dataset.load(1).depth_m)


def test_shards_are_webdataset_samples_and_the_manifest_plain_parquet(shared_dataset):
    out, _ = shared_dataset
    table = pq.read_table(out / "manifest.parquet")
    with tarfile.open(out / "shards" / "000000.tar") as tar:
        names = tar.getnames()
        samples = {}
        for name in names:
            key, _, suffix = name.partition(".")
            content = tar.extractfile(name)
            assert content is not None
            samples.setdefault(key, {})[suffix] = content.read()
    assert names == [f"{key}.{suffix}" for key in table["id"].to_pylist() for suffix in samples[key]]
    for key, files in samples.items():
        assert list(files) == ["mp4", "depth.zst", "conf.zst", "mask.zst", "cameras.npz", "json"]
        record = ClipRecord.model_validate_json(files["json"])
        assert record.id == key
        assert (record.shard, record.members) == ("", {})


def test_what_is_written_follows_the_schema(shared_dataset):
    out, _ = shared_dataset
    card = json.loads((out / "dataset.json").read_text())
    assert set(card) == set(DatasetCard.model_json_schema()["properties"])
    assert card["counts"] == {"videos": 2, "clips": 2, "frames": 26, "filtered": 0, "refused": 0, "failed": 0}
    assert "Camera-to-world" in card["conventions"]["pose_c2w"]
    record = ClipDataset(out).records[0]
    assert set(record.scores) <= set(card["scores"])
    assert {"id", "members", "grade"} <= set(ClipRecord.model_json_schema()["properties"])
    assert {"status", "code", "reason"} <= set(Refusal.model_json_schema()["properties"])


def test_folders_that_are_no_datasets(tmp_path, shared_dataset):
    with pytest.raises(DataError, match=str(tmp_path)):
        ClipDataset(tmp_path)
    (tmp_path / "manifest.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="Parquet"):
        ClipDataset(tmp_path)
    with pytest.raises(DataError, match="'x'"):
        ClipDataset(shared_dataset[0]).load("x")
