"""The dual-branch model as a whole: the branches' independence, batches, stage 1, conditioning, memory options."""

import dataclasses
import subprocess
import sys
from typing import get_args

import pytest
import torch

import fw_model.model.model as model_module
from fw_model.config import preset
from fw_model.layers.declarations import Group
from fw_model.layers.modulation import RMSNorm
from fw_model.model.conditioning import check_grid
from fw_model.model.model import FantasyWorld
from fw_model.model.rays import RayMap, check_rays


def close(a: torch.Tensor, b: torch.Tensor, relative: float = 3e-6) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= relative * b.abs().max())


def geometry_tensors(geometry):
    return [
        geometry.depth,
        geometry.depth_confidence,
        geometry.points,
        geometry.points_confidence,
        *geometry.pose_encodings,
    ]


@torch.no_grad()
def test_shapes_and_ranges(micro, world, make_inputs):
    latents, timestep, inputs = make_inputs(micro, batch=2)
    out = world(latents, timestep, **inputs)
    geometry = out.geometry
    assert out.velocity.shape == latents.shape
    assert geometry.depth.shape == geometry.depth_confidence.shape == (2, 5, 32, 48)
    assert geometry.points.shape == (2, 5, 32, 48, 3)
    assert [p.shape for p in geometry.pose_encodings] == [(2, 5, 9)] * 2
    assert (geometry.depth > 0).all()
    assert (geometry.depth_confidence > 1).all()
    assert (geometry.pose_encodings[-1][..., 7:] >= 0).all()
    assert world(latents, timestep, **inputs, predict_geometry=False).geometry is None


@torch.no_grad()
def test_zero_gates_are_the_plain_video_model_bit_for_bit(micro, make_world, make_inputs):
    model = make_world(micro)
    latents, timestep, inputs = make_inputs(micro, batch=2)
    coupled = model(latents, timestep, **inputs).velocity
    plain = model(latents, timestep, **inputs, cross_branch=False, predict_geometry=False).velocity
    assert not torch.allclose(coupled, plain, atol=1e-4)
    for block in model.irg:
        block.cross_branch.gamma_video.zero_()
    assert torch.equal(model(latents, timestep, **inputs).velocity, plain)
    assert torch.equal(model(latents, timestep, **inputs, predict_geometry=False).velocity, plain)


@torch.no_grad()
def test_new_model_is_plain_video_without_camera(micro, make_inputs):
    """Zero-initialized gates and adapters: neither geometry nor camera touches the video of a new model."""
    model = FantasyWorld(micro)
    model.video.head.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    latents, timestep, inputs = make_inputs(micro)
    without = {key: value for key, value in inputs.items() if key != "plucker"}
    plain = model(latents, timestep, **without, cross_branch=False, predict_geometry=False).velocity
    assert plain.abs().max() > 0
    assert torch.equal(model(latents, timestep, **inputs).velocity, plain)


@torch.no_grad()
def test_every_sample_of_a_batch_stands_alone(micro, world, make_inputs):
    latents, timestep, inputs = make_inputs(micro, batch=3)
    both = world(latents, timestep, **inputs)
    for i in range(3):
        part = slice(i, i + 1)
        one = world(latents[part], timestep[part], **{key: value[part] for key, value in inputs.items()})
        assert close(both.velocity[part], one.velocity)
        for a, b in zip(geometry_tensors(both.geometry), geometry_tensors(one.geometry), strict=True):
            assert close(a[part], b, 1e-5)


