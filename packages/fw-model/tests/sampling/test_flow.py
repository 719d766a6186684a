"""The schedule, samplers and draws against the golden tables, diffusers and plain statistics."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from fw_model.sampling import flow, samplers

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "scheduler.safetensors")


@pytest.mark.parametrize("shift", [5.0, 3.0])
@pytest.mark.parametrize("steps", [50, 20, 4])
def test_inference_schedule_is_the_official_one(shift, steps):
    schedule = flow.FlowSchedule(steps=steps, shift=shift)
    name = f"infer.shift{shift:g}.n{steps}"
    torch.testing.assert_close(schedule.sigmas[:-1], GOLDEN[f"{name}.sigmas"], rtol=0, atol=0)
    torch.testing.assert_close(schedule.timesteps, GOLDEN[f"{name}.timesteps"], rtol=0, atol=0)
    rounded = flow.round_timestep(schedule.timesteps, "bf16")
    torch.testing.assert_close(rounded, GOLDEN[f"{name}.timesteps_bf16"], rtol=0, atol=0)
    assert schedule.sigmas[-1] == 0


def test_schedule_with_strength():
    schedule = flow.FlowSchedule(steps=20, shift=5.0, strength=0.7)
    torch.testing.assert_close(schedule.sigmas[:-1], GOLDEN["infer.shift5.n20.strength0.7.sigmas"], rtol=0, atol=1e-7)


@pytest.mark.parametrize(("shift", "steps"), [(5.0, 4), (3.0, 20)])
def test_euler_follows_the_golden_trajectory(shift, steps):
    name = f"euler.shift{shift:g}.n{steps}"
    x = GOLDEN[f"{name}.x0"]
    sampler = samplers.EulerSampler(flow.FlowSchedule(steps=steps, shift=shift))
    for i in range(steps):
        x = sampler.step(x, GOLDEN[f"{name}.model_outputs"][i], i)
        torch.testing.assert_close(x, GOLDEN[f"{name}.trajectory"][i], rtol=0, atol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 5.0])
@pytest.mark.parametrize("listed", [(1000.0, 750.0, 500.0, 250.0), (1000.0, 937.5, 833.3, 625.0), (999.0,)])
def test_listed_timesteps_are_those_of_diffusers(listed, shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs: Any = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(sigmas=[one / 1000 for one in listed])
    schedule = flow.FlowSchedule(steps=len(listed), shift=shift, listed=listed)
    torch.testing.assert_close(schedule.sigmas, theirs.sigmas, rtol=0, atol=1e-6)
    torch.testing.assert_close(schedule.timesteps, theirs.timesteps, rtol=0, atol=1e-3)
    assert schedule.sigmas[-1] == 0


def test_an_even_list_is_the_schedule_of_as_many_steps():
    listed = flow.FlowSchedule(steps=4, shift=5.0, listed=(1000.0, 750.0, 500.0, 250.0))
    torch.testing.assert_close(listed.sigmas, flow.FlowSchedule(steps=4, shift=5.0).sigmas, rtol=0, atol=0)
    unshifted = flow.FlowSchedule(steps=4, shift=1.0, listed=(1000.0, 750.0, 500.0, 250.0))
    assert unshifted.timesteps.tolist() == [1000, 750, 500, 250]
    with pytest.raises(ValueError, match="steps=4"):
        flow.FlowSchedule(steps=5, listed=(1000.0, 750.0, 500.0, 250.0))


@pytest.mark.parametrize("shift", [5.0, 3.0])
def test_training_table_and_weights(shift):
    grid = flow.training_grid(shift)
    torch.testing.assert_close(grid.sigmas, GOLDEN[f"train.shift{shift:g}.sigmas"], rtol=0, atol=0)
    torch.testing.assert_close(grid.timesteps, GOLDEN[f"train.shift{shift:g}.timesteps"], rtol=0, atol=0)
    torch.testing.assert_close(grid.weights, GOLDEN[f"train.shift{shift:g}.weights"], rtol=1e-5, atol=1e-6)
    assert float(grid.weights.mean()) == pytest.approx(1, abs=1e-5)


def test_training_examples():
    ids = GOLDEN["train.example.ids"].long()
    grid = flow.training_grid(5.0)
    x0, noise = GOLDEN["train.example.x0"], GOLDEN["train.example.noise"]
    torch.testing.assert_close(grid.timesteps[ids], GOLDEN["train.example.t"], rtol=0, atol=0)
    torch.testing.assert_close(grid.weights[ids], GOLDEN["train.example.weight"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(flow.add_noise(x0, noise, grid.sigmas[ids]), GOLDEN["train.example.noisy"])
    torch.testing.assert_close(flow.flow_target(x0, noise), GOLDEN["train.example.target"])


def test_off_grid_timesteps_snap_to_the_nearest_entry():
    index = flow.nearest_grid_index(GOLDEN["train.offgrid.t"], 5.0)
    grid = flow.training_grid(5.0)
    torch.testing.assert_close(grid.sigmas[index], GOLDEN["train.offgrid.sigma_used"], rtol=0, atol=0)
    torch.testing.assert_close(grid.weights[index], GOLDEN["train.offgrid.weight"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("steps", "shift"), [(2, 5.0), (6, 5.0), (20, 3.0), (50, 5.0)])
def test_unipc_equals_diffusers(steps, shift):
    from diffusers import UniPCMultistepScheduler

    schedule = flow.FlowSchedule(steps=steps, shift=shift)
    theirs: Any = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0)
    theirs.set_timesteps(sigmas=schedule.sigmas[:-1].double().numpy())
    ours = samplers.UniPCSampler(schedule)
    start = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    a = b = start
    for i, t in enumerate(theirs.timesteps):
        sigma = float(schedule.sigmas[i])
        a = ours.step(a, _field(a, sigma), i)
        b = theirs.step(_field(b, sigma), t, b).prev_sample
        assert (a - b).abs().max() < 3e-5
    assert a.isfinite().all()


def _field(x, sigma):
    return torch.tanh(1.3 * x) + 0.4 * sigma * x - 0.2


def test_unipc_converges_faster_than_euler():
    # one Gaussian mode: the exact velocity is known, and so is the flow: it scales the start noise
    mean, std = 0.7, 0.3
    start = torch.randn(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def velocity(x, sigma):
        # E[noise - x0 | x] for x0 ~ N(mean, std^2)
        variance = (1 - sigma) ** 2 * std**2 + sigma**2
        centered = x - (1 - sigma) * mean
        return (sigma - (1 - sigma) * std**2) / variance * centered - mean

    errors = {}
    for name in samplers.SAMPLERS:
        schedule = flow.FlowSchedule(steps=12, shift=3.0)
        sampler, x = samplers.make_sampler(name, schedule), start
        sigmas = schedule.sigmas.tolist()
        for i in range(len(sigmas) - 2):  # the last step, to sigma = 0, is of first order in both
            x = sampler.step(x, velocity(x, sigmas[i]), i)
        end = sigmas[-2]
        exact = (1 - end) * mean + ((1 - end) ** 2 * std**2 + end**2) ** 0.5 * start
        errors[name] = float((x - exact).abs().max())
    assert errors["unipc"] < 0.25 * errors["euler"]


def test_unipc_refuses_steps_out_of_order():
    sampler = samplers.UniPCSampler(flow.FlowSchedule(steps=3))
    with pytest.raises(ValueError, match=r"step 0.*1"):
        sampler.step(torch.zeros(2), torch.zeros(2), 1)


def test_guidance_is_text_only_extrapolation():
    pos, neg = torch.tensor([3.0]), torch.tensor([1.0])
    assert float(flow.guide(pos, neg, 5.0)) == 11
    torch.testing.assert_close(flow.guide(pos, neg, 1.0), pos)


@given(seed=st.integers(0, 2**40), step=st.integers(0, 10**7), sample=st.integers(0, 10**9))
def test_noise_is_a_function_of_its_counter(seed, step, sample):
    state = torch.get_rng_state()
    noise = flow.counter_noise(seed, step, sample, (2, 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(noise, flow.counter_noise(seed, step, sample, (2, 3)))
    for other in ((seed + 1, step, sample), (seed, step + 1, sample), (seed, step, sample + 1)):
        assert not torch.equal(noise, flow.counter_noise(*other, (2, 3)))


def test_noise_is_standard_normal_and_independent_between_counters():
    noise = torch.stack([flow.counter_noise(7, step, 3, (40_000,)) for step in range(4)]).double()
    assert noise.mean(dim=1).abs().max() < 0.02
    assert (noise.std(dim=1) - 1).abs().max() < 0.02
    correlation = torch.corrcoef(noise) - torch.eye(4, dtype=torch.float64)
    assert correlation.abs().max() < 0.02


def test_noise_of_the_first_numbers_never_changes():
    # stored runs and checkpoints depend on these values
    noise = flow.counter_noise(1, 2, 3, (4,))
    torch.testing.assert_close(
        noise, torch.tensor([0.0173834916, -0.6603142023, -0.1502892226, 0.2039144337]), rtol=0, atol=1e-6
    )
    assert flow.counter_noise(1, 2, 3, (4,), dtype=torch.bfloat16).dtype == torch.bfloat16


def _draws(n=4000, **options):
    return flow.TimestepSampler(**options).draw(seed=11, step=5, samples=range(n))


def test_official_draws_favor_high_noise():
    times = _draws()
    assert float((times.timestep > 900).float().mean()) == pytest.approx(0.358, abs=0.025)
    assert float((times.timestep < 100).float().mean()) == pytest.approx(0.021, abs=0.01)
    assert set(times.weight.tolist()) == {1.0}
    on_grid = flow.training_grid(5.0).sigmas[flow.nearest_grid_index(times.timestep)]
    torch.testing.assert_close(times.sigma, on_grid, rtol=0, atol=1e-6)


def test_bell_weights_average_to_one_under_the_grid():
    times = _draws(weighting="bell")
    assert float(times.weight.mean()) == pytest.approx(1, abs=0.05)
    assert float(times.weight.min()) >= 0


@pytest.mark.parametrize("scheme", ["uniform", "logit_normal", "mode"])
def test_unshifted_draws_follow_their_density(scheme):
    s = np.sort(_draws(2000, scheme=scheme, shift=1.0).sigma.double().numpy())
    u = np.random.default_rng(0).random(200_000)
    reference = {
        "uniform": u,
        "logit_normal": 1 / (1 + np.exp(-np.random.default_rng(1).standard_normal(200_000))),
        "mode": 1 - u - 1.29 * (np.cos(np.pi * u / 2) ** 2 - 1 + u),
    }[scheme]
    # Kolmogorov-Smirnov distance; 0.03 is its 95 % bound at 2000 draws
    empirical = np.searchsorted(np.sort(reference), s) / len(reference)
    assert np.abs(empirical - (np.arange(2000) + 0.5) / 2000).max() < 0.035


@pytest.mark.parametrize("scheme", ["grid", "uniform", "logit_normal", "mode"])
@pytest.mark.parametrize(("low", "high"), [(900.0, 1000.0), (0.0, 900.0)])
def test_an_expert_sees_only_its_range(scheme, low, high):
    t = _draws(300, scheme=scheme, min_timestep=low, max_timestep=high).timestep
    assert float(t.min()) >= low - 1e-3
    assert float(t.max()) <= high + 1e-3
    assert float(t.max() - t.min()) > 0.6 * (high - low)


def test_a_draw_does_not_depend_on_its_batch():
    sampler = flow.TimestepSampler(scheme="logit_normal")
    together = sampler.draw(3, 9, [4, 8, 15]).timestep
    alone = torch.cat([sampler.draw(3, 9, [i]).timestep for i in (4, 8, 15)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"shift": 0.0}, {"strength": 0.0}, {"strength": 1.5}], ids=lambda d: next(iter(d))
)
def test_bad_schedules_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        flow.FlowSchedule(**bad)


def test_bad_names_are_refused():
    with pytest.raises(ValueError, match="euler"):
        samplers.make_sampler("heun", flow.FlowSchedule())
    with pytest.raises(ValueError, match="bf16"):
        flow.round_timestep(torch.ones(1), "fp16")
    with pytest.raises(ValueError, match="min_timestep"):
        flow.TimestepSampler(min_timestep=900.0, max_timestep=100.0)
