"""Training data from a real S3 server (moto): ranks, worker processes, and the cache on the machine."""

import itertools
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import numpy as np
import pytest
import s3fs
import torch
from moto.server import ThreadedMotoServer

from fw_data import ClipDataset, DataError
from fw_data.dataset.buckets import Bucket, BucketTable
from fw_data.dataset.loader import ClipBatch, ClipLoader
from fw_data.dataset.range_cache import RangeCache
from fw_data.dataset.storage import CachedStorage, RemoteStorage

ADDRESS, STEPS = "s3://worlds/toy", 3


@pytest.fixture(scope="module")
def bucket(shared_dataset: tuple[Path, object]) -> Iterator[str]:
    """The shared dataset in a bucket of a server on this machine; programs find it by the usual variables."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("DEFAULT_REGION", "us-east-1")):
            patch.setenv(f"AWS_{name}", value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="worlds")
        folder = shared_dataset[0]
        for path in (folder / "manifest.parquet", *(folder / "shards").glob("*.tar")):
            client.upload_file(str(path), "worlds", f"toy/{path.relative_to(folder).as_posix()}")
        yield ADDRESS
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


def table() -> BucketTable:
    return BucketTable(buckets=(Bucket(frames=5, height=32, width=48, batch=2),))


def rank_batches(location: str, rank: int, world_size: int, workers: int) -> list[ClipBatch]:
    """The first steps of a rank; its state counts what was taken, not what workers read ahead."""
    loader = ClipLoader(ClipDataset(location), table(), seed=3, rank=rank, world_size=world_size, workers=workers)
    taken = []
    for batch in itertools.islice(iter(loader), STEPS):
        assert loader.state_dict()["step"] == batch.step + 1
        taken.append(batch)
    return taken


@pytest.mark.slow
def test_two_ranks_with_workers_read_from_s3_what_one_process_reads_from_the_folder(
    bucket: str, shared_dataset: tuple[Path, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FW_DATA_CACHE", str(tmp_path / "cache"))
    with ThreadPoolExecutor(2) as pool:  # the worker processes are the loaders'
        ranks = list(pool.map(rank_batches, [bucket] * 2, [0, 1], [2] * 2, [1] * 2))
    whole = rank_batches(str(shared_dataset[0]), 0, 1, 0)
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert batch.ids == tuple(one for part in parts for one in part.ids)
        assert torch.equal(batch.video, torch.cat([part.video for part in parts]))
        assert torch.equal(batch.K, torch.cat([part.K for part in parts]))
    assert list((tmp_path / "cache").rglob("*-*")), "the ranks filled the cache"


def test_what_one_rank_read_no_other_downloads(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FW_DATA_CACHE", str(tmp_path / "cache"))
    expected = ClipDataset(bucket).load(0)

    def download(*_: object) -> bytes:
        raise AssertionError("a range was downloaded again")

    monkeypatch.setattr(RemoteStorage, "read_range", download)
    other = pickle.loads(pickle.dumps(ClipDataset(bucket)))
    np.testing.assert_array_equal(other.load(0).video, expected.video)
    np.testing.assert_array_equal(other.load(0).depth_m, expected.depth_m)
    with pytest.raises(AssertionError, match="again"):
        other.load(1)


def test_a_shard_that_was_replaced_is_downloaded_again(bucket: str, tmp_path: Path) -> None:
    files = boto3.client("s3")
    files.put_object(Bucket="worlds", Key="other/a", Body=b"old bytes")

    def storage() -> CachedStorage:
        s3fs.S3FileSystem.clear_instance_cache()  # as a new process has none
        return CachedStorage(RemoteStorage("s3://worlds/other"), tmp_path, 1000)

    assert storage().read_range("a", 4, 9) == b"bytes"
    files.put_object(Bucket="worlds", Key="other/a", Body=b"new BYTES")
    assert storage().read_range("a", 4, 9) == b"BYTES"


def test_a_missing_object_and_a_torn_one_are_named(bucket: str, tmp_path: Path) -> None:
    storage = CachedStorage(RemoteStorage(bucket), tmp_path, 1000)
    with pytest.raises(DataError, match=r"s3://worlds/toy/shards/none\.tar does not exist"):
        storage.read_range("shards/none.tar", 0, 4)
    with pytest.raises(DataError, match="ends before byte"):
        storage.read_range("manifest.parquet", 0, 10_000_000)
    assert not list(tmp_path.rglob("*-*")), "a torn range is not kept"


def test_the_ranges_read_longest_ago_leave_a_full_cache(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, limit=1000)
    for age, begin in enumerate(range(0, 1000, 100)):
        cache.put("file v1", begin, begin + 100, bytes([age]) * 100)
        os.utime(cache._path("file v1", begin, begin + 100), (age, age))
    assert cache.get("file v1", 0, 100) == bytes(100), "the oldest one is used again"
    cache.put("file v1", 1000, 1100, b"x" * 100)
    kept = [begin for begin in range(0, 1100, 100) if cache.get("file v1", begin, begin + 100) is not None]
    assert kept == [0, 300, 400, 500, 600, 700, 800, 900, 1000]
    assert cache.get("file v2", 0, 100) is None


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("not a folder")
    cache = RangeCache(tmp_path / "file", 1000)
    for _ in range(2):
        cache.put("a", 0, 3, b"abc")
        assert cache.get("a", 0, 3) is None
    assert len(caplog.records) == 1


def test_a_cut_off_range_is_not_used(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, limit=1000)
    cache.put("file", 0, 4, b"abcd")
    cache._path("file", 0, 4).write_bytes(b"ab")
    assert cache.get("file", 0, 4) is None


@pytest.mark.parametrize("limit", ["many", "0", "nan"])
def test_a_wrong_limit_is_named(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FW_DATA_CACHE_GB", limit)
    with pytest.raises(DataError, match="FW_DATA_CACHE_GB"):
        ClipDataset("memory://nowhere")