def test_stage_1_is_the_uncoupled_geometry_and_runs_nothing_else(micro, world, make_inputs):
    latents, timestep, inputs = make_inputs(micro, batch=2)
    with torch.no_grad():
        expected = world(latents, timestep, **inputs, cross_branch=False).geometry
    ran: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda _m, _i, _o, name=name: ran.add(name))
        for name, module in world.named_modules()
    ]
    out = world.forward_geometry(latents, timestep, **inputs)
    for hook in hooks:
        hook.remove()
    for a, b in zip(geometry_tensors(out), geometry_tensors(expected), strict=True):
        assert close(a, b)
    assert not [n for n in ran if ".coupling" in n or n.startswith("video.head") or (".video" in n and "irg" in n)]
    loss = torch.stack([t.mean() for t in geometry_tensors(out)]).sum()
    names, parameters = zip(*world.named_parameters(), strict=True)
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    trained = {n for n, g in zip(names, grads, strict=True) if g is not None}
    groups = {world.parameter_group(n) for n in trained}
    assert groups == {"geometry"}
    idle = {n for n in names if world.parameter_group(n) == "geometry"} - trained
    assert all("from_poses" in n for n in idle)


@torch.no_grad()
def test_conditioning_is_computed_once(micro, world, make_inputs):
    latents, timestep, inputs = make_inputs(micro, batch=2)
    condition = world.encode_condition(**inputs)
    calls: list[str] = []
    hooks = [
        module.register_forward_hook(lambda _m, _i, _o, name=name: calls.append(name))
        for name, module in world.named_modules()
        if name.endswith(("cross_attn.k", "cross_attn.v_img", "pose_encoder", "text_embedding"))
    ]
    first = world(latents, timestep, condition=condition)
    assert calls == []
    raw = world(latents, timestep, **inputs)
    assert len(calls) == 6 + 6 + 1 + 1
    for hook in hooks:
        hook.remove()
    assert close(first.velocity, raw.velocity)
    assert close(first.geometry.points, raw.geometry.points, 1e-5)


@torch.no_grad()
def test_no_camera_bypasses_adapters(micro, world, make_inputs):
    latents, timestep, inputs = make_inputs(micro)
    with_camera = world(latents, timestep, **inputs, predict_geometry=False).velocity
    del inputs["plucker"]
    without = world(latents, timestep, **inputs, predict_geometry=False).velocity
    assert not torch.allclose(with_camera, without, atol=1e-4)
    touched: list[str] = []
    hooks = [b.camera_adapter.register_forward_hook(lambda *_: touched.append("x")) for b in world.pcb]
    world(latents, timestep, **inputs, predict_geometry=False)
    assert touched == []
    for hook in hooks:
        hook.remove()


def test_known_poses_replace_the_camera_tokens(micro, world, make_inputs):
    latents, timestep, inputs = make_inputs(micro, batch=2)
    poses = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0))
    full = world(latents, timestep, **inputs, poses=poses, cross_branch=False)
    stage1 = world.forward_geometry(latents, timestep, **inputs, poses=poses)
    assert close(full.geometry.pose_encodings[-1], stage1.pose_encodings[-1])
    plain = world(latents, timestep, **inputs, cross_branch=False)
    assert not torch.allclose(plain.geometry.pose_encodings[-1], stage1.pose_encodings[-1], atol=1e-3)
    grad = torch.autograd.grad(stage1.depth.mean(), world.geometry.tokens.from_poses.mlp[0].weight)[0]
    assert grad.abs().max() > 0


@pytest.mark.parametrize("kind", ["full", "selective"])
def test_checkpointing_changes_no_gradient(micro, make_world, make_inputs, kind):
    model = make_world(micro)
    latents, timestep, inputs = make_inputs(micro, batch=2)

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        out = model(latents, timestep, **inputs)
        loss = out.velocity.square().mean() + sum(t.mean() for t in geometry_tensors(out.geometry))
        loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    expected = gradients()
    model.set_checkpointing(kind)
    again = gradients()
    assert expected.keys() == again.keys()
    assert all(close(again[n], expected[n], 1e-5) for n in expected)


@torch.no_grad()
def test_head_chunks_change_nothing(micro, make_world, make_inputs):
    model = make_world(micro)
    g = torch.Generator().manual_seed(0)
    taps = tuple(torch.randn(2, 6, 6, 48, generator=g) for _ in range(4))
    model.set_head_chunk(None)
    whole = model.geometry.point_head(taps, 2, 3)
    for chunk in (1, 2, 4):
        model.set_head_chunk(chunk)
        part = model.geometry.point_head(taps, 2, 3)
        assert close(part.value, whole.value)
        assert close(part.confidence, whole.confidence)
    with pytest.raises(ValueError, match="0 latent frames"):
        model.set_head_chunk(0)


