"""`GenerationSettings` without a model: names, validation, stored forms, and what importing it costs."""

import dataclasses
import json
import subprocess
import sys
from typing import get_args

import pytest

from fw_model.pipeline.settings import GenerationSettings, Sampling
from fw_model.sampling.choices import SAMPLERS, SamplerName
from fw_model.sampling.flow import FlowSchedule
from fw_model.sampling.samplers import make_sampler


def test_importing_the_settings_imports_no_torch():
    code = "import sys, fw_model.pipeline.settings; print({'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_given_values_replace_the_defaults_of_the_model():
    chosen = GenerationSettings(num_frames=5, guidance_scale=1.0, seed=3).sampling(Sampling(shift=2.0))
    assert chosen == Sampling(num_frames=5, guidance_scale=1.0, shift=2.0)
    shared = {field.name for field in dataclasses.fields(Sampling)} - {"fps"}
    assert shared < {field.name for field in dataclasses.fields(GenerationSettings)}


def test_dictionaries_round_trip_and_former_names_are_read():
    settings = GenerationSettings(num_frames=9, sampler="unipc", easycache=0.05, cross_branch=False, seed=2**62)
    assert GenerationSettings.from_dict(settings.to_dict()) == settings
    former = {"frames": 9, "steps": 4, "guidance": 2.0, "couple": False}
    assert GenerationSettings.from_dict(former) == GenerationSettings(
        num_frames=9, num_inference_steps=4, guidance_scale=2.0, cross_branch=False
    )
    with pytest.raises(ValueError, match="turbo"):
        GenerationSettings.from_dict({"turbo": True})
    with pytest.raises(ValueError, match=r"num_frames is 8.*9"):
        GenerationSettings.from_dict({"frames": 8})
    with pytest.raises(TypeError, match=r"frames.*num_frames"):
        settings.updated(frames=9)


def test_a_list_of_timesteps_sets_the_steps():
    model = Sampling(num_inference_steps=30, shift=3.0)
    chosen = GenerationSettings(timesteps=(1000.0, 500.0)).sampling(model)
    assert (chosen.timesteps, chosen.num_inference_steps, chosen.shift) == ((1000.0, 500.0), 2, 3.0)
    few = Sampling.from_dict({"timesteps": [1000, 750, 500, 250], "shift": 5.0})
    assert (few.timesteps, few.num_inference_steps) == ((1000, 750, 500, 250), 4)
    assert GenerationSettings().sampling(few) == few
    assert GenerationSettings(num_inference_steps=9).sampling(few).timesteps is None
    read = GenerationSettings.from_dict(json.loads(json.dumps(GenerationSettings(timesteps=(999.5, 1.0)).to_dict())))
    assert read == GenerationSettings(timesteps=(999.5, 1.0))
    assert (read.steps(50), GenerationSettings(num_inference_steps=7).steps(50), GenerationSettings().steps(50)) == (
        2, 7, 50
    )  # fmt: skip


@pytest.mark.parametrize("bad", [(), (500.0, 750.0), (500.0, 500.0), (1000.5,), (500.0, 0.0), (float("nan"),)])
def test_lists_that_do_not_fall_within_the_range_are_refused(bad):
    with pytest.raises(ValueError, match="timesteps is"):
        GenerationSettings(timesteps=bad).validate()


def test_wrong_lists_are_named():
    with pytest.raises(ValueError, match=r"num_inference_steps is 3.*timesteps has 2"):
        GenerationSettings(timesteps=(1000.0, 500.0), num_inference_steps=3).validate()
    for bad in ([1000, "500"], [True]):
        settings = GenerationSettings()
        settings.__dict__["timesteps"] = tuple(bad)
        with pytest.raises(TypeError, match="timesteps"):
            settings.validate()


@pytest.mark.parametrize(
    "bad",
    [
        {"num_frames": 0},
        {"height": -16},
        {"width": 100},
        {"num_inference_steps": 0},
        {"guidance_scale": float("nan")},
        {"shift": 0.0},
        {"scene_scale": float("inf")},
        {"seed": 2**63},
        {"easycache": 10.0},
    ],
)
def test_invalid_values_are_named(bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        GenerationSettings(**bad).validate()


def test_every_sampler_of_the_registry_can_be_built():
    assert set(get_args(SamplerName)) == set(SAMPLERS)
    for name in SAMPLERS:
        GenerationSettings.from_dict({"sampler": name})
        assert callable(make_sampler(name, FlowSchedule(steps=2)).step)
