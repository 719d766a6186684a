"""Runs as users have them: locked, checked before anything is written, with workers, buckets, skipped clips."""

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fw_data.dataset.clip_order import Draw
from fw_data.dataset.manifest import write_manifest
from fw_data.dataset.reader import ClipDataset
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.pipeline.pipeline import WorldPipeline
from fw_train.cli import main
from fw_train.config.load import from_mapping
from fw_train.config.schema import ConfigError, TrainConfig
from fw_train.data.split import split_clips
from fw_train.engine.checkpoint import OtherRunError, read
from fw_train.engine.loop import TrainingDivergedError
from fw_train.engine.run_log import read_log
from fw_train.tasks import train as train_module
from fw_train.tasks.stages import unused_parameters
from fw_train.tasks.train import export_run, read_run, resume, train
from fw_train.tasks.world_task import WorldTask

CLIP = {"frames": 5, "height": 32, "width": 48, "validate_on": 2}
EVERY = {"log": 1, "validate": 100, "checkpoint": 1}
Configure = Callable[..., TrainConfig]


@pytest.fixture
def configure(dataset: Path, mini: Path, tmp_path: Path) -> Configure:
    def make(stage: Any = "base", name: str = "run", **changes: Any) -> TrainConfig:
        tree = {
            "data": str(dataset),
            "model": str(mini),
            "out": str(tmp_path / name),
            "steps": 3,
            "batch": 2,
            "clip": CLIP,
            "noise": {"validation": [0.5]},
            "every": EVERY,
            "compute": {"threads": 1, "device": "cpu"},
        }
        return from_mapping({**tree, **changes}, TrainConfig(stage=stage))

    return make