@torch.no_grad()
def test_only_tapped_layers_are_kept(micro, make_world, make_inputs, monkeypatch):
    geometry = dataclasses.replace(micro.geometry, dpt_taps=(2, 2, 0, 0))
    model = make_world(micro, geometry=geometry)
    joined: list[int] = []
    join = model_module.join_features
    monkeypatch.setattr(model_module, "join_features", lambda a, b: joined.append(1) or join(a, b))
    latents, timestep, inputs = make_inputs(micro)
    model(latents, timestep, **inputs)
    assert len(joined) == 3  # layers 0 and 2, and the last one for the camera head


def test_parameter_groups_are_a_partition(world):
    groups = [list(world.parameters_of(group)) for group in get_args(Group)]
    ids = [id(p) for group in groups for p in group]
    assert len(ids) == len(set(ids)) == len(list(world.parameters()))
    trained = {n for n, _ in world.named_parameters() if world.parameter_group(n) == "cross_branch"}
    assert any(n.startswith("pose_encoder") for n in trained)
    assert sum("camera_adapter.to_shift.2.weight" in n for n in trained) == 3
    assert sum("gamma_" in n for n in trained) == 2 * 4


def test_weights_are_a_function_of_the_seed(micro):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    a, b, c = FantasyWorld(micro, seed=1), FantasyWorld(micro, seed=1), FantasyWorld(micro, seed=2)
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = list(zip(a.parameters(), b.parameters(), c.parameters(), strict=True))
    assert all(torch.equal(x, y) for x, y, _ in pairs)
    assert all(not torch.equal(x, z) for x, _, z in pairs if x.std() > 0 and x.ndim > 1)
    assert sum(x.ndim > 1 and bool(x.std() > 0) for x, _, _ in pairs) > 100
    for name, parameter in a.named_parameters():
        if "gamma_" in name or ".to_shift.2." in name or name.startswith("video.head.head"):
            assert not parameter.any(), name
        elif name.endswith(("ls1.gamma", "ls2.gamma")):
            assert torch.equal(parameter, torch.full_like(parameter, micro.geometry.layer_scale))
        assert parameter.isfinite().all()
    norms = [m for m in a.modules() if isinstance(m, torch.nn.LayerNorm | torch.nn.GroupNorm | RMSNorm)]
    assert len(norms) > 50
    assert all(torch.equal(m.weight, torch.ones_like(m.weight)) for m in norms)


def test_presets_have_the_published_sizes():
    sizes = {"tiny": (6e6, 10e6), "wan21_fun_1_3b": (2.9e9, 3.0e9), "wan21_i2v_14b": (18.54e9, 18.55e9)}
    for name, (low, high) in sizes.items():
        with torch.device("meta"):
            model = FantasyWorld(preset(name))
        assert low < sum(p.numel() for p in model.parameters()) < high
    with torch.device("meta"):
        fun = FantasyWorld(preset("wan21_fun_1_3b"))
    video = [p.numel() for p in fun.parameters_of("video")]
    assert len(video) == 989  # Wan2.1-Fun-V1.1-1.3B-Control-Camera: 1.6163 B in 989 tensors
    assert round(sum(video) / 1e9, 4) == 1.6163


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": None}, r"y .*0 .*20"),
        ({"clip_feature": None}, "clip_feature"),
        ({"context": torch.zeros(1, 7, 13)}, r"context.*13.*12"),
        ({"context": torch.zeros(1, 6, 12)}, r"context.*6.*7"),
        ({"context": None}, "context"),
        ({"plucker": RayMap(rays=torch.zeros(1, 5, 8, 12, 6), convention="relative")}, r"relative.*correct"),
        ({"plucker": RayMap(rays=torch.zeros(1, 6, 8, 12, 6), convention="correct")}, r"6 frames"),
        ({"plucker": RayMap(rays=torch.zeros(1, 9, 8, 12, 6), convention="correct")}, r"9, 8, 12.*5, 8, 12"),
    ],
)
def test_wrong_inputs_are_named(micro, world, make_inputs, change, message):
    latents, timestep, inputs = make_inputs(micro)
    with pytest.raises(ValueError, match=message):
        world(latents, timestep, **{**inputs, **change})


