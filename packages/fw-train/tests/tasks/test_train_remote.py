"""Training from an S3 server (moto): the same bits as from the folder, resumed, with a worker and encoded clips."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import fsspec
import pytest
import s3fs
import torch
from moto.server import ThreadedMotoServer

from fw_train.cli import main
from fw_train.config.load import absolute, from_json, from_mapping
from fw_train.config.preflight import dataset_place
from fw_train.config.schema import ConfigError, TrainConfig
from fw_train.data.encode import encode
from fw_train.data.split import open_data
from fw_train.engine.checkpoint import CheckpointStore, read
from fw_train.engine.distributed import Context
from fw_train.engine.run_log import read_log
from fw_train.tasks import train as train_module
from fw_train.tasks.train import _check_encoded, read_run, train

ADDRESS = "s3://worlds/walls"


@pytest.fixture
def bucket(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The dataset in a bucket of a server on this machine."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="worlds")
    for path in (dataset / "manifest.parquet", *(dataset / "shards").glob("*.tar")):
        client.upload_file(str(path), "worlds", f"walls/{path.relative_to(dataset).as_posix()}")
    yield ADDRESS
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.slow
def test_training_from_s3_equals_training_from_the_folder(
    bucket: str, dataset: Path, mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FW_ENCODED_CACHE", str(tmp_path / "encoded"))
    here, there = tmp_path / "here", tmp_path / "there"
    words = ["base", "tiny", "--model", str(mini), "--batch", "2", "--clip.frames", "5", "--clip.height", "32"]
    words += ["--clip.width", "48", "--set", "clip.validate_on=2", "--compute.device", "cpu", "--compute.threads", "1"]
    words += ["--optim.schedule", "constant"]
    assert main([*words, "--data", str(dataset), "--out", str(here), "--steps", "2"]) == 0
    words += ["--data", bucket, "--out", str(there), "--steps", "1", "--set", "clip.encode_first=true"]
    assert main(words) == 0
    assert main(["resume", str(there), "--steps", "2", "--clip.num-workers", "1"]) == 0
    assert read_run(there).data == bucket
    newest = [read(out / "checkpoints" / "step-00000002").tensors["model"] for out in (here, there)]
    assert all(torch.equal(newest[1][name], value) for name, value in newest[0].items())
    losses = [[row["loss"] for row in read_log(out) if row.get("split") == "val"] for out in (here, there)]
    assert losses[0] == [losses[1][0], losses[1][-1]]
    assert len(list((tmp_path / "encoded").rglob("clip-*.safetensors"))) == 10


def test_an_address_stays_as_it_is(tmp_path: Path) -> None:
    config = absolute(TrainConfig(data=ADDRESS, out=tmp_path))
    assert config.data == from_json(config.to_json()).data == ADDRESS


def test_an_address_with_one_slash_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^s3:/worlds/walls looks like .* s3://worlds/walls$"):
        absolute(TrainConfig(data="s3:/worlds/walls", out=tmp_path))
    with pytest.raises(ConfigError, match=r"s3://worlds/walls$"):
        dataset_place(Path(ADDRESS))


def test_nodes_that_do_not_share_what_they_encode_are_refused(
    dataset: Path, mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.filesystem("memory").put(str(dataset), "/walls", recursive=True)
    monkeypatch.setenv("FW_ENCODED_CACHE", str(tmp_path / "encoded"))
    monkeypatch.setattr(train_module, "nodes", lambda: 2)
    monkeypatch.setattr(train_module, "encode", lambda config, **_: encode(config, rank=0, world_size=2))
    tree = {"data": "memory://walls", "model": str(mini), "out": str(tmp_path / "run"), "batch": 2, "steps": 1}
    clip = {"frames": 5, "height": 32, "width": 48, "encode_first": True, "random_start": False}
    config = from_mapping({**tree, "clip": clip, "compute": {"device": "cpu", "threads": 1}}, TrainConfig(stage="base"))
    with pytest.raises(ConfigError, match=r"1 of 1 processes do not find .*; set FW_ENCODED_CACHE"):
        train(config, quiet=True)
    assert not (tmp_path / "run").exists()
    list(encode(config, rank=1, world_size=2))
    _check_encoded(config, *open_data(config), Context(store=CheckpointStore(tmp_path), device=torch.device("cpu")))


def test_a_dataset_that_cannot_be_read_is_named(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ["--out", str(tmp_path / "run")]
    assert main(["base", "tiny", "--data", "s3://worlds/none", *out]) == 2
    assert "s3://worlds/none/manifest.parquet does not exist" in capsys.readouterr().err
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(f"AWS_{name}", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    assert main(["base", "tiny", "--data", bucket, *out]) == 2
    said = capsys.readouterr().err
    assert f"{bucket}/manifest.parquet cannot be read: Unable to locate credentials; set AWS_PROFILE " in said
    assert "AWS_ENDPOINT_URL" in said
    assert said.count(bucket) == 1
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    assert main(["evaluate", str(tmp_path), "--data", bucket, *out]) == 2
    assert f"{bucket}/manifest.parquet cannot be read" in capsys.readouterr().err
