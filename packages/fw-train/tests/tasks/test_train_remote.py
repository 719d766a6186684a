"""Training from an S3 server (moto): the same bits as from the folder, resumed, with a worker and encoded clips."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import s3fs
import torch
from moto.server import ThreadedMotoServer

from fw_train.cli import main
from fw_train.config.load import absolute, from_json
from fw_train.config.schema import TrainConfig
from fw_train.engine.checkpoint import read
from fw_train.engine.run_log import read_log
from fw_train.tasks.train import read_run

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


def test_a_dataset_that_cannot_be_read_is_named(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ["--out", str(tmp_path / "run")]
    assert main(["base", "tiny", "--data", "s3://worlds/none", *out]) == 2
    assert "s3://worlds/none/manifest.parquet does not exist" in capsys.readouterr().err
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    assert main(["evaluate", str(tmp_path), "--data", bucket, *out]) == 2
    assert f"{bucket}/manifest.parquet cannot be read" in capsys.readouterr().err