def test_rays_without_a_convention_are_refused(micro):
    with pytest.raises(TypeError, match="RayMap"):
        check_rays(micro, torch.zeros(1, 5, 8, 12, 6))


def test_conditions_of_another_size_are_named(micro, world, make_inputs):
    latents, timestep, inputs = make_inputs(micro)
    condition = world.encode_condition(**inputs)
    with pytest.raises(ValueError, match=r"condition.*context"):
        world(latents, timestep, condition=condition, context=inputs["context"])
    with pytest.raises(ValueError, match=r"1 .*2 "):
        world(latents.repeat(2, 1, 1, 1, 1), timestep.repeat(2), condition=condition)
    with pytest.raises(ValueError, match=r"y covers \(2, 4, 6\)"):
        world(torch.cat([latents, latents], dim=2), timestep, condition=condition)
    with pytest.raises(ValueError, match=r"12 .*24"):
        world(torch.cat([latents, latents], dim=2), timestep, condition=dataclasses.replace(condition, y=None))
    with pytest.raises(ValueError, match=" 16"):
        world(latents[..., :5], timestep, condition=condition)
    with pytest.raises(ValueError, match=r"2 timesteps.*1 "):
        check_grid(micro, latents, timestep.repeat(2), condition)


_COMPILED = """
import dataclasses
import sys
import torch
from fw_model.config import VideoConfig, tiny
from fw_model.layers.declarations import Group
from fw_model.layers.modulation import RMSNorm
from fw_model.model.model import FantasyWorld

video = VideoConfig(dim=48, heads=2, ffn_dim=64, blocks=4, in_dim=16, text_dim=12, text_len=7)
geometry = dataclasses.replace(tiny().geometry, width=24, heads=2, camera_heads=2, dpt_taps=(1, 0, 0, 0))
config = dataclasses.replace(tiny(), video=video, geometry=geometry, camera=None, pcb_blocks=2)
world = FantasyWorld(config).eval()
g = torch.Generator().manual_seed(0)
latents, timestep = torch.randn(2, 16, 2, 4, 6, generator=g), torch.tensor([900.0, 37.0])
context = torch.randn(2, 7, 12, generator=g)
with torch.no_grad():
    for parameter in world.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=g))
    plain = world(latents, timestep, context=context)
    world.compile_blocks(backend="aot_eager", fullgraph=True)
    fast = world(latents, timestep, context=context)
counters = torch._dynamo.utils.counters
assert counters["stats"]["unique_graphs"] == 2, counters  # one for all PCB blocks, one for all IRG blocks
print(float((plain.velocity - fast.velocity).abs().max() / plain.velocity.abs().max()))
print(float((plain.geometry.depth - fast.geometry.depth).abs().max() / plain.geometry.depth.abs().max()))
"""


