"""Starting the geometry branch from VGGT-shaped weights."""

import pytest
import torch
from safetensors.torch import save_file

from fw_model.checkpoints.keys import to_released
from fw_model.checkpoints.vggt import start_from_vggt
from fw_model.geometry.block import GeometryStep
from fw_model.model.model import FantasyWorld

DEPTH = 7


@pytest.fixture(scope="module")
def vggt_file(micro, tmp_path_factory):
    """A file with VGGT's names and micro's widths: seven layers, an image encoder and a tracker that we do not have."""
    g = torch.Generator().manual_seed(0)
    state = {"aggregator.patch_embed.cls_token": torch.zeros(1, 1, 4), "track_head.fmap_norm.weight": torch.ones(4)}
    for name, parameter in FantasyWorld(micro).named_parameters():
        value = torch.randn(parameter.shape, generator=g)
        released = to_released(name)
        if name.endswith(".modulation") or any(part in name for part in ("from_poses", ".expand.", ".upsample.")):
            continue
        if name.startswith(("irg.0.frame.", "irg.0.all_frames.")):
            kind, rest = name.removeprefix("irg.0.").split(".", 1)
            group = "frame_blocks" if kind == "frame" else "global_blocks"
            for layer in range(DEPTH):
                state[f"aggregator.{group}.{layer}.{rest}"] = torch.randn(parameter.shape, generator=g)
        elif released.startswith(("vggt.camera_head", "vggt.depth_head", "vggt.point_head", "vggt.aggregator.")):
            state[released.removeprefix("vggt.")] = value
    path = tmp_path_factory.mktemp("vggt") / "model.safetensors"
    save_file(state, path)
    return path, state


def test_blocks_start_as_vggts(micro, vggt_file):
    path, state = vggt_file
    world = FantasyWorld(micro, seed=3)
    before = {n: p.clone() for n, p in world.named_parameters()}
    start = start_from_vggt(world, path)
    assert start.layers == (0, 2, 4, 6)
    assert "non-commercial" in start.license
    after = dict(world.named_parameters())
    for ours, theirs in (
        ("irg.1.all_frames.mlp.fc1.weight", "aggregator.global_blocks.2.mlp.fc1.weight"),
        ("geometry.tokens.camera", "aggregator.camera_token"),
        ("geometry.depth_head.conv1.weight", "depth_head.scratch.output_conv1.weight"),
        ("geometry.point_head.streams.1.resize.weight", "point_head.resize_layers.1.weight"),
    ):
        assert torch.equal(after[ours], state[theirs])
    for name, parameter in world.named_parameters():
        if world.parameter_group(name) != "geometry" or "bridge" in name or "upsample" in name:
            assert torch.equal(parameter, before[name]), name
    block, x = world.geometry_blocks()[4], torch.randn(3, 11, 24, generator=torch.Generator().manual_seed(1))
    rotation = world.geometry.rope(2, 3, 5)
    with torch.no_grad():
        modulation = world.geometry.time(torch.tensor([10.0, 500.0, 999.0]))[1]
        ours = block(x, GeometryStep(modulation, rotation))
        plain = x + block.ls1(block.attn(block.norm1(x), rotation))
        plain = plain + block.ls2(block.mlp(block.norm2(plain)))
    assert torch.equal(ours, plain)


def test_other_files_and_widths_are_refused(micro, vggt_file, tmp_path):
    _, state = vggt_file
    world = FantasyWorld(micro)
    save_file({"blocks.0.self_attn.q.weight": torch.zeros(2, 2)}, tmp_path / "wan.safetensors")
    with pytest.raises(ValueError, match="Wan video transformer"):
        start_from_vggt(world, tmp_path / "wan.safetensors")
    wrong = {**state, "camera_head.token_norm.weight": torch.ones(64)}
    del wrong["depth_head.norm.bias"]
    save_file(wrong, tmp_path / "vggt.safetensors")
    with pytest.raises(ValueError, match=r"1 missing.*depth_head\.norm\.bias"):
        start_from_vggt(world, tmp_path / "vggt.safetensors")
