"""`fw-train autoencoder`: it learns, resumes exactly, and its result is what `base` trains on."""

import dataclasses
import hashlib
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from fw_model.autoencoders.block_vae import BlockVAE
from fw_model.pipeline.components import load_components
from fw_train.config.schema import Cadence, ClipConfig, ConfigError, OptimConfig, TrainConfig
from fw_train.data.encode import encode
from fw_train.data.split import open_dataset, split_clips
from fw_train.engine.checkpoint import CheckpointStore
from fw_train.engine.distributed import Context
from fw_train.tasks.autoencoder_task import AutoencoderTask
from fw_train.tasks.train import export_run, resume, train

CPU = Context(store=CheckpointStore(Path("unused")), device=torch.device("cpu"))


@pytest.fixture(scope="module")
def run(dataset: Path, mini: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    config = TrainConfig(
        stage="autoencoder",
        model=str(mini),
        data=dataset,
        out=tmp_path_factory.mktemp("autoencoder") / "run",
        steps=30,
        batch=4,
        clip=ClipConfig(frames=5, height=32, width=48, start_step=1),
        optim=OptimConfig(lr=1e-3, warmup=3, schedule="cosine"),
        every=Cadence(log=10, validate=30, checkpoint=10, sample=30, keep=9),
    )
    train(config, quiet=True)
    return config


def log(config: TrainConfig) -> list[dict[str, float]]:
    assert config.out is not None
    return [json.loads(line) for line in (config.out / "log.jsonl").read_text().splitlines()]


def test_it_starts_as_the_fixed_transform_and_improves_on_it(run: TrainConfig) -> None:
    first, last = [row for row in log(run) if row.get("split") == "val"]
    assert first["psnr"] == pytest.approx(first["psnr/block_dct"], abs=1e-3)
    assert last["psnr/block_dct"] == first["psnr/block_dct"]
    assert last["psnr"] > first["psnr"] + 0.5
    assert run.out is not None
    assert (run.out / "samples" / "step-00000030.png").is_file()


def test_latents_of_the_export_have_zero_mean_and_unit_variance(run: TrainConfig, dataset: Path) -> None:
    assert run.out is not None
    vae = load_components(run.out / "export").autoencoder
    assert isinstance(vae, BlockVAE)
    data = open_dataset(dataset)
    task = AutoencoderTask(
        run,
        data,
        split_clips(data.records, run.clip),
        CPU,
    )
    latents = torch.cat([vae.encode(task._load(record, 0)[None]) for record in task.split.train])
    torch.testing.assert_close(latents.mean((0, 2, 3, 4)), torch.zeros(16), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std((0, 2, 3, 4)), torch.ones(16), rtol=0, atol=1e-2)


def test_an_interrupted_run_ends_in_the_same_bits(run: TrainConfig, tmp_path: Path) -> None:
    cut = dataclasses.replace(run, out=tmp_path / "cut")
    original, calls = AutoencoderTask.loss, []

    def stopping(self, step, draws):
        calls.append(step)
        if step == 14:
            signal.raise_signal(signal.SIGTERM)
        return original(self, step, draws)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AutoencoderTask, "loss", stopping)
        assert train(cut, quiet=True).result.status == "interrupted"
    assert cut.out is not None
    assert run.out is not None
    assert resume(cut.out, quiet=True).result.status == "finished"
    weights = [(out / "export" / "vae" / "model.safetensors").read_bytes() for out in (cut.out, run.out)]
    assert hashlib.sha256(weights[0]).digest() == hashlib.sha256(weights[1]).digest()
    again = export_run(run.out, tmp_path / "again")
    assert (again / "vae" / "model.safetensors").read_bytes() == weights[1]


def test_base_trains_on_its_latents_and_keeps_it(run: TrainConfig, tmp_path: Path) -> None:
    assert run.data is not None
    data = shutil.copytree(run.data, tmp_path / "data")  # encode writes beside the clips, which other tests read
    base = dataclasses.replace(run, stage="base", data=data, init=run.out, out=tmp_path / "base", steps=2)
    list(encode(base))
    outcome = train(base, quiet=True)
    assert outcome.export is not None
    before = (run.out or tmp_path) / "export" / "vae" / "model.safetensors"
    assert (outcome.export / "vae" / "model.safetensors").read_bytes() == before.read_bytes()
    history = json.loads((outcome.export / "training.json").read_text())["stages"]
    assert [row["stage"] for row in history] == ["autoencoder", "base"]


def test_what_it_cannot_be_is_said(run: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="encode"):
        list(encode(run))
    stage1 = dataclasses.replace(run, stage="stage1", init=run.out, out=tmp_path / "stage1")
    with pytest.raises(ConfigError, match=r"autoencoder.*stage1.*base"):
        train(stage1, quiet=True)
