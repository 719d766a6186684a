"""Whole runs of the mini world: three stages after each other, killed and resumed, refused before they begin."""

import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fw_data.dataset.manifest import write_manifest
from fw_data.dataset.reader import ClipDataset
from fw_model.checkpoints.checkpoint import load_world
from fw_model.config import WorldConfig
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.pipeline.pipeline import WorldPipeline
from fw_train.cli import main
from fw_train.config.check import check
from fw_train.config.load import from_mapping
from fw_train.config.schema import ConfigError, TrainConfig
from fw_train.engine.run_log import read_log
from fw_train.model_bundle import load_bundle
from fw_train.tasks.train import export_run, read_run, resume, train

CLIP = {"frames": 5, "height": 32, "width": 48, "validate_on": 2}


def configure(stage: Any, data: Path, model: Path, out: Path, **changes: Any) -> TrainConfig:
    tree = {
        "data": str(data),
        "model": str(model),
        "out": str(out),
        "steps": 6,
        "batch": 2,
        "clip": CLIP,
        "noise": {"validation": [0.5]},
        "optim": {"lr": 5e-3, "warmup": 2},
        "every": {"log": 2, "validate": 3, "checkpoint": 2},
        "compute": {"threads": 1},
    }
    return from_mapping({**tree, **changes}, TrainConfig(stage=stage))


