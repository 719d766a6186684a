"""Saving and loading: round trips, shards, other layouts, refusals, memory."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from fw_model.checkpoints.checkpoint import load_video_backbone, load_weights, load_world, save_world
from fw_model.checkpoints.keys import to_diffusers, to_released, to_wan
from fw_model.checkpoints.weights import looks_like
from fw_model.model.model import FantasyWorld


def same(a: FantasyWorld, b: FantasyWorld) -> bool:
    pairs = zip(a.named_parameters(), b.named_parameters(), strict=True)
    return all(n == m and torch.equal(p, q) for (n, p), (m, q) in pairs)


def video_state(world: FantasyWorld, rename) -> dict[str, torch.Tensor]:
    pcb = world.config.pcb_blocks
    return {
        rename(n, pcb): p.detach().contiguous()
        for n, p in world.named_parameters()
        if world.parameter_group(n) == "video"
    }


def test_round_trip(world, tmp_path, micro, make_inputs):
    world.save_pretrained(tmp_path)
    again = FantasyWorld.from_pretrained(tmp_path)
    assert again.config == micro
    assert same(world, again)
    latents, timestep, inputs = make_inputs(micro)
    with torch.no_grad():
        assert torch.equal(world(latents, timestep, **inputs).velocity, again(latents, timestep, **inputs).velocity)
    assert all(p.requires_grad for p in again.parameters())
    assert not again.training


def test_saving_over_a_loaded_model_keeps_it_whole(world, tmp_path):
    """Writing a new file in the place of the one a model came from must not change the model."""
    world.save_pretrained(tmp_path)
    loaded = FantasyWorld.from_pretrained(tmp_path)
    with torch.no_grad():
        changed = FantasyWorld(world.config, seed=9)
    changed.save_pretrained(tmp_path)
    assert same(loaded, world)
    loaded.save_pretrained(tmp_path)
    assert same(FantasyWorld.from_pretrained(tmp_path), world)


def test_half_precision_and_back(world, tmp_path):
    world.save_pretrained(tmp_path, dtype=torch.float16)
    stored = load_file(tmp_path / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float16}
    half = FantasyWorld.from_pretrained(tmp_path)
    assert {p.dtype for name, p in half.named_parameters() if "_head." not in name} == {torch.float16}
    assert half.geometry.depth_head.conv3.weight.dtype == torch.float32
    assert half.video_rope.tables.cos0.dtype == torch.float32
    full = FantasyWorld.from_pretrained(tmp_path, dtype=torch.float32)
    assert all(torch.equal(p, q.half().float()) for p, q in zip(full.parameters(), world.parameters(), strict=True))


def test_shards(world, tmp_path):
    save_world(world, tmp_path, shard_bytes=200_000)
    files = sorted(p.name for p in tmp_path.glob("*.safetensors"))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(files) > 2
    assert set(index["weight_map"].values()) == set(files)
    assert index["metadata"]["total_size"] == sum(4 * p.numel() for p in world.parameters())
    assert max((tmp_path / f).stat().st_size for f in files) < 300_000
    assert same(FantasyWorld.from_pretrained(tmp_path), world)
    (tmp_path / files[1]).unlink()
    with pytest.raises(ValueError, match=files[1]):
        FantasyWorld.from_pretrained(tmp_path)
    save_world(world, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert same(FantasyWorld.from_pretrained(tmp_path), world)


def test_another_preset_is_refused_by_name(world, micro, tmp_path):
    world.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"micro.*wan21_fun_1_3b"):
        FantasyWorld.from_pretrained(tmp_path, preset="wan21_fun_1_3b")
    wider = dataclasses.replace(micro, name="wider", video=dataclasses.replace(micro.video, ffn_dim=96))
    with pytest.raises(ValueError, match=r"micro.*wider.*video\.ffn_dim.*64.*96"):
        load_weights(FantasyWorld(wider), tmp_path)
    quirky = dataclasses.replace(micro, compat=dataclasses.replace(micro.compat, plucker="double_scaled"))
    with pytest.raises(ValueError, match=r"compat\.plucker.*correct.*double_scaled"):
        load_weights(FantasyWorld(quirky), tmp_path)


def test_released_names_load_too(world, micro, tmp_path):
    state = {to_released(n): p.detach().clone() for n, p in world.named_parameters()}
    save_file(state, tmp_path / "model.safetensors")
    with torch.device("meta"):
        fresh = FantasyWorld(micro)
    load_weights(fresh, tmp_path)
    assert same(fresh, world)


@pytest.mark.parametrize(("rename", "layout"), [(to_wan, "original"), (to_diffusers, "diffusers")])
def test_video_backbone_in_each_layout(world, micro, tmp_path, rename, layout):
    save_file(video_state(world, rename), tmp_path / "diffusion_pytorch_model.safetensors")
    fresh = FantasyWorld(micro, seed=5)
    before = {n: p.clone() for n, p in fresh.named_parameters()}
    assert fresh.load_video_backbone(tmp_path) == layout
    target = dict(world.named_parameters())
    for name, parameter in fresh.named_parameters():
        expected = target[name] if fresh.parameter_group(name) == "video" else before[name]
        assert torch.equal(parameter, expected), name


def test_video_backbone_from_shards_into_meta_parameters(world, micro, tmp_path):
    state = video_state(world, to_wan)
    names = list(state)
    halves = {"a-00001-of-00002.safetensors": names[:50], "a-00002-of-00002.safetensors": names[50:]}
    for file, part in halves.items():
        save_file({n: state[n] for n in part}, tmp_path / file)
    index = {"weight_map": {n: file for file, part in halves.items() for n in part}}
    (tmp_path / "a.safetensors.index.json").write_text(json.dumps(index))
    with torch.device("meta"):
        fresh = FantasyWorld(micro)
    load_video_backbone(fresh, tmp_path, dtype=torch.bfloat16)
    parameters = dict(fresh.named_parameters())
    assert parameters["irg.2.video.ffn.0.weight"].dtype == torch.bfloat16
    assert parameters["irg.2.frame.mlp.fc1.weight"].is_meta


def test_wrong_files_say_what_they_are(world, micro, tmp_path):
    state = video_state(world, to_wan)
    short = {n: t for n, t in state.items() if "k_img" not in n}
    save_file(short, tmp_path / "t2v.safetensors")
    with pytest.raises(ValueError, match=r"18 missing") as caught:
        FantasyWorld(micro).load_video_backbone(tmp_path)
    assert "blocks.0.cross_attn.k_img.bias" in str(caught.value)
    with pytest.raises(ValueError, match=r"config\.json.*Wan video transformer"):
        FantasyWorld.from_pretrained(tmp_path)
    (tmp_path / "t2v.safetensors").unlink()
    with pytest.raises(ValueError, match="safetensors"):
        FantasyWorld(micro).load_video_backbone(tmp_path)
    (tmp_path / "model.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="fw convert"):
        FantasyWorld(micro).load_video_backbone(tmp_path)
    save_file({"encoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(2, 2)}, tmp_path / "te.safetensors")
    with pytest.raises(ValueError, match="UMT5"):
        FantasyWorld(micro).load_video_backbone(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "WanTransformer3DModel"}')
    with pytest.raises(ValueError, match="WanTransformer3DModel"):
        FantasyWorld.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="absent"):
        FantasyWorld.from_pretrained(tmp_path / "absent")


def test_wrong_shapes_and_doubled_names(world, micro, tmp_path):
    state = video_state(world, to_wan)
    state["patch_embedding.weight"] = torch.zeros(48, 16, 1, 2, 2)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"patch_embedding\.weight.*48, 16, 1.*48, 36, 1"):
        FantasyWorld(micro).load_video_backbone(tmp_path)
    save_file(state, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors.*b\.safetensors"):
        FantasyWorld(micro).load_video_backbone(tmp_path)


def test_looks_like():
    assert looks_like(["IRGBlock.0.x_dit.modulation"]) == "a released FantasyWorld checkpoint"
    assert looks_like(["decoder.upsamples.3.residual.0.gamma"]).startswith("a Wan video autoencoder")
    assert looks_like(["blocks.0.self_attn.q.lora_A.weight"]) == "a LoRA"
    assert looks_like(["aggregator.frame_blocks.0.norm1.weight"]) == "a VGGT checkpoint"
    assert "nothing this package knows" in looks_like(["a", "b"])


_MEASURE = """
import sys
import torch
from fw_model.checkpoints.checkpoint import load_world

def kilobytes(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))

load_world(sys.argv[2])  # what importing and a first load need is not counted
before = kilobytes("VmRSS")
world = load_world(sys.argv[1], dtype=torch.float32)
weights = sum(p.numel() * p.element_size() for p in world.parameters())
print(1024 * (kilobytes("VmHWM") - before) / weights)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_little_more_than_the_weights(world, micro, tmp_path):
    """The harder case: a half-precision file loaded as float32."""
    large = dataclasses.replace(micro, video=dataclasses.replace(micro.video, ffn_dim=96_000))
    world.save_pretrained(tmp_path / "small")
    FantasyWorld(large).save_pretrained(tmp_path / "large", dtype=torch.float16)
    command = [sys.executable, "-c", _MEASURE, str(tmp_path / "large"), str(tmp_path / "small")]
    ratio = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0.9 < ratio <= 1.15


def test_device_and_refused_ids(world, tmp_path):
    world.save_pretrained(tmp_path)
    assert load_world(tmp_path, device="cpu").video.head.head.weight.device.type == "cpu"
    with pytest.raises(ValueError, match="does not exist; give"):
        load_world("no/such/folder")