@pytest.mark.slow
def test_compiled_blocks_give_the_same():
    """In a process of its own, where no type checker wraps the functions: whole graphs, equal to rounding.

    The backend runs the traced graphs without generating C++, which takes minutes of a core.
    """
    out = subprocess.run([sys.executable, "-c", _COMPILED], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr[-2000:]
    velocity, depth = (float(line) for line in out.stdout.split())
    assert velocity < 5e-6
    assert depth < 3e-5  # the head ends in an exponential


@torch.no_grad()
def test_bfloat16_stays_close(micro, make_world, make_inputs):
    model = make_world(micro)
    latents, timestep, inputs = make_inputs(micro)
    exact = model(latents, timestep, **inputs)
    rough = model.to(torch.bfloat16)(latents, timestep, **inputs)
    assert model.video_rope.tables.cos0.dtype == torch.float32
    assert rough.velocity.dtype == torch.float32
    assert (rough.velocity - exact.velocity).abs().max() < 0.05 * exact.velocity.abs().max()
    assert (rough.geometry.depth - exact.geometry.depth).abs().mean() < 0.1 * exact.geometry.depth.abs().mean()


@torch.no_grad()
def test_autocast_stays_close(micro, world, make_inputs):
    latents, timestep, inputs = make_inputs(micro)
    exact = world(latents, timestep, **inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = world(latents, timestep, **inputs)
    assert (rough.velocity - exact.velocity).abs().max() < 0.05 * exact.velocity.abs().max()


def directed(micro, make_world, direction: str):
    """A live model whose branches read each other in one direction, with the weights of the live `both` model."""
    both = make_world(micro)
    world = make_world(micro, cross_branch=dataclasses.replace(micro.cross_branch, direction=direction))
    known = world.state_dict()
    world.load_state_dict({name: value for name, value in both.state_dict().items() if name in known})
    return world


@torch.no_grad()
@pytest.mark.parametrize("direction", ["to_geometry", "to_video", "none"])
def test_a_branch_that_does_not_read_the_other_is_what_it_is_alone(micro, make_world, make_inputs, direction):
    world = directed(micro, make_world, direction)
    latents, timestep, inputs = make_inputs(micro)
    met, alone = world(latents, timestep, **inputs), world(latents, timestep, **inputs, cross_branch=False)
    assert torch.equal(met.velocity, alone.velocity) == (direction != "to_video")
    same = torch.equal(met.geometry.points, alone.geometry.points)
    assert same == (direction != "to_geometry")
    without_heads = world(latents, timestep, **inputs, predict_geometry=False)
    assert torch.equal(without_heads.velocity, met.velocity)


@torch.no_grad()
@pytest.mark.parametrize("layers", [("to_video", "velocity"), ("to_geometry", "depth")])
def test_the_first_meeting_gives_a_direction_what_both_ways_give_it(micro, make_world, make_inputs, layers):
    """With one IRG block no stream has met the other before, so one way and both ways agree in what is read."""
    direction, what = layers
    one = dataclasses.replace(micro, pcb_blocks=5, geometry=dataclasses.replace(micro.geometry, dpt_taps=(0, 0, 0, 0)))
    outputs = []
    for way in ("both", direction):
        world = directed(one, make_world, way)
        latents, timestep, inputs = make_inputs(one)
        out = world(latents, timestep, **inputs)
        outputs.append(out.velocity if what == "velocity" else out.geometry.depth)
    assert torch.equal(*outputs)


@pytest.mark.parametrize("direction", ["both", "to_geometry", "to_video", "none"])
def test_every_coupling_weight_is_used(micro, make_world, make_inputs, direction):
    world = directed(micro, make_world, direction)
    latents, timestep, inputs = make_inputs(micro)
    out = world(latents, timestep, **inputs)
    (out.velocity.square().mean() + sum(t.square().mean() for t in geometry_tensors(out.geometry))).backward()
    grads = {name: p.grad for name, p in world.named_parameters() if ".coupling." in name}
    last = f"irg.{micro.irg_blocks - 1}.coupling"
    assert all(g is not None and g.abs().max() > 0 for name, g in grads.items() if not name.startswith(last))
    kinds = {name.split(".")[3] for name in grads}
    assert ("gamma_video" in kinds) == (direction in ("both", "to_video"))
    assert ("value_video" in kinds) == (direction in ("both", "to_geometry"))
    assert bool(kinds) == (direction != "none")


def test_the_bridge_may_follow_the_patch_embedding(micro, make_world, make_inputs):
    world = make_world(micro, pcb_blocks=0)
    latents, timestep, inputs = make_inputs(micro)
    out = world(latents, timestep, **inputs)
    assert len(world.irg) == micro.video.blocks
    assert out.geometry.depth.isfinite().all()
    alone = world(latents, timestep, **inputs, cross_branch=False).geometry
    assert close(world.forward_geometry(latents, timestep, **inputs).depth, alone.depth)
