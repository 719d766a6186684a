"""Every quirk is a named choice: it changes a tensor when it should, and nothing else."""

import dataclasses

import pytest
import torch

from fw_model.config import Compat, WorldConfig
from fw_model.model.model import FantasyWorld

CHANGES = {
    "timestep_rounding": ("bf16", {"velocity", "depth", "pose"}),
    "camera_token_order": ("block", {"pose"}),
    "camera_token_norm": (False, {"pose"}),
    "pose_token_padding": ("end", {"velocity", "depth", "pose"}),
    "geometry_mlp_modulation": ("before", {"velocity", "depth", "pose"}),
    "geometry_attention_gate": (True, {"velocity", "depth", "pose"}),
    "cross_branch_placement": ("after_block", {"velocity", "depth", "pose"}),
    "dpt_rectified_skip": (False, {"depth"}),
}


def run(model, config, make_inputs) -> dict[str, torch.Tensor]:
    latents, _, inputs = make_inputs(config, frames=3)
    poses = torch.randn(1, 9, 9, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out = model(latents, torch.tensor([437.5]), **inputs, poses=poses)
    return {"velocity": out.velocity, "depth": out.geometry.depth, "pose": out.geometry.pose_encodings[-1]}


@pytest.mark.parametrize("field", CHANGES)
def test_each_choice_changes_what_it_says(field, micro, world, make_inputs):
    value, touched = CHANGES[field]
    config = dataclasses.replace(micro, compat=dataclasses.replace(micro.compat, **{field: value}))
    assert WorldConfig.from_json(config.to_json()) == config
    other = FantasyWorld(config)
    other.load_state_dict(world.state_dict())
    before, after = run(world, micro, make_inputs), run(other, config, make_inputs)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == touched


def test_every_field_is_accounted_for():
    """`plucker` names the rays that the caller makes; `idle_trunk_modulation` adds tensors that nothing reads."""
    fields = {field.name for field in dataclasses.fields(Compat)}
    assert fields == set(CHANGES) | {"plucker", "idle_trunk_modulation"}


def test_idle_tables_change_nothing_and_take_no_gradient(micro, world, make_inputs):
    config = dataclasses.replace(micro, compat=dataclasses.replace(micro.compat, idle_trunk_modulation=True))
    other = FantasyWorld(config)
    idle = set(other.state_dict()) - set(world.state_dict())
    assert idle == {"geometry.camera_head.trunk.0.modulation"}
    assert not any(p.requires_grad for n, p in other.named_parameters() if n in idle)
    other.load_state_dict(world.state_dict(), strict=False)
    before, after = run(world, micro, make_inputs), run(other, config, make_inputs)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_rounded_timesteps_are_the_same_within_a_bf16_step(micro, make_inputs):
    config = dataclasses.replace(micro, compat=dataclasses.replace(micro.compat, timestep_rounding="bf16"))
    model = FantasyWorld(config)
    torch.nn.init.normal_(model.video.head.head.weight, generator=torch.Generator().manual_seed(0))
    latents, _, inputs = make_inputs(config)
    with torch.no_grad():
        a, b, c = (model(latents, torch.tensor([t]), **inputs).velocity for t in (436.3, 436.9, 440.0))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
