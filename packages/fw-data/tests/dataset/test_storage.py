"""Datasets behind an address, and reading with checksums: the same clips as from the folder, and damage is found."""

import pickle
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest

from fw_data import ClipDataset, DataError


@pytest.fixture
def remote(shared_dataset):
    """The shared dataset copied into fsspec's in-memory store."""
    system, address = fsspec.filesystem("memory"), "memory://bucket/toy"
    for path in (shared_dataset[0] / "manifest.parquet", *(shared_dataset[0] / "shards").glob("*.tar")):
        system.pipe_file(f"/bucket/toy/{path.relative_to(shared_dataset[0]).as_posix()}", path.read_bytes())
    yield address
    system.rm("/bucket", recursive=True)


def test_a_remote_dataset_reads_as_the_folder(remote, shared_dataset, monkeypatch):
    there, here = ClipDataset(remote), ClipDataset(shared_dataset[0])
    assert there.records == here.records
    for whole_blobs in (1 << 18, 0):
        monkeypatch.setattr("fw_data.dataset.reader._WHOLE", whole_blobs)
        one, other = there.load(0, slice(2, 9, 2)), here.load(0, slice(2, 9, 2))
        for name in ("video", "depth_m", "confidence", "K", "pose_c2w"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    again = pickle.loads(pickle.dumps(there))
    np.testing.assert_array_equal(again.load(1).video, here.load(1).video)
    with pytest.raises(DataError, match="memory://"):
        _ = there.path


def test_a_window_reads_only_a_part_of_the_blob(remote, monkeypatch):
    monkeypatch.setattr("fw_data.dataset.reader._WHOLE", 0)
    dataset = ClipDataset(remote)
    asked: list[int] = []
    storage = dataset._storage
    plain = storage.read_range
    monkeypatch.setattr(storage, "read_range", lambda name, a, b: (asked.append(b - a), plain(name, a, b))[1])
    dataset.geometry(0, slice(0, 2))
    members = dataset.records[0].members
    depth, confidence = members["depth.zst"].size, members["conf.zst"].size
    assert sum(asked) < members["cameras.npz"].size + (depth + confidence) / 2


def test_addresses_that_do_not_work(remote, tmp_path):
    with pytest.raises(DataError, match=r"memory://bucket/none/manifest\.parquet"):
        ClipDataset("memory://bucket/none")
    with pytest.raises(DataError, match=r"nosuch"):
        ClipDataset("nosuch://bucket/toy")
    with pytest.raises(DataError, match="//"):
        ClipDataset(Path("s3://bucket/toy"))
    fsspec.filesystem("memory").pipe_file("/bucket/toy/shards/000000.tar", b"short")
    with pytest.raises(DataError, match="byte"):
        ClipDataset(remote).load(0)


def test_verify_finds_a_flipped_byte_that_would_decode(shared_dataset, tmp_path):
    out = tmp_path / "set"
    shutil.copytree(shared_dataset[0], out, ignore=shutil.ignore_patterns(".work"))
    sound = ClipDataset(out, verify=True)
    assert pickle.loads(pickle.dumps(sound)).verify
    np.testing.assert_array_equal(sound.load(1, slice(3, 5)).depth_m, ClipDataset(out).load(1, slice(3, 5)).depth_m)
    shard = out / "shards" / "000000.tar"
    data, member = bytearray(shard.read_bytes()), sound.records[0].members["mp4"]
    data[member.offset + member.size - 3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match=r"mp4"):
        sound.load(0)
    assert sound.load(1).video.shape == (13, 48, 64, 3)


def test_geometry_is_what_load_gives_without_the_video(shared_dataset):
    dataset = ClipDataset(shared_dataset[0])
    clip, (depth_m, confidence, cameras) = dataset.load(1, slice(1, 8, 3)), dataset.geometry(1, slice(1, 8, 3))
    np.testing.assert_array_equal(depth_m, clip.depth_m)
    np.testing.assert_array_equal(confidence, clip.confidence)
    np.testing.assert_array_equal(cameras.pose_c2w, clip.pose_c2w)
    with pytest.raises(DataError, match="ply"):
        dataset.read(0, "ply")
