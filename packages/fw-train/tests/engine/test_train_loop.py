"""The loop on a small regression: it learns, resumes in the same bits, stops on request, and refuses to diverge."""

import copy
import dataclasses
import hashlib
import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fw_data.dataset.clip_order import Draw
from fw_model.config import preset
from fw_model.model.model import FantasyWorld
from fw_train.config.load import load
from fw_train.config.schema import OptimConfig, TrainConfig
from fw_train.engine import optim as optim_module
from fw_train.engine.checkpoint import CheckpointError, CheckpointStore, OtherRunError, read
from fw_train.engine.distributed import Context
from fw_train.engine.loop import Result, Task, Trainer, TrainingDivergedError, run
from fw_train.engine.optim import EMA, AdamW, learning_rate, rate_shares
from fw_train.engine.run_log import read_log

TaskMaker = Callable[..., Any]


def go(
    config: TrainConfig, task: Task, on_write: Callable[[Path], None] | None = None, *, quiet: bool = True
) -> Result:
    assert config.out is not None
    store = CheckpointStore(config.out / "checkpoints", keep=config.every.keep, on_write=on_write)
    return run(config, task, Context(store=store, device=torch.device("cpu")), out=config.out, quiet=quiet)


def signalled(task: Any, at: int, *numbers: int) -> Any:
    """The task, sending signals to its own process while the loss of one step is computed."""
    original = task.loss

    def loss(step: int, draws: Sequence[Draw]) -> Mapping[str, Tensor]:
        if step == at:
            for number in numbers:
                os.kill(os.getpid(), number)
        return original(step, draws)

    task.loss = loss
    return task


def sha256(path: Path) -> str:
    names = ("model", "optimizer", "ema")
    return "".join(hashlib.sha256((path / f"{n}.safetensors").read_bytes()).hexdigest() for n in names)


def test_it_learns_and_logs_what_it_did(config: TrainConfig, regression: TaskMaker) -> None:
    config = dataclasses.replace(config, steps=120)
    result = go(config, regression())
    assert config.out is not None
    assert (result.status, result.step) == ("finished", 120)
    rows = read_log(config.out)
    train = [row for row in rows if row.get("split") == "train"]
    val = [row["loss"] for row in rows if row.get("split") == "val"]
    assert val[-1] < 0.2 * val[0]
    assert [row["step"] for row in train] == list(range(4, 121, 4))
    keys = {"loss", "loss/error", "gradient_norm", "learning_rate", "samples_per_s", "memory_gib"}
    keys |= {"latent_tokens_per_s", "tflops_per_s", "mfu"}
    assert all(keys <= row.keys() for row in train)
    assert all(0 < row["mfu"] < 1 for row in train)
    assert next(row["event"] for row in rows if "event" in row) == "started"
    assert rows[-1]["event"] == "finished"
    assert list((config.out / "tensorboard").glob("events.*"))
    assert [p.name for p in sorted((config.out / "checkpoints").iterdir())] == ["step-00000115", "step-00000120"]


