"""Distillation: windows that join, the teacher's way through one, and a run whose export takes few steps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fw_geometry import make_trajectory
from fw_model.losses.config import WorldLossConfig
from fw_model.model.model import FantasyWorld
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.sampling.flow import TRAIN_STEPS, FlowSchedule, add_noise
from fw_train.config.check import check
from fw_train.config.load import from_mapping, load
from fw_train.config.preflight import init_folder
from fw_train.config.schema import ConfigError, DistillConfig, LoraConfig, TrainConfig
from fw_train.lora import add_adapters, without_adapters
from fw_train.model_bundle import load_bundle, world_config
from fw_train.tasks.distillation import WindowSampler, window_velocity
from fw_train.tasks.stages import Batch, choose_parameters, distill_loss
from fw_train.tasks.train import train

CONFIG = DistillConfig(steps=4, teacher_steps=3)
ONLY_FLOW = WorldLossConfig(geometry=0.0)


def test_windows_join_from_pure_noise_to_none() -> None:
    sampler = WindowSampler(CONFIG, shift=6.0)
    schedule = FlowSchedule(steps=4, shift=6.0)
    assert sampler.starts == schedule.sigmas[:-1].tolist()
    sigmas = sampler.window(torch.tensor(sampler.starts), torch.zeros(4, 2, 3)).sigmas
    assert sigmas.shape == (4, 4)
    torch.testing.assert_close(sigmas[:, 0], schedule.sigmas[:-1])
    torch.testing.assert_close(sigmas[:, -1], schedule.sigmas[1:], atol=1e-6, rtol=0)
    torch.testing.assert_close(sigmas[1], FlowSchedule(steps=12, shift=6.0).sigmas[3:7])
    drawn = sampler.draw(seed=1, step=2, samples=range(400)).sigma
    assert all(60 < int((drawn == start).sum()) < 140 for start in torch.tensor(sampler.starts))


def test_the_teacher_follows_the_flow() -> None:
    # dx / dsigma = a x has the solution x(sigma) = x(1) exp(a (sigma - 1))
    start, a = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 0.8
    sigmas = torch.linspace(1.0, 0.4, 2001, dtype=torch.float64).expand(2, -1)
    found = window_velocity(lambda x, _: a * x, start, sigmas)
    expected = start * (np.exp(-0.6 * a) - 1) / -0.6
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)
    one_step = window_velocity(lambda x, _: a * x, start, sigmas[:, [0, -1]])
    torch.testing.assert_close(one_step, a * start)


def student(mini: Path) -> FantasyWorld:
    world = FantasyWorld(world_config(str(mini)))
    with torch.no_grad():
        world.video.head.head.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    add_adapters(world, LoraConfig(rank=2), seed=0)
    choose_parameters(world, "distill")
    return world


def some_batch(world: FantasyWorld, config: DistillConfig) -> Batch:
    g = torch.Generator().manual_seed(1)
    sampler = WindowSampler(config, shift=3.0)
    sigma = torch.tensor([sampler.starts[0], sampler.starts[-1]])
    video = world.config.video
    return Batch(
        clean=torch.randn(2, video.out_dim, 2, 4, 6, generator=g),
        noise=torch.randn(2, video.out_dim, 2, 4, 6, generator=g),
        sigma=sigma,
        weight=torch.ones(2),
        context=torch.randn(2, video.text_len, video.text_dim, generator=g),
        y=torch.randn(2, video.y_dim, 2, 4, 6, generator=g),
        clip_feature=None,
        plucker=None,
        control=None,
        targets=None,
        window=sampler.window(sigma, torch.zeros(2, video.text_len, video.text_dim)),
    )


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_the_target_is_the_end_of_many_steps_of_the_model_without_adapters(mini: Path, guidance_scale: float) -> None:
    world = student(mini)
    config = DistillConfig(steps=4, teacher_steps=2, guidance_scale=guidance_scale)
    batch = some_batch(world, config)
    assert batch.window is not None
    with torch.no_grad():
        for name, parameter in world.named_parameters():
            if name.endswith("lora_up"):
                parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(2))

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        def predicted(context: Tensor) -> Tensor:
            return world(x, TRAIN_STEPS * sigma, context=context, y=batch.y, predict_geometry=False).velocity

        given, empty = predicted(batch.context), predicted(torch.zeros_like(batch.context))
        return empty + guidance_scale * (given - empty)

    start = add_noise(batch.clean, batch.noise, batch.sigma)
    first, middle, last = (value.view(2, 1, 1, 1, 1) for value in batch.window.sigmas.unbind(dim=1))
    with torch.no_grad():
        with without_adapters(world):
            halfway = start + velocity(start, first.flatten()) * (middle - first)
            end = halfway + velocity(halfway, middle.flatten()) * (last - middle)
        made = world(start, TRAIN_STEPS * batch.sigma, context=batch.context, y=batch.y, predict_geometry=False)
    expected = (made.velocity - (end - start) / (last - first)).square().mean()
    loss = distill_loss(world, batch, ONLY_FLOW)["loss"]
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-6)
    loss.backward()
    got = {name for name, p in world.named_parameters() if p.grad is not None and p.grad.any()}
    assert got == {name for name, _ in world.named_parameters() if "lora_" in name}


def test_one_step_of_the_teacher_leaves_nothing_to_learn(mini: Path) -> None:
    world = student(mini)
    batch = some_batch(world, DistillConfig(steps=2, teacher_steps=1))
    assert float(distill_loss(world, batch, ONLY_FLOW)["loss"].detach()) < 1e-10


def test_the_adapters_learn_the_target(mini: Path) -> None:
    world = student(mini)
    batch = some_batch(world, DistillConfig(steps=2, teacher_steps=4))
    adam = torch.optim.Adam([p for p in world.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(40):
        loss = distill_loss(world, batch, ONLY_FLOW)["loss"]
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_a_run_exports_a_model_that_generates_in_its_steps(mini: Path, dataset: Path, tmp_path: Path) -> None:
    tree = {"model": str(mini), "data": str(dataset), "steps": 1, "batch": 2}
    tree |= {"clip": {"frames": 5, "height": 32, "width": 48, "validate_on": 2}}
    config = from_mapping({**tree, "out": str(tmp_path / "base")}, TrainConfig(stage="base"))
    train(config, quiet=True)
    for stage, before in (("stage1", "base"), ("stage2", "stage1")):
        changes = {"stage": stage, "init": str(tmp_path / before), "out": str(tmp_path / stage)}
        train(from_mapping({**changes, "optim": {"lr": 0.02}}, config), quiet=True)
    changes = {"stage": "distill", "init": str(tmp_path / "stage2"), "out": str(tmp_path / "few")}
    changes |= {"lora": {"rank": 4}, "optim": {"lr": 0.02}, "distill": {"steps": 2}}
    config = from_mapping(changes, config)
    outcome = train(config, quiet=True)
    assert outcome.export is not None
    assert (outcome.export / "lora" / "pytorch_lora_weights.safetensors").is_file()
    pipeline = WorldPipeline.from_pretrained(outcome.export)
    sampling = pipeline.sampling
    assert (sampling.timesteps, sampling.num_inference_steps, sampling.guidance_scale) == ((1000.0, 500.0), 2, 1.0)
    path = make_trajectory("dolly", 5, width=48, height=32)
    *_, last = pipeline.generate(np.zeros((32, 48, 3), np.uint8), "", path)
    assert last.world is not None
    assert last.world.settings["timesteps"] == (1000.0, 500.0)

    # the same step with blocks in host memory, in two micro-batches: the same adapters, to rounding
    savings = {"activation_checkpointing": "full", "offload_blocks": 3, "offload_activations": True}
    other = from_mapping({"out": str(tmp_path / "offloaded"), "accumulate": 2, "compute": savings}, config)
    train(other, quiet=True)
    files = [tmp_path / run / "export" / "lora" / "pytorch_lora_weights.safetensors" for run in ("few", "offloaded")]
    first, second = (load_file(file) for file in files)
    assert all((second[name] - value).abs().max() < 1e-3 for name, value in first.items())

    # windows of another schedule, and a teacher that knows only its own steps, are refused
    with pytest.raises(ConfigError, match=r"noise\.shift = 3.*shift 5"):
        load_bundle(from_mapping({"noise": {"shift": 3.0}}, config))
    with pytest.raises(ConfigError, match="the result of distill"):
        init_folder(from_mapping({"init": str(tmp_path / "few")}, config))


def test_without_adapters_there_is_nothing_to_train() -> None:
    with pytest.raises(ConfigError, match=r"lora\.rank"):
        check(from_mapping({"lora": {"rank": 0}}, load("tiny", "distill")))