@pytest.fixture(scope="module")
def base(dataset: Path, mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps of `base`; not to be written into."""
    out = tmp_path_factory.mktemp("base") / "run"
    tree = {"data": str(dataset), "model": str(mini), "out": str(out), "steps": 3, "batch": 2, "clip": CLIP}
    rest = {"noise": {"validation": [0.5]}, "every": EVERY, "compute": {"threads": 1, "device": "cpu"}}
    train(from_mapping({**tree, **rest}, TrainConfig(stage="base")), quiet=True)
    return out


@pytest.fixture
def other_data(dataset: Path, tmp_path: Path) -> Path:
    """A copy of the dataset whose manifest calls some clips portrait, of another rate, and without a caption."""
    folder = tmp_path / "other"
    shutil.copytree(dataset, folder)
    records = ClipDataset(folder).records
    records[:4] = [record.model_copy(update={"fps": 16.0, "caption": ""}) for record in records[:4]]
    write_manifest(folder / "manifest.parquet", records)
    return folder


def weights(run: Path) -> dict[str, Tensor]:
    newest = max((run / "checkpoints").glob("step-*"))
    return dict(read(newest).tensors["model"])


def bytes_of(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_run_that_is_being_trained_is_locked(configure: Configure, capsys: pytest.CaptureFixture[str]) -> None:
    config = configure(steps=1)
    train(config, quiet=True)
    assert config.out is not None
    program = (
        "import sys, time; from pathlib import Path; from fw_core.files import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(900)"
    )
    words = [sys.executable, "-c", program, str(config.out / "lock")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        before = bytes_of(config.out)
        assert main(["resume", str(config.out), "--steps", "9"]) == 2
        assert f"process {holder.pid}" in capsys.readouterr().err
        with pytest.raises(ConfigError, match=f"another process.*{holder.pid}"):
            resume(config.out, quiet=True)
        assert bytes_of(config.out) == before
        holder.kill()
    assert resume(config.out, lambda c: from_mapping({"steps": 2}, c), quiet=True).result.step == 2


def test_resume_accepts_added_clips_and_writes_nothing_before_other_data_are_refused(
    configure: Configure, other_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, records = other_data / "manifest.parquet", ClipDataset(other_data).records
    write_manifest(manifest, records[:8])
    config = configure(data=str(other_data), clip={**CLIP, "held_out": 0.2}, steps=1)
    train(config, quiet=True)
    assert config.out is not None
    (config.out / "checkpoints" / ".partial-step-00000009").mkdir()
    write_manifest(manifest, records[1:])
    before = bytes_of(config.out)
    with pytest.raises(
        OtherRunError, match=rf"dataset.*--init {config.out} \(before: 5 to train on and 3 held out; now: 7 "
    ) as error:
        resume(config.out, lambda c: from_mapping({"steps": 2}, c), quiet=True)
    assert error.value.exit_code == 2
    assert bytes_of(config.out) == before
    assert (config.out / "checkpoints" / ".partial-step-00000009").exists()
    write_manifest(manifest, records)
    capsys.readouterr()
    assert resume(config.out, lambda c: from_mapping({"steps": 2}, c)).result.step == 2
    assert "4 clips were added since step 1: 3 to train on, 1 held out\n" in capsys.readouterr().out
    assert json.loads((config.out / "data.json").read_text())["train"] == 8


def test_paths_are_stored_absolute(configure: Configure, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(dataset.parent)
    config = configure(data=dataset.name, steps=1)
    train(config, quiet=True)
    assert config.out is not None
    stored = json.loads((config.out / "config.json").read_text())
    assert stored["data"] == str(dataset)
    assert all(Path(stored[key]).is_absolute() for key in ("data", "out", "model"))


def test_a_run_folder_generates(base: Path, tmp_path: Path) -> None:
    pipeline = WorldPipeline.from_pretrained(base)
    assert pipeline.sampling.num_frames == 5
    assert not pipeline.follows_camera
    run = tmp_path / "run"
    shutil.copytree(base, run, ignore=shutil.ignore_patterns("export"))
    with pytest.raises(ValueError, match=f"fw-train export {run}"):
        WorldPipeline.from_pretrained(run)


def test_mistakes_are_reported_without_torch(dataset: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "run")]
    (tmp_path / "base" / "export").mkdir(parents=True)
    (tmp_path / "base" / "checkpoints").mkdir()
    (tmp_path / "base" / "export" / "training.json").write_text('{"stages": [{"stage": "base", "steps": 1}]}')
    cases = [
        (["stage1", "tiny", "--data", str(dataset), *out], "needs --init"),
        (["stage1", "tiny", "--data", str(tmp_path), *out, "--init", str(dataset)], "no manifest.parquet"),
        (["base", "tiny", "--data", str(dataset)], "out is not set"),
        (["base", "tiny", "--data", str(dataset), *out, "--optim.lrr", "1"], "did you mean --optim.lr?"),
        (["stage2", "tiny", "--data", str(dataset), *out, "--init", str(tmp_path / "base")], "is the result of base"),
        (["resume", str(tmp_path)], "is not a run folder"),
    ]
    program = (
        "import json, sys\nfrom fw_train.cli import main\n"
        "for words in json.loads(sys.argv[1]):\n    assert main(words) == 2\n"
        "assert 'torch' not in sys.modules"
    )
    words = [sys.executable, "-c", program, json.dumps([words for words, _ in cases])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for line, (_, message) in zip(done.stderr.splitlines(), cases, strict=True):
        assert message in line


@contextlib.contextmanager
def diverging(monkeypatch: pytest.MonkeyPatch, clip: str):
    """Make the loss NaN whenever a clip is drawn."""
    original = WorldTask.loss

    def loss(self: WorldTask, step: int, draws: Sequence[Draw]) -> Mapping[str, Tensor]:
        terms = original(self, step, draws)
        bad = any(self.split.train[draw.clip].id == clip for draw in draws)
        return {**terms, "loss": terms["loss"] * (float("nan") if bad else 1.0)}

    with monkeypatch.context() as patch:
        patch.setattr(WorldTask, "loss", loss)
        yield


def test_a_diverging_clip_is_named_saved_before_and_skipped(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(steps=5, every={"log": 1, "validate": 100, "checkpoint": 100})
    assert config.out is not None
    assert config.data is not None
    split = split_clips(ClipDataset(config.data).records, config.clip)
    from fw_train.data.order import OrderSampler

    clip = split.train[OrderSampler(config, split.order()).step(2)[0].clip].id
    with diverging(monkeypatch, clip):
        with pytest.raises(TrainingDivergedError, match=f"--skip {clip}.*step-0000000"):
            train(config, quiet=True)
        stopped = max((config.out / "checkpoints").glob("step-*"))
        assert all(bool(torch.isfinite(value).all()) for value in read(stopped).tensors["model"].values())
        with pytest.raises(TrainingDivergedError):
            resume(config.out, quiet=True)
        outcome = resume(config.out, lambda c: from_mapping({"skip": [clip]}, c), quiet=True)
    assert outcome.result.step == 5
    assert read(outcome.result.checkpoint).state["identity"]["skipped clips"] == clip
    assert read_run(config.out).skip == (clip,)
    assert [row["event"] for row in read_log(config.out) if "event" in row][-1] == "finished"
    with pytest.raises(ConfigError, match=f"skip.*{clip}"):
        resume(config.out, lambda c: from_mapping({"skip": []}, c), quiet=True)
    assert main(["resume", str(config.out)]) == 0  # the stored skip is kept


def test_exports_play_at_the_rate_of_the_data(
    configure: Configure, other_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(data=str(other_data), steps=1)
    train(config)
    said = capsys.readouterr().out
    assert "frame rates are mixed: 8 of 8 fps, 4 of 16 fps; exports play at 8 fps" in said
    assert "captions: 4 of 12 clips have none" in said
    assert config.out is not None
    for export in (config.out / "export", export_run(config.out, tmp_path / "again")):
        assert json.loads((export / "pipeline.json").read_text())["sampling"]["fps"] == 8.0
    assert json.loads((config.out / "data.json").read_text())["recorded_fps"] == {"8": 8, "16": 4}


@pytest.mark.slow
def test_workers_and_buckets_change_nothing_but_the_time(configure: Configure) -> None:
    """Two lengths, decoded by a worker or here, interrupted or not: the same weights."""
    shapes = {**CLIP, "frames": 7 + 2, "frame_buckets": [5], "height": 16, "width": 32}
    plain = configure(name="plain", steps=4, clip=shapes)
    train(plain, quiet=True)
    ahead = configure(name="ahead", steps=4, clip={**shapes, "num_workers": 1, "cache_gb": 0.0})
    train(from_mapping({"steps": 2}, ahead), quiet=True)
    assert ahead.out is not None
    assert plain.out is not None
    resume(ahead.out, lambda c: from_mapping({"steps": 4}, c), quiet=True)
    one, two = weights(plain.out), weights(ahead.out)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_clips_of_several_shapes_train_and_are_validated(configure: Configure) -> None:
    shapes = {**CLIP, "height": 32, "width": 32, "aspect_buckets": True}
    config = configure(clip={**shapes, "height": 16, "width": 32, "max_crop": 0.4})
    outcome = train(config, quiet=True)
    assert outcome.result.step == 3
    assert config.out is not None
    assert sum(json.loads((config.out / "data.json").read_text())["buckets"].values()) == 12


def test_encoding_first_leaves_nothing_to_encode_and_no_text_encoder_on_the_device_while_training(
    configure: Configure,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    events: list[str] = []
    monkeypatch.setattr(HashTextEncoder, "to", lambda self, _device: events.append("to device") or self)
    monkeypatch.setattr(HashTextEncoder, "free", lambda _self: events.append("free"))
    load = train_module.load_bundle

    def loading(config: TrainConfig, **options: Any) -> Any:
        events.append("load")
        return load(config, **options)

    monkeypatch.setattr(train_module, "load_bundle", loading)
    train(configure(name="plain"), quiet=True)
    assert events == ["load"]
    events.clear()
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    train(configure(name="first", data=str(copy), clip={**CLIP, "encode_first": True}))
    assert events == ["to device", "free", "free", "load"]
    said = capsys.readouterr().out
    assert "encode: to encode on cpu: " in said
    assert "computed" not in said
    one, two = weights(tmp_path / "plain"), weights(tmp_path / "first")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_frozen_weights_are_hashed_once(
    configure: Configure, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "base"
    shutil.copytree(base, copy)
    count: list[int] = []
    original = train_module.frozen_fingerprint

    def counting(*args: Any, **kwargs: Any) -> str:
        count.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(train_module, "frozen_fingerprint", counting)
    config = configure("stage1", "stage1", init=str(copy), steps=1)
    train(config, quiet=True)
    assert config.out is not None
    resume(config.out, lambda c: from_mapping({"steps": 2}, c), quiet=True)
    assert len(count) == 1
    weight = copy / "export" / "model.safetensors"
    weight.write_bytes(weight.read_bytes())  # another time stamp
    resume(config.out, lambda c: from_mapping({"steps": 3}, c), quiet=True)
    assert len(count) == 2


def test_every_trained_parameter_gets_a_gradient(
    configure: Configure, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage2 = {"unfreeze_geometry": True, "lora": {"rank": 2}}
    for stage, name, init, changes in (("stage1", "s1", base, {}), ("stage2", "s2", configure(name="s1").out, stage2)):
        train(configure(stage, name, init=str(init), optim={"lr": 1e-3}, **changes))
    said = capsys.readouterr().out
    assert "got no gradient" not in said
    assert "geometry.tokens.from_poses (no input)" in said
    stage1, stage2 = configure(name="s1").out, configure(name="s2").out
    assert stage1 is not None
    assert stage2 is not None
    pipeline = WorldPipeline.from_pretrained(stage1)
    assert not pipeline.follows_camera
    assert WorldPipeline.from_pretrained(stage2).follows_camera
    assert set(weights(stage1)).isdisjoint(unused_parameters(pipeline.world))


def test_a_checkpoint_that_counted_unused_parameters_as_trained_resumes(configure: Configure, base: Path) -> None:
    config = configure("stage1", "stage1", init=str(base), steps=1)
    straight = train(config, quiet=True)
    assert config.out is not None
    task_world = WorldPipeline.from_pretrained(config.out).world
    unused = sorted(unused_parameters(task_world))
    from fw_train.engine.checkpoint import CheckpointStore, Snapshot

    snapshot = read(straight.result.checkpoint)
    values = {name: task_world.get_parameter(name).detach() for name in unused}
    states = {f"{name}/{kind}": torch.zeros_like(v) for name, v in values.items() for kind in ("first", "second")}
    steps = {f"{name}/steps": torch.tensor(0) for name in unused}
    tensors = {**snapshot.tensors, "model": {**snapshot.tensors["model"], **values}}
    tensors["optimizer"] = {**snapshot.tensors["optimizer"], **states, **steps}
    shutil.rmtree(straight.result.checkpoint)
    CheckpointStore(config.out / "checkpoints").save(Snapshot(tensors=tensors, state=snapshot.state))
    again = resume(config.out, lambda c: from_mapping({"steps": 2}, c), quiet=True)
    longer = configure("stage1", "longer", init=str(base), steps=2)
    train(longer, quiet=True)
    assert longer.out is not None
    one, two = weights(config.out), weights(longer.out)
    assert again.result.step == 2
    assert all(torch.equal(one[name], two[name]) for name in two)