def test_a_sigterm_saves_and_the_resumed_run_ends_in_the_same_bits(config: TrainConfig, regression: TaskMaker) -> None:
    whole = go(config, regression())
    cut = dataclasses.replace(config, out=Path(str(config.out) + "-cut"))
    handler = signal.getsignal(signal.SIGTERM)  # Ray leaves one of its own in a process that used it

    first = go(cut, signalled(regression(), 12, signal.SIGTERM))
    assert (first.status, first.step, first.signal) == ("interrupted", 13, signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is handler
    last = go(cut, regression())
    assert sha256(last.checkpoint) == sha256(whole.checkpoint)
    assert cut.out is not None
    steps = [row["step"] for row in read_log(cut.out) if row.get("split") == "train"]
    assert steps == [4, 8, 12, 16, 20, 24]


def test_added_clips_are_trained_on_from_the_resume_on(config: TrainConfig, regression: TaskMaker) -> None:
    def grown() -> Any:
        return regression(clips=13, held_out=2)

    config = dataclasses.replace(config, optim=OptimConfig(ema=0.9))
    assert config.out is not None
    go(dataclasses.replace(config, steps=7), regression())
    cut, same = (dataclasses.replace(config, out=config.out.with_name(name)) for name in ("cut", "same"))
    for other in (cut, same):
        shutil.copytree(config.out, str(other.out))
    whole = go(config, grown())
    go(cut, signalled(grown(), 11, signal.SIGTERM))
    last = go(cut, grown())
    assert sha256(last.checkpoint) == sha256(whole.checkpoint) != sha256(go(same, regression()).checkpoint)
    for other in (config, cut):
        assert other.out is not None
        added = [row for row in read_log(other.out) if row.get("event") == "clips added"]
        assert added == [{"step": 7, "event": "clips added", "train": 3, "held_out": 2}]
    assert read(last.checkpoint).state["added"] == [[7, 3, 2]]
    with pytest.raises(OtherRunError, match="the earlier ones must stay"):
        go(dataclasses.replace(cut, steps=30), regression())


def test_a_second_signal_acts_at_once(config: TrainConfig, regression: TaskMaker) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            go(config, signalled(regression(), 7, signal.SIGINT, signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_nan_stops_the_run_before_the_step(config: TrainConfig, regression: TaskMaker) -> None:
    task = regression(poison=8)
    seen: list[dict[str, Tensor]] = []
    original = task.loss

    def watch(step: int, draws: Sequence[Draw]) -> Mapping[str, Tensor]:
        seen.append({n: p.detach().clone() for n, p in task.module.named_parameters()})
        return original(step, draws)

    task.loss = watch
    with pytest.raises(TrainingDivergedError, match=r"step 8: loss nan.*diverged\.json.*optim\.lr"):
        go(config, task)
    for name, parameter in task.module.named_parameters():
        assert torch.equal(parameter, seen[-1][name])
    assert config.out is not None
    report = json.loads((config.out / "diverged.json").read_text())
    assert report["step"] == 8
    assert [row["slot"] for row in report["batch"]] == [0, 1, 2, 3]
    assert all(row["id"] == f"clip-{row['clip']}" for row in report["batch"])
    assert {row["loss"] for row in report["batch"]} == {"nan"}
    events = [row for row in read_log(config.out) if "event" in row]
    assert "diverged" in [row["event"] for row in events]
    assert events[-1] == {"step": 8, "event": "saved", "path": "step-00000008"}
    found = CheckpointStore(config.out / "checkpoints").latest()
    assert found is not None
    assert found.step == 8
    assert torch.equal(read(found.path).tensors["model"]["0.weight"], seen[-1]["0.weight"])


def test_weights_that_are_not_finite_are_not_saved(config: TrainConfig, regression: TaskMaker) -> None:
    task = regression(poison=3)
    original = task.loss

    def ruin(step: int, draws: Sequence[Draw]) -> Mapping[str, Tensor]:
        if step == 3:
            with torch.no_grad():
                task.module[0].weight.fill_(float("inf"))
        return original(step, draws)

    task.loss = ruin
    with pytest.raises(TrainingDivergedError, match="not finite either"):
        go(config, task)
    assert config.out is not None
    assert CheckpointStore(config.out / "checkpoints").latest() is None


def test_skipped_clips_may_only_grow(config: TrainConfig, regression: TaskMaker) -> None:
    def skipping(ids: str) -> Any:
        task = regression()
        task.identity = {**task.identity, "skipped clips": ids}
        return task

    go(dataclasses.replace(config, steps=5), skipping("a"))
    go(config, skipping("a b"))
    for ids, missing in (("a", "b"), ("", "a b")):
        with pytest.raises(CheckpointError, match=f"--skip {missing};"):
            go(config, skipping(ids))


def test_a_trained_parameter_without_a_gradient_is_reported(
    config: TrainConfig, regression: TaskMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    task = regression()
    task.module.register_parameter("idle", nn.Parameter(torch.zeros(7)))
    assert config.out is not None
    store = CheckpointStore(config.out / "checkpoints")
    run(config, task, Context(store=store, device=torch.device("cpu")), out=config.out)
    assert "7 trained parameters got no gradient in step 1: idle" in capsys.readouterr().out


def test_a_nan_in_one_sample_is_blamed_on_it(config: TrainConfig, regression: TaskMaker) -> None:
    task = regression()
    task.inputs[3] = float("nan")
    with pytest.raises(TrainingDivergedError, match=r"diverged\.json.*clip-3\b"):
        go(config, task)
    assert config.out is not None
    report = json.loads((config.out / "diverged.json").read_text())
    assert [row["clip"] for row in report["batch"] if row["loss"] == "nan"] == [3]
    assert len(report["batch"]) == 4


def test_previews_are_drawn_on_a_schedule_and_change_nothing(
    config: TrainConfig, regression: TaskMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = go(config, regression())
    every = dataclasses.replace(config.every, sample=10)
    drawn = dataclasses.replace(config, every=every, out=Path(str(config.out) + "-drawn"))
    assert sha256(go(drawn, regression(), quiet=False).checkpoint) == sha256(plain.checkpoint)
    assert drawn.out is not None
    names = [f"step-{step:08d}.png" for step in (10, 20, 24)]
    assert sorted(p.name for p in (drawn.out / "samples").iterdir()) == names
    rows = [row for row in read_log(drawn.out) if row.get("event") == "sampled"]
    assert [(row["step"], row["path"]) for row in rows] == list(zip((10, 20, 24), names, strict=True))
    assert [row["notes"] for row in rows] == [["a.mp4: the caption is too long"]] * 3
    assert capsys.readouterr().out.count("previews: a.mp4: the caption is too long\n") == 1


def test_twenty_steps_of_small_batches_equal_those_of_large_ones(config: TrainConfig, regression: TaskMaker) -> None:
    runs = []
    for parts in (1, 4):
        part = dataclasses.replace(config, steps=20, accumulate=parts, out=Path(f"{config.out}-{parts}"))
        runs.append(read(go(part, regression()).checkpoint).tensors)
    for stem in ("model", "ema", "optimizer"):
        for name, value in runs[0][stem].items():
            torch.testing.assert_close(runs[1][stem][name], value, rtol=0, atol=1e-6)


def test_accumulation_gives_the_gradient_of_the_whole_batch(config: TrainConfig, regression: TaskMaker) -> None:
    def gradients(parts: int) -> list[Tensor]:
        task = regression()
        part = dataclasses.replace(config, accumulate=parts, optim=dataclasses.replace(config.optim, clip_norm=0.0))
        assert config.out is not None
        store = CheckpointStore(config.out / str(parts))
        trainer = Trainer(part, task, Context(store=store, device=torch.device("cpu")), config.out)
        trainer._take_step(trainer._draws(0))
        return [p.grad for p in task.module.parameters() if p.grad is not None]

    whole = gradients(1)
    for parts in (2, 4):
        for a, b in zip(whole, gradients(parts), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("key", ["config", "dataset"])
def test_a_checkpoint_of_another_run_is_refused(config: TrainConfig, regression: TaskMaker, key: str) -> None:
    go(config, regression())
    other = regression()
    other.identity = {**other.identity, key: "something else"}
    with pytest.raises(CheckpointError, match=key):
        go(config, other)


def test_other_parameters_are_refused(config: TrainConfig, regression: TaskMaker) -> None:
    go(config, regression())
    other = regression()
    other.module[0].bias.requires_grad_(False)
    with pytest.raises(CheckpointError, match=r"0\.bias"):
        go(config, other)


def test_nothing_to_train_and_uneven_batches_are_refused(config: TrainConfig, regression: TaskMaker) -> None:
    frozen = regression()
    frozen.module.requires_grad_(False)
    with pytest.raises(ValueError, match="gradient"):
        go(config, frozen)
    with pytest.raises(ValueError, match="3"):
        go(dataclasses.replace(config, accumulate=3), regression())


def test_a_finished_run_can_be_made_longer_and_equals_the_long_one(config: TrainConfig, regression: TaskMaker) -> None:
    flat = dataclasses.replace(config, optim=dataclasses.replace(config.optim, schedule="constant"))
    longer = dataclasses.replace(flat, steps=33, out=Path(str(config.out) + "-long"))
    go(flat, regression())
    extended = go(dataclasses.replace(flat, steps=33), regression())
    assert extended.step == 33
    assert sha256(extended.checkpoint) == sha256(go(longer, regression()).checkpoint)


def test_a_full_disk_ends_the_run_with_the_last_checkpoint_intact(config: TrainConfig, regression: TaskMaker) -> None:
    def full(path: Path) -> None:
        if "step-00000015" in str(path):
            raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match=r"step-00000015: .*No space left"):
        go(config, regression(), on_write=full)
    assert config.out is not None
    saved = [row["path"] for row in read_log(config.out) if row.get("event") == "saved"]
    assert saved == ["step-00000005", "step-00000010"]
    found = CheckpointStore(config.out / "checkpoints").latest()
    assert found is not None
    assert found.step == 10
    read(found.path)


def test_the_learning_rate_warms_up_and_falls_to_a_tenth(config: TrainConfig) -> None:
    rates = [learning_rate(step, config.optim, 24) for step in range(24)]
    assert rates[:4] == pytest.approx([0.005, 0.01, 0.015, 0.02])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert learning_rate(24, config.optim, 24) == pytest.approx(0.002)
    constant = dataclasses.replace(config.optim, schedule="constant", warmup=0)
    assert {learning_rate(step, constant, 24) for step in range(24)} == {0.02}


def test_the_running_average_matches_its_closed_form() -> None:
    parameter = nn.Parameter(torch.full((3,), 1e6, dtype=torch.float64))
    average = EMA({"p": parameter}, 0.9)
    values = [torch.full((3,), float(k**2), dtype=torch.float64) for k in range(1, 121)]
    for step, value in enumerate(values, start=1):
        parameter.data.copy_(value)
        average.update({"p": parameter}, step)
    decays = [min(0.9, n / (n + 9)) for n in range(1, 121)]
    kept = [math.prod(decays[k:]) for k in range(121)]
    expected = kept[0] * 1e6 + sum((1 - decays[k]) * kept[k + 1] * value for k, value in enumerate(values))
    torch.testing.assert_close(average.weights["p"], torch.as_tensor(expected), rtol=1e-12, atol=0)
    assert kept[0] * 1e6 < 1e-5, "what the run began with is forgotten"


def test_shares_are_learning_rates_of_their_own(config: TrainConfig) -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).double()
    twin = copy.deepcopy(network)
    ours = AdamW(dict(network.named_parameters()), config.optim, {"1.weight": 0.25, "1.bias": 0.25})
    groups = [{"params": [p], "name": n} for n, p in twin.named_parameters()]
    theirs = torch.optim.AdamW(groups, betas=config.optim.betas)
    for step in range(5):
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        for module, optimizer in ((network, ours), (twin, theirs)):
            optimizer.zero_grad()
            module(x).square().sum().backward()
        for group in theirs.param_groups:
            group["lr"] = 0.1 * (0.25 if group["name"].startswith("1.") else 1.0)
            group["weight_decay"] = config.optim.weight_decay if group["name"].endswith("weight") else 0.0
        ours.step(0.1)
        theirs.step()
    for a, b in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_the_share_of_the_camera_adapters_is_theirs_alone() -> None:
    with torch.device("meta"):
        world = FantasyWorld(preset("tiny"))
    shares = rate_shares(world, dataclasses.replace(OptimConfig(), camera_adapter_lr=0.3))
    assert set(shares.values()) == {0.3}
    assert all("camera_adapter" in name for name in shares)
    assert shares.keys() == {name for name, _ in world.named_parameters() if ".camera_adapter." in name}
    assert rate_shares(world, OptimConfig()) == {}
    assert load("paper", "stage2").optim.camera_adapter_lr < 1
    plain = load("tiny", "stage2")
    other = dataclasses.replace(plain, optim=dataclasses.replace(plain.optim, camera_adapter_lr=0.5))
    assert plain.digest() != other.digest()


@pytest.mark.parametrize("offload", [False, True])
def test_adamw_equals_torch_and_decays_weight_matrices_only(
    config: TrainConfig, offload: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optim_module, "CHUNK", 12)  # the matrix alone, and the rest together
    optim = dataclasses.replace(config.optim, weight_decay=0.3, betas=(0.8, 0.95))
    network = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)).double()
    network.register_parameter("token", nn.Parameter(torch.ones(1, 2, 2, dtype=torch.float64)))
    twin = copy.deepcopy(network)
    ours = AdamW(dict(network.named_parameters()), optim, offload=offload)
    matrix = [twin[0].weight]
    rest = [p for n, p in twin.named_parameters() if n != "0.weight"]
    theirs = torch.optim.AdamW(
        [{"params": matrix, "weight_decay": 0.3}, {"params": rest, "weight_decay": 0.0}], betas=optim.betas
    )
    for step in range(12):
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        for module, optimizer in ((network, ours), (twin, theirs)):
            optimizer.zero_grad()
            token = module.get_parameter("token")
            # every other step leaves the token without a gradient
            (module(x).square().sum() + (token.pow(3).sum() if step % 2 else 0)).backward()
        rate = 0.1 / (step + 1)
        for group in theirs.param_groups:
            group["lr"] = rate
        ours.step(rate)
        theirs.step()
    for a, b in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    assert ours.steps["token"] == 6