@pytest.fixture(scope="module")
def chain(dataset: Path, mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, stage1 and stage2, each from the one before."""
    root = tmp_path_factory.mktemp("runs")
    base = {"steps": 24, "optim": {"lr": 1e-2, "warmup": 2, "ema": 0.5}, "every": {"log": 10, "validate": 24}}
    train(configure("base", dataset, mini, root / "base", **base), quiet=True)
    train(configure("stage1", dataset, mini, root / "stage1", init=str(root / "base"), steps=8), quiet=True)
    from_export = str(root / "stage1" / "export")
    train(configure("stage2", dataset, mini, root / "stage2", init=from_export, steps=3), quiet=True)
    return root


def weights(folder: Path) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in load_world(folder).named_parameters()}


def hashes(run: Path) -> dict[str, str]:
    newest = max((run / "checkpoints").iterdir())
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(newest.glob("*.safetensors"))}


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_log(run) if row.get("split") == "val"]


@pytest.mark.parametrize(
    ("before", "after", "moved"), [("base", "stage1", "geometry"), ("stage1", "stage2", "cross_branch")]
)
def test_a_stage_changes_its_own_group_and_nothing_else(chain: Path, before: str, after: str, moved: str) -> None:
    old, new = weights(chain / before / "export"), weights(chain / after / "export")
    world = load_world(chain / after / "export")
    for name in old:
        if world.parameter_group(name) != moved:
            assert torch.equal(old[name], new[name]), name
    changed = [n for n in old if world.parameter_group(n) == moved and not torch.equal(old[n], new[n])]
    assert len(changed) > 0.9 * sum(world.parameter_group(n) == moved for n in old if "from_poses" not in n)


def test_held_out_losses_fall(chain: Path) -> None:
    for stage, share in (("base", 0.9), ("stage1", 0.9)):
        measured = losses(chain / stage)
        assert measured[-1] < share * measured[0], stage


def test_the_export_generates_and_says_where_it_comes_from(chain: Path, tmp_path: Path) -> None:
    pipeline = WorldPipeline.from_pretrained(chain / "stage2" / "export")
    sampling = pipeline.sampling
    assert (sampling.num_frames, sampling.height, sampling.width, sampling.shift) == (5, 32, 48, 5.0)
    history = json.loads((chain / "stage2" / "export" / "training.json").read_text())
    assert [(row["stage"], row["steps"]) for row in history["stages"]] == [("base", 24), ("stage1", 8), ("stage2", 3)]
    for row, run in zip(history["stages"], ("base", "stage1", "stage2"), strict=True):
        by_first = read_run(chain / run).clip.scale_by_first_frame
        assert row["scene_unit"] == ("first frame" if by_first else "all frames")
    assert not list((chain / "stage2").rglob("*.p*t*h")) + list((chain / "stage2").rglob("*.pkl"))
    again = export_run(chain / "stage2", tmp_path / "copy")
    one, two = weights(chain / "stage2" / "export"), weights(again)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_average_is_what_is_exported(chain: Path) -> None:
    newest = max((chain / "base" / "checkpoints").iterdir())
    from safetensors.torch import load_file

    exported, average, last = (
        weights(chain / "base" / "export"),
        load_file(newest / "ema.safetensors"),
        load_file(newest / "model.safetensors"),
    )
    assert all(torch.equal(exported[name], average[name]) for name in average)
    assert any(not torch.equal(last[name], average[name]) for name in average)


def test_the_run_keeps_its_resolved_configuration(chain: Path) -> None:
    config = read_run(chain / "stage2")
    assert config.stage == "stage2"
    assert config.init == (chain / "stage1" / "export").resolve()
    assert config.clip.frames == 5


def test_kill_dash_nine_of_a_real_run_and_resume_end_in_the_same_bits(
    chain: Path, dataset: Path, mini: Path, tmp_path: Path
) -> None:
    """A `fw-train stage2` process of its own, killed from outside between two checkpoints, then resumed."""
    toml = tmp_path / "run.toml"
    toml.write_text(
        f'data = "{dataset}"\nmodel = "{mini}"\ninit = "{chain / "stage1"}"\nsteps = 12\nbatch = 2\n'
        "clip.frames = 5\nclip.height = 32\nclip.width = 48\nclip.validate_on = 2\nnoise.validation = [0.5]\n"
        "optim.ema = 0.9\noptim.lr = 1e-3\ndropout.cross_branch = 0.2\ndropout.camera = 0.2\n"
        "every.log = 1\nevery.checkpoint = 4\nevery.validate = 12\ncompute.threads = 1\n"
    )
    assert main(["stage2", str(toml), "--out", str(tmp_path / "whole")]) == 0
    program = "import sys; from fw_train.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", program, "stage2", str(toml), "--out", str(tmp_path / "killed")]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 900
        while steps_logged(tmp_path / "killed") < 6:
            assert process.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < deadline, "the run never reached step 6"
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "checkpoints" / "step-00000012").exists()
    assert main(["resume", str(tmp_path / "killed")]) == 0
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")
    one, two = weights(tmp_path / "killed" / "export"), weights(tmp_path / "whole" / "export")
    assert all(torch.equal(one[name], two[name]) for name in one)


def steps_logged(run: Path) -> int:
    return max((row["step"] for row in read_log(run) if row.get("split") == "train"), default=0)


def test_resume_passes_a_torn_checkpoint_over_and_says_why(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(chain / "stage1", run)
    before = hashes(run)
    torn = max((run / "checkpoints").iterdir())
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:-1])
    outcome = resume(run)
    said = capsys.readouterr().out
    assert f"{torn}: model.safetensors" in said
    assert "step-00000006 (step 6)" in said
    assert said.splitlines()[-1] == f"result: {run / 'export'}"
    assert outcome.result.step == 8
    assert hashes(run) == before


def test_resume_can_go_further_but_not_elsewhere(chain: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(chain / "stage1", run)
    with pytest.raises(ConfigError, match=r"optim\.lr"):
        resume(run, lambda c: from_mapping({"optim": {"lr": 1.0}}, c), quiet=True)
    assert resume(run, lambda c: from_mapping({"steps": 9}, c), quiet=True).result.step == 9
    assert read_run(run).steps == 9


def test_sampled_worlds_show_truth_and_result_and_leave_the_run_as_it_was(
    chain: Path, dataset: Path, mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HashTextEncoder, "truncation", lambda _self, prompt: f"{prompt} is long" if prompt else None)
    words: dict[str, Any] = {"init": str(chain / "stage1" / "export"), "steps": 3}
    every = {"log": 2, "validate": 3, "checkpoint": 2, "sample": 2}
    drawn = configure(
        "stage2", dataset, mini, tmp_path / "drawn", **words, every=every, sampling={"num_inference_steps": 2}
    )
    train(drawn, quiet=True)
    assert hashes(tmp_path / "drawn") == hashes(chain / "stage2")
    images = sorted((tmp_path / "drawn" / "samples").iterdir())
    assert [p.name for p in images] == ["step-00000002.png", "step-00000003.png"]
    with Image.open(images[0]) as image:
        assert image.size == (5 * 48, 2 * 4 * 32)  # two clips are held out: five frames and four rows each
        pixels = np.asarray(image).astype(float)
    truth, made = pixels[:32], pixels[32:64]
    assert np.abs(truth[:, :48] - made[:, :48]).mean() < np.abs(truth[:, :48] - made[:, 96:144]).mean()
    assert pixels[64:96].std() > 0
    sampled = [row for row in read_log(tmp_path / "drawn") if row.get("event") == "sampled"]
    captions = {f"{record.source}: {record.caption} is long" for record in ClipDataset(dataset).records}
    assert len(set(sampled[0]["notes"]) & captions) == 2


def test_frozen_weights_in_half_precision_leave_as_they_came(
    chain: Path, dataset: Path, mini: Path, tmp_path: Path
) -> None:
    words: dict[str, Any] = {"init": str(chain / "stage1"), "steps": 2}
    compute = {"precision": "bf16", "frozen_dtype": "bf16", "threads": 1}
    preview = {"every": {"sample": 2}, "sampling": {"num_inference_steps": 1, "clips": 1}}
    train(configure("stage2", dataset, mini, tmp_path / "half", **words, **preview, compute=compute), quiet=True)
    assert (tmp_path / "half/samples/step-00000002.png").is_file()
    train(configure("stage2", dataset, mini, tmp_path / "exact", **words), quiet=True)
    before, after = weights(chain / "stage1" / "export"), weights(tmp_path / "half" / "export")
    world = load_world(tmp_path / "half" / "export")
    frozen = [name for name in before if world.parameter_group(name) != "cross_branch"]
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert losses(tmp_path / "half")[-1] == pytest.approx(losses(tmp_path / "exact")[-1], rel=0.05)
    with pytest.raises(ConfigError, match=r"frozen_dtype = bf16.*compute\.precision = bf16"):
        check(configure("stage2", dataset, mini, tmp_path, compute={"frozen_dtype": "bf16"}))


def refuse(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_bad_input_is_refused_before_anything_is_written(
    chain: Path, dataset: Path, mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shape = ["--clip.frames", "5", "--clip.height", "32", "--clip.width", "48", "--batch", "2"]
    stage1 = ["stage1", "tiny", "--out", str(out), "--model", str(mini), "--data", str(dataset), *shape]
    stage2 = ["stage2", *stage1[1:]]
    base = str(chain / "base")
    assert "data is not set" in refuse(["base", "tiny", "--out", str(out)], capsys)
    assert "out is not set" in refuse(["base", "tiny", "--data", str(dataset)], capsys)
    assert "stage1 needs --init" in refuse(stage1, capsys)
    assert "is the result of base, but stage2 continues stage1" in refuse([*stage2, "--init", base], capsys)
    assert "checkpoint of model 'mini', and this run trains 'tiny'" in refuse(
        [*stage1, "--init", base, "--model", "tiny"], capsys
    )
    assert "names no preset" in refuse([*stage1, "--init", base, "--model", "tinny"], capsys)
    assert "does not exist" in refuse([*stage1, "--init", str(tmp_path / "nowhere")], capsys)
    assert "too few for batch = 64" in refuse([*stage1, "--init", base, "--batch", "64"], capsys)
    too_large = refuse([*stage1, "--init", base, "--clip.height", "64", "--clip.width", "96"], capsys)
    assert "stored at 48x32, smaller than clip 96x64" in too_large
    assert "did you mean 'base'?" in refuse(["bsae", "tiny"], capsys)
    assert "did you mean 'tiny'?" in refuse(["stage1", "tinyy"], capsys)
    assert "CONFIG comes first" in refuse(["stage1", "--init", base], capsys)
    assert "did you mean --optim.lr?" in refuse([*stage1, "--optim.lrr", "1"], capsys)
    assert "no recipe and no file" in refuse(["stage1", "papyrus", "--out", str(out)], capsys)
    assert "is not a run folder" in refuse(["resume", str(tmp_path)], capsys)
    assert not out.exists()
    assert "contains a run already" in refuse([*stage1, "--init", base, "--out", base], capsys)


def test_what_nothing_has_trained_yet_may_be_of_another_config(chain: Path, dataset: Path, mini: Path, tmp_path: Path):
    """Ablations share a base: the bridge may move, the coupling may change, and the trained weights come along."""
    other = tmp_path / "other.json"
    config = WorldConfig.from_json(mini.read_text())
    early = replace(config, name="early", pcb_blocks=0, geometry=replace(config.geometry, width=24))
    other.write_text(early.to_json())
    start = load_bundle(configure("stage1", dataset, other, tmp_path / "s1", init=str(chain / "base"))).world
    base = load_world(chain / "base" / "export")
    assert start.config == early
    for mine, theirs in zip(start.video_blocks(), base.video_blocks(), strict=True):
        assert all(torch.equal(mine.state_dict()[name], value) for name, value in theirs.state_dict().items())
    assert torch.equal(start.video.patch_embedding.weight, base.video.patch_embedding.weight)

    apart = replace(config, cross_branch=replace(config.cross_branch, direction="none"))
    other.write_text(apart.to_json())
    stage1 = configure("stage2", dataset, other, tmp_path / "s2", init=str(chain / "stage1"), steps=2)
    train(stage1, quiet=True)
    trained, before = weights(tmp_path / "s2" / "export"), weights(chain / "stage1" / "export")
    assert not [name for name in trained if ".coupling." in name]
    assert all(torch.equal(value, before[name]) for name, value in trained.items() if name.startswith("geometry."))

    other.write_text(early.to_json())
    with pytest.raises(ConfigError, match=r"'early'.*cross_branch"):
        load_bundle(configure("stage2", dataset, other, tmp_path / "s3", init=str(chain / "stage1")))


def test_a_dataset_without_depth_is_refused(
    dataset: Path, mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = [r.model_copy(update={"members": {"mp4": r.members["mp4"]}}) for r in ClipDataset(dataset).records]
    (tmp_path / "bare").mkdir()
    write_manifest(tmp_path / "bare" / "manifest.parquet", bare)
    words = ["base", "tiny", "--model", str(mini), "--data", str(tmp_path / "bare"), "--out", str(tmp_path / "out")]
    shape = ["--clip.frames", "5", "--clip.height", "32", "--clip.width", "48"]
    assert "12 clips: no depth (annotate them first)" in refuse([*words, *shape], capsys)


def test_help_needs_no_torch() -> None:
    program = (
        "import sys\nfrom fw_train.cli import main\ntry: main(['stage1', 'tiny', '--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\nassert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--optim.lr FLOAT" in done.stdout


def test_sigterm_saves_says_how_to_go_on_and_exits_143(
    dataset: Path, mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fw_train.tasks.world_task import WorldTask

    original = WorldTask.loss

    def interrupted(self: WorldTask, step: int, draws: Any) -> Any:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, step, draws)

    monkeypatch.setattr(WorldTask, "loss", interrupted)
    out = tmp_path / "run"
    words = ["base", "tiny", "--model", str(mini), "--data", str(dataset), "--out", str(out), "--batch", "2"]
    assert (
        main([*words, "--clip.frames", "5", "--clip.height", "32", "--clip.width", "48", "--compute.threads", "1"])
        == 143
    )
    assert (out / "checkpoints" / "step-00000004" / "manifest.json").exists()
    assert capsys.readouterr().out.splitlines()[-1] == f"stopped at step 4; continue with: fw-train resume {out}"


def test_another_dataset_under_the_same_run_is_refused(chain: Path, dataset: Path, tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "data"
    shutil.copytree(chain / "stage1", run)
    shutil.copytree(dataset, other)
    write_manifest(other / "manifest.parquet", ClipDataset(dataset).records[:-1])
    with pytest.raises(ValueError, match="dataset"):
        resume(run, lambda c: from_mapping({"data": str(other)}, c), quiet=True)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
@pytest.mark.parametrize("chosen", [{}, {"MALLOC_ARENA_MAX": "2"}])
def test_freed_memory_is_kept_unless_the_environment_says_how_to_allocate(chosen: dict[str, str]) -> None:
    program = """
import resource, torch
from fw_train.tasks.train import keep_freed_memory
keep_freed_memory()
for _ in range(8): torch.ones(16_000_000)  # the heap settles after three
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): torch.ones(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**environment, **chosen}
    )
    assert (int(done.stdout) < 50) == (not chosen)
