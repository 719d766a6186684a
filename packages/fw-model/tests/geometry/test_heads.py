"""Temporal up-sampling, dense heads, camera tokens and the bridge."""

import dataclasses

import pytest
import torch

from fw_geometry import make_trajectory
from fw_model.config import Compat, tiny
from fw_model.geometry.camera_head import CameraExpansion, CameraHead
from fw_model.geometry.temporal import TemporalUpsampler
from fw_model.geometry.tokens import PoseTokens, TransformerBridge
from fw_model.layers.declarations import initialize
from fw_model.model.model import FantasyWorld
from fw_model.model.rays import RayMap
from fw_model.wan.camera_adapter import halve_time


@pytest.fixture(scope="module")
def upsampler():
    module = TemporalUpsampler(6)
    initialize(module, 0)
    return module


def module_input(module, call):
    """Inputs of `module` while `call` runs."""
    seen: list[torch.Tensor] = []

    def hook(_module, args):
        seen.append(args[0])

    handle = module.register_forward_pre_hook(hook)
    call()
    handle.remove()
    return seen[0]


def clip(frames):
    return torch.randn(2, 6, frames, 3, 4, generator=torch.Generator().manual_seed(frames))


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1, 1), (2, 3, 1), (4, 2), (1, 5)])
@torch.no_grad()
def test_streamed_upsampling_equals_offline(upsampler, sizes):
    x = clip(6)
    whole, _ = upsampler(x)
    state, parts = None, []
    for part in x.split(sizes, dim=2):
        out, state = upsampler(part, state)
        parts.append(out)
    assert parts[0].shape[2] == 1 + 4 * (sizes[0] - 1)
    assert whole.shape[2] == 21
    assert (torch.cat(parts, dim=2) - whole).abs().max() < 2e-6 * whole.abs().max()


@torch.no_grad()
def test_upsampling_is_causal_and_hides_the_first_frame_from_the_doubling(upsampler):
    x = clip(4)
    whole, _ = upsampler(x)
    for n in (1, 2, 3):
        part, _ = upsampler(x[:, :, :n])
        assert (part - whole[:, :, : 4 * (n - 1) + 1]).abs().max() < 2e-6
    other = x.clone()
    other[:, :, 0] += 1.0
    a, _ = upsampler.doublings[0](upsampler.conv_in(x), None)
    b, _ = upsampler.doublings[0](upsampler.conv_in(other), None)
    assert not torch.equal(a[:, :, 0], b[:, :, 0])
    assert torch.equal(a[:, :, 1:], b[:, :, 1:])


@torch.no_grad()
def test_camera_expansion_orders():
    """Interleaved: a token's four frames are its own. Block (released): slot m is made from token m mod n."""
    tokens = torch.zeros(1, 3, 2)
    tokens[0, 1] = 1.0
    for interleaved, slots in ((True, [4, 5, 6, 7]), (False, [1, 4, 7, 10])):
        expand = CameraExpansion(2, interleaved=interleaved)
        expand.conv.weight.fill_(1.0)
        torch.nn.init.zeros_(expand.get_parameter("conv.bias"))
        out = expand(tokens)
        assert out.shape == (1, 12, 2)
        assert out.any(-1).nonzero()[:, 1].tolist() == slots


@torch.no_grad()
def test_pose_tokens_group_frames():
    """Padded at the start, latent frame j holds frames 4j-3..4j; padded at the end (released) they are shifted."""
    poses = torch.arange(9.0).reshape(1, 9, 1).expand(-1, -1, 9)
    for padding, groups in (
        ("start", [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]),
        ("end", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 0, 0, 0]]),
    ):
        module = PoseTokens(4, padding)
        grouped = module_input(module.mlp[0], lambda module=module: module(poses))
        assert grouped.reshape(3, 4, 9)[..., 0].int().tolist() == groups


@torch.no_grad()
def test_camera_head_of_a_single_frame(micro):
    head = CameraHead(micro.geometry, Compat())
    initialize(head, 0)
    poses = head(torch.randn(2, 1, 48, generator=torch.Generator().manual_seed(0)))
    assert [p.shape for p in poses] == [(2, 1, 9)] * 2


def test_gradient_stops_between_refinements(micro):
    head = CameraHead(micro.geometry, Compat())
    initialize(head, 0)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=g))
    poses = head(torch.randn(1, 2, 48, generator=g))
    assert torch.autograd.grad(poses[0].sum(), head.empty_pose, retain_graph=True)[0].any()
    assert torch.autograd.grad(poses[1].sum(), head.empty_pose, allow_unused=True)[0] is None


@torch.no_grad()
def test_a_new_model_sees_a_plain_scene_and_lets_clips_differ(make_inputs):
    """One unit ahead, a still camera with a usual view; yet features of two clips differ up to the last convolution."""
    config = tiny()
    model = FantasyWorld(config)
    latents, timestep, inputs = make_inputs(config, batch=8)
    last: list[torch.Tensor] = []
    model.geometry.depth_head.conv3.register_forward_hook(lambda _m, args, _out: last.append(args[0]))
    out = model.forward_geometry(latents, timestep, **{k: inputs[k] for k in ("context", "y")})
    assert (out.depth.log().abs() < 0.5).all()
    assert (out.points - torch.tensor([0.0, 0.0, 1.0])).abs().mean() < 0.2
    pose = out.pose_encodings[-1]
    assert (pose - torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 1, 1])).abs().mean() < 0.2
    feature = last[0].unflatten(0, (8, -1)).flatten(1)
    assert feature.var(dim=0).mean() > 0.05 * feature.square().mean()


@torch.no_grad()
def test_a_new_pose_encoder_tells_paths_apart():
    """Under PyTorch's own starting weights and plain rays, what differed was 0.01 % of the features' power."""
    config = tiny()
    encoder = FantasyWorld(config).pose_encoder
    assert encoder is not None
    paths = [make_trajectory(name, 9, width=96, height=64) for name in ("orbit", "dolly", "still", "tilt")]
    rays = torch.cat([made.rays for path in paths if (made := RayMap.from_trajectory(config, path)) is not None])
    assert not rays[2].any(), "a still camera"
    features = encoder(rays)
    assert features.var(dim=0).mean() > 0.05 * features.square().mean()


@torch.no_grad()
def test_transformer_bridge(micro, make_world, make_inputs):
    geometry = dataclasses.replace(micro.geometry, bridge="transformer")
    model = make_world(micro, geometry=geometry)
    assert isinstance(model.geometry.bridge, TransformerBridge)
    latents, timestep, inputs = make_inputs(micro, batch=2)
    out = model(latents, timestep, **inputs).geometry
    one = model(latents[1:], timestep[1:], **{k: v[1:] for k, v in inputs.items()}).geometry
    assert (out.depth[1:] - one.depth).abs().max() < 1e-5 * one.depth.abs().max()


@pytest.mark.parametrize(("frames", "expected"), [(1, [0.0]), (5, [0.0, 1.5, 3.5]), (4, [0.5, 2.5])])
def test_halving_time(frames, expected):
    x = torch.arange(float(frames)).reshape(1, frames, 1, 1, 1)
    assert halve_time(x).flatten().tolist() == expected
